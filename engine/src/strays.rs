//! Published files that no stage gives any more, since it was renamed or removed. What was published where is noted in
//! the cache, so that they can be told from files of the user's own; losing the notes costs just that.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use palinode_cache::{Blob, BlobDigest, Cache, Digest};
use serde::{Deserialize, Serialize};

use crate::graph::Graph;

/// A published file whose instance the pipeline no longer has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stray {
    /// The file.
    pub path: PathBuf,
    /// The instance that it came from.
    pub address: String,
    /// Whether it holds other bytes than were published: someone made it their own.
    pub altered: bool,
}

/// What was published to one folder, by path relative to it.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Notes(BTreeMap<PathBuf, Note>);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Note {
    pub(crate) pipeline: String,
    pub(crate) address: String,
    pub(crate) digest: BlobDigest,
}

impl Notes {
    pub(crate) fn read(cache: &Cache, out: &Path) -> Self {
        let read = fs::read(place(cache, out)).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        read.unwrap_or_default()
    }

    /// The pipeline that published what lies at `path` (below `out`), if that is another one than `pipeline`.
    pub(crate) fn other_owner(&self, out: &Path, path: &Path, pipeline: &str) -> Option<&str> {
        let note = self.0.get(path).filter(|note| note.pipeline != pipeline)?;
        let there = Digest::<Blob>::of(&fs::read(out.join(path)).ok()?);
        (there == note.digest).then_some(note.pipeline.as_str())
    }
}

/// Where the notes on the folder `out` are.
fn place(cache: &Cache, out: &Path) -> PathBuf {
    let out = std::path::absolute(out).unwrap_or_else(|_| out.to_owned());
    let name = Digest::<Blob>::of(out.as_os_str().as_encoded_bytes()).short();
    cache.root().join("published").join(format!("{name}.json"))
}

/// Notes what was published to `out`, beside what was earlier.
pub(crate) fn note(cache: &Cache, out: &Path, published: BTreeMap<PathBuf, Note>) {
    if published.is_empty() || cache.is_read_only() {
        return;
    }
    let mut notes = Notes::read(cache, out);
    if published.iter().all(|(path, note)| notes.0.get(path) == Some(note)) {
        return;
    }
    notes.0.extend(published);
    if let Err(error) = write(&place(cache, out), &notes) {
        tracing::debug!(%error, "can't note what was published");
    }
}

fn write(path: &Path, notes: &Notes) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(dir)?;
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    serde_json::to_writer(&mut file, notes)?;
    file.persist(path)?;
    Ok(())
}

/// The files in `out` that instances of this pipeline gave which it no longer has.
pub fn strays(graph: &Graph, cache: &Cache, out: &Path) -> Vec<Stray> {
    let notes = Notes::read(cache, out);
    if notes.0.is_empty() {
        return Vec::new();
    }
    let known: BTreeSet<String> = graph.dag.node_weights().map(|instance| instance.address.to_string()).collect();
    let gone =
        notes.0.into_iter().filter(|(_, note)| note.pipeline == graph.pipeline && !known.contains(&note.address));
    gone.filter_map(|(path, note)| {
        let path = out.join(path);
        let altered = Digest::<Blob>::of(&fs::read(&path).ok()?) != note.digest;
        Some(Stray { path, address: note.address, altered })
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        fakes::{Pipe, Place},
        graph::Missing,
    };

    fn pipe(figure: &str) -> Pipe {
        let mut pipe = Pipe::new();
        let text = pipe.text("text", "x");
        let figure = pipe.add(figure, "draw", serde_json::json!({}));
        pipe.gather(&[text], figure, Missing::Error);
        pipe
    }

    #[test]
    fn files_of_a_renamed_stage_are_told_and_others_are_not() {
        let place = Place::new();
        let out = place.path("out");
        let of = |figure: &str| strays(&pipe(figure).0, &place.cache, &out);
        assert_eq!(of("old"), []);
        place.run(&pipe("old"));
        fs::write(out.join("own.txt"), "mine").unwrap();
        assert_eq!(of("old"), []);
        place.run(&pipe("new"));
        let told = of("new");
        let names: Vec<_> = told.iter().map(|stray| stray.path.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["old.csv", "old.svg"]);
        assert!(told.iter().all(|stray| stray.address == "old" && !stray.altered));

        fs::write(out.join("old.csv"), "edited").unwrap();
        fs::remove_file(out.join("old.svg")).unwrap();
        let told = of("new");
        assert_eq!((told.len(), told[0].altered), (1, true));
        let mut other = pipe("new");
        other.0.pipeline = "other".into();
        assert_eq!(strays(&other.0, &place.cache, &out), [], "another pipeline's files");
        fs::remove_dir_all(place.cache.root().join("published")).unwrap();
        assert_eq!(of("new"), []);
    }
}
