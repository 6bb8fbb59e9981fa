//! Which rows are drawn as which bars.

use std::collections::BTreeMap;

use palinode_engine::{context::Context, stage::StageError};
use serde_json::Value;

use super::{PanelParams, Params};
use crate::{
    figure::{label, mark, same, title},
    records::{self, ALL, Phase, Rate},
};

/// What is drawn.
pub(super) struct Figure {
    pub(super) panels: Vec<Panel>,
    /// The split that the bars show.
    pub(super) split: String,
    /// Points of the gathers that are missing.
    pub(super) dropped: usize,
}

pub(super) struct Panel {
    pub(super) title: String,
    pub(super) bars: Vec<Bar>,
    /// Whether the first bar is the untouched base's.
    pub(super) base: bool,
    /// The split on which a coordinate was chosen for each bar.
    pub(super) chosen_by: Option<&'static str>,
}

pub(super) struct Bar {
    pub(super) label: String,
    /// What was chosen for it.
    pub(super) note: Option<String>,
    pub(super) coords: Coords,
    pub(super) rate: Rate,
}

/// The label of the bar of rates without axes.
const COMPLETIONS: &str = "completions";

type Coords = Vec<(String, Value)>;

impl Bar {
    /// Completions with a verdict.
    pub(super) fn judged(&self) -> usize {
        self.rate.n.saturating_sub(self.rate.unparsable)
    }

    /// The coordinates that the bar shows, as a mark names them.
    pub(super) fn mark(&self) -> String {
        if self.coords.is_empty() { self.label.clone() } else { mark(&self.coords) }
    }
}

pub(super) const HEADER: [&str; 10] =
    ["panel", "bar", "coordinates", "n", "toxic", "non_toxic", "unparsable", "share", "low", "high"];

/// A rate at the coordinates of its file and its own.
struct Row {
    coords: Coords,
    rate: Rate,
}

impl Row {
    fn at(&self, axis: &str) -> Option<&Value> {
        self.coords.iter().find(|(name, _)| name == axis).map(|(_, value)| value)
    }

    fn is_at(&self, fixed: &BTreeMap<String, Value>) -> bool {
        fixed.iter().all(|(axis, value)| self.at(axis).is_some_and(|own| same(own, value)))
    }

    fn is_of(&self, part: &Part<'_>) -> bool {
        self.rate.group == part.group && self.rate.identity == part.identity && self.rate.exposure == part.exposure
    }

    /// Whether the row holds for the point `fixed`: it may lack axes, as the base lacks `rank`.
    fn covers(&self, fixed: &BTreeMap<String, Value>) -> bool {
        fixed.iter().all(|(axis, value)| self.at(axis).is_none_or(|own| same(own, value)))
    }
}

impl Figure {
    pub(super) fn read(params: &Params, ctx: &Context<'_>) -> Result<Self, StageError> {
        let (mut rows, mut dropped) = read(ctx, "rates")?;
        let (mut base, dropped_base) = read(ctx, "before")?;
        dropped += dropped_base;
        if base.is_empty() {
            (base, rows) = rows.into_iter().partition(|row| row.rate.phase == Phase::Before);
        } else {
            rows.retain(|row| row.rate.phase == Phase::After);
            // Of rates that tell of a base too, the base.
            if base.iter().any(|row| row.rate.phase == Phase::Before) {
                base.retain(|row| row.rate.phase == Phase::Before);
            }
        }
        if rows.is_empty() {
            return Err(StageError::failed("the input `rates` holds no rates, so there is nothing to draw"));
        }
        let (rows, base) = (most_pooled(rows), most_pooled(base));
        dropped += rows
            .iter()
            .chain(&base)
            .filter(|row| row.rate.split == ALL && row.is_of(&Part::default()))
            .map(|row| row.rate.missing)
            .sum::<usize>();
        let split = params.split.clone().unwrap_or_else(|| {
            let split = rows.iter().any(|row| row.rate.split == "test");
            if split { "test" } else { "all" }.to_owned()
        });
        // Without any axis there is one bar.
        let has_axis = |row: &Row| row.coords.is_empty() || row.at(&params.bars).is_some();
        if let Some(row) = rows.iter().find(|row| !has_axis(row)) {
            let axes: Vec<&str> = row.coords.iter().map(|(axis, _)| axis.as_str()).collect();
            return Err(StageError::failed(format!(
                "`bars` names the axis `{}`, which the rates lack (they have: {}); gather it, or name another",
                params.bars,
                axes.join(", "),
            )));
        }
        let chooser = Chooser { params, split: &split, rows, base };
        let panels = if params.panels.is_empty() { chooser.default_panels() } else { params.panels.clone() };
        let panels = panels.iter().map(|panel| chooser.panel(panel)).collect::<Result<_, _>>()?;
        Ok(Figure { panels, split, dropped })
    }

