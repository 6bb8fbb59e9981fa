//! `figure.boundary`: how probable the class was that was decided for, by group: a panel for each rank.

mod draw;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use palinode_engine::{
    context::Context,
    stage::{InputPort, Kind, OutputPort, ParamProblem, PortType, StageError},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    evaluate_boundary::{BoundaryRow, FILE},
    records,
};

/// The kind.
pub(crate) struct BoundaryFigure;

/// `with` of `figure.boundary`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Params {
    /// Texts that were decided to be of this class; may be left out where there is one class only.
    decided: Option<String>,
    /// The axis across, a panel for each label; the points of other axes are rows.
    across: String,
    /// The labels to draw, in this order; all by default, in the order of the axis.
    order: Vec<Value>,
    /// Coordinates to draw: `{kept: 1}`.
    #[serde(rename = "where")]
    fixed: BTreeMap<String, Value>,
    /// Titles of rows by coordinates as a mark names them: `{"data=sst2": SST-2}`.
    titles: BTreeMap<String, String>,
    /// Above the panels.
    title: Option<String>,
    /// Width of a plot in pixels.
    width: Option<f64>,
    /// Height of a plot in pixels.
    height: Option<f64>,
}

impl Default for Params {
    fn default() -> Self {
        Params {
            decided: None,
            across: "rank".to_owned(),
            order: Vec::new(),
            fixed: BTreeMap::new(),
            titles: BTreeMap::new(),
            title: None,
            width: None,
            height: None,
        }
    }
}

/// One panel: densities by group.
struct Panel {
    label: Value,
    mark: String,
    groups: Vec<BoundaryRow>,
}

/// A row of panels.
struct Row {
    coords: Vec<(String, Value)>,
    panels: Vec<Panel>,
}

struct Figure {
    rows: Vec<Row>,
    labels: Vec<Value>,
    /// What the legend says, in the order of the colours: majority and minority, or the groups.
    groups: Vec<String>,
    /// Whether groups are drawn by their role.
    roles: bool,
    decided: String,
    dropped: usize,
}

const HEADER: [&str; 6] = ["panel", "group", "decided", "count", "probability", "density"];

impl Kind for BoundaryFigure {
    type Params = Params;
    const NAME: &'static str = "figure.boundary";
    const ABOUT: &'static str = "Draws how probable the decided class was, by group, a panel for each rank.";
    const REVISION: u32 = 1;

    fn inputs() -> Vec<InputPort> {
        vec![InputPort::table("boundary", PortType::Distribution, "boundary.jsonl of `evaluate.boundary`")]
    }

    fn outputs() -> Vec<OutputPort> {
        vec![super::output()]
    }

    fn check(params: &Params) -> Vec<ParamProblem> {
        let measures = [("width", params.width, 100.0, 4000.0), ("height", params.height, 60.0, 4000.0)];
        let measures =
            measures.into_iter().filter_map(|(field, value, least, most)| super::measure(field, value, least, most));
        let fixed = params.fixed.contains_key(&params.across).then(|| {
            ParamProblem::new("where", format!("the axis `{}` has the panels already", params.across))
                .hint("choose some of its labels by `order`")
        });
        measures.chain(fixed).collect()
    }

    fn run(params: Params, ctx: &Context<'_>) -> Result<(), StageError> {
        let figure = Figure::read(&params, ctx)?;
        ctx.summary("rows", figure.rows.len());
        ctx.summary("panels", figure.rows.iter().map(|row| row.panels.len()).sum::<usize>());
        ctx.summary("dropped", figure.dropped);
        super::save(ctx, draw::draw(&params, &figure), &HEADER, &figure.csv())
    }
}

