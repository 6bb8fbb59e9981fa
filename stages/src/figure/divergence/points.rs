//! Which rows are drawn as which points and lines.

use std::cmp::Ordering;

use palinode_engine::{context::Context, stage::StageError};
use serde_json::Value;

use super::Params;
use crate::{
    figure::{label, mark, same, title},
    gathered::Coords,
    records::{self, DensityRow, DivergenceMean, Scale},
};

/// What is drawn.
pub(super) struct Figure {
    /// One for each point of the axes that are not along the means.
    pub(super) panels: Vec<Panel>,
    /// Points of the gathers that are missing.
    pub(super) dropped: usize,
    pub(super) scale: Scale,
}

pub(super) struct Panel {
    pub(super) title: String,
    pub(super) points: Vec<Point>,
}

/// One model.
pub(super) struct Point {
    pub(super) label: String,
    /// Whether the label is a number: a rank, not `full`.
    pub(super) number: bool,
    pub(super) coords: Coords,
    pub(super) mean: DivergenceMean,
    pub(super) density: Option<DensityRow>,
}

impl Point {
    pub(super) fn mark(&self) -> String {
        mark(&self.coords)
    }
}

pub(super) const HEADER: [&str; 10] =
    ["panel", "point", "coordinates", "measure", "mean", "low", "high", "positions", "prompts", "instances"];
pub(super) const DENSITY_HEADER: [&str; 6] = ["panel", "point", "measure", "scale", "x", "density"];

impl Figure {
    pub(super) fn read(params: &Params, ctx: &Context<'_>) -> Result<Self, StageError> {
        let (mut rows, mut dropped): (Vec<Point>, usize) = (Vec::new(), 0);
        for row in ctx.table("divergences") {
            let Some(files) = &row.input else {
                dropped += 1;
                continue;
            };
            let means: Vec<DivergenceMean> = records::rows(files, records::METRICS)?;
            let densities: Vec<DensityRow> = records::rows(files, records::DENSITIES)?;
            let wanted = |mean: &DivergenceMean| {
                mean.measure == params.measure.name()
                    && (&mean.split, &mean.exposure, &mean.group) == (&params.split, &params.exposure, &params.group)
                    && mean.identity == records::ALL
            };
            for mean in means.into_iter().filter(wanted) {
                let of = |density: &&DensityRow| {
                    density.measure == mean.measure
                        && (&density.coords, &density.pooled) == (&mean.coords, &mean.pooled)
                        && (&density.split, &density.exposure, &density.group)
                            == (&mean.split, &mean.exposure, &mean.group)
                };
                let density = densities.iter().find(of).cloned();
                let coords: Coords = row.coords.iter().chain(&mean.coords).cloned().collect();
                let value = coords.iter().find(|(axis, _)| *axis == params.points).map(|(_, value)| value);
                let Some(value) = value else {
                    let axes: Vec<&str> = coords.iter().map(|(axis, _)| axis.as_str()).collect();
                    return Err(StageError::failed(format!(
                        "`points` names the axis `{}`, which the means lack (they have: {}); gather it, or name another",
                        params.points,
                        if axes.is_empty() { "none".to_owned() } else { axes.join(", ") },
                    )));
                };
                let (label, number) = (label(value), value.is_number());
                rows.push(Point { label, number, coords, mean, density });
            }
        }
        if rows.is_empty() {
            return Err(StageError::failed(format!(
                "the input `divergences` holds no {} of the split `{}`, exposure `{}` and group `{}`, so there is nothing \
                 to draw",
                params.measure.name(),
                params.split,
                params.exposure,
                params.group
            )));
        }
        // Of rows for instances and rows that pool them, those that pool most.
        let most = rows.iter().map(|row| row.mean.pooled.len()).max();
        rows.retain(|row| Some(row.mean.pooled.len()) == most);
        dropped += rows.iter().map(|row| row.mean.missing).sum::<usize>();
        let at = |row: &Point, (axis, value): (&String, &Value)| {
            row.coords.iter().any(|(name, own)| name == axis && same(own, value))
        };
        rows.retain(|row| params.fixed.iter().all(|fixed| at(row, fixed)));
        let panels = panels(params, rows)?;
        let densities = || panels.iter().flat_map(|panel| &panel.points).filter_map(|point| point.density.as_ref());
        let scale = densities().next().map_or(Scale::default(), |density| density.scale);
        if densities().any(|density| density.scale != scale) {
            return Err(StageError::failed("some densities are over logarithms and some are not: give one `scale`"));
        }
        Ok(Figure { panels, dropped, scale })
    }

