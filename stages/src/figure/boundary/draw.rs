//! How the panels are laid out and drawn.

use svg::node::Node as _;

use super::{Figure, Panel, Params};
use crate::figure::{
    canvas::{Anchor, Canvas, fill, line, marked, text, upward},
    color::FAINT,
    flow, label, mark,
    plot::{DASHES, GROUPS, LABEL, PANEL, Plot, SMALL, TITLE, sample, sample_width},
    title,
};

const MARGIN: f64 = 20.0;
/// Left of a row: its title, and the axis.
const LEFT: f64 = 78.0;
const GAP: f64 = 26.0;
/// Below a plot.
const BELOW: f64 = 48.0;
const ACROSS: &str = "probability of the decided class";

pub(super) fn draw(params: &Params, figure: &Figure) -> Canvas {
    let (width, height) = (params.width.unwrap_or(200.0), params.height.unwrap_or(150.0));
    let columns = figure.labels.len() as f64;
    let inner = (LEFT + columns * width + (columns - 1.0) * GAP).max(440.0);
    let lines = params.title.as_ref().map_or(Vec::new(), |title| TITLE.wrap(title, inner));
    let named = |group: &String| if figure.roles { group.clone() } else { format!("group {group}") };
    let names: Vec<String> = figure.groups.iter().map(named).collect();
    let boxes: Vec<f64> = names.iter().map(|name| sample_width(name)).collect();
    let legend = flow(&boxes, 20.0, inner);
    let notes = SMALL.wrap(&notes(figure), inner);

    let above = MARGIN + lines.len() as f64 * 22.0;
    let first = above + legend.len() as f64 * 20.0 + 8.0;
    let row_height = 24.0 + height + BELOW;
    let bottom = first + figure.rows.len() as f64 * row_height;
    let mut canvas = Canvas::new(inner + 2.0 * MARGIN, bottom + notes.len() as f64 * 15.0 + MARGIN - 8.0);
    for (at, line) in lines.iter().enumerate() {
        canvas.add(text((MARGIN, MARGIN + 14.0 + at as f64 * 22.0), TITLE, Anchor::Start, line));
    }
    for (row, members) in legend.iter().enumerate() {
        let mut x = MARGIN;
        for &at in members {
            let (color, dash) = style(at);
            sample(&mut canvas, (x, above + row as f64 * 20.0 + 14.0), color, dash, None, &names[at]);
            x += boxes[at] + 20.0;
        }
    }
    for (number, row) in figure.rows.iter().enumerate() {
        // Densities of one row are compared.
        let densities = row.panels.iter().flat_map(|panel| &panel.groups).flat_map(|group| &group.density);
        let most = densities.map(|(_, density)| *density).fold(0.0, f64::max);
        let places = row.panels.iter().flat_map(|panel| &panel.groups).flat_map(|group| &group.density);
        let least = places.map(|(place, _)| *place).fold(1.0, f64::min);
        let top = first + number as f64 * row_height + 24.0;
        let heading = params.titles.get(&mark(&row.coords)).cloned().unwrap_or_else(|| title(&row.coords));
        let at = (MARGIN + 12.0, top + height / 2.0);
        canvas.add(upward(text(at, PANEL, Anchor::Middle, &PANEL.fit(&heading, height + 24.0)), at));
        for panel in &row.panels {
            let Some(column) = figure.labels.iter().position(|known| crate::figure::same(known, &panel.label)) else {
                continue;
            };
            let plot = Plot {
                left: MARGIN + LEFT + column as f64 * (width + GAP),
                top,
                width,
                height,
                x: (if least < 1.0 { least } else { 0.5 }, 1.0),
                y: (0.0, if most > 0.0 { most * 1.05 } else { 1.0 }),
            };
            draw_panel(&mut canvas, params, figure, panel, &plot, column == 0);
        }
    }
    for (at, note) in notes.iter().enumerate() {
        canvas.add(fill(text((MARGIN, bottom + 6.0 + at as f64 * 15.0), SMALL, Anchor::Start, note), FAINT));
    }
    canvas
}

fn style(group: usize) -> (&'static str, &'static str) {
    (GROUPS[group % GROUPS.len()], DASHES[group % DASHES.len()])
}

fn draw_panel(canvas: &mut Canvas, params: &Params, figure: &Figure, panel: &Panel, plot: &Plot, first: bool) {
    let heading = match panel.label.is_string() {
        true => label(&panel.label),
        false => format!("{} {}", params.across, label(&panel.label)),
    };
    canvas.add(text((plot.left, plot.top - 10.0), LABEL, Anchor::Start, &LABEL.fit(&heading, plot.width)));
    plot.axes(canvas, (ACROSS, "density"), false, first);
    for group in &panel.groups {
        let (color, dash) = style(figure.color(group));
        let told = format!(
            "{}, {}: {} texts decided {}, mean {:.3}, median {:.3}, {:.1}% right",
            group.group,
            panel.mark,
            group.count,
            group.decided,
            group.mean,
            group.quantiles[2],
            group.right * 100.0
        );
        let mut element = marked(&panel.mark, &told);
        if let (Some(first), Some(last)) = (group.density.first(), group.density.last()) {
            let outline: Vec<(f64, f64)> = std::iter::once((first.0, 0.0))
                .chain(group.density.iter().copied())
                .chain(std::iter::once((last.0, 0.0)))
                .collect();
            element.append(plot.area(&outline, color, "0.12"));
            element.append(plot.polyline(&group.density, color, dash, 1.8));
            // The median, at the foot.
            let (x, y) = plot.at((group.quantiles[2], 0.0));
            element.append(line((x, y), (x, y - 10.0), color, 2.0));
        }
        canvas.add(element);
    }
}

fn notes(figure: &Figure) -> String {
    let mut notes = vec![format!(
        "Texts decided {}, by their group. Strokes at the foot: medians. Densities of a row share one scale.",
        figure.decided
    )];
    let few = figure.rows.iter().flat_map(|row| &row.panels).flat_map(|panel| &panel.groups);
    let few = few.filter(|group| group.density.is_empty()).count();
    if few > 0 {
        notes.push(format!("Not drawn: {few} with a single text."));
    }
    if figure.dropped > 0 {
        notes.push(format!("Missing results, left out: {}.", figure.dropped));
    }
    notes.join(" ")
}
