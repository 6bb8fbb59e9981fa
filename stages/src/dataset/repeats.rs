//! Texts that occur more than once, within a part and between parts, found without holding the texts: a digest of each
//! goes to one of some files by its value, and each file is looked through by itself.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufWriter, Read as _, Write as _},
    path::PathBuf,
};

use palinode_engine::{context::Context, stage::StageError};

use crate::{random::key, records::Part};

const FILES: usize = 64;
/// Digest, part.
const ENTRY: usize = 8 + 1;

/// What was seen so far.
pub(super) struct Repeats {
    folder: PathBuf,
    files: Vec<BufWriter<fs::File>>,
}

/// What occurs more than once.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Examples beyond the first of their text, by part.
    pub(super) within: BTreeMap<Part, usize>,
    /// Examples of the second part whose text is in the first, too.
    pub(super) between: BTreeMap<(Part, Part), usize>,
}

impl Repeats {
    pub(super) fn new(ctx: &Context<'_>, name: &str) -> Result<Self, StageError> {
        let folder = ctx.job().scratch.join(name);
        fs::create_dir_all(&folder).map_err(StageError::io(&folder))?;
        let open = |number: usize| {
            let path = folder.join(number.to_string());
            Ok(BufWriter::new(fs::File::create(&path).map_err(StageError::io(&path))?))
        };
        let files = (0..FILES).map(open).collect::<Result<_, StageError>>()?;
        Ok(Repeats { folder, files })
    }

    pub(super) fn add(&mut self, text: &str, part: Part) -> Result<(), StageError> {
        let digest = key(&[text]);
        let mut entry = [0; ENTRY];
        entry[..8].copy_from_slice(&digest.to_le_bytes());
        entry[8] = part as u8;
        let file = &mut self.files[(digest >> 32) as usize % FILES];
        file.write_all(&entry).map_err(StageError::io(&self.folder))
    }

    pub(super) fn find(self) -> Result<Found, StageError> {
        for mut file in self.files {
            file.flush().map_err(StageError::io(&self.folder))?;
        }
        let mut found = Found::default();
        for number in 0..FILES {
            let path = self.folder.join(number.to_string());
            let mut bytes = Vec::new();
            let read = fs::File::open(&path).and_then(|mut file| file.read_to_end(&mut bytes));
            read.map_err(StageError::io(&path))?;
            let (entries, _) = bytes.as_chunks::<ENTRY>();
            let mut entries: Vec<(u64, u8)> = entries
                .iter()
                .map(|entry| (u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|at| entry[at])), entry[8]))
                .collect();
            drop(bytes);
            entries.sort_unstable();
            for same in entries.chunk_by(|a, b| a.0 == b.0).filter(|same| same.len() > 1) {
                found.count(same);
            }
            fs::remove_file(&path).map_err(StageError::io(&path))?;
        }
        Ok(found)
    }
}

impl Found {
    fn count(&mut self, same: &[(u64, u8)]) {
        let counts = Part::ALL.map(|part| same.iter().filter(|(_, of)| *of == part as u8).count());
        for (part, count) in Part::ALL.into_iter().zip(counts) {
            if count > 1 {
                *self.within.entry(part).or_default() += count - 1;
            }
        }
        for (one, other) in [(0, 1), (0, 2), (1, 2)] {
            if counts[one] > 0 && counts[other] > 0 {
                *self.between.entry((Part::ALL[one], Part::ALL[other])).or_default() += counts[other];
            }
        }
    }
}
