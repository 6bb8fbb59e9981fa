//! How the lines are laid out and drawn.

use svg::node::{Node as _, element::Element};

use super::{Curve, Figure, Params};
use crate::figure::{
    canvas::{Anchor, Canvas, fill, line, marked, number, text, upward},
    color::{FAINT, GRID, INK},
    flow,
    font::Font,
    ticks::{padded, ticks},
};

const MARGIN: f64 = 20.0;
/// Left of the plot: ticks and the axis's title.
const LEFT: f64 = 62.0;
/// Below the plot: ticks and the axis's title.
const BELOW: f64 = 46.0;
/// A row of the legend.
const ROW: f64 = 20.0;
/// The sample of a line in the legend.
const SAMPLE: f64 = 22.0;

const TITLE: Font = Font::bold(16.0);
const LABEL: Font = Font::regular(12.0);
const SMALL: Font = Font::regular(10.5);

/// Okabe and Ito's palette, which colour-blind readers can tell apart.
const COLORS: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"];
/// Lines beyond the colours are dashed, too.
const DASHES: [&str; 4] = ["", "7 3", "2 3", "9 3 2 3"];

/// A line as it is drawn.
struct Line<'f> {
    curve: &'f Curve,
    color: &'static str,
    dash: &'static str,
    /// Step and loss.
    train: Vec<(f64, f64)>,
    validation: Vec<(f64, f64)>,
}

/// From steps and losses to pixels.
struct Plot {
    left: f64,
    top: f64,
    width: f64,
    height: f64,
    steps: (f64, f64),
    losses: (f64, f64),
}

pub(super) fn draw(params: &Params, figure: &Figure) -> Canvas {
    let lines: Vec<Line<'_>> = figure.curves.iter().enumerate().map(|at| Line::new(at, params.points)).collect();
    let (width, height) = (params.width.unwrap_or(640.0), params.height.unwrap_or(320.0));
    let room = LEFT + width;
    let title = params.title.as_ref().map_or(Vec::new(), |title| TITLE.wrap(title, room));
    let notes: Vec<String> = notes(params, figure).iter().flat_map(|note| SMALL.wrap(note, room)).collect();
    let boxes: Vec<f64> = lines.iter().map(|line| (SAMPLE + 6.0 + LABEL.width(&line.curve.title)).min(room)).collect();
    let legend = flow(&boxes, 18.0, room);

    let above = MARGIN + title.len() as f64 * 22.0;
    let all = || lines.iter().flat_map(|line| line.train.iter().chain(&line.validation));
    let range = |of: fn(&(f64, f64)) -> f64| {
        all().map(of).fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), at| (low.min(at), high.max(at)))
    };
    let plot = Plot {
        left: MARGIN + LEFT,
        top: above + legend.len() as f64 * ROW + 14.0,
        width,
        height,
        steps: padded(range(|point| point.0), 0.0),
        losses: padded(range(|point| point.1), 0.05),
    };
    let bottom = plot.top + height + BELOW;
    let mut canvas = Canvas::new(room + 2.0 * MARGIN, bottom + notes.len() as f64 * 15.0 + MARGIN - 10.0);
    for (at, line) in title.iter().enumerate() {
        canvas.add(text((MARGIN, MARGIN + 14.0 + at as f64 * 22.0), TITLE, Anchor::Start, line));
    }
    for (row, members) in legend.iter().enumerate() {
        let mut x = MARGIN;
        for &at in members {
            lines[at].legend((x, above + row as f64 * ROW + 12.0), boxes[at]).into_iter().for_each(|e| canvas.add(e));
            x += boxes[at] + 18.0;
        }
    }
    plot.axes(&mut canvas);
    lines.iter().for_each(|line| canvas.add(line.draw(&plot)));
    for (at, note) in notes.iter().enumerate() {
        canvas.add(fill(text((MARGIN, bottom + 8.0 + at as f64 * 15.0), SMALL, Anchor::Start, note), FAINT));
    }
    canvas
}

fn notes(params: &Params, figure: &Figure) -> Vec<String> {
    let mut notes = Vec::new();
    if figure.curves.iter().any(|curve| curve.points.iter().any(|point| point.validation_loss.is_some())) {
        notes.push("Dots: loss on held-out examples.".to_owned());
    }
    let longest = figure.curves.iter().map(|curve| curve.points.len().div_ceil(params.points)).max().unwrap_or(1);
    if longest > 1 {
        notes.push(format!("Each point of a line is the mean of up to {longest} steps."));
    }
    if figure.dropped > 0 {
        notes.push(format!("Missing results, left out: {}.", figure.dropped));
    }
    match notes.is_empty() {
        true => notes,
        false => vec![notes.join(" ")],
    }
}

