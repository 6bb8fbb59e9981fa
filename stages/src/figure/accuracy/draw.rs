//! How the panels are laid out and drawn.

use serde_json::Value;
use svg::node::{Node as _, element::Element};

use super::{Figure, Line, Panel, Params};
use crate::{
    evaluate_groups::row::Role,
    figure::{
        canvas::{Anchor, Canvas, fill, marked, text},
        color::{FAINT, INK},
        flow, label,
        plot::{DASHES, GROUPS, PANEL, Plot, SMALL, TITLE, marker, sample, sample_width},
        same,
        ticks::padded,
        title,
    },
};

const MARGIN: f64 = 20.0;
/// Left of a plot.
const LEFT: f64 = 58.0;
/// Between plots.
const GAP: f64 = 30.0;
/// Below a plot: ticks and the axis's name.
const BELOW: f64 = 58.0;
/// Width at which panels go on in a new row.
const PAGE: f64 = 1240.0;
const ACROSS: &str = "minority as a proportion of the majority (training)";

pub(super) fn draw(params: &Params, figure: &Figure) -> Canvas {
    let (width, height) = (params.width.unwrap_or(400.0), params.height.unwrap_or(300.0));
    let widths = vec![LEFT + width; figure.panels.len()];
    let rows = flow(&widths, GAP, PAGE);
    let most = rows.iter().map(Vec::len).max().unwrap_or(1) as f64;
    let inner = (most * (LEFT + width) + (most - 1.0) * GAP).max(440.0);
    let lines = params.title.as_ref().map_or(Vec::new(), |title| TITLE.wrap(title, inner));
    let legend = legend(params, figure);
    let boxes: Vec<f64> = legend.iter().map(|entry| sample_width(&entry.name)).collect();
    let legend_rows = flow(&boxes, 20.0, inner);
    let notes: Vec<String> = SMALL.wrap(&notes(params, figure), inner);

    let above = MARGIN + lines.len() as f64 * 22.0;
    let first = above + legend_rows.len() as f64 * 20.0 + 8.0;
    let row_height = 24.0 + height + BELOW + 8.0;
    let bottom = first + rows.len() as f64 * row_height;
    let mut canvas = Canvas::new(inner + 2.0 * MARGIN, bottom + notes.len() as f64 * 15.0 + MARGIN - 8.0);
    for (at, line) in lines.iter().enumerate() {
        canvas.add(text((MARGIN, MARGIN + 14.0 + at as f64 * 22.0), TITLE, Anchor::Start, line));
    }
    for (row, members) in legend_rows.iter().enumerate() {
        let mut x = MARGIN;
        for &at in members {
            let Entry { color, dash, shape, name } = &legend[at];
            sample(&mut canvas, (x, above + row as f64 * 20.0 + 14.0), color, dash, *shape, name);
            x += boxes[at] + 20.0;
        }
    }
    let points = || figure.panels.iter().flat_map(|panel| &panel.lines).flat_map(|line| &line.points);
    let range = |values: &mut dyn Iterator<Item = f64>| {
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), at| (low.min(at), high.max(at)))
    };
    let x = padded(range(&mut points().map(|point| point.proportion)), 0.06);
    let ends = |point: &super::Point| {
        let (low, high) = point.interval.filter(|_| params.bands).unwrap_or((point.accuracy, point.accuracy));
        [low, high]
    };
    let y = padded(range(&mut points().flat_map(ends)), 0.05);
    // No accuracy is below 0 or above 1.
    let y = (y.0.max(0.0), y.1.min(1.0));
    for (row, members) in rows.iter().enumerate() {
        for (column, &at) in members.iter().enumerate() {
            let panel = &figure.panels[at];
            let plot = Plot {
                left: MARGIN + LEFT + column as f64 * (LEFT + width + GAP),
                top: first + row as f64 * row_height + 24.0,
                width,
                height,
                x,
                y,
            };
            let heading = params.titles.get(&crate::figure::mark(&panel.coords)).cloned();
            let heading = heading.unwrap_or_else(|| title(&panel.coords));
            canvas.add(text((plot.left, plot.top - 10.0), PANEL, Anchor::Start, &PANEL.fit(&heading, width)));
            plot.axes(&mut canvas, (ACROSS, "accuracy"), true, column == 0);
            draw_panel(&mut canvas, params, figure, panel, &plot);
        }
    }
    for (at, note) in notes.iter().enumerate() {
        canvas.add(fill(text((MARGIN, bottom + 6.0 + at as f64 * 15.0), SMALL, Anchor::Start, note), FAINT));
    }
    canvas
}

