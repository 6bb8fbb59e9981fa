//! Paired differences of models: on the same prompts, in the same runs.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

use palinode_engine::{context::Context, stage::StageError};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::{
    Params,
    rates::{Table, tables},
    seen::{Cell, Seen},
};
use crate::{
    figure::{label, mark, same},
    gathered::{By, Coords, Part, agree, parts, runs},
    records::{Comparison, Phase, Prompt, Side},
    stats::{Bootstrap, Design, Ratio, holm},
};

/// Which models are compared.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Compare {
    /// Any two, the base among them.
    Pairs,
    /// Each with the base.
    Before,
    /// Each with the point that has these coordinates and is otherwise the same.
    Point(BTreeMap<String, Value>),
}

/// Rows for each part of the prompts and each two models.
pub(super) fn compare(
    params: &Params,
    seen: &Seen,
    bootstrap: &Bootstrap,
    ctx: &Context<'_>,
) -> Result<Vec<Comparison>, StageError> {
    let base = pooled(tables(seen, Phase::Before, &params.pool));
    let after = pooled(tables(seen, Phase::After, &params.pool));
    let pairs = pairs(params, &base, &after)?;
    let mut comparisons: Vec<Comparison> = Vec::new();
    let by: Vec<By> = params.by.iter().copied().filter(|by| *by == By::Group).collect();
    let parts = parts(seen.prompts.iter(), &by);
    for (done, part) in parts.iter().enumerate() {
        ctx.progress(done, parts.len(), "comparison")?;
        let mut family: Vec<Comparison> =
            pairs.iter().map(|(left, right)| pair(params, seen, bootstrap, *part, left, right)).collect();
        let known: Vec<f64> = family.iter().filter_map(|comparison| comparison.p).collect();
        let mut adjusted = holm(&known).into_iter();
        for comparison in &mut family {
            comparison.family = known.len();
            comparison.p_holm = comparison.p.and_then(|_| adjusted.next());
        }
        comparisons.extend(family);
    }
    Ok(comparisons)
}

/// Models are compared over all of their runs, where there are several.
fn pooled(mut tables: Vec<Table<'_>>) -> Vec<Table<'_>> {
    if tables.iter().any(|table| !table.pooled.is_empty()) {
        tables.retain(|table| !table.pooled.is_empty());
    }
    tables
}

type Pair<'t, 'i> = (&'t Table<'i>, &'t Table<'i>);

/// The two models of each comparison, none twice: the later first, so that a negative difference is less toxic.
fn pairs<'t, 'i>(
    params: &Params,
    base: &'t [Table<'i>],
    after: &'t [Table<'i>],
) -> Result<Vec<Pair<'t, 'i>>, StageError> {
    let mut pairs: Vec<Pair<'t, 'i>> = Vec::new();
    let with_base = |pairs: &mut Vec<Pair<'t, 'i>>| {
        for left in after {
            pairs.extend(base.iter().filter(|base| agree(&base.coords, &left.coords)).map(|base| (left, base)));
        }
    };
    for compare in &params.compare {
        match compare {
            Compare::Before if base.is_empty() => {
                return Err(StageError::failed("`compare` names `before`, and nothing is linked to that input"));
            }
            Compare::Before => with_base(&mut pairs),
            Compare::Pairs => {
                with_base(&mut pairs);
                for (at, right) in after.iter().enumerate() {
                    pairs.extend(after[at + 1..].iter().map(|left| (left, right)));
                }
            }
            Compare::Point(point) => {
                let references = after.iter().filter(|table| has(&table.coords, point)).count();
                if references == 0 {
                    return Err(unknown(point, after));
                }
                for left in after.iter().filter(|table| !has(&table.coords, point)) {
                    let moved =
                        |(axis, value): &(String, Value)| (axis.clone(), point.get(axis).unwrap_or(value).clone());
                    let wanted: Coords = left.coords.iter().map(moved).collect();
                    let found =
                        after.iter().find(|right| right.coords.len() == wanted.len() && agree(&right.coords, &wanted));
                    pairs.extend(found.map(|right| (left, right)));
                }
            }
        }
    }
    let same = |a: &Pair<'_, '_>, b: &Pair<'_, '_>| {
        let is = |a: &Table<'_>, b: &Table<'_>| std::ptr::eq(a, b);
        is(a.0, b.0) && is(a.1, b.1) || is(a.0, b.1) && is(a.1, b.0)
    };
    let mut once: Vec<Pair<'t, 'i>> = Vec::with_capacity(pairs.len());
    for pair in pairs {
        if params.compare.len() == 1 || !once.iter().any(|known| same(known, &pair)) {
            once.push(pair);
        }
    }
    Ok(once)
}

fn has(coords: &Coords, point: &BTreeMap<String, Value>) -> bool {
    point.iter().all(|(axis, value)| coords.iter().any(|(name, own)| name == axis && same(own, value)))
}

