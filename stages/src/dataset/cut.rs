//! Which of many are drawn, without holding them: each has a rank that depends on a seed and its id alone, and those of
//! the lowest ranks are drawn. So a smaller draw lies inside a larger one.

use palinode_engine::stage::StageError;

use crate::random::stream;

/// The rank of `id` in the draw that `seed` and `what` name.
pub(super) fn rank(seed: u64, what: &str, id: &str) -> u64 {
    let mut bits = stream(seed, &[what, id]);
    u64::from(bits.bits()) << 32 | u64::from(bits.bits())
}

/// The ranks up to this are drawn; none at all if there is no such rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cut(Option<u64>);

impl Cut {
    pub(super) const ALL: Cut = Cut(Some(u64::MAX));

    pub(super) fn takes(self, rank: u64) -> bool {
        self.0.is_some_and(|most| rank <= most)
    }
}

/// Finds cuts in two passes over the ranks: how many there are in each of 65,536 ranges, and then those of one range.
pub(super) struct Counting(Vec<u64>);

/// The second pass of [`Counting`].
pub(super) struct Finding {
    range: u64,
    /// How many of the range's are drawn.
    drawn: usize,
    ranks: Vec<u64>,
    /// Set where no second pass is needed.
    cut: Option<Cut>,
}

impl Counting {
    pub(super) fn new() -> Self {
        Counting(vec![0; 1 << 16])
    }

    pub(super) fn add(&mut self, rank: u64) {
        self.0[(rank >> 48) as usize] += 1;
    }

    pub(super) fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Goes on to find the cut that draws `count`.
    pub(super) fn find(self, count: u64) -> Finding {
        let done = |cut| Finding { range: 0, drawn: 0, ranks: Vec::new(), cut: Some(cut) };
        if count >= self.total() {
            return done(Cut::ALL);
        }
        let mut left = count;
        for (range, &here) in self.0.iter().enumerate() {
            if left == 0 {
                // All ranges before this one.
                return done(Cut((range as u64).checked_mul(1 << 48).and_then(|start| start.checked_sub(1))));
            }
            if left < here {
                return Finding { range: range as u64, drawn: left as usize, ranks: Vec::new(), cut: None };
            }
            left -= here;
        }
        done(Cut::ALL)
    }
}

impl Finding {
    pub(super) fn add(&mut self, rank: u64) {
        if self.cut.is_none() && rank >> 48 == self.range {
            self.ranks.push(rank);
        }
    }

    pub(super) fn cut(mut self) -> Result<Cut, StageError> {
        if let Some(cut) = self.cut {
            return Ok(cut);
        }
        self.ranks.sort_unstable();
        let at = self.drawn.checked_sub(1).and_then(|last| self.ranks.get(last));
        at.map(|&rank| Cut(Some(rank))).ok_or_else(|| StageError::failed("the input changed while it was read"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(ids: u64, count: u64) -> Vec<u64> {
        let rank = |id: u64| rank(3, "draw", &id.to_string());
        let mut counting = Counting::new();
        (0..ids).for_each(|id| counting.add(rank(id)));
        let mut finding = counting.find(count);
        (0..ids).for_each(|id| finding.add(rank(id)));
        let cut = finding.cut().unwrap();
        (0..ids).filter(|&id| cut.takes(rank(id))).collect()
    }

    #[test]
    fn draws_are_exact_and_nested() {
        let sizes = [0, 1, 17, 500, 999, 1000, 2000];
        let draws = sizes.map(|count| drawn(1000, count));
        for (draw, size) in draws.iter().zip(sizes) {
            assert_eq!(draw.len() as u64, size.min(1000));
        }
        for pair in draws.windows(2) {
            assert!(pair[0].iter().all(|id| pair[1].contains(id)));
        }
        // Enough that several share a range.
        assert_eq!(drawn(200_000, 77_777).len(), 77_777);
    }
}
