//! How the bars are laid out and drawn.

use std::collections::BTreeMap;

use svg::node::{Node as _, element::Element};

use super::{
    Params,
    bars::{Bar, Figure, Panel},
};
use crate::figure::{
    canvas::{Anchor, Canvas, SHORTEST, fill, line, marked, rect, text, upward},
    color::{FAINT, GRID, INK, NON_TOXIC, TOXIC, UNPARSABLE},
    flow,
    font::Font,
};
use crate::records::ALL;

const MARGIN: f64 = 20.0;
/// Left of a plot: ticks and the axis's title.
const LEFT: f64 = 62.0;
/// Between panels, both ways.
const GAP: f64 = 28.0;
/// Within a plot above the tallest bar: share and interval.
const HEADROOM: f64 = 42.0;
const LINE: f64 = 15.0;

const TITLE: Font = Font::bold(16.0);
const PANEL: Font = Font::bold(13.0);
const LABEL: Font = Font::regular(12.0);
const SHARE: Font = Font::bold(12.0);
const SMALL: Font = Font::regular(10.0);
const NOTE: Font = Font::regular(10.5);
/// Shares above narrow bars, without the percent sign.
const NARROW: Font = Font::bold(10.0);
/// A base of a lower share leaves finetuning nothing to show.
const POWER: f64 = 0.05;

/// The measures that all panels share.
struct Layout {
    slot: f64,
    plot: f64,
    /// Completions at the top of the tallest bar.
    most: f64,
    tick: usize,
    title_lines: usize,
    noted: bool,
    x_label: String,
}

pub(super) fn draw(params: &Params, figure: &Figure) -> Canvas {
    let layout = Layout::new(params, figure);
    let widths: Vec<f64> = figure.panels.iter().map(|panel| layout.width(panel)).collect();
    let rows = flow(&widths, GAP, params.width.unwrap_or(1240.0) - 2.0 * MARGIN);
    let row_width = |row: &Vec<usize>| row.iter().map(|&at| widths[at]).sum::<f64>() + GAP * (row.len() - 1) as f64;
    let legend = legend(figure);
    let least = params.width.map_or(440.0, |width| (width - 2.0 * MARGIN).min(440.0));
    let legend = legend.within(least.max(rows.iter().map(row_width).fold(0.0, f64::max)));
    let inner = rows.iter().map(row_width).fold(legend.width.max(least), f64::max);
    let title = params.title.as_ref().map_or(Vec::new(), |title| TITLE.wrap(title, inner));
    let notes: Vec<String> = notes(figure, params).iter().flat_map(|note| NOTE.wrap(note, inner)).collect();

    let top = MARGIN + title.len() as f64 * 22.0 + 6.0 + legend.rows.len() as f64 * 20.0;
    let bottom = top + rows.len() as f64 * (layout.height() + GAP);
    let height = bottom + notes.len() as f64 * LINE + MARGIN - 8.0;
    let mut canvas = Canvas::new(inner + 2.0 * MARGIN, height);
    for (at, line) in title.iter().enumerate() {
        canvas.add(text((MARGIN, MARGIN + 14.0 + at as f64 * 22.0), TITLE, Anchor::Start, line));
    }
    legend.at(MARGIN, top - 2.0 - legend.rows.len() as f64 * 20.0).into_iter().for_each(|element| canvas.add(element));
    for (row, panels) in rows.iter().enumerate() {
        let y = top + row as f64 * (layout.height() + GAP);
        let mut x = MARGIN;
        for &at in panels {
            layout.panel(&mut canvas, &figure.panels[at], (x, y));
            x += widths[at] + GAP;
        }
    }
    for (at, note) in notes.iter().enumerate() {
        canvas.add(fill(text((MARGIN, bottom + 4.0 + at as f64 * LINE), NOTE, Anchor::Start, note), FAINT));
    }
    canvas
}

