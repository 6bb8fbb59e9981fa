//! How the grids are laid out and drawn.

use svg::node::{Node as _, element::Element};

use super::{
    Params,
    grids::{Block, Figure, Grid},
};
use crate::figure::{
    canvas::{Anchor, Canvas, fill, line, marked, rect, text, upward},
    color::{FAINT, INK, Rgb},
    flow,
    font::{Font, visible},
};

const MARGIN: f64 = 20.0;
/// Left of a grid: numbers of layers and the axis's title.
const LEFT: f64 = 50.0;
/// Between grids, both ways.
const GAP: f64 = 22.0;
/// Above a grid: its title, and the tokens that truly come next.
const ABOVE: f64 = 42.0;
/// Below a grid: the input's tokens and the axis's title.
const BELOW: f64 = 40.0;
/// Above a block of grids: its prompt.
const HEAD: f64 = 28.0;
const ROW: f64 = 22.0;
/// Right of the grids: the colour bar, its ticks and title.
const BAR: f64 = 88.0;
/// Grids may take this width, and large ones up to twice that.
const PAGE: f64 = 1270.0;
/// The widest that a block of large grids may be for its height.
const RATIO: f64 = 2.2;
/// Room for a line of text, unless less is asked for.
const LEAST: f64 = 360.0;
/// Steps of the colour bar.
const STEPS: usize = 48;

const TITLE: Font = Font::bold(16.0);
const PROMPT: Font = Font::bold(13.0);
const GRID: Font = Font::bold(12.0);
const CELL: Font = Font::regular(10.5);
const INPUT: Font = Font::bold(10.5);
const LABEL: Font = Font::regular(11.5);
const SMALL: Font = Font::regular(10.0);

pub(super) fn draw(params: &Params, figure: &Figure) -> Canvas {
    let room = params.width.map(|width| width - 2.0 * MARGIN - BAR);
    let blocks: Vec<Laid<'_>> = figure.blocks.iter().map(|block| Laid::new(block, room)).collect();
    let least = room.map_or(LEAST, |room| room.min(LEAST));
    let inner = blocks.iter().map(Laid::width).fold(least, f64::max);
    let title = params.title.as_ref().map_or(Vec::new(), |title| TITLE.wrap(title, inner + BAR));
    let mut note = "Cell: the most probable next token (␣ space, ↵ line end). Above a grid: the token that truly comes next. Layer 0 is \
         the embedding.".to_owned();
    if figure.dropped > 0 {
        note += &format!(" Missing results, left out: {}.", figure.dropped);
    }
    let note = SMALL.wrap(&note, inner + BAR);

    let top = MARGIN + title.len() as f64 * 22.0;
    let height = top + blocks.iter().map(Laid::height).sum::<f64>() + note.len() as f64 * 14.0 + MARGIN - 6.0;
    let mut canvas = Canvas::new(inner + BAR + 2.0 * MARGIN, height);
    for (at, line) in title.iter().enumerate() {
        canvas.add(text((MARGIN, MARGIN + 14.0 + at as f64 * 22.0), TITLE, Anchor::Start, line));
    }
    let mut y = top;
    for block in &blocks {
        block.draw(&mut canvas, y, figure.most);
        y += block.height();
    }
    let first = &blocks[0];
    let bar = (top + HEAD + first.lines() + ABOVE, (first.deepest() as f64 * ROW).max(110.0));
    color_bar(&mut canvas, MARGIN + inner + 24.0, bar, figure.most);
    for (at, line) in note.iter().enumerate() {
        canvas.add(fill(text((MARGIN, y + 8.0 + at as f64 * 14.0), SMALL, Anchor::Start, line), FAINT));
    }
    canvas
}

/// A block with its grids in rows.
struct Laid<'f> {
    block: &'f Block,
    prompt: Vec<String>,
    cell: f64,
    /// Grids of each row, by their place.
    rows: Vec<Vec<usize>>,
}

