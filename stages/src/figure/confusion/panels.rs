//! Which rows are drawn as which matrices.

use palinode_engine::{context::Context, stage::StageError};

use super::Params;
use crate::{
    figure::{mark, title},
    records::{self, Confusion},
};

/// What is drawn.
pub(super) struct Figure {
    pub(super) panels: Vec<Panel>,
    /// Points of the gathers that are missing.
    pub(super) dropped: usize,
}

pub(super) struct Panel {
    pub(super) title: String,
    pub(super) row: Confusion,
}

impl Panel {
    /// What the matrix shows, as a mark names it.
    pub(super) fn mark(&self) -> String {
        if self.row.coords.is_empty() { self.row.judge.clone() } else { mark(&self.row.coords) }
    }
}

impl Figure {
    pub(super) fn read(params: &Params, ctx: &Context<'_>) -> Result<Self, StageError> {
        let (mut rows, mut dropped) = (Vec::new(), 0);
        for port in ["metrics", "beside"] {
            for table in ctx.table(port) {
                let Some(files) = &table.input else {
                    dropped += 1;
                    continue;
                };
                rows.extend(records::rows(files, records::METRICS)?.into_iter().map(|mut row: Confusion| {
                    row.coords = table.coords.iter().chain(&row.coords).cloned().collect();
                    row
                }));
            }
        }
        if rows.is_empty() {
            return Err(StageError::failed("the input `metrics` holds no matrix, so there is nothing to draw"));
        }
        let distinct = |of: fn(&Confusion) -> &String, rows: &[Confusion]| {
            let mut seen: Vec<String> = Vec::new();
            rows.iter().map(of).for_each(|name| {
                if !seen.contains(name) {
                    seen.push(name.clone());
                }
            });
            seen
        };
        let all_by = distinct(|row| &row.by, &rows);
        rows.retain(|row| row.by == params.by);
        if rows.is_empty() {
            let known = all_by.join(", ");
            return Err(StageError::failed(format!("no matrix is told by `{}`; there are: {known}", params.by)));
        }
        let values = distinct(|row| &row.value, &rows);
        if let Some(value) = params.values.iter().find(|value| !values.contains(value)) {
            let known = values.join(", ");
            return Err(StageError::failed(format!(
                "`values` names `{value}`, which `{}` has not; it has: {known}",
                params.by
            )));
        }
        let wanted = if params.values.is_empty() { &values } else { &params.values };
        let judges = distinct(|row| &row.judge, &rows).len();
        let several = rows.iter().any(|row| row.coords != rows[0].coords);
        let mut panels = Vec::new();
        for row in rows {
            let mut parts = Vec::new();
            if judges > 1 || !several {
                parts.push(row.judge.clone());
            }
            if several && !row.coords.is_empty() {
                parts.push(title(&row.coords));
            }
            if params.by != "all" {
                parts.push(row.value.clone());
            }
            panels.push(Panel { title: parts.join(", "), row });
        }
        // By value within each judge, in the order that is asked for.
        let place = |panel: &Panel| wanted.iter().position(|value| *value == panel.row.value);
        panels.retain(|panel| place(panel).is_some());
        let mut instances: Vec<String> = Vec::new();
        for panel in &panels {
            let name = instance(panel);
            if !instances.contains(&name) {
                instances.push(name);
            }
        }
        panels.sort_by_key(|panel| (instances.iter().position(|name| *name == instance(panel)), place(panel)));
        Ok(Figure { panels, dropped })
    }

    /// What is drawn, as rows under a header.
    pub(super) fn table(&self) -> (Vec<String>, Vec<Vec<String>>) {
        let mut measures: Vec<&String> = Vec::new();
        for name in self.panels.iter().flat_map(|panel| panel.row.measures.keys()) {
            if !measures.contains(&name) {
                measures.push(name);
            }
        }
        let fixed = [
            "panel",
            "coordinates",
            "truth",
            "judge",
            "by",
            "value",
            "n",
            "tp",
            "fn",
            "fp",
            "tn",
            "unlabelled",
            "unparsable",
        ];
        let mut header: Vec<String> = fixed.map(str::to_owned).into();
        header.extend(measures.iter().flat_map(|name| ["", "_low", "_high"].map(|end| format!("{name}{end}"))));
        let number = |value: Option<f64>| value.map_or(String::new(), |value| value.to_string());
        let row = |panel: &Panel| {
            let row = &panel.row;
            let mut cells = vec![
                panel.title.clone(),
                mark(&row.coords),
                row.truth.clone(),
                row.judge.clone(),
                row.by.clone(),
                row.value.clone(),
            ];
            cells.extend([row.n, row.tp, row.missed, row.fp, row.tn].map(|count| count.to_string()));
            cells.extend([row.unlabelled, row.unparsable].map(|count| count.to_string()));
            for name in &measures {
                let measured = row.measures.get(*name).cloned().unwrap_or_default();
                cells.extend([measured.value, measured.low, measured.high].map(number));
            }
            cells
        };
        (header, self.panels.iter().map(row).collect())
    }
}

fn instance(panel: &Panel) -> String {
    format!("{}\n{}", panel.row.judge, mark(&panel.row.coords))
}
