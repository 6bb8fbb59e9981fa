//! Which rows are drawn as which grids.

use palinode_engine::{context::Context, stage::StageError};
use serde_json::Value;

use super::Params;
use crate::{
    figure::{mark, title},
    records::{self, LensCell},
};

/// What is drawn.
pub(super) struct Figure {
    /// One for each prompt.
    pub(super) blocks: Vec<Block>,
    /// The largest entropy: the upper end of the shared scale. The lower end is 0.
    pub(super) most: f64,
    /// Points of the gather that are missing.
    pub(super) dropped: usize,
}

pub(super) struct Block {
    pub(super) prompt: String,
    /// Which of the prompt's completions is read behind it.
    pub(super) sample: u32,
    pub(super) grids: Vec<Grid>,
}

/// One model's lens on one prompt.
pub(super) struct Grid {
    pub(super) title: String,
    pub(super) mark: String,
    /// By layer, from the embedding up, and then by position.
    pub(super) layers: Vec<Vec<LensCell>>,
}

impl Block {
    pub(super) fn told(&self) -> String {
        if self.sample == 0 { self.prompt.clone() } else { format!("{} (sample {})", self.prompt, self.sample) }
    }
}

impl Grid {
    /// Whether a completion begins at this position.
    pub(super) fn begins_at(&self, position: usize) -> bool {
        let cells = &self.layers[0];
        position > 0 && cells[position].continuation && !cells[position - 1].continuation
    }
}

pub(super) const HEADER: [&str; 14] = [
    "grid",
    "prompt",
    "sample",
    "layer",
    "position",
    "token",
    "next",
    "top",
    "max_probability",
    "entropy",
    "final_rank",
    "kl",
    "js",
    "tv",
];

impl Figure {
    pub(super) fn read(params: &Params, ctx: &Context<'_>) -> Result<Self, StageError> {
        let (mut blocks, mut dropped): (Vec<Block>, usize) = (Vec::new(), 0);
        for (port, row) in
            ["base", "trajectories"].iter().flat_map(|port| ctx.table(port).into_iter().map(move |row| (*port, row)))
        {
            let Some(files) = &row.input else {
                dropped += 1;
                continue;
            };
            let name = name(port, &row.coords, params);
            let cells: Vec<LensCell> = records::rows(files, records::TRAJECTORY)?;
            for ((prompt, sample), cells) in by_prompt(cells) {
                let grid = Grid { title: name.0.clone(), mark: name.1.clone(), layers: layers(&name.0, cells)? };
                match blocks.iter_mut().find(|block| block.prompt == prompt && block.sample == sample) {
                    Some(block) => block.grids.push(grid),
                    None => blocks.push(Block { prompt, sample, grids: vec![grid] }),
                }
            }
        }
        if blocks.is_empty() {
            return Err(StageError::failed("the input `trajectories` holds no rows, so there is nothing to draw"));
        }
        if let Some(wanted) = &params.prompt {
            let known = blocks.iter().map(|block| format!("`{}`", block.prompt)).collect::<Vec<_>>().join(", ");
            blocks.retain(|block| block.prompt == *wanted);
            if blocks.is_empty() {
                return Err(StageError::failed(format!("there is no prompt `{wanted}`; there are: {known}")));
            }
        }
        let cells = blocks.iter().flat_map(|block| &block.grids).flat_map(|grid| grid.layers.iter().flatten());
        let most = cells.map(|cell| cell.entropy).fold(0.0, f64::max);
        Ok(Figure { blocks, most, dropped })
    }

    /// What is drawn, as rows under [`HEADER`].
    pub(super) fn rows(&self) -> Vec<[String; 14]> {
        let number = |value: Option<f64>| value.map_or(String::new(), |value| value.to_string());
        let row = |grid: &Grid, cell: &LensCell| {
            [
                grid.mark.clone(),
                cell.prompt.clone(),
                cell.sample.to_string(),
                cell.layer.to_string(),
                cell.position.to_string(),
                cell.token.clone(),
                cell.next.clone().unwrap_or_default(),
                cell.top.clone(),
                cell.max_probability.to_string(),
                cell.entropy.to_string(),
                cell.final_rank.map_or(String::new(), |rank| rank.to_string()),
                number(cell.kl),
                number(cell.js),
                number(cell.tv),
            ]
        };
        let grids = self.blocks.iter().flat_map(|block| &block.grids);
        grids.flat_map(|grid| grid.layers.iter().flatten().map(move |cell| row(grid, cell))).collect()
    }
}

/// Title and mark of a grid.
fn name(port: &str, coords: &[(String, Value)], params: &Params) -> (String, String) {
    match (port, coords.is_empty()) {
        ("base", true) => (params.base_label.clone(), params.base_label.clone()),
        ("base", false) => (format!("{}, {}", params.base_label, title(coords)), mark(coords)),
        (_, true) => ("model".to_owned(), "model".to_owned()),
        (_, false) => (title(coords), mark(coords)),
    }
}

fn by_prompt(cells: Vec<LensCell>) -> Vec<((String, u32), Vec<LensCell>)> {
    cells.into_iter().fold(Vec::new(), |mut prompts: Vec<((String, u32), Vec<LensCell>)>, cell| {
        match prompts.iter_mut().find(|((prompt, sample), _)| *prompt == cell.prompt && *sample == cell.sample) {
            Some((_, cells)) => cells.push(cell),
            None => prompts.push(((cell.prompt.clone(), cell.sample), vec![cell])),
        }
        prompts
    })
}

/// The cells as a full grid: layers from 0, positions from 0, none missing, none twice.
fn layers(grid: &str, mut cells: Vec<LensCell>) -> Result<Vec<Vec<LensCell>>, StageError> {
    cells.sort_by_key(|cell| (cell.layer, cell.position));
    let positions = cells.iter().take_while(|cell| cell.layer == 0).count();
    let in_place = |(at, cell): (usize, &LensCell)| (cell.layer, cell.position) == (at / positions, at % positions);
    if positions == 0 || !cells.len().is_multiple_of(positions) || !cells.iter().enumerate().all(in_place) {
        return Err(StageError::failed(format!(
            "the trajectory of {grid} is no full grid: every layer from 0 needs each position from 0 once"
        )));
    }
    if let Some(cell) = cells.iter().find(|cell| !cell.entropy.is_finite()) {
        return Err(StageError::failed(format!(
            "the entropy of {grid} at layer {}, position {} is no number",
            cell.layer, cell.position
        )));
    }
    Ok(cells.chunks(positions).map(<[LensCell]>::to_vec).collect())
}