fn draw_panel(canvas: &mut Canvas, params: &Params, figure: &Figure, panel: &Panel, plot: &Plot) {
    if params.bands {
        for line in &panel.lines {
            let with = line.points.iter().filter_map(|point| Some((point.proportion, point.interval?)));
            let with: Vec<(f64, (f64, f64))> = with.collect();
            let up = with.iter().map(|(x, (_, high))| (*x, *high));
            let down = with.iter().rev().map(|(x, (low, _))| (*x, *low));
            let outline: Vec<(f64, f64)> = up.chain(down).collect();
            if outline.len() > 3 {
                canvas.add(plot.area(&outline, color(line.role), "0.08"));
            }
        }
    }
    for line in &panel.lines {
        canvas.add(draw_line(params, figure, panel, line, plot));
    }
}

fn draw_line(params: &Params, figure: &Figure, panel: &Panel, line: &Line, plot: &Plot) -> Element {
    let style = Style::of(params, figure, &line.label);
    let color = color(line.role);
    let name = &panel.groups[usize::from(line.role == Role::Minority)];
    let points: Vec<(f64, f64)> = line.points.iter().map(|point| (point.proportion, point.accuracy)).collect();
    let mut group = marked(&line_mark(line, &line.points), &format!("{name}, {} {}", params.lines, label(&line.label)));
    group.append(plot.polyline(&points, color, style.dash, if style.full { 2.2 } else { 1.5 }));
    for point in &line.points {
        let interval =
            point.interval.map_or(String::new(), |(low, high)| format!(" ({:.1}–{:.1})", low * 100.0, high * 100.0));
        let train = point.train.map_or(String::new(), |train| format!(", {train} training examples"));
        let told = format!("{name}, {}: {:.1}%{interval}{train}", point.mark, point.accuracy * 100.0);
        let mut mark = marked(&point.mark, &told);
        mark.append(marker(style.shape, plot.at((point.proportion, point.accuracy)), color));
        group.append(mark);
    }
    group
}

/// The marks of all points: what the line was drawn of.
fn line_mark(line: &Line, points: &[super::Point]) -> String {
    points.first().map_or_else(|| label(&line.label), |point| point.mark.clone())
}

fn color(role: Role) -> &'static str {
    match role {
        Role::Majority => GROUPS[0],
        Role::Minority => GROUPS[1],
    }
}

/// What tells the lines of one colour apart.
struct Style {
    full: bool,
    dash: &'static str,
    shape: usize,
}

impl Style {
    fn of(params: &Params, figure: &Figure, label: &Value) -> Self {
        if same(label, &params.full) {
            return Style { full: true, dash: DASHES[0], shape: 0 };
        }
        let dashed = figure.labels.iter().filter(|other| !same(other, &params.full));
        let at = dashed.clone().position(|other| same(other, label)).unwrap_or(0);
        let dashes = DASHES.len() - 1;
        Style { full: false, dash: DASHES[1 + at % dashes], shape: 1 + at % 5 }
    }
}

struct Entry {
    color: &'static str,
    dash: &'static str,
    shape: Option<usize>,
    name: String,
}

fn legend(params: &Params, figure: &Figure) -> Vec<Entry> {
    let names = |at: usize| {
        let mut names: Vec<&str> = figure.panels.iter().map(|panel| panel.groups[at].as_str()).collect();
        names.sort_unstable();
        names.dedup();
        names.retain(|name| !name.is_empty());
        names.join(", ")
    };
    let group = |(at, role): (usize, &str)| Entry {
        color: GROUPS[at],
        dash: "",
        shape: None,
        name: format!("{role} ({})", names(at)),
    };
    let line = |value: &Value| {
        let style = Style::of(params, figure, value);
        let name = match style.full {
            true => label(value),
            false => format!("{} {}", params.lines, label(value)),
        };
        Entry { color: INK, dash: style.dash, shape: Some(style.shape), name }
    };
    [(0, "majority"), (1, "minority")].into_iter().map(group).chain(figure.labels.iter().map(line)).collect()
}

fn notes(params: &Params, figure: &Figure) -> String {
    let mut notes = Vec::new();
    if let Some(level) = figure.confidence.filter(|_| params.bands) {
        let over = if figure.pooled.is_empty() { "test items" } else { "test items and runs" };
        notes.push(format!("Bands: {:.0}% bootstrap intervals over {over}.", level * 100.0));
    }
    if !figure.pooled.is_empty() {
        let (least, most) = figure.runs;
        let count = if least == most { most.to_string() } else { format!("{least} to {most}") };
        notes.push(format!("Each point is the mean of {count} runs over {}.", figure.pooled.join(" and ")));
    }
    if figure.dropped > 0 {
        notes.push(format!("Missing results, left out: {}.", figure.dropped));
    }
    notes.join(" ")
}