    pub(super) fn rows(&self) -> Vec<[String; 10]> {
        let number = |value: Option<f64>| value.map_or(String::new(), |value| value.to_string());
        let row = |panel: &Panel, point: &Point| {
            let mean = &point.mean;
            let [value, low, high] = [mean.mean, mean.low, mean.high].map(number);
            let [positions, prompts, instances] =
                [mean.positions, mean.prompts, mean.instances].map(|count| count.to_string());
            let (measure, coords) = (mean.measure.clone(), mark(&point.coords));
            [panel.title.clone(), point.label.clone(), coords, measure, value, low, high, positions, prompts, instances]
        };
        self.panels.iter().flat_map(|panel| panel.points.iter().map(move |point| row(panel, point))).collect()
    }

    pub(super) fn density_rows(&self) -> Vec<[String; 6]> {
        let scale = match self.scale {
            Scale::Log10 => "log10",
            Scale::Linear => "linear",
        };
        let mut rows = Vec::new();
        for (panel, point) in self.panels.iter().flat_map(|panel| panel.points.iter().map(move |point| (panel, point)))
        {
            for density in point.density.iter() {
                for (x, y) in density.x.iter().zip(&density.density) {
                    let [x, y] = [x, y].map(f64::to_string);
                    rows.push([
                        panel.title.clone(),
                        point.label.clone(),
                        density.measure.clone(),
                        scale.to_owned(),
                        x,
                        y,
                    ]);
                }
            }
        }
        rows
    }
}

/// A panel for each point of the other axes, each with its models in order.
fn panels(params: &Params, rows: Vec<Point>) -> Result<Vec<Panel>, StageError> {
    let mut panels: Vec<(Coords, Panel)> = Vec::new();
    if rows.is_empty() {
        let fixed: Coords = params.fixed.iter().map(|(axis, value)| (axis.clone(), value.clone())).collect();
        return Err(StageError::failed(format!("there is no mean at {}", mark(&fixed))));
    }
    for row in rows {
        let others: Coords = row.coords.iter().filter(|(axis, _)| *axis != params.points).cloned().collect();
        match panels.iter_mut().find(|(known, _)| *known == others) {
            Some((_, panel)) => panel.points.push(row),
            None => {
                let free: Coords =
                    others.iter().filter(|(axis, _)| !params.fixed.contains_key(axis)).cloned().collect();
                panels.push((others, Panel { title: title(&free), points: vec![row] }));
            }
        }
    }
    let mut panels: Vec<Panel> = panels.into_iter().map(|(_, panel)| panel).collect();
    if let [panel] = &mut panels[..] {
        panel.title = String::new();
    }
    for panel in &mut panels {
        let value = |point: &Point| {
            point.coords.iter().find(|(axis, _)| *axis == params.points).map(|(_, value)| value.clone())
        };
        if params.order.is_empty() {
            let rising =
                |a: &Point, b: &Point| match (value(a).and_then(|v| v.as_f64()), value(b).and_then(|v| v.as_f64())) {
                    (Some(a), Some(b)) => a.total_cmp(&b),
                    (Some(_), None) => Ordering::Less,
                    (None, Some(_)) => Ordering::Greater,
                    (None, None) => Ordering::Equal,
                };
            panel.points.sort_by(rising);
            continue;
        }
        let known = panel.points.iter().map(|point| point.label.clone()).collect::<Vec<_>>().join(", ");
        let mut ordered = Vec::new();
        for wanted in &params.order {
            let at = panel.points.iter().position(|point| value(point).is_some_and(|own| same(&own, wanted)));
            let Some(at) = at else {
                return Err(StageError::failed(format!(
                    "`order` names `{}`, which `{}` has not; it has: {known}",
                    label(wanted),
                    params.points
                )));
            };
            ordered.push(panel.points.remove(at));
        }
        panel.points = ordered;
    }
    Ok(panels)
}