fn unknown(point: &BTreeMap<String, Value>, after: &[Table<'_>]) -> StageError {
    let wanted: Coords = point.iter().map(|(axis, value)| (axis.clone(), value.clone())).collect();
    let axes = point.keys().map(|axis| {
        let labels = after.iter().flat_map(|table| &table.coords).filter(|(name, _)| name == axis);
        let labels = labels.fold(Vec::new(), |mut labels: Vec<String>, (_, value)| {
            let text = label(value);
            if !labels.contains(&text) {
                labels.push(text);
            }
            labels
        });
        format!("{axis}: {}", if labels.is_empty() { "no such axis, or pooled".to_owned() } else { labels.join(", ") })
    });
    let axes = axes.collect::<Vec<_>>().join("; ");
    StageError::failed(format!("`compare` names {}, which is not gathered; there are: {axes}", mark(&wanted)))
}

fn pair(
    params: &Params,
    seen: &Seen,
    bootstrap: &Bootstrap,
    part: Part<'_>,
    left: &Table<'_>,
    right: &Table<'_>,
) -> Comparison {
    // Axes along which one side has no runs of its own: it is the same in all of the other's.
    let mut axes = left.pooled.clone();
    axes.extend(right.pooled.iter().filter(|axis| !left.pooled.contains(axis)).cloned());
    let mut joined = Vec::new();
    for a in &left.instances {
        let run = |coords: &Coords| coords.iter().filter(|(axis, _)| axes.contains(axis)).cloned().collect::<Coords>();
        let a_run = run(&a.coords);
        for b in &right.instances {
            let b_run = run(&b.coords);
            if agree(&a_run, &b_run) {
                joined.push((a, b, [a_run.clone(), b_run].concat()));
            }
        }
    }
    let coords: Vec<&Coords> = joined.iter().map(|(_, _, run)| run).collect();
    let levels = runs(&coords, &axes);
    let mut crossed: Vec<(&Prompt, &[u32])> = Vec::new();
    let mut counts = [Vec::new(), Vec::new()];
    let mut left_out = 0;
    let mut prompts = BTreeSet::new();
    let none = Vec::new();
    for ((a, b, _), level) in joined.iter().zip(&levels) {
        let cells = [a, b].map(|instance| instance.cells.as_ref().unwrap_or(&none));
        for (prompt, pair) in zip(cells) {
            if !part.holds(&seen.prompts[prompt]) {
                continue;
            }
            match pair {
                [Some(a), Some(b)] if a.judged > 0 && b.judged > 0 => {
                    prompts.insert(prompt);
                    crossed.push((&seen.prompts[prompt], &level[..]));
                    for (side, cell) in counts.iter_mut().zip([a, b]) {
                        side.push(Ratio { top: cell.toxic as f64, bottom: cell.judged as f64 });
                    }
                }
                _ => left_out += 1,
            }
        }
    }
    let design = Design::new(&crossed, params.resample, &axes);
    let share = |cells: &[Ratio]| {
        let (top, bottom) = cells.iter().fold((0.0, 0.0), |(top, bottom), cell| (top + cell.top, bottom + cell.bottom));
        (bottom > 0.0).then(|| top / bottom)
    };
    let shares = [share(&counts[0]), share(&counts[1])];
    let differ = counts[0].iter().zip(&counts[1]).any(|(a, b)| a.top * b.bottom != b.top * a.bottom);
    let found = bootstrap.difference(&design, &counts[0], &counts[1]);
    let note = match (crossed.is_empty(), differ, &found) {
        (true, ..) => Some("no prompt was judged on both sides"),
        (_, false, _) => Some("no pair differs: there is nothing to make an interval of"),
        (_, _, None) => Some("one prompt in one run: there is nothing to resample"),
        _ => None,
    };
    let ends = found.filter(|_| differ);
    let side = |table: &Table<'_>, share| Side { phase: table.phase, coords: table.coords.clone(), share };
    Comparison {
        left: side(left, shares[0]),
        right: side(right, shares[1]),
        pooled: axes,
        split: part.split_name(),
        exposure: part.exposure_name(),
        group: part.group_name(),
        pairs: crossed.len(),
        left_out,
        prompts: prompts.len(),
        difference: shares[0].zip(shares[1]).map(|(left, right)| left - right),
        low: ends.map(|ends| ends.low),
        high: ends.map(|ends| ends.high),
        confidence: params.confidence,
        resampling: design.names(),
        p: found.map(|found| found.p),
        p_holm: None,
        family: 0,
        note: note.map(str::to_owned),
    }
}

/// The cells of two instances by prompt, in order.
fn zip([a, b]: [&Vec<Cell>; 2]) -> Vec<(usize, [Option<&Cell>; 2])> {
    let mut all: BTreeMap<usize, [Option<&Cell>; 2]> = BTreeMap::new();
    for (side, cells) in [a, b].into_iter().enumerate() {
        cells.iter().for_each(|cell| all.entry(cell.prompt).or_default()[side] = Some(cell));
    }
    all.into_iter().collect()
}

impl Serialize for Compare {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Compare::Pairs => serializer.serialize_str("pairs"),
            Compare::Before => serializer.serialize_str("before"),
            Compare::Point(point) => point.serialize(serializer),
        }
    }
}

// By hand: an untagged enum can't say what it expected.
impl<'de> Deserialize<'de> for Compare {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Compare;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("`pairs`, `before`, or coordinates such as `{rank: full}`")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Compare, E> {
                match text {
                    "pairs" => Ok(Compare::Pairs),
                    "before" => Ok(Compare::Before),
                    other => Err(E::invalid_value(serde::de::Unexpected::Str(other), &self)),
                }
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<Compare, A::Error> {
                let point = BTreeMap::deserialize(serde::de::value::MapAccessDeserializer::new(map))?;
                if point.is_empty() {
                    return Err(serde::de::Error::invalid_length(0, &self));
                }
                Ok(Compare::Point(point))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for Compare {
    fn schema_name() -> Cow<'static, str> {
        "Compare".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let words = serde_json::json!({ "enum": ["pairs", "before"] });
        json_schema!({ "anyOf": [words, { "type": "object", "minProperties": 1 }] })
    }
}
