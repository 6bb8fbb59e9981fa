//! Rows of tokens from examples: inputs with their last token cut off, right padded, and what is to be predicted.
//! One example a row, or several, kept apart as segments.

use super::Example;
use super::tokens::Targets;
use crate::error::Result;
use crate::layers::Batch;

/// Rows that go through the model at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Input ids by row, not padded.
    rows: Vec<Vec<u32>>,
    /// The number of each input's example in its row, if some row holds more than one.
    segments: Option<Vec<Vec<u32>>>,
    /// The inputs whose successor counts, and the successors.
    pub(super) targets: Targets,
}

impl Layout {
    /// One example a row; with `packing`, as many as fit a row of that many tokens. An example longer than that has a
    /// row to itself.
    pub(crate) fn new(examples: &[&Example], packing: Option<usize>) -> Self {
        let rows = match packing {
            Some(width) => packed(examples, width),
            None => examples.iter().map(|example| vec![*example]).collect(),
        };
        let inputs = |row: &[&Example]| row.iter().map(|example| example.ids.len() - 1).sum::<usize>();
        let width = rows.iter().map(|row| inputs(row)).max().unwrap_or(0);
        let mut layout = Layout { rows: vec![], segments: None, targets: Targets::default() };
        let mut segments = Vec::with_capacity(rows.len());
        for (number, row) in rows.iter().enumerate() {
            let (mut ids, mut texts) = (Vec::with_capacity(inputs(row)), Vec::with_capacity(inputs(row)));
            for (text, example) in row.iter().enumerate() {
                let predicted = example.predicted();
                let start = number * width + ids.len();
                layout.targets.places.extend(predicted.clone().map(|at| start + at - 1));
                layout.targets.ids.extend_from_slice(&example.ids[predicted]);
                ids.extend_from_slice(&example.ids[..example.ids.len() - 1]);
                texts.resize(ids.len(), text as u32);
            }
            layout.rows.push(ids);
            segments.push(texts);
        }
        layout.segments = rows.iter().any(|row| row.len() > 1).then_some(segments);
        layout
    }

    /// The rows as a model takes them.
    pub(crate) fn batch(&self) -> Result<Batch> {
        let batch = Batch::right_padded(&self.rows, 0)?;
        let Some(segments) = &self.segments else { return Ok(batch) };
        let [_, width] = batch.dims();
        let pad = |row: &Vec<u32>| {
            let last = row.last().map_or(0, |last| last + 1);
            row.iter().copied().chain(std::iter::repeat_n(last, width - row.len())).collect::<Vec<u32>>()
        };
        batch.with_segments(segments.iter().flat_map(pad).collect())
    }
}

/// First fit, the longest first: at most 11/9 of the rows that are needed at least (Johnson 1973).
fn packed<'a>(examples: &[&'a Example], width: usize) -> Vec<Vec<&'a Example>> {
    let inputs = |example: &Example| example.ids.len() - 1;
    let mut order = examples.to_vec();
    order.sort_by_key(|example| std::cmp::Reverse(inputs(example)));
    let mut rows: Vec<(usize, Vec<&Example>)> = Vec::new();
    for example in order {
        let needed = inputs(example);
        match rows.iter_mut().find(|(used, _)| used + needed <= width) {
            Some((used, row)) => {
                *used += needed;
                row.push(example);
            }
            None => rows.push((needed, vec![example])),
        }
    }
    rows.into_iter().map(|(_, row)| row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(ids: &[u32], loss_from: usize) -> Example {
        Example { ids: ids.to_vec(), loss_from }
    }

    #[test]
    fn inputs_lose_their_last_token_and_targets_follow_their_places() {
        let examples = [example(&[1, 2, 3, 4], 2), example(&[5, 6], 0)];
        let layout = Layout::new(&examples.iter().collect::<Vec<_>>(), None);
        assert_eq!(layout.rows, [vec![1, 2, 3], vec![5]]);
        assert_eq!(layout.targets.places, [1, 2, 3]);
        assert_eq!(layout.targets.ids, [3, 4, 6]);
        assert_eq!(layout.segments, None);
    }

    #[test]
    fn several_examples_share_a_row_as_segments() {
        let examples = [example(&[5, 6], 0), example(&[1, 2, 3, 4], 2), example(&[7, 8, 9], 1), example(&[0; 9], 8)];
        let examples: Vec<&Example> = examples.iter().collect();
        let layout = Layout::new(&examples, Some(4));
        // Eight inputs are more than a row of four: they stand alone. Then three and one, then two.
        assert_eq!(layout.rows, [vec![0; 8], vec![1, 2, 3, 5], vec![7, 8]]);
        assert_eq!(layout.segments, Some(vec![vec![0; 8], vec![0, 0, 0, 1], vec![0, 0]]));
        assert_eq!(layout.targets.places, [7, 9, 10, 11, 16, 17]);
        assert_eq!(layout.targets.ids, [0, 3, 4, 6, 8, 9]);
        assert_eq!(layout.batch().unwrap().dims(), [3, 8]);
        // Where nothing can be shared, the rows are the plain ones.
        assert_eq!(Layout::new(&examples[..2], Some(3)).segments, None);
    }
}