    /// What is drawn, as rows under [`HEADER`].
    pub(super) fn rows(&self) -> Vec<[String; 10]> {
        let number = |value: Option<f64>| value.map_or(String::new(), |value| value.to_string());
        let row = |panel: &Panel, bar: &Bar| {
            let rate = &bar.rate;
            let counts = [rate.n, rate.toxic, bar.judged().saturating_sub(rate.toxic), rate.unparsable];
            let [n, toxic, non_toxic, unparsable] = counts.map(|count| count.to_string());
            let [share, low, high] = [rate.share, rate.low, rate.high].map(number);
            let coords = mark(&bar.coords);
            [panel.title.clone(), bar.label.clone(), coords, n, toxic, non_toxic, unparsable, share, low, high]
        };
        self.panels.iter().flat_map(|panel| panel.bars.iter().map(move |bar| row(panel, bar))).collect()
    }
}

/// The rates at `port`, and how many points of the gather are missing.
fn read(ctx: &Context<'_>, port: &str) -> Result<(Vec<Row>, usize), StageError> {
    let (mut rows, mut dropped) = (Vec::new(), 0);
    for row in ctx.table(port) {
        let Some(files) = &row.input else {
            dropped += 1;
            continue;
        };
        rows.extend(records::rows(files, records::METRICS)?.into_iter().map(|rate: Rate| {
            let coords = row.coords.iter().chain(&rate.coords).cloned().collect();
            Row { coords, rate }
        }));
    }
    Ok((rows, dropped))
}

/// Of rows for instances and rows that pool them, those that pool most: a bar shows all seeds, if there are any.
fn most_pooled(rows: Vec<Row>) -> Vec<Row> {
    let most = rows.iter().map(|row| row.rate.pooled.len()).max();
    rows.into_iter().filter(|row| Some(row.rate.pooled.len()) == most).collect()
}

/// Which prompts a panel shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part<'p> {
    pub(super) group: &'p str,
    pub(super) identity: &'p str,
    pub(super) exposure: &'p str,
}

impl Default for Part<'_> {
    fn default() -> Self {
        Part { group: ALL, identity: ALL, exposure: ALL }
    }
}

impl<'p> Part<'p> {
    pub(super) fn of(params: &'p Params, panel: &'p PanelParams) -> Self {
        // An identity of a panel's own stands in place of the figure's group.
        let group = if panel.identity.is_some() { ALL } else { &params.group };
        Part {
            group: panel.group.as_deref().unwrap_or(group),
            identity: panel.identity.as_deref().unwrap_or(&params.identity),
            exposure: panel.exposure.as_deref().unwrap_or(&params.exposure),
        }
    }

    /// The rows of this part; where a file has but one group, its rows are told as `all`.
    fn rows<'r>(&self, rows: &'r [Row]) -> Result<Vec<&'r Row>, StageError> {
        let kept: Vec<&Row> = rows.iter().filter(|row| row.is_of(self)).collect();
        if !kept.is_empty() || rows.is_empty() {
            return Ok(kept);
        }
        let names = [
            ("group", self.group, (|row| &row.rate.group) as fn(&Row) -> &String),
            ("identity", self.identity, |row| &row.rate.identity),
            ("exposure", self.exposure, |row| &row.rate.exposure),
        ];
        for (what, wanted, of) in names {
            let known = distinct(rows.iter().map(of));
            if !known.iter().any(|known| *known == wanted) {
                let some = known.iter().take(40).map(|known| known.as_str()).collect::<Vec<_>>().join(", ");
                return Err(StageError::failed(format!("there is no {what} `{wanted}`; there are: {some}")));
            }
        }
        Err(StageError::failed(format!(
            "there are no rates of the group `{}`, the identity `{}` and the exposure `{}` together",
            self.group, self.identity, self.exposure
        )))
    }
}

fn distinct<T: PartialEq>(items: impl Iterator<Item = T>) -> Vec<T> {
    items.fold(Vec::new(), |mut seen, item| {
        if !seen.contains(&item) {
            seen.push(item);
        }
        seen
    })
}

struct Chooser<'p> {
    params: &'p Params,
    split: &'p str,
    rows: Vec<Row>,
    base: Vec<Row>,
}

