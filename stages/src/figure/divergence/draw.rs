//! How means and densities are laid out and drawn.

use svg::node::{Node as _, element::Element};

use super::{
    Params,
    points::{Figure, Panel, Point},
};
use crate::{
    evaluate_divergence::Measure,
    figure::{
        canvas::{Anchor, Canvas, SHORTEST, fill, line, marked, number, text, upward},
        color::{FAINT, GRID, INK, Rgb},
        flow,
        font::Font,
    },
    records::Scale,
};

const MARGIN: f64 = 14.0;
/// Left of a plot: ticks and the axis's title.
const LEFT: f64 = 58.0;
/// Below a plot: ticks and the axis's title.
const BELOW: f64 = 42.0;
const GAP: f64 = 18.0;
/// Within the means above the highest: its number.
const HEADROOM: f64 = 20.0;
/// Narrower figures have the density under the means.
const NARROW: f64 = 520.0;

const TITLE: Font = Font::bold(14.0);
const PANEL: Font = Font::bold(12.0);
const LABEL: Font = Font::regular(11.5);
const SMALL: Font = Font::regular(10.0);

/// Lines stay apart without colour.
const DASHES: [&str; 4] = ["", "7 3", "2 2.5", "9 3 2 3"];

/// A plot's place, and what lies along its sides.
struct Plot {
    left: f64,
    top: f64,
    width: f64,
    height: f64,
    x: (f64, f64),
    most: f64,
}

impl Plot {
    fn at(&self, x: f64) -> f64 {
        let span = self.x.1 - self.x.0;
        self.left + if span > 0.0 { (x - self.x.0) / span } else { 0.5 } * self.width
    }

    fn up(&self, y: f64) -> f64 {
        self.top + self.height - y / self.most * (self.height - HEADROOM)
    }

    fn floor(&self) -> f64 {
        self.top + self.height
    }
}

pub(super) fn draw(params: &Params, figure: &Figure) -> Canvas {
    let width = params.width.unwrap_or(680.0);
    let inner = width - 2.0 * MARGIN;
    let narrow = width < NARROW;
    let plot = if narrow { inner - LEFT } else { (inner - 2.0 * LEFT - GAP) / 2.0 };
    let height = params.height.unwrap_or(210.0);
    let title = params.title.as_ref().map_or(Vec::new(), |title| TITLE.wrap(title, inner));
    let legends: Vec<Vec<Vec<usize>>> = figure.panels.iter().map(|panel| legend(panel, inner - LEFT)).collect();
    let head = |panel: &Panel| if panel.title.is_empty() { 0.0 } else { 20.0 };
    let block = |at: usize| {
        let plots = if narrow { 2.0 * (height + BELOW) } else { height + BELOW };
        head(&figure.panels[at]) + legends[at].len() as f64 * 17.0 + 8.0 + plots + GAP
    };
    let notes: Vec<String> = notes(params, figure).iter().flat_map(|note| SMALL.wrap(note, inner)).collect();
    let top = MARGIN + title.len() as f64 * 20.0;
    let bottom = top + (0..figure.panels.len()).map(block).sum::<f64>();
    let mut canvas = Canvas::new(width, bottom + notes.len() as f64 * 14.0 + MARGIN - 6.0);
    for (at, line) in title.iter().enumerate() {
        canvas.add(text((MARGIN, MARGIN + 12.0 + at as f64 * 20.0), TITLE, Anchor::Start, line));
    }
    let mut y = top;
    for (at, panel) in figure.panels.iter().enumerate() {
        if !panel.title.is_empty() {
            canvas.add(text((MARGIN, y + 12.0), PANEL, Anchor::Start, &PANEL.fit(&panel.title, inner)));
        }
        let below = draw_legend(&mut canvas, panel, &legends[at], y + head(panel));
        means(&mut canvas, params, panel, (MARGIN + LEFT, below, plot, height));
        let second =
            if narrow { (MARGIN + LEFT, below + height + BELOW) } else { (MARGIN + 2.0 * LEFT + plot + GAP, below) };
        densities(&mut canvas, params, figure.scale, panel, (second.0, second.1, plot, height));
        y += block(at);
    }
    for (at, line) in notes.iter().enumerate() {
        canvas.add(fill(text((MARGIN, bottom + 4.0 + at as f64 * 14.0), SMALL, Anchor::Start, line), FAINT));
    }
    canvas
}