impl Layout {
    fn new(params: &Params, figure: &Figure) -> Self {
        let bars = || figure.panels.iter().flat_map(|panel| &panel.bars);
        let widest = |bar: &Bar| {
            let note = bar.note.as_ref().map_or(0.0, |note| SMALL.width(note));
            LABEL.width(&bar.label).max(note).max(SMALL.width(&interval(bar))) + 12.0
        };
        let slot = bars().map(widest).fold(66.0, f64::max).min(140.0);
        let longest = figure.panels.iter().map(|panel| panel.bars.len()).max().unwrap_or(1).max(1);
        let room = params.width.map(|width| (width - 2.0 * MARGIN - LEFT - 6.0) / longest as f64);
        let slot = room.map_or(slot, |room| slot.min(room.max(26.0)));
        let axes = bars().any(|bar| !bar.coords.is_empty());
        let most = bars().map(|bar| bar.rate.n).max().unwrap_or(0).max(1);
        let mut layout = Layout {
            slot,
            plot: params.height.unwrap_or(280.0),
            most: most as f64,
            tick: tick(most),
            title_lines: 0,
            noted: bars().any(|bar| bar.note.is_some()),
            x_label: params.x_label.clone().unwrap_or_else(|| if axes { params.bars.clone() } else { String::new() }),
        };
        layout.title_lines = figure.panels.iter().map(|panel| layout.titles(panel).len()).max().unwrap_or(0);
        layout
    }

    fn width(&self, panel: &Panel) -> f64 {
        LEFT + (self.slot * panel.bars.len() as f64).max(180.0) + 6.0
    }

    /// From a panel's title to the name of its axis.
    fn height(&self) -> f64 {
        self.above() + self.plot + if self.noted { 58.0 } else { 44.0 }
    }

    fn above(&self) -> f64 {
        self.title_lines as f64 * 17.0 + 10.0
    }

    fn titles(&self, panel: &Panel) -> Vec<String> {
        PANEL.wrap(&panel.title, self.width(panel) - LEFT)
    }

    fn panel(&self, canvas: &mut Canvas, panel: &Panel, (x, y): (f64, f64)) {
        let lines = self.titles(panel);
        let (left, right) = (x + LEFT, x + self.width(panel) - 6.0);
        let first = y + (self.title_lines - lines.len()) as f64 * 17.0 + 12.0;
        for (at, line) in lines.iter().enumerate() {
            canvas.add(text((left, first + at as f64 * 17.0), PANEL, Anchor::Start, line));
        }
        let floor = y + self.above() + self.plot;
        let up = |count: f64| floor - count / self.most * (self.plot - HEADROOM);
        for count in (0..=self.most as usize).step_by(self.tick) {
            let at = up(count as f64);
            canvas.add(line((left, at), (right, at), GRID, 1.0));
            canvas.add(fill(text((left - 8.0, at + 4.0), SMALL, Anchor::End, &count.to_string()), FAINT));
        }
        let slot = (right - left) / panel.bars.len() as f64;
        for (at, bar) in panel.bars.iter().enumerate() {
            canvas.add(self.bar(bar, left + (at as f64 + 0.5) * slot, floor, &up));
        }
        canvas.add(line((left, floor), (right, floor), INK, 1.0));
        let at = (x + 14.0, floor - self.plot / 2.0 + HEADROOM / 2.0);
        canvas.add(upward(text(at, LABEL, Anchor::Middle, "completions"), at));
        let at = ((left + right) / 2.0, y + self.height() - 8.0);
        canvas.add(text(at, LABEL, Anchor::Middle, &LABEL.fit(&self.x_label, right - left)));
    }

