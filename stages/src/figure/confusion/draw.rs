//! How matrices are laid out and drawn.

use svg::node::{Node as _, element::Element};

use super::{
    Params,
    panels::{Figure, Panel},
};
use crate::{
    figure::{
        canvas::{Anchor, Canvas, fill, line, marked, rect, text, upward},
        color::{FAINT, GRID, INK, Rgb},
        flow,
        font::Font,
    },
    records::{Confusion, Measured},
};

const MARGIN: f64 = 12.0;
/// Left of a matrix: the name of its side and its classes.
const LEFT: f64 = 74.0;
const CELL: [f64; 2] = [92.0, 58.0];
/// Above a matrix, below its title: the name of its upper side and its classes.
const ABOVE: f64 = 38.0;
const GAP: f64 = 22.0;
/// Right of all matrices: the scale.
const BAR: f64 = 46.0;
const LINE: f64 = 14.0;
/// A page of two columns.
const PAGE: f64 = 920.0;
const STEPS: usize = 32;

const TITLE: Font = Font::bold(15.0);
const PANEL: Font = Font::bold(12.5);
const COUNT: Font = Font::bold(15.0);
const LABEL: Font = Font::regular(11.5);
const SMALL: Font = Font::regular(10.5);

/// What is told below a matrix: the name in the file, and its short name.
const TOLD: [(&str, &str); 7] = [
    ("accuracy", "accuracy"),
    ("tpr", "TPR"),
    ("fpr", "FPR"),
    ("precision", "precision"),
    ("f1", "F1"),
    ("agreement", "agreement"),
    ("kappa", "κ"),
];

pub(super) fn draw(params: &Params, figure: &Figure) -> Canvas {
    let width = LEFT + 2.0 * CELL[0];
    let room = params.width.unwrap_or(PAGE) - 2.0 * MARGIN - BAR;
    let rows = flow(&vec![width; figure.panels.len()], GAP, room);
    let across = rows.iter().map(Vec::len).max().unwrap_or(1) as f64;
    let inner = across * (width + GAP) - GAP;
    let page = inner + BAR;
    let title = params.title.as_ref().map_or(Vec::new(), |title| TITLE.wrap(title, page));
    let titles: Vec<Vec<String>> = figure.panels.iter().map(|panel| PANEL.wrap(&panel.title, width)).collect();
    let told: Vec<Vec<String>> = figure.panels.iter().map(|panel| told(&panel.row, width)).collect();
    let head = titles.iter().map(Vec::len).max().unwrap_or(0) as f64 * 16.0 + 6.0;
    let foot = told.iter().map(Vec::len).max().unwrap_or(0) as f64 * LINE + 10.0;
    let notes: Vec<String> = notes(figure).iter().flat_map(|note| SMALL.wrap(note, page)).collect();
    let block = head + ABOVE + 2.0 * CELL[1] + foot;

    let top = MARGIN + title.len() as f64 * 20.0;
    let bottom = top + rows.len() as f64 * (block + GAP) - GAP;
    let mut canvas = Canvas::new(page + 2.0 * MARGIN, bottom + notes.len() as f64 * LINE + MARGIN + 6.0);
    for (at, line) in title.iter().enumerate() {
        canvas.add(text((MARGIN, MARGIN + 13.0 + at as f64 * 20.0), TITLE, Anchor::Start, line));
    }
    for (row, panels) in rows.iter().enumerate() {
        for (column, &at) in panels.iter().enumerate() {
            let place = (MARGIN + column as f64 * (width + GAP), top + row as f64 * (block + GAP));
            for (line, said) in titles[at].iter().enumerate() {
                let y = place.1 + head - 8.0 - (titles[at].len() - 1 - line) as f64 * 16.0;
                canvas.add(text((place.0 + LEFT, y), PANEL, Anchor::Start, &PANEL.fit(said, width - LEFT + GAP)));
            }
            matrix(&mut canvas, params, &figure.panels[at], (place.0, place.1 + head));
            for (line, said) in told[at].iter().enumerate() {
                let y = place.1 + head + ABOVE + 2.0 * CELL[1] + 16.0 + line as f64 * LINE;
                canvas.add(text((place.0 + 4.0, y), SMALL, Anchor::Start, said));
            }
        }
    }
    scale(&mut canvas, (MARGIN + inner + 14.0, top + head + ABOVE));
    for (at, note) in notes.iter().enumerate() {
        canvas.add(fill(text((MARGIN + 4.0, bottom + 12.0 + at as f64 * LINE), SMALL, Anchor::Start, note), FAINT));
    }
    canvas
}