/// Ranks get lighter as they rise; what is no number (full finetuning) is ink.
fn style(panel: &Panel, at: usize) -> (String, &'static str, f64) {
    let point = &panel.points[at];
    if !point.number && panel.points.iter().any(|point| point.number) {
        return (INK.to_owned(), "", 2.4);
    }
    let count = panel.points.len().saturating_sub(1).max(1);
    (Rgb::rising(at as f64 / count as f64).hex(), DASHES[at % DASHES.len()], 1.8)
}

fn legend(panel: &Panel, room: f64) -> Vec<Vec<usize>> {
    let widths: Vec<f64> = panel.points.iter().map(|point| 30.0 + LABEL.width(&point.label)).collect();
    flow(&widths, 14.0, room)
}

/// Gives where it ends.
fn draw_legend(canvas: &mut Canvas, panel: &Panel, rows: &[Vec<usize>], top: f64) -> f64 {
    for (row, entries) in rows.iter().enumerate() {
        let (mut x, y) = (MARGIN + LEFT, top + row as f64 * 17.0 + 8.0);
        for &at in entries {
            let (color, dash, wide) = style(panel, at);
            let mut sample = line((x, y), (x + 24.0, y), &color, wide);
            if !dash.is_empty() {
                sample.assign("stroke-dasharray", dash);
            }
            canvas.add(sample);
            let label = &panel.points[at].label;
            canvas.add(text((x + 29.0, y + 4.0), LABEL, Anchor::Start, label));
            x += 30.0 + LABEL.width(label) + 14.0;
        }
    }
    top + rows.len() as f64 * 17.0 + 8.0
}

fn means(canvas: &mut Canvas, params: &Params, panel: &Panel, (left, top, width, height): (f64, f64, f64, f64)) {
    let highest = |point: &Point| point.mean.high.or(point.mean.mean).unwrap_or(0.0);
    let most = panel.points.iter().map(highest).fold(0.0, f64::max);
    let plot = Plot { left, top, width, height, x: (0.0, 1.0), most: if most > 0.0 { most } else { 1.0 } };
    for tick in ticks(0.0, plot.most, 5) {
        let y = plot.up(tick);
        canvas.add(line((left, y), (left + width, y), GRID, 1.0));
        canvas.add(fill(text((left - 7.0, y + 3.6), SMALL, Anchor::End, &short(tick)), FAINT));
    }
    let slot = width / panel.points.len() as f64;
    let mut wide = 0.0;
    for (at, point) in panel.points.iter().enumerate() {
        let x = left + (at as f64 + 0.5) * slot;
        let (color, ..) = style(panel, at);
        let mut group = marked(&point.mark(), &tooltip(point, params));
        if let Some((low, high)) = point.mean.low.zip(point.mean.high) {
            if plot.up(low) - plot.up(high) > SHORTEST {
                group.append(line((x, plot.up(low)), (x, plot.up(high)), &color, 1.8));
            }
            for end in [low, high] {
                group.append(line((x - 5.0, plot.up(end)), (x + 5.0, plot.up(end)), &color, 1.8));
            }
        }
        let name = LABEL.fit(&point.label, slot - 2.0);
        match point.mean.mean {
            Some(mean) => {
                group.append(circle((x, plot.up(mean)), 4.2, &color));
                let told = short(mean);
                let (above, needed) = (plot.up(highest(point)) - 7.0, SMALL.width(&told));
                wide = f64::max(wide, needed);
                if needed <= slot + 4.0 {
                    group.append(text((x, above), SMALL, Anchor::Middle, &told));
                }
            }
            None => group.append(text((x, plot.floor() - 8.0), SMALL, Anchor::Middle, "none")),
        }
        group.append(text((x, plot.floor() + 15.0), LABEL, Anchor::Middle, &name));
        canvas.add(group);
    }
    axes(canvas, &plot, params.x_label.as_deref().unwrap_or(&params.points), &format!("mean {}", name(params)));
}

