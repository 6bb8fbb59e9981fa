//! From rows to parts: which part, which are drawn, what is counted and told.

use std::collections::BTreeMap;

use palinode_engine::{
    context::{Context, JsonlWriter},
    stage::StageError,
};
use serde_json::json;

use super::{
    Parts, Raw,
    cut::{Counting, Cut, Finding, rank},
    faults::Faults,
    repeats::Repeats,
};
use crate::records::{DATASET, Example, Part};

/// More classes or groups than this are none: the column holds something else.
const MOST: usize = 1000;

/// What is gone through twice where examples are drawn: calls what it is given for each row.
pub(super) type Source<'s> = dyn Fn(&mut Faults, &mut Each<'_>) -> Result<(), StageError> + 's;
pub(super) type Each<'e> = dyn FnMut(Raw<'_>) -> Result<(), StageError> + 'e;

/// Writes the parts of what `source` brings.
pub(super) fn collect(ctx: &Context<'_>, parts: &Parts<'_>, source: &Source<'_>) -> Result<(), StageError> {
    let cuts = parts.cuts(ctx, source)?;
    let mut parts_out = Writers::new(ctx)?;
    let mut empty = Faults::default();
    let mut unreadable = Faults::default();
    let mut done = 0;
    source(&mut unreadable, &mut |raw| {
        done += 1;
        if done % 4096 == 0 {
            ctx.progress(done, 0, "row")?;
        }
        if raw.text.trim().is_empty() {
            empty.add(raw.file, raw.line, "empty of text");
            return Ok(());
        }
        let part = parts.of(&raw);
        if cuts.get(&part).is_none_or(|cut| cut.takes(parts.rank(part, &raw.id))) {
            parts_out.push(raw, part)?;
        }
        Ok(())
    })?;
    unreadable.check("nothing was written; mend these rows, or take them out")?;
    if !empty.is_empty() {
        ctx.warn(format!("left out: {}", empty.lines().join("; ")));
    }
    ctx.summary("empty_texts", empty.count());
    parts_out.finish(ctx)
}

impl Parts<'_> {
    /// The part of a row: a share of the training examples goes to validation. Which, depends on its id alone, so that
    /// other rows move none.
    fn of(&self, raw: &Raw<'_>) -> Part {
        let held = |share: f64| rank(self.seed, "validation", &raw.id) as f64 / 2f64.powi(64) < share;
        match (raw.part, self.validation_share) {
            (Part::Train, Some(share)) if held(share) => Part::Validation,
            (part, _) => part,
        }
    }

    fn rank(&self, part: Part, id: &str) -> u64 {
        rank(self.seed, part.name(), id)
    }

    /// What is drawn of each part of which not all is taken.
    fn cuts(&self, ctx: &Context<'_>, source: &Source<'_>) -> Result<BTreeMap<Part, Cut>, StageError> {
        if self.take.is_empty() {
            return Ok(BTreeMap::new());
        }
        let pass = |each: &mut dyn FnMut(Part, u64)| {
            let mut done = 0;
            source(&mut Faults::default(), &mut |raw| {
                done += 1;
                if done % 4096 == 0 {
                    ctx.progress(done, 0, "row")?;
                }
                let part = self.of(&raw);
                if !raw.text.trim().is_empty() && self.take.contains_key(&part) {
                    each(part, self.rank(part, &raw.id));
                }
                Ok(())
            })
        };
        let mut counting: BTreeMap<Part, Counting> = self.take.keys().map(|&part| (part, Counting::new())).collect();
        pass(&mut |part, rank| {
            if let Some(counting) = counting.get_mut(&part) {
                counting.add(rank);
            }
        })?;
        for (part, counting) in &counting {
            let (have, wanted) = (counting.total(), self.take[part]);
            if have < wanted as u64 {
                ctx.warn(format!("`take` wants {wanted} examples for {}, and there are {have}", part.name()));
            }
        }
        let find = |(part, counting): (Part, Counting)| (part, counting.find(self.take[&part] as u64));
        let mut finding: BTreeMap<Part, Finding> = counting.into_iter().map(find).collect();
        pass(&mut |part, rank| {
            if let Some(finding) = finding.get_mut(&part) {
                finding.add(rank);
            }
        })?;
        finding.into_iter().map(|(part, finding)| Ok((part, finding.cut()?))).collect()
    }
}