impl<'f> Laid<'f> {
    /// In rows no wider than `room`.
    fn new(block: &'f Block, room: Option<f64>) -> Self {
        let tokens = block.grids.iter().flat_map(|grid| grid.layers.iter().flatten());
        let widest = tokens.flat_map(|cell| {
            let next = cell.next.as_deref().map_or(0.0, |next| INPUT.width(&visible(next)));
            [CELL.width(&visible(&cell.top)), INPUT.width(&visible(&cell.token)), next]
        });
        let cell = (widest.fold(34.0, f64::max) + 10.0).min(84.0);
        let most = block.grids.iter().map(|grid| grid.layers[0].len()).max().unwrap_or(1).max(1);
        let cell = room.map_or(cell, |room| cell.min(((room - LEFT) / most as f64).max(34.0)));
        let mut laid = Laid { block, prompt: Vec::new(), cell, rows: Vec::new() };
        let room_given = room;
        let room = room.unwrap_or_else(|| laid.balanced());
        let widths: Vec<f64> = block.grids.iter().map(|grid| laid.grid(grid)).collect();
        laid.rows = flow(&widths, GAP, room);
        laid.prompt = PROMPT
            .wrap(&format!("“{}”", block.told()), laid.width().max(room_given.map_or(LEAST, |room| room.min(LEAST))));
        laid
    }

    /// A width at which a block of large grids is neither a tower nor a ribbon; small grids get a page's width.
    fn balanced(&self) -> f64 {
        let count = self.block.grids.len();
        let widest = self.block.grids.iter().map(|grid| self.grid(grid) + GAP).fold(0.0, f64::max);
        let deepest = self.block.grids.iter().map(|grid| grid.layers.len()).max().unwrap_or(0) as f64;
        let height = |columns: usize| count.div_ceil(columns) as f64 * (ABOVE + deepest * ROW + BELOW);
        let columns = (1..=count).rfind(|&columns| columns as f64 * widest <= RATIO * height(columns)).unwrap_or(1);
        (columns as f64 * widest).clamp(PAGE, 2.0 * PAGE)
    }

    fn cells(&self, grid: &Grid) -> f64 {
        grid.layers[0].len() as f64 * self.cell
    }

    /// Wide enough for a word of its title.
    fn grid(&self, grid: &Grid) -> f64 {
        LEFT + self.cells(grid).max(GRID.width(&grid.title).min(160.0))
    }

    fn width(&self) -> f64 {
        let row = |row: &Vec<usize>| {
            let grids = row.iter().map(|&at| self.grid(&self.block.grids[at])).sum::<f64>();
            grids + GAP * (row.len() - 1) as f64
        };
        self.rows.iter().map(row).fold(0.0, f64::max)
    }

    /// Most layers in the first row.
    fn deepest(&self) -> usize {
        self.depth(&self.rows[0])
    }

    fn depth(&self, row: &[usize]) -> usize {
        row.iter().map(|&at| self.block.grids[at].layers.len()).max().unwrap_or(0)
    }

    /// Lines of the prompt beyond the first.
    fn lines(&self) -> f64 {
        self.prompt.len().saturating_sub(1) as f64 * 17.0
    }

    fn height(&self) -> f64 {
        let rows = self.rows.iter().map(|row| ABOVE + self.depth(row) as f64 * ROW + BELOW + GAP / 2.0);
        HEAD + self.lines() + rows.sum::<f64>() + 6.0
    }

    fn draw(&self, canvas: &mut Canvas, top: f64, most: f64) {
        for (at, line) in self.prompt.iter().enumerate() {
            canvas.add(text((MARGIN, top + 15.0 + at as f64 * 17.0), PROMPT, Anchor::Start, line));
        }
        let mut y = top + HEAD + self.lines();
        for row in &self.rows {
            let floor = y + ABOVE + self.depth(row) as f64 * ROW;
            let mut x = MARGIN;
            for (column, &at) in row.iter().enumerate() {
                let grid = &self.block.grids[at];
                canvas.add(self.draw_grid(grid, (x + LEFT, floor), most));
                if column == 0 {
                    let at = (x + 16.0, floor - grid.layers.len() as f64 * ROW / 2.0);
                    canvas.add(upward(text(at, LABEL, Anchor::Middle, "layer"), at));
                }
                x += self.grid(grid) + GAP;
            }
            y = floor + BELOW + GAP / 2.0;
        }
    }