fn densities(
    canvas: &mut Canvas,
    params: &Params,
    scale: Scale,
    panel: &Panel,
    (left, top, width, height): (f64, f64, f64, f64),
) {
    let told =
        || panel.points.iter().filter_map(|point| point.density.as_ref()).filter(|density| !density.x.is_empty());
    let from = told().filter_map(|density| density.x.first().copied()).fold(f64::INFINITY, f64::min);
    let to = told().filter_map(|density| density.x.last().copied()).fold(f64::NEG_INFINITY, f64::max);
    let most = told().flat_map(|density| &density.density).copied().fold(0.0, f64::max);
    let range = if from < to { (from, to) } else { (0.0, 1.0) };
    let plot = Plot { left, top, width, height, x: range, most: if most > 0.0 { most } else { 1.0 } };
    for tick in ticks(0.0, plot.most, 5) {
        let y = plot.up(tick);
        canvas.add(line((left, y), (left + width, y), GRID, 1.0));
        canvas.add(fill(text((left - 7.0, y + 3.6), SMALL, Anchor::End, &short(tick)), FAINT));
    }
    let places = match scale {
        Scale::Log10 => powers(range),
        Scale::Linear => ticks(range.0, range.1, 4),
    };
    for place in places {
        let x = plot.at(place);
        canvas.add(line((x, plot.floor()), (x, plot.floor() + 4.0), INK, 1.0));
        let told = match scale {
            Scale::Log10 => power(place),
            Scale::Linear => short(place),
        };
        canvas.add(text((x, plot.floor() + 15.0), SMALL, Anchor::Middle, &told));
    }
    if told().next().is_none() {
        let at = (left + width / 2.0, top + height / 2.0);
        canvas.add(fill(text(at, SMALL, Anchor::Middle, "no density: all values are one"), FAINT));
    }
    for (at, point) in panel.points.iter().enumerate() {
        let Some(density) = point.density.as_ref().filter(|density| !density.x.is_empty()) else { continue };
        let (color, dash, wide) = style(panel, at);
        let mut group = marked(&point.mark(), &tooltip(point, params));
        let places: Vec<String> = density
            .x
            .iter()
            .zip(&density.density)
            .map(|(&x, &y)| format!("{},{}", number(plot.at(x)), number(plot.up(y))))
            .collect();
        let mut curve = Element::new("polyline");
        curve.assign("points", places.join(" "));
        curve.assign("fill", "none");
        curve.assign("stroke", color);
        curve.assign("stroke-width", number(wide));
        if !dash.is_empty() {
            curve.assign("stroke-dasharray", dash);
        }
        group.append(curve);
        canvas.add(group);
    }
    let x_label = match params.measure {
        Measure::Tv => name(params),
        _ => format!("{} (nats)", name(params)),
    };
    let y_label = if scale == Scale::Log10 { "density per power of ten" } else { "density" };
    axes(canvas, &plot, &x_label, y_label);
}

fn axes(canvas: &mut Canvas, plot: &Plot, x_label: &str, y_label: &str) {
    canvas.add(line((plot.left, plot.floor()), (plot.left + plot.width, plot.floor()), INK, 1.0));
    let at = (plot.left + plot.width / 2.0, plot.floor() + 32.0);
    canvas.add(text(at, LABEL, Anchor::Middle, &LABEL.fit(x_label, plot.width)));
    let at = (plot.left - LEFT + 12.0, plot.top + (plot.height + HEADROOM) / 2.0);
    canvas.add(upward(text(at, LABEL, Anchor::Middle, &LABEL.fit(y_label, plot.height)), at));
}