    fn bar(&self, bar: &Bar, middle: f64, floor: f64, up: &dyn Fn(f64) -> f64) -> Element {
        let (rate, judged) = (&bar.rate, bar.judged());
        let width = (self.slot * 0.6).min(56.0);
        let left = middle - width / 2.0;
        let mut group = marked(&bar.mark(), &tooltip(bar));
        let levels = [0, rate.toxic, judged, rate.n].map(|count| up(count as f64));
        for (pair, color) in levels.windows(2).zip([TOXIC, NON_TOXIC, UNPARSABLE]) {
            if pair[0] - pair[1] > 0.0 {
                group.append(rect(left, pair[1], width, pair[0] - pair[1], color));
            }
        }
        // Light between the parts, so that the boundary shows without colour.
        for (level, above) in
            [(levels[1], judged > rate.toxic && rate.toxic > 0), (levels[2], rate.n > judged && judged > 0)]
        {
            if above {
                group.append(line((left, level), (left + width, level), "#ffffff", 1.5));
            }
        }
        let ends = rate.low.zip(rate.high).map(|(low, high)| [high, low].map(|share| up(share * judged as f64)));
        if let Some([high, low]) = ends {
            for (color, wide) in [("#ffffff", 4.0), (INK, 1.6)] {
                let cap = 6.0 + (wide - 1.6) / 2.0;
                if low - high > SHORTEST {
                    group.append(line((middle, high), (middle, low), color, wide));
                }
                for y in [high, low] {
                    group.append(line((middle - cap, y), (middle + cap, y), color, wide));
                }
            }
        }
        // Counts, where they fit clear of the whisker.
        let (clear_high, clear_low) = ends.map_or((levels[1], levels[1]), |[high, low]| (high, low));
        if rate.toxic > 0 && floor - clear_low.max(levels[1]) >= 20.0 && fits(rate.toxic, width) {
            group.append(text((middle, floor - 6.0), SMALL, Anchor::Middle, &rate.toxic.to_string()));
        } else if rate.toxic > 0 && fits(rate.toxic, self.slot - width) {
            // Beside a part that is too low for it.
            let at = (left + width + 2.0, (levels[1] + floor) / 2.0 + 3.5);
            group.append(text(at, SMALL, Anchor::Start, &rate.toxic.to_string()));
        }
        let rest = judged.saturating_sub(rate.toxic);
        if rest > 0 && clear_high.min(levels[1]) - levels[2] >= 20.0 && fits(rest, width) {
            let count = text((middle, levels[2] + 14.0), SMALL, Anchor::Middle, &rest.to_string());
            group.append(fill(count, "#ffffff"));
        }
        let top = levels[3];
        let share = rate.share.map_or("no verdict".to_owned(), percent);
        // In a narrow figure the whisker alone tells the interval.
        let told = ends.is_some() && SMALL.width(&interval(bar)) <= self.slot - 2.0;
        let font = if SHARE.width(&share) <= self.slot - 2.0 { SHARE } else { NARROW };
        let share = if font == NARROW { share.trim_end_matches('%').to_owned() } else { share };
        group.append(text(
            (middle, top - if told { 20.0 } else { 7.0 }),
            font,
            Anchor::Middle,
            &font.fit(&share, self.slot),
        ));
        if told {
            group.append(fill(text((middle, top - 7.0), SMALL, Anchor::Middle, &interval(bar)), FAINT));
        }
        let room = self.slot - 6.0;
        group.append(text((middle, floor + 18.0), LABEL, Anchor::Middle, &LABEL.fit(&bar.label, room)));
        if let Some(note) = &bar.note {
            // In a narrow figure what was chosen is told without its axis's name.
            let value = note.rsplit(' ').next().unwrap_or(note);
            let note = if SMALL.width(note) <= room { note } else { value };
            group.append(fill(text((middle, floor + 33.0), SMALL, Anchor::Middle, &SMALL.fit(note, room)), FAINT));
        }
        group
    }
}

fn fits(count: usize, width: f64) -> bool {
    SMALL.width(&count.to_string()) + 4.0 <= width
}

fn percent(share: f64) -> String {
    format!("{:.1}%", share * 100.0)
}

fn interval(bar: &Bar) -> String {
    bar.rate
        .low
        .zip(bar.rate.high)
        .map_or(String::new(), |(low, high)| format!("{:.1}–{:.1}", low * 100.0, high * 100.0))
}

fn tooltip(bar: &Bar) -> String {
    let rate = &bar.rate;
    let share = rate.share.map_or("no share".to_owned(), |share| format!("{} toxic", percent(share)));
    let interval = if rate.low.is_some() { format!(" ({})", interval(bar)) } else { String::new() };
    let unparsable = if rate.unparsable > 0 { format!(", {} unparsable", rate.unparsable) } else { String::new() };
    format!("{}: {share}{interval}, {} of {}{unparsable}", bar.mark(), rate.toxic, rate.n)
}

/// A step of 1, 2 or 5 times a power of ten that gives at most six ticks.
fn tick(most: usize) -> usize {
    let steps = (0..).flat_map(|power| [1, 2, 5].map(|step| step * 10usize.pow(power)));
    steps.take(54).find(|step| most / step <= 5).unwrap_or(most)
}

struct Legend {
    entries: Vec<(&'static str, &'static str)>,
    rows: Vec<Vec<usize>>,
    width: f64,
}

