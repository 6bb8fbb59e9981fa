//! A plot of lines: from numbers to pixels, its axes, and what tells lines apart beside their colours.

use svg::node::{Node as _, element::Element};

use super::{
    canvas::{Anchor, Canvas, fill, line, number, text, upward},
    color::{FAINT, GRID, INK},
    font::Font,
    ticks::ticks,
};

pub(super) const TITLE: Font = Font::bold(16.0);
pub(super) const PANEL: Font = Font::bold(13.0);
pub(super) const LABEL: Font = Font::regular(12.0);
pub(super) const SMALL: Font = Font::regular(10.5);

/// Dashes of lines; the first is none.
pub(super) const DASHES: [&str; 6] = ["", "8 3", "5 3", "2 3", "9 3 2 3", "5 2 1 2 1 2"];

/// Colours of groups that have no part in a comparison. The first two are those of majority and minority.
pub(super) const GROUPS: [&str; 6] = ["#c0392b", "#2166ac", "#009e73", "#cc79a7", "#e69f00", "#000000"];

/// The area of a plot.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plot {
    pub(super) left: f64,
    pub(super) top: f64,
    pub(super) width: f64,
    pub(super) height: f64,
    pub(super) x: (f64, f64),
    pub(super) y: (f64, f64),
}

impl Plot {
    pub(super) fn at(&self, (x, y): (f64, f64)) -> (f64, f64) {
        let part = |value: f64, (low, high): (f64, f64)| (value - low) / (high - low);
        (self.left + part(x, self.x) * self.width, self.top + (1.0 - part(y, self.y)) * self.height)
    }

    fn places(&self, points: &[(f64, f64)]) -> String {
        let place = |point: &(f64, f64)| {
            let (x, y) = self.at(*point);
            format!("{},{}", number(x), number(y))
        };
        points.iter().map(place).collect::<Vec<_>>().join(" ")
    }

    pub(super) fn polyline(&self, points: &[(f64, f64)], color: &str, dash: &str, width: f64) -> Element {
        let mut polyline = Element::new("polyline");
        polyline.assign("points", self.places(points));
        polyline.assign("fill", "none");
        polyline.assign("stroke", color);
        polyline.assign("stroke-width", number(width));
        polyline.assign("stroke-linejoin", "round");
        if !dash.is_empty() {
            polyline.assign("stroke-dasharray", dash);
        }
        polyline
    }

    pub(super) fn area(&self, points: &[(f64, f64)], color: &str, opacity: &str) -> Element {
        let mut polygon = Element::new("polygon");
        polygon.assign("points", self.places(points));
        polygon.assign("fill", color);
        polygon.assign("fill-opacity", opacity);
        polygon
    }

    /// Grid, ticks and names of both axes; those of y only where `first` in its row.
    pub(super) fn axes(&self, canvas: &mut Canvas, names: (&str, &str), percent: bool, first: bool) {
        let (right, bottom) = (self.left + self.width, self.top + self.height);
        for (tick, label) in ticks(self.y, (self.height / 45.0) as usize, false) {
            let (_, y) = self.at((self.x.0, tick));
            let label = if percent { format!("{}%", number(tick * 100.0)) } else { label };
            canvas.add(line((self.left, y), (right, y), GRID, 1.0));
            canvas.add(fill(text((self.left - 6.0, y + 3.8), SMALL, Anchor::End, &label), FAINT));
        }
        for (tick, label) in ticks(self.x, (self.width / 60.0) as usize, false) {
            let (x, _) = self.at((tick, self.y.0));
            canvas.add(line((x, bottom), (x, bottom + 4.0), INK, 1.0));
            canvas.add(text((x, bottom + 16.0), SMALL, Anchor::Middle, &label));
        }
        canvas.add(line((self.left, bottom), (right, bottom), INK, 1.0));
        canvas.add(line((self.left, self.top), (self.left, bottom), INK, 1.0));
        for (row, name) in LABEL.wrap(names.0, self.width + 40.0).iter().enumerate() {
            let at = (self.left + self.width / 2.0, bottom + 33.0 + row as f64 * 14.0);
            canvas.add(text(at, LABEL, Anchor::Middle, name));
        }
        if first {
            let at = (self.left - 44.0, self.top + self.height / 2.0);
            canvas.add(upward(text(at, LABEL, Anchor::Middle, names.1), at));
        }
    }
}

/// A mark of one of some shapes around a point.
pub(super) fn marker(shape: usize, (x, y): (f64, f64), color: &str) -> Element {
    let r = 3.6;
    let corners = |corners: &[(f64, f64)]| {
        let mut polygon = Element::new("polygon");
        let place = |(dx, dy): &(f64, f64)| format!("{},{}", number(x + dx * r), number(y + dy * r));
        polygon.assign("points", corners.iter().map(place).collect::<Vec<_>>().join(" "));
        polygon
    };
    let mut element = match shape % 6 {
        0 => {
            let mut circle = Element::new("circle");
            [("cx", x), ("cy", y), ("r", r)].into_iter().for_each(|(name, at)| circle.assign(name, number(at)));
            circle
        }
        1 => corners(&[(-0.95, -0.95), (0.95, -0.95), (0.95, 0.95), (-0.95, 0.95)]),
        2 => corners(&[(0.0, -1.2), (1.15, 0.9), (-1.15, 0.9)]),
        3 => corners(&[(0.0, -1.35), (1.2, 0.0), (0.0, 1.35), (-1.2, 0.0)]),
        4 => corners(&[(0.0, 1.2), (1.15, -0.9), (-1.15, -0.9)]),
        _ => corners(&[
            (-0.4, -1.2),
            (0.4, -1.2),
            (0.4, -0.4),
            (1.2, -0.4),
            (1.2, 0.4),
            (0.4, 0.4),
            (0.4, 1.2),
            (-0.4, 1.2),
            (-0.4, 0.4),
            (-1.2, 0.4),
            (-1.2, -0.4),
            (-0.4, -0.4),
        ]),
    };
    element.assign("fill", color);
    element.assign("stroke", "#ffffff");
    element.assign("stroke-width", "0.8");
    element
}

/// A line in a legend with its mark, if it has one.
pub(super) fn sample(
    canvas: &mut Canvas,
    (x, y): (f64, f64),
    color: &str,
    dash: &str,
    shape: Option<usize>,
    name: &str,
) {
    let mut stroke = line((x, y - 4.0), (x + SAMPLE, y - 4.0), color, 2.0);
    if !dash.is_empty() {
        stroke.assign("stroke-dasharray", dash);
    }
    canvas.add(stroke);
    if let Some(shape) = shape {
        canvas.add(marker(shape, (x + SAMPLE / 2.0, y - 4.0), color));
    }
    canvas.add(text((x + SAMPLE + 6.0, y), LABEL, Anchor::Start, name));
}

/// Width of a line in a legend.
const SAMPLE: f64 = 34.0;

/// Width of a legend's entry.
pub(super) fn sample_width(name: &str) -> f64 {
    SAMPLE + 6.0 + LABEL.width(name)
}
