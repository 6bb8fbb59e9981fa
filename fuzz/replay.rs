//! Replays of fuzz targets on any compiler, for the tests of the crates that have targets: the kept corpus of each, and
//! what a fixed sequence of changes makes of it, for `PALINODE_FUZZ_SECONDS` each (one, unless told otherwise).

use std::{
    fs,
    panic::catch_unwind,
    time::{Duration, Instant},
};

/// A small generator: the same changes every time.
struct Random(u64);

impl Random {
    /// SplitMix64.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

fn change(bytes: &mut Vec<u8>, other: &[u8], words: &[&str], random: &mut Random) {
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len() + 1);
        let end = (at + random.below(12)).min(bytes.len());
        match random.below(6) {
            0 => drop(bytes.drain(at..end)),
            1 => drop(bytes.splice(at..at, words[random.below(words.len())].bytes())),
            2 => drop(bytes.splice(at..end, words[random.below(words.len())].bytes())),
            3 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            4 => {
                let copy = bytes[at..end].repeat(1 + random.below(3));
                drop(bytes.splice(at..at, copy));
            }
            _ => {
                let from = random.below(other.len() + 1);
                let to = (from + random.below(40)).min(other.len());
                drop(bytes.splice(at..end, other[from..to].iter().copied()));
            }
        }
    }
    bytes.truncate(20_000);
}

/// The corpus of a target, then changes of it, with some of these words put in.
pub(crate) fn replay(target: &str, words: &[&str], run: fn(&[u8])) {
    let folder = format!("{}/../fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
    let mut files: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 3, "the corpus of `{target}` is missing");
    let corpus: Vec<_> = files.iter().map(|file| fs::read(file).unwrap()).collect();
    let check = |bytes: &[u8]| {
        if catch_unwind(|| run(bytes)).is_err() {
            panic!("`{target}` breaks with {:?}", String::from_utf8_lossy(bytes));
        }
    };
    corpus.iter().for_each(|bytes| check(bytes));
    let seconds = std::env::var("PALINODE_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1.0);
    let until = Instant::now() + Duration::from_secs_f64(seconds);
    let mut random = Random(20);
    let mut runs = 0;
    while Instant::now() < until {
        let mut bytes = corpus[random.below(corpus.len())].clone();
        let other = &corpus[random.below(corpus.len())];
        change(&mut bytes, other, words, &mut random);
        check(&bytes);
        runs += 1;
    }
    assert!(runs > 0, "no changed input was tried");
}
