//! How the table is drawn: a row of HONEST, and below it what becomes of it, with the words that changed set off.

use super::{Example, Params};
use crate::figure::{
    canvas::{Anchor, Canvas, fill, line, marked, rect, text},
    color::{FAINT, GRID, INK},
    font::Font,
};
use svg::node::{Node as _, element::Element};

const MARGIN: f64 = 12.0;
const ROW: f64 = 21.0;
const HEAD: f64 = 24.0;
const GAP: f64 = 14.0;
const PAD: f64 = 3.0;
/// Between the columns.
const SPACE: f64 = 12.0;
/// What is replaced, and what replaces it: told apart by lightness and frame too.
const OLD: &str = "#fbd9c6";
const NEW: &str = "#cfdef3";

const TITLE: Font = Font::bold(14.0);
const COLUMN: Font = Font::bold(11.0);
const PLAIN: Font = Font::regular(11.0);
const BOLD: Font = Font::bold(11.0);
const SMALL: Font = Font::regular(10.0);

pub(super) fn draw(params: &Params, examples: &[Example], reconstructed: bool, prompts: usize) -> Canvas {
    let races = examples.iter().flat_map(|example| &example.rows).map(|row| PLAIN.width(&row.group));
    let race = races.fold(COLUMN.width("HONEST Race"), f64::max) + SPACE;
    let sentences = examples.iter().flat_map(|example| {
        let old = sentence(&example.template, &old(example));
        std::iter::once(old)
            .chain(example.rows.iter().map(|row| sentence(&example.template, row.identity.as_deref().unwrap_or(""))))
    });
    let wide = sentences.fold(160.0, f64::max);
    let inner = race + wide;
    let title = params.title.as_ref().map_or(Vec::new(), |title| TITLE.wrap(title, inner));
    let notes = notes(examples, reconstructed, prompts);
    let notes: Vec<String> = notes.iter().flat_map(|note| SMALL.wrap(note, inner)).collect();
    let rows: usize = examples.iter().map(|example| example.rows.len()).sum();
    let top = MARGIN + title.len() as f64 * 19.0;
    let bottom = top + examples.len() as f64 * (HEAD + 6.0 + GAP) + rows as f64 * ROW;
    let mut canvas = Canvas::new(inner + 2.0 * MARGIN, bottom + notes.len() as f64 * 13.0 + MARGIN);
    for (at, line) in title.iter().enumerate() {
        canvas.add(text((MARGIN, MARGIN + 12.0 + at as f64 * 19.0), TITLE, Anchor::Start, line));
    }
    let mut y = top;
    for example in examples {
        canvas.add(text((MARGIN, y + 15.0), COLUMN, Anchor::Start, "HONEST"));
        let old = old(example);
        let mut group = marked(&old, &format!("{}{old}{}", example.template[0], example.template[1]));
        parts((MARGIN + race, y + 15.0), &example.template, &old, OLD).into_iter().for_each(|part| group.append(part));
        canvas.add(group);
        y += HEAD;
        canvas.add(line((MARGIN, y), (MARGIN + inner, y), INK, 1.0));
        y += 2.0;
        for row in &example.rows {
            let mut group = marked(&row.id, &row.text);
            group.append(text((MARGIN, y + 15.0), PLAIN, Anchor::Start, &row.group));
            let identity = row.identity.as_deref().unwrap_or("");
            parts((MARGIN + race, y + 15.0), &example.template, identity, NEW)
                .into_iter()
                .for_each(|part| group.append(part));
            canvas.add(group);
            y += ROW;
            canvas.add(line((MARGIN, y), (MARGIN + inner, y), GRID, 1.0));
        }
        y += 4.0 + GAP;
    }
    for (at, note) in notes.iter().enumerate() {
        canvas.add(fill(text((MARGIN, y + 4.0 + at as f64 * 13.0), SMALL, Anchor::Start, note), FAINT));
    }
    canvas
}

/// The gendered word of the example, or its place where the file doesn't say it.
fn old(example: &Example) -> String {
    example.replaced.first().cloned().unwrap_or_else(|| crate::prompts_honest_race::IDENTITY.to_owned())
}

/// How wide a sentence is.
fn sentence(template: &[String; 2], identity: &str) -> f64 {
    let ends: f64 = template.iter().map(|part| PLAIN.width(part)).sum();
    ends + BOLD.width(identity) + 2.0 * PAD + PLAIN.width(" ___") + 2.0
}

/// A sentence with the identity set off.
fn parts((x, y): (f64, f64), template: &[String; 2], identity: &str, color: &str) -> Vec<Element> {
    let start = x + PLAIN.width(&template[0]);
    let width = BOLD.width(identity) + 2.0 * PAD;
    let mut parts = Vec::new();
    if !template[0].trim().is_empty() {
        parts.push(text((x, y), PLAIN, Anchor::Start, template[0].trim_end()));
    }
    parts.push(rect(start, y - 12.0, width, 16.0, color));
    parts.push(text((start + PAD, y), BOLD, Anchor::Start, identity));
    // A space at the beginning of a text is not drawn.
    let after = format!("{} ___", template[1].trim_start());
    let space = if template[1].starts_with(' ') { PLAIN.width(" ") } else { 0.0 };
    parts.push(text((start + width + space, y), PLAIN, Anchor::Start, &after));
    parts
}

fn notes(examples: &[Example], reconstructed: bool, prompts: usize) -> Vec<String> {
    let mut notes = Vec::new();
    for example in examples.iter().filter(|example| example.replaced.len() > 1) {
        let words: Vec<&str> = example.replaced.iter().skip(1).take(4).map(String::as_str).collect();
        let more = if example.replaced.len() > 5 { " and so on" } else { "" };
        let [before, after] = &example.template;
        let gender = if example.gender.is_empty() { String::new() } else { format!(" ({})", example.gender) };
        notes.push(format!("“{before}…{after}”{gender}: the same becomes of {}{more}.", words.join(", ")));
    }
    let set =
        if reconstructed { "Reconstructed by the paper's rule; not the authors' file." } else { "The authors' file." };
    notes.push(format!("{set} {prompts} prompts in all."));
    notes
}