impl Chooser<'_> {
    /// A panel for each point of the axes that are not along the bars.
    fn default_panels(&self) -> Vec<PanelParams> {
        let others = |row: &Row| row.coords.iter().filter(|(axis, _)| *axis != self.params.bars).cloned().collect();
        let points: Vec<Coords> = distinct(self.rows.iter().map(others));
        let panel = |point: &Coords| {
            let title = if points.len() > 1 { title(point) } else { String::new() };
            PanelParams { title, fixed: point.iter().cloned().collect(), ..PanelParams::default() }
        };
        points.iter().map(panel).collect()
    }

    fn panel(&self, panel: &PanelParams) -> Result<Panel, StageError> {
        let of_part = Part::of(self.params, panel).rows(&self.rows)?;
        let rows: Vec<&Row> = of_part.into_iter().filter(|row| row.is_at(&panel.fixed)).collect();
        if rows.is_empty() {
            let axes = panel.fixed.keys().map(|axis| {
                let labels = distinct(self.rows.iter().filter_map(|row| row.at(axis)).map(label));
                format!("{axis}: {}", if labels.is_empty() { "no such axis".to_owned() } else { labels.join(", ") })
            });
            let axes = axes.collect::<Vec<_>>().join("; ");
            return Err(StageError::failed(format!("the panel `{}` has no rates; there are: {axes}", panel.title)));
        }
        let labels = distinct(rows.iter().filter_map(|row| row.at(&self.params.bars)));
        let wanted: Vec<&Value> =
            if self.params.order.is_empty() { labels.clone() } else { self.params.order.iter().collect() };
        let mut bars: Vec<Bar> = self.base_bar(panel)?.into_iter().collect();
        let base = !bars.is_empty();
        if labels.is_empty() && self.params.order.is_empty() {
            let row = one(&rows, self.split, COMPLETIONS)?;
            bars.push(Bar { label: COMPLETIONS.to_owned(), note: None, coords: Vec::new(), rate: row.rate.clone() });
        }
        for value in wanted {
            let rows: Vec<&Row> = rows
                .iter()
                .copied()
                .filter(|row| row.at(&self.params.bars).is_some_and(|own| same(own, value)))
                .collect();
            if rows.is_empty() {
                let known = labels.iter().map(|value| label(value)).collect::<Vec<_>>().join(", ");
                return Err(StageError::failed(format!(
                    "`order` names `{}`, which `{}` has not in this panel; it has: {known}",
                    label(value),
                    self.params.bars
                )));
            }
            bars.push(self.bar(panel, value, &rows)?);
        }
        let chosen_by = panel.best.as_ref().map(|_| panel.by.split());
        Ok(Panel { title: panel.title.clone(), bars, base, chosen_by })
    }

    fn bar(&self, panel: &PanelParams, value: &Value, rows: &[&Row]) -> Result<Bar, StageError> {
        let name = format!("{}={}", self.params.bars, label(value));
        let (point, note) = match &panel.best {
            None => (BTreeMap::new(), None),
            Some(axis) => {
                let best = best(axis, panel.by.split(), &name, rows)?;
                let note = format!("{axis} {}", label(&best));
                (BTreeMap::from([(axis.clone(), best)]), Some(note))
            }
        };
        let rows: Vec<&Row> = rows.iter().copied().filter(|row| row.is_at(&point)).collect();
        let row = one(&rows, self.split, &name)?;
        Ok(Bar { label: label(value), note, coords: row.coords.clone(), rate: row.rate.clone() })
    }

    fn base_bar(&self, panel: &PanelParams) -> Result<Option<Bar>, StageError> {
        if self.base.is_empty() {
            return Ok(None);
        }
        let of_part = Part::of(self.params, panel).rows(&self.base)?;
        let rows: Vec<&Row> = of_part.into_iter().filter(|row| row.covers(&panel.fixed)).collect();
        let row = one(&rows, self.split, &self.params.base_label)?;
        let label = self.params.base_label.clone();
        Ok(Some(Bar { label, note: None, coords: row.coords.clone(), rate: row.rate.clone() }))
    }
}

/// The label of `axis` with the lowest share on the prompts `by`; the first of equals.
fn best(axis: &str, by: &str, bar: &str, rows: &[&Row]) -> Result<Value, StageError> {
    let on = rows.iter().filter(|row| row.rate.split == by);
    let shares: Vec<(&Value, f64)> = on.filter_map(|row| Some((row.at(axis)?, row.rate.share?))).collect();
    let labels = distinct(shares.iter().map(|(value, _)| *value));
    if labels.len() < shares.len() {
        return Err(StageError::failed(format!(
            "for {bar} there are several rates at one `{axis}`; fix the other axes by `where`, or pool them"
        )));
    }
    let best = shares.iter().min_by(|a, b| a.1.total_cmp(&b.1)).map(|(value, _)| (*value).clone());
    best.ok_or_else(|| {
        StageError::failed(format!(
            "for {bar} there is no share on the split `{by}` to choose the best `{axis}` by; split the prompts, or name \
             another split in `by`"
        ))
    })
}

/// The one row of `split`.
fn one<'r>(rows: &[&'r Row], split: &str, bar: &str) -> Result<&'r Row, StageError> {
    let rows: Vec<&Row> = rows.iter().copied().filter(|row| row.rate.split == split).collect();
    match rows[..] {
        [row] => Ok(row),
        [] => Err(StageError::failed(format!("there is no rate of the split `{split}` for {bar}"))),
        [..] => {
            let rates = rows.iter().map(|row| mark(&row.coords)).collect::<Vec<_>>().join("; ");
            Err(StageError::failed(format!(
                "{bar} is one bar, but has {} rates ({rates}); fix an axis by `where`, choose by `best`, or pool it",
                rows.len()
            )))
        }
    }
}