impl<'f> Line<'f> {
    fn new((at, curve): (usize, &'f Curve), most: usize) -> Self {
        let bin = curve.points.len().div_ceil(most);
        let mean = |bin: &[crate::records::CurvePoint]| {
            let count = bin.len() as f64;
            let steps = bin.iter().map(|point| point.step as f64).sum::<f64>();
            (steps / count, bin.iter().map(|point| point.loss).sum::<f64>() / count)
        };
        let validation =
            curve.points.iter().filter_map(|point| Some((point.step as f64, point.validation_loss?))).collect();
        Line {
            curve,
            color: COLORS[at % COLORS.len()],
            dash: DASHES[at / COLORS.len() % DASHES.len()],
            train: curve.points.chunks(bin).map(mean).collect(),
            validation,
        }
    }

    fn draw(&self, plot: &Plot) -> Element {
        let (first, last) = (&self.curve.points[0], &self.curve.points[self.curve.points.len() - 1]);
        let tooltip = format!(
            "{}: loss {:.4} at step {}, {:.4} at step {}",
            self.curve.title, first.loss, first.step, last.loss, last.step
        );
        let mut group = marked(&self.curve.mark, &tooltip);
        group.append(self.polyline(plot, &self.train, 1.6));
        if !self.validation.is_empty() {
            group.append(self.polyline(plot, &self.validation, 0.8));
        }
        for &(step, loss) in &self.validation {
            let mut dot = marked(&self.curve.mark, &format!("{}: {loss:.4} after step {step}", self.curve.title));
            let (x, y) = plot.at((step, loss));
            let mut circle = Element::new("circle");
            [("cx", x), ("cy", y), ("r", 3.0)].into_iter().for_each(|(name, at)| circle.assign(name, number(at)));
            circle.assign("fill", self.color);
            circle.assign("stroke", "#ffffff");
            dot.append(circle);
            group.append(dot);
        }
        group
    }

    fn polyline(&self, plot: &Plot, points: &[(f64, f64)], width: f64) -> Element {
        let mut polyline = Element::new("polyline");
        let place = |point: &(f64, f64)| {
            let (x, y) = plot.at(*point);
            format!("{},{}", number(x), number(y))
        };
        polyline.assign("points", points.iter().map(place).collect::<Vec<_>>().join(" "));
        polyline.assign("fill", "none");
        polyline.assign("stroke", self.color);
        polyline.assign("stroke-width", number(width));
        polyline.assign("stroke-linejoin", "round");
        if !self.dash.is_empty() {
            polyline.assign("stroke-dasharray", self.dash);
        }
        polyline
    }

    fn legend(&self, (x, y): (f64, f64), room: f64) -> [Element; 2] {
        let mut sample = line((x, y - 4.0), (x + SAMPLE, y - 4.0), self.color, 2.0);
        if !self.dash.is_empty() {
            sample.assign("stroke-dasharray", self.dash);
        }
        let title = LABEL.fit(&self.curve.title, room - SAMPLE - 6.0);
        [sample, text((x + SAMPLE + 6.0, y), LABEL, Anchor::Start, &title)]
    }
}

impl Plot {
    fn at(&self, (step, loss): (f64, f64)) -> (f64, f64) {
        let part = |value: f64, (low, high): (f64, f64)| (value - low) / (high - low);
        (self.left + part(step, self.steps) * self.width, self.top + (1.0 - part(loss, self.losses)) * self.height)
    }

    fn axes(&self, canvas: &mut Canvas) {
        let (right, bottom) = (self.left + self.width, self.top + self.height);
        for (tick, label) in ticks(self.losses, (self.height / 50.0) as usize, false) {
            let (_, y) = self.at((self.steps.0, tick));
            canvas.add(line((self.left, y), (right, y), GRID, 1.0));
            canvas.add(text((self.left - 8.0, y + 3.8), SMALL, Anchor::End, &label));
        }
        for (tick, label) in ticks(self.steps, (self.width / 90.0) as usize, true) {
            let (x, _) = self.at((tick, self.losses.0));
            canvas.add(line((x, bottom), (x, bottom + 4.0), INK, 1.0));
            canvas.add(text((x, bottom + 17.0), SMALL, Anchor::Middle, &label));
        }
        canvas.add(line((self.left, bottom), (right, bottom), INK, 1.0));
        canvas.add(text((self.left + self.width / 2.0, bottom + 36.0), LABEL, Anchor::Middle, "optimizer step"));
        let at = (MARGIN + 12.0, self.top + self.height / 2.0);
        canvas.add(upward(text(at, LABEL, Anchor::Middle, "loss (nats per token)"), at));
    }
}