impl Figure {
    fn read(params: &Params, ctx: &Context<'_>) -> Result<Self, StageError> {
        let mut dropped = 0;
        let mut all: Vec<BoundaryRow> = Vec::new();
        for row in ctx.table("boundary") {
            let Some(input) = &row.input else {
                dropped += 1;
                continue;
            };
            for mut found in records::rows::<BoundaryRow>(input, FILE)? {
                found.coords.splice(0..0, row.coords.iter().cloned());
                all.push(found);
            }
        }
        for (axis, wanted) in &params.fixed {
            let is =
                |row: &BoundaryRow| row.coords.iter().any(|(name, label)| name == axis && super::same(label, wanted));
            if !all.iter().any(is) {
                let wanted = super::label(wanted);
                return Err(StageError::failed(format!("`where`: there is no result with `{axis}` = {wanted}")));
            }
            all.retain(is);
        }
        let mut classes: Vec<&str> = all.iter().map(|row| row.decided.as_str()).collect();
        classes.sort_unstable();
        classes.dedup();
        let decided = match (&params.decided, &classes[..]) {
            (Some(class), classes) if classes.contains(&class.as_str()) => class.clone(),
            (Some(class), classes) => {
                let message = format!("nothing was decided to be `{class}`; there are {}", classes.join(", "));
                return Err(StageError::failed(message));
            }
            (None, [only]) => (*only).to_owned(),
            (None, classes) => {
                let message = format!("say by `decided` which class is meant: {}", classes.join(", "));
                return Err(StageError::failed(message));
            }
        };
        all.retain(|row| row.decided == decided);
        let mut groups: Vec<String> = all.iter().map(|row| row.group.clone()).collect();
        groups.sort();
        groups.dedup();
        // With two groups by their roles, which may differ between rows: red the majority, blue the minority.
        let roles = groups.len() == 2 && all.iter().all(|row| row.minority.is_some());
        if roles {
            let named = |(minority, role): (bool, &str)| {
                let of = all.iter().filter(|row| row.minority == Some(minority)).map(|row| row.group.as_str());
                let of: BTreeSet<&str> = of.collect();
                format!("{role} ({})", of.into_iter().collect::<Vec<_>>().join(", "))
            };
            groups = [(false, "majority"), (true, "minority")].map(named).to_vec();
        }
        let mut figure = Figure { rows: Vec::new(), labels: Vec::new(), groups, roles, decided, dropped };
        for row in all {
            figure.add(params, row)?;
        }
        figure.arrange(params);
        Ok(figure)
    }

    fn add(&mut self, params: &Params, found: BoundaryRow) -> Result<(), StageError> {
        let label = found.coords.iter().find(|(axis, _)| *axis == params.across).map(|(_, label)| label.clone());
        let Some(label) = label else {
            let axis = &params.across;
            return Err(StageError::failed(format!(
                "the results have no axis `{axis}` to have panels of: gather it in `evaluate.boundary`, or name another \
                 as `across`"
            )));
        };
        if !params.order.is_empty() && !params.order.iter().any(|wanted| super::same(wanted, &label)) {
            return Ok(());
        }
        self.dropped += found.missing;
        if !self.labels.iter().any(|known| super::same(known, &label)) {
            self.labels.push(label.clone());
        }
        let fixed = |axis: &String| *axis == params.across || params.fixed.contains_key(axis);
        let kept: Vec<(String, Value)> = found.coords.iter().filter(|(axis, _)| !fixed(axis)).cloned().collect();
        let at = self.rows.iter().position(|row| row.coords == kept).unwrap_or_else(|| {
            self.rows.push(Row { coords: kept, panels: Vec::new() });
            self.rows.len() - 1
        });
        let panels = &mut self.rows[at].panels;
        let mark = super::mark(&found.coords);
        match panels.iter_mut().find(|panel| panel.mark == mark) {
            Some(panel) => panel.groups.push(found),
            None => panels.push(Panel { label, mark, groups: vec![found] }),
        }
        Ok(())
    }

    /// The number of a group's colour.
    fn color(&self, row: &BoundaryRow) -> usize {
        match row.minority.filter(|_| self.roles) {
            Some(minority) => usize::from(minority),
            None => self.groups.iter().position(|name| *name == row.group).unwrap_or(0),
        }
    }

    fn arrange(&mut self, params: &Params) {
        if params.order.is_empty() {
            return;
        }
        let place = |label: &Value| params.order.iter().position(|wanted| super::same(wanted, label));
        self.labels.sort_by_key(place);
        self.rows.iter_mut().for_each(|row| row.panels.sort_by_key(|panel| place(&panel.label)));
    }

    fn csv(&self) -> Vec<[String; 6]> {
        let mut rows = Vec::new();
        for panel in self.rows.iter().flat_map(|row| &row.panels) {
            for group in &panel.groups {
                let row = |(place, density): &(f64, f64)| {
                    let [count, place, density] = [group.count.to_string(), place.to_string(), density.to_string()];
                    [panel.mark.clone(), group.group.clone(), group.decided.clone(), count, place, density]
                };
                rows.extend(group.density.iter().map(row));
            }
        }
        rows
    }
}