    fn draw_grid(&self, grid: &Grid, (left, floor): (f64, f64), most: f64) -> Element {
        let mut group = marked(&grid.mark, &grid.title);
        let depth = grid.layers.len();
        let title = GRID.fit(&grid.title, self.grid(grid) - LEFT);
        group.append(text((left, floor - depth as f64 * ROW - 25.0), GRID, Anchor::Start, &title));
        for (layer, cells) in grid.layers.iter().enumerate() {
            let top = floor - (layer + 1) as f64 * ROW;
            for (position, cell) in cells.iter().enumerate() {
                let x = left + position as f64 * self.cell;
                let color = Rgb::diverging(if most > 0.0 { cell.entropy / most } else { 0.0 });
                let tooltip = format!(
                    "{}: layer {layer}, after {}: {} with probability {:.3}, entropy {:.3} nats",
                    grid.title,
                    visible(&cell.token),
                    visible(&cell.top),
                    cell.max_probability,
                    cell.entropy
                );
                let mut marked = marked(&grid.mark, &tooltip);
                marked.assign("data-layer", layer.to_string());
                marked.assign("data-position", position.to_string());
                let mut area = rect(x, top, self.cell, ROW, &color.hex());
                area.assign("stroke", "#ffffff");
                marked.append(area);
                let shown = visible(&cell.top);
                let shown = CELL.fit(&shown, self.cell - 6.0);
                let token = text((x + self.cell / 2.0, top + ROW / 2.0 + 3.8), CELL, Anchor::Middle, &shown);
                marked.append(fill(token, color.text()));
                group.append(marked);
            }
            let number = text((left - 7.0, top + ROW / 2.0 + 3.6), SMALL, Anchor::End, &layer.to_string());
            group.append(fill(number, FAINT));
        }
        for (position, cell) in grid.layers[0].iter().enumerate() {
            let x = left + (position as f64 + 0.5) * self.cell;
            group.append(line((x, floor), (x, floor + 4.0), INK, 1.0));
            let shown = visible(&cell.token);
            group.append(text((x, floor + 16.0), INPUT, Anchor::Middle, &INPUT.fit(&shown, self.cell - 4.0)));
            let ceiling = floor - depth as f64 * ROW;
            if let Some(next) = &cell.next {
                let shown = visible(next);
                group.append(text((x, ceiling - 7.0), INPUT, Anchor::Middle, &INPUT.fit(&shown, self.cell - 4.0)));
            }
            if grid.begins_at(position) {
                // Where the prompt ends and the completion begins.
                let x = x - self.cell / 2.0;
                group.append(line((x, ceiling - 18.0), (x, floor + 20.0), INK, 1.6));
            }
        }
        group.append(fill(
            text((left + self.cells(grid) / 2.0, floor + 32.0), SMALL, Anchor::Middle, "input token"),
            FAINT,
        ));
        group
    }
}

/// The shared scale, from 0 to the largest entropy.
fn color_bar(canvas: &mut Canvas, x: f64, (top, height): (f64, f64), most: f64) {
    let step = height / STEPS as f64;
    for at in 0..STEPS {
        let color = Rgb::diverging((at as f64 + 0.5) / STEPS as f64);
        // A little taller than its step, so that no seam shows between steps.
        let y = top + height - (at + 1) as f64 * step;
        canvas.add(rect(x, y, 14.0, if at == 0 { step } else { step + 0.5 }, &color.hex()));
    }
    for part in [0.0, 0.25, 0.5, 0.75, 1.0] {
        let y = top + height * (1.0 - part);
        canvas.add(line((x + 14.0, y), (x + 18.0, y), INK, 1.0));
        canvas.add(text((x + 21.0, y + 3.6), SMALL, Anchor::Start, &format!("{:.2}", most * part)));
    }
    let at = (x + 60.0, top + height / 2.0);
    canvas.add(upward(text(at, LABEL, Anchor::Middle, "entropy (nats)"), at));
}