fn legend(figure: &Figure) -> Legend {
    let unparsable = figure.panels.iter().flat_map(|panel| &panel.bars).any(|bar| bar.rate.unparsable > 0);
    let mut entries = vec![(TOXIC, "toxic (lower part)"), (NON_TOXIC, "non-toxic (upper part)")];
    if unparsable {
        entries.push((UNPARSABLE, "verdict unparsable (top)"));
    }
    Legend { entries, rows: Vec::new(), width: 0.0 }
}

impl Legend {
    /// In rows no wider than `room`.
    fn within(self, room: f64) -> Self {
        let widths: Vec<f64> = self.entries.iter().map(|(_, name)| LABEL.width(name) + 42.0).collect();
        let rows = flow(&widths, 0.0, room);
        let width = rows.iter().map(|row| row.iter().map(|&at| widths[at]).sum()).fold(0.0, f64::max);
        Legend { rows, width, ..self }
    }

    fn at(&self, x: f64, y: f64) -> Vec<Element> {
        let mut elements = Vec::new();
        for (row, entries) in self.rows.iter().enumerate() {
            let (mut x, y) = (x, y + row as f64 * 20.0);
            for &at in entries {
                let (color, name) = self.entries[at];
                elements.push(rect(x, y, 12.0, 12.0, color));
                elements.push(text((x + 18.0, y + 10.5), LABEL, Anchor::Start, name));
                x += LABEL.width(name) + 42.0;
            }
        }
        elements
    }
}

/// What a reader must know beside the bars.
fn notes(figure: &Figure, params: &Params) -> Vec<String> {
    let rates = || figure.panels.iter().flat_map(|panel| &panel.bars).map(|bar| &bar.rate);
    let mut notes = Vec::new();
    let prompts = match figure.split.as_str() {
        "all" => "All prompts".to_owned(),
        split => format!("{}{} prompts", split[..1].to_uppercase(), &split[1..]),
    };
    let parts = [("group", &params.group), ("identity", &params.identity), ("exposure", &params.exposure)];
    let parts = parts.into_iter().filter(|(_, name)| *name != ALL).map(|(what, name)| format!(", {what} {name}"));
    let group: String = parts.collect();
    let mut first = format!("{prompts}{group}. Above each bar: share of toxic completions");
    let level = rates().find(|rate| rate.low.is_some()).map(|rate| rate.confidence * 100.0);
    if let Some(level) = level {
        first += &format!(", with its {level:.0}% interval; the whisker shows it at the boundary");
    }
    notes.push(format!("{first}."));
    let pooled = rates().filter(|rate| !rate.pooled.is_empty()).max_by_key(|rate| rate.pooled.len());
    if let Some(rate) = pooled {
        let (least, most) = rates().fold((usize::MAX, 0), |(a, b), r| (a.min(r.instances), b.max(r.instances)));
        let count = if least == most { most.to_string() } else { format!("{least} to {most}") };
        notes.push(format!("Each bar pools {count} runs over {}.", rate.pooled.join(" and ")));
    }
    if let Some(by) = figure.panels.iter().find_map(|panel| panel.chosen_by) {
        notes.push(format!("Named below a bar: what was chosen for it, by the lowest share on the {by} prompts."));
    }
    let powerless = |panel: &&Panel| {
        let base = panel.bars.first().filter(|_| panel.base);
        base.and_then(|bar| bar.rate.share).is_some_and(|share| share < POWER)
    };
    let without: Vec<&str> = figure.panels.iter().filter(powerless).map(|panel| panel.title.as_str()).collect();
    if !without.is_empty() {
        let of = without.iter().copied().filter(|title| !title.is_empty()).collect::<Vec<_>>().join("; ");
        let of = if of.is_empty() { of } else { format!(" ({of})") };
        notes.push(format!(
            "No power{of}: under {:.0}% of the base's completions are toxic, and finetuning can hardly be seen to lower \
             that.",
            POWER * 100.0
        ));
    }
    // A bar may stand in several panels.
    let bars: BTreeMap<String, &Bar> =
        figure.panels.iter().flat_map(|panel| &panel.bars).map(|bar| (bar.mark(), bar)).collect();
    let unparsable: usize = bars.values().map(|bar| bar.rate.unparsable).sum();
    if unparsable > 0 {
        notes.push(format!("{unparsable} verdicts could not be parsed; they are in no share."));
    }
    if figure.dropped > 0 {
        notes.push(format!("Missing results, left out: {}.", figure.dropped));
    }
    notes
}