fn matrix(canvas: &mut Canvas, params: &Params, panel: &Panel, (x, y): (f64, f64)) {
    let row = &panel.row;
    let (left, top) = (x + LEFT, y + ABOVE);
    let [width, height] = CELL;
    let judge = LABEL.fit(&format!("called by {}", row.judge), 2.0 * width).into_owned();
    canvas.add(text((left + width, y + 11.0), LABEL, Anchor::Middle, &judge));
    let at = (x + 11.0, top + height);
    let truth = LABEL.fit(&format!("true ({})", row.truth), 2.0 * height).into_owned();
    canvas.add(upward(text(at, LABEL, Anchor::Middle, &truth), at));
    for (at, class) in params.classes.iter().enumerate() {
        let at = at as f64 + 0.5;
        canvas.add(text((left + at * width, top - 7.0), SMALL, Anchor::Middle, &SMALL.fit(class, width - 4.0)));
        canvas.add(text((left - 6.0, top + at * height + 4.0), SMALL, Anchor::End, &SMALL.fit(class, LEFT - 26.0)));
    }
    for (down, counts) in [[row.tp, row.missed], [row.fp, row.tn]].into_iter().enumerate() {
        let total = counts[0] + counts[1];
        for (across, count) in counts.into_iter().enumerate() {
            let place = (left + across as f64 * width, top + down as f64 * height);
            let share = (total > 0).then(|| count as f64 / total as f64);
            let words = [&params.classes[down], &params.classes[across]];
            canvas.add(cell(panel, place, count, share, words));
        }
    }
    for (from, to) in [((left, top), (left + 2.0 * width, top)), ((left, top), (left, top + 2.0 * height))] {
        canvas.add(line(from, to, INK, 1.0));
    }
}

fn cell(panel: &Panel, (x, y): (f64, f64), count: u64, share: Option<f64>, [truth, called]: [&String; 2]) -> Element {
    let [width, height] = CELL;
    let said = share.map_or("no text".to_owned(), |share| format!("{:.1}%", share * 100.0));
    let tooltip = format!("{}: {count} truly {truth}, called {called} ({said} of the row)", panel.title);
    let mut group = marked(&panel.mark(), &tooltip);
    let (color, ink) = match share {
        Some(share) => {
            let color = Rgb::sequential(share);
            (color.hex(), color.text())
        }
        None => (GRID.to_owned(), INK),
    };
    group.append(rect(x + 0.5, y + 0.5, width - 1.0, height - 1.0, &color));
    let middle = (x + width / 2.0, y + height / 2.0);
    group.append(fill(text((middle.0, middle.1 - 1.0), COUNT, Anchor::Middle, &count.to_string()), ink));
    group.append(fill(text((middle.0, middle.1 + 16.0), LABEL, Anchor::Middle, &said), ink));
    group
}

/// The colours of row shares.
fn scale(canvas: &mut Canvas, (x, y): (f64, f64)) {
    let height = 2.0 * CELL[1];
    let step = height / STEPS as f64;
    for at in 0..STEPS {
        let color = Rgb::sequential((at as f64 + 0.5) / STEPS as f64).hex();
        canvas.add(rect(x, y + height - (at + 1) as f64 * step, 9.0, step + 0.3, &color));
    }
    for (share, said) in [(0.0, "0%"), (0.5, "50%"), (1.0, "100%")] {
        let at = y + height * (1.0 - share);
        canvas.add(text((x + 12.0, at + 3.5), Font::regular(9.0), Anchor::Start, said));
    }
}

/// Measures with their intervals, as many to a line as fit.
fn told(row: &Confusion, width: f64) -> Vec<String> {
    let word = |measured: &Measured, percent: bool| {
        let number = |value: f64| if percent { format!("{:.1}", value * 100.0) } else { format!("{value:.2}") };
        let unit = if percent { "%" } else { "" };
        match (measured.value, measured.low.zip(measured.high)) {
            (Some(value), Some((low, high))) => format!("{}{unit} ({}–{})", number(value), number(low), number(high)),
            (Some(value), None) => format!("{}{unit}", number(value)),
            (None, _) => "undefined".to_owned(),
        }
    };
    let told = TOLD
        .iter()
        .filter_map(|(name, short)| Some(format!("{short} {}", word(row.measures.get(*name)?, *name != "kappa"))));
    let mut lines: Vec<String> = Vec::new();
    for word in told {
        match lines.last_mut() {
            Some(line) if SMALL.width(&format!("{line}, {word}")) <= width => *line += &format!(", {word}"),
            _ => lines.push(word),
        }
    }
    lines
}

/// What a reader must know beside the matrices.
fn notes(figure: &Figure) -> Vec<String> {
    let rows = || figure.panels.iter().map(|panel| &panel.row);
    let (least, most) = rows().fold((u64::MAX, 0), |(least, most), row| (least.min(row.n), most.max(row.n)));
    let texts = if least == most { format!("{most} texts") } else { format!("{least} to {most} texts") };
    let each = if figure.panels.len() > 1 { " in each matrix" } else { "" };
    let mut note = format!("{texts}{each}; shares are of the row.");
    if let Some(level) = rows().find(|row| row.measures.values().any(|measured| measured.low.is_some())) {
        note += &format!(" In brackets: {:.0}% bootstrap intervals.", level.confidence * 100.0);
    }
    let mut notes = vec![note];
    let (unlabelled, unparsable) =
        rows().fold((0, 0), |sum, row| (sum.0.max(row.unlabelled), sum.1.max(row.unparsable)));
    if unlabelled + unparsable > 0 {
        notes.push(format!("Left out: at most {unlabelled} without a label, {unparsable} without a readable verdict."));
    }
    if figure.dropped > 0 {
        notes.push(format!("Missing results, left out: {}.", figure.dropped));
    }
    notes
}