fn circle((x, y): (f64, f64), radius: f64, color: &str) -> Element {
    let mut circle = Element::new("circle");
    [("cx", x), ("cy", y), ("r", radius)].into_iter().for_each(|(name, value)| circle.assign(name, number(value)));
    circle.assign("fill", color);
    circle
}

fn name(params: &Params) -> String {
    let base = &params.base_label;
    match params.measure {
        Measure::Kl => format!("KL({base} ‖ tuned)"),
        Measure::ReverseKl => format!("KL(tuned ‖ {base})"),
        Measure::Js => "Jensen–Shannon divergence".to_owned(),
        Measure::Tv => "total variation".to_owned(),
    }
}

fn tooltip(point: &Point, params: &Params) -> String {
    let mean = &point.mean;
    let value = mean.mean.map_or("none".to_owned(), short);
    let ends =
        mean.low.zip(mean.high).map_or(String::new(), |(low, high)| format!(" ({}–{})", short(low), short(high)));
    format!(
        "{}: mean {} {value}{ends}, {} positions of {} prompts",
        point.mark(),
        name(params),
        mean.positions,
        mean.prompts
    )
}

/// Three significant digits.
fn short(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return value.to_string();
    }
    let power = libm::log10(value.abs()).floor() as i32;
    if !(-3..5).contains(&power) {
        let text = format!("{value:.1e}");
        return text.replace(".0e", "e");
    }
    let text = format!("{value:.*}", (2 - power).max(0) as usize);
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

fn power(place: f64) -> String {
    let raised = |c: char| match c {
        '-' => '⁻',
        '1' => '¹',
        '2' => '²',
        '3' => '³',
        digit => char::from_u32('⁰' as u32 + (digit as u32 - '0' as u32)).unwrap_or(digit),
    };
    format!("10{}", (place as i64).to_string().chars().map(raised).collect::<String>())
}

/// Whole powers of ten within, at most six.
fn powers((from, to): (f64, f64)) -> Vec<f64> {
    let (first, last) = (from.ceil() as i64, to.floor() as i64);
    let step = ((last - first) / 6 + 1).max(1);
    (first..=last).step_by(step as usize).map(|power| power as f64).collect()
}

/// Round numbers from one to the other, about as many as wanted.
fn ticks(from: f64, to: f64, wanted: usize) -> Vec<f64> {
    let span = (to - from) / wanted as f64;
    if !(span > 0.0 && span.is_finite()) {
        return vec![from];
    }
    let power = libm::pow(10.0, libm::log10(span).floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|step| step * power).find(|step| *step >= span * 0.999);
    let step = step.unwrap_or(span);
    let first = (from / step).ceil() as i64;
    let last = (to / step + 1e-9).floor() as i64;
    (first..=last).map(|at| at as f64 * step).collect()
}

/// What a reader must know beside the points.
fn notes(params: &Params, figure: &Figure) -> Vec<String> {
    let points = || figure.panels.iter().flat_map(|panel| &panel.points);
    let mut first = "Points: means over positions".to_owned();
    if let Some(mean) = points().map(|point| &point.mean).find(|mean| mean.low.is_some()) {
        first +=
            &format!(", with {:.0}% bootstrap intervals over {}", mean.confidence * 100.0, mean.resampling.join(", "));
    }
    let mut notes = vec![format!("{first}. Lines: Gaussian kernel densities, bandwidth by Silverman's rule.")];
    let parts = [("split", &params.split), ("exposure", &params.exposure), ("group", &params.group)];
    let parts: Vec<String> =
        parts.into_iter().filter(|(_, name)| *name != "all").map(|(what, name)| format!("{what} {name}")).collect();
    if !parts.is_empty() {
        notes.push(format!("Prompts of the {}.", parts.join(", ")));
    }
    let zeros: usize = points().filter_map(|point| point.density.as_ref()).map(|density| density.zeros).sum();
    if zeros > 0 {
        notes.push(format!("{zeros} values of 0 have no logarithm and are in no density; they are in the means."));
    }
    if figure.dropped > 0 {
        notes.push(format!("Missing results, left out: {}.", figure.dropped));
    }
    notes
}