/// The files of the parts in the making.
struct Writers {
    files: BTreeMap<Part, JsonlWriter>,
    texts: Repeats,
    ids: Repeats,
    labels: BTreeMap<Part, BTreeMap<String, usize>>,
    groups: BTreeMap<Part, BTreeMap<String, usize>>,
    grouped: bool,
}

impl Writers {
    fn new(ctx: &Context<'_>) -> Result<Self, StageError> {
        let open = |part: Part| Ok((part, ctx.output(part.name())?.jsonl(DATASET)?));
        Ok(Writers {
            files: Part::ALL.into_iter().map(open).collect::<Result<_, StageError>>()?,
            texts: Repeats::new(ctx, "texts")?,
            ids: Repeats::new(ctx, "ids")?,
            labels: BTreeMap::new(),
            groups: BTreeMap::new(),
            grouped: false,
        })
    }

    fn push(&mut self, raw: Raw<'_>, part: Part) -> Result<(), StageError> {
        self.texts.add(raw.text.trim(), part)?;
        self.ids.add(&raw.id, part)?;
        count(self.labels.entry(part).or_default(), raw.label, "label", raw.file)?;
        let group = raw.group.unwrap_or(raw.label);
        count(self.groups.entry(part).or_default(), group, "group", raw.file)?;
        self.grouped |= raw.group.is_some();
        let (label, group) = (raw.label.to_owned(), group.to_owned());
        let example = Example { id: raw.id, text: raw.text.to_owned(), label, group, split: part };
        match self.files.get_mut(&part) {
            Some(file) => file.push(&example),
            None => Ok(()),
        }
    }

    fn finish(self, ctx: &Context<'_>) -> Result<(), StageError> {
        let Writers { files, texts, ids, labels, groups, grouped } = self;
        files.into_values().try_for_each(JsonlWriter::finish)?;
        let ids = ids.find()?;
        let same_ids = ids.within.values().sum::<usize>() + ids.between.values().sum::<usize>();
        if same_ids > 0 {
            return Err(StageError::failed(format!(
                "{same_ids} rows have the id of another row; ids must be unique, also between parts"
            )));
        }
        for part in Part::ALL {
            let labels = labels.get(&part);
            ctx.summary(part.name(), labels.map_or(0, |labels| labels.values().sum::<usize>()));
            if let Some(labels) = labels {
                ctx.summary(&format!("{}_labels", part.name()), json!(labels));
            }
            if let Some(groups) = groups.get(&part).filter(|_| grouped) {
                ctx.summary(&format!("{}_groups", part.name()), json!(groups));
            }
        }
        if labels.is_empty() {
            return Err(StageError::failed("there is no row with a text"));
        }
        let known = labels.get(&Part::Train);
        for part in [Part::Validation, Part::Test] {
            let new = labels.get(&part).into_iter().flat_map(BTreeMap::keys);
            let new: Vec<&str> = new
                .filter(|label| known.is_some_and(|known| !known.contains_key(*label)))
                .map(String::as_str)
                .collect();
            if !new.is_empty() {
                let (part, new) = (part.name(), new.join("`, `"));
                ctx.warn(format!("the {part} part has labels that no training example has: `{new}`"));
            }
        }
        let found = texts.find()?;
        for (part, count) in &found.within {
            ctx.summary(&format!("repeated_in_{}", part.name()), *count);
            ctx.note(format!("{count} examples of {} repeat the text of another one of it", part.name()));
        }
        for ((one, other), count) in &found.between {
            ctx.summary(&format!("{}_texts_in_{}", other.name(), one.name()), *count);
            ctx.warn(format!("{count} texts of {} stand in {}, too", other.name(), one.name()));
        }
        Ok(())
    }
}

fn count(counts: &mut BTreeMap<String, usize>, value: &str, what: &str, file: &str) -> Result<(), StageError> {
    if let Some(count) = counts.get_mut(value) {
        *count += 1;
        return Ok(());
    }
    if counts.len() == MOST {
        let message =
            format!("{file}: more than {MOST} different {what}s, `{value}` among them: is it the right column?");
        return Err(StageError::failed(message));
    }
    counts.insert(value.to_owned(), 1);
    Ok(())
}
