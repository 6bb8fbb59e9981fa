//! Random choices that depend on a seed and on what they are made for, never on the order of the work: on the
//! counter-based generator of the models crate, so that a choice for one prompt stays when another prompt is added.

use palinode_models::rng::{Stream, fold};

/// The stream of `seed` for the thing that `names` name.
pub(crate) fn stream(seed: u64, names: &[&str]) -> Stream {
    Stream::new(seed, &words(names))
}

/// One number for the thing that `names` name.
pub(crate) fn key(names: &[&str]) -> u64 {
    fold(0, &words(names))
}

/// Length-prefixed, so that ["ab", "c"] and ["a", "bc"] differ.
fn words(names: &[&str]) -> Vec<u64> {
    names.iter().flat_map(|name| text_words(name)).collect()
}

fn text_words(text: &str) -> impl Iterator<Item = u64> + '_ {
    let word = |chunk: &[u8]| chunk.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte));
    std::iter::once(text.len() as u64).chain(text.as_bytes().chunks(8).map(word))
}

/// Uniform in `0..n`; `n` is at least 1.
pub(crate) fn below(stream: &mut Stream, n: usize) -> usize {
    // 53 bits against any n that fits memory: the bias is far below what any sample here could show.
    ((stream.uniform_f64() * n as f64) as usize).min(n - 1)
}

/// `k` different numbers of `0..n` in random order (all of them, if there are no more).
pub(crate) fn choose(stream: &mut Stream, n: usize, k: usize) -> Vec<usize> {
    let mut all: Vec<usize> = (0..n).collect();
    let k = k.min(n);
    for at in 0..k {
        all.swap(at, at + below(stream, n - at));
    }
    all.truncate(k);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart() {
        let first = |names: &[&str]| stream(0, names).bits();
        assert_ne!(first(&["ab", "c"]), first(&["a", "bc"]));
        assert_ne!(first(&["a"]), first(&["a", ""]));
        assert_ne!(first(&["12345678"]), first(&["123456789"]));
    }

    #[test]
    fn a_choice_is_a_fair_subset() {
        let mut seen = [0u32; 5];
        for trial in 0..5000 {
            let chosen = choose(&mut Stream::new(trial, &[]), 5, 2);
            assert!(chosen.len() == 2 && chosen[0] != chosen[1]);
            chosen.iter().for_each(|&at| seen[at] += 1);
        }
        assert!(seen.iter().all(|&count| (1850..2150).contains(&count)), "{seen:?}");
        assert_eq!(choose(&mut Stream::new(0, &[]), 3, 9).len(), 3);
    }
}
