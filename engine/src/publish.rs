//! Figures and tables for people: copies in the output folder, named by address, SVG and PNG with a stamp. What lies
//! there already as it should is not touched; what is missing, altered or stale is written again, and nothing runs.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use palinode_cache::{Cache, CacheError, Digest, FileEntry, StageKey, StoredResult};
use petgraph::graph::NodeIndex;

use crate::{
    graph::{Address, Graph},
    lineage::Lineage,
    stage::PortType,
    stamp::{Stamp, format, stamp},
    strays::{self, Note, Notes},
};

/// A file that belongs in the output folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedFile {
    /// The instance it comes from.
    pub address: String,
    /// Where it is.
    pub path: PathBuf,
    /// Whether it was written now; else it was there already.
    pub written: bool,
}

/// A file that can't be published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The output folder can't be read or written.
    #[error("can't publish {}: {}", path.display(), palinode_cache::reason(source))]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The cache can't be read.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// A figure or table vanished from the cache during the run.
    #[error("{address}: `{file}` was lost from the cache; run again")]
    Lost {
        /// The instance.
        address: String,
        /// The file.
        file: String,
    },
}

/// Brings the figures and tables among `results` up to date in the folder `out`.
///
/// # Errors
/// If a file can't be written, or its blob is lost.
pub fn publish(
    graph: &Graph,
    results: &[(NodeIndex, Arc<StoredResult>)],
    cache: &Cache,
    out: &Path,
) -> Result<Vec<PublishedFile>, PublishError> {
    // Made when the first figure needs them: most results are none.
    let mut names: Option<BTreeMap<StageKey, String>> = None;
    let mut published = Vec::new();
    let mut notes = BTreeMap::new();
    let mut taken = BTreeSet::new();
    // Read when the first file is written over.
    let mut earlier: Option<Notes> = None;
    for (node, result) in results {
        let instance = graph.instance(*node);
        let mut lineage = None;
        for port in instance.outputs() {
            let Some(output) = result.output(&port.name) else { continue };
            if !matches!(port.gives, PortType::Figure | PortType::Table) {
                continue;
            }
            for (file, entry) in &output.files {
                let mut path = out.join(place(&instance.address, file, true));
                // Two ports with files of one name: the second says its port, too.
                for name in [file.to_string(), format!("{}.{file}", port.name), format!("{}/{file}", port.name)] {
                    if taken.insert(path.clone()) {
                        break;
                    }
                    path = out.join(place(&instance.address, &name, false));
                }
                let address = instance.address.to_string();
                let mut bytes = read(cache, entry, &address, file)?;
                if format(&bytes).is_some() {
                    let lineage = match &lineage {
                        Some(lineage) => lineage,
                        None => {
                            let names = names.get_or_insert_with(|| addresses(graph, results));
                            // Of several addresses of one result, the figure tells its own.
                            names.insert(result.key, address.clone());
                            let lost = || PublishError::Lost { address: address.clone(), file: file.to_string() };
                            let record = cache.record(&result.key)?.ok_or_else(lost)?;
                            lineage.insert(Lineage::of(&record, cache, names)?)
                        }
                    };
                    let file = format!("{}/{file}", port.name);
                    let made = Stamp::new(&graph.pipeline, &address, &file, result.key, entry.blob, lineage);
                    if let Ok(stamped) = stamp(&bytes, &made) {
                        bytes = stamped;
                    }
                }
                if let Ok(relative) = path.strip_prefix(out)
                    && !lies_there(&path, &bytes)
                    && let Some(other) = earlier.get_or_insert_with(|| Notes::read(cache, out)).other_owner(
                        out,
                        relative,
                        &graph.pipeline,
                    )
                {
                    tracing::warn!(
                        path = %path.display(),
                        "the pipeline `{other}` published this file, which is written over now: give one of them another `--out`"
                    );
                }
                let written = write(&path, &bytes).map_err(|source| PublishError::Io { path: path.clone(), source })?;
                if let Ok(relative) = path.strip_prefix(out) {
                    let (pipeline, address) = (graph.pipeline.clone(), address.clone());
                    notes.insert(relative.to_owned(), Note { pipeline, address, digest: Digest::of(&bytes) });
                }
                published.push(PublishedFile { address, path, written });
            }
        }
    }
    strays::note(cache, out, notes);
    Ok(published)
}

/// The first address of each result.
fn addresses(graph: &Graph, results: &[(NodeIndex, Arc<StoredResult>)]) -> BTreeMap<StageKey, String> {
    let mut names = BTreeMap::new();
    for (node, result) in results {
        names.entry(result.key).or_insert_with(|| graph.instance(*node).address.to_string());
    }
    names
}

/// Where the file `file` of an output of `address` belongs: `figure2.svg`, `tuned/rank=8,seed=1.svg`. A file that is
/// not named `figure` or `table` keeps its name behind that: `figure2.legend.svg`.
fn place(address: &Address, file: &str, short: bool) -> String {
    let own = match file.split_once('.') {
        Some(("figure" | "table", extension)) if short && !extension.contains('/') => extension.to_owned(),
        _ => safe(file),
    };
    let coords = address.coords.iter().map(|(axis, label)| format!("{}={}", safe(axis), safe(label)));
    let coords = coords.collect::<Vec<_>>().join(",");
    let stage = safe(&address.stage);
    if coords.is_empty() { format!("{stage}.{own}") } else { format!("{stage}/{coords}.{own}") }
}

/// `text` as part of a file name; other characters become `%` and their bytes in hexadecimal, so that no two labels
/// share a file.
pub(crate) fn safe(text: &str) -> String {
    let mut name = String::new();
    for (i, c) in text.char_indices() {
        let plain = c.is_alphanumeric() || "-_+ ".contains(c) || (c == '.' && i > 0);
        if plain {
            name.push(c);
        } else {
            let mut buffer = [0; 4];
            c.encode_utf8(&mut buffer).bytes().for_each(|byte| name.push_str(&format!("%{byte:02x}")));
        }
    }
    name
}

fn read(cache: &Cache, entry: &FileEntry, address: &str, file: &str) -> Result<Vec<u8>, PublishError> {
    let lost = || PublishError::Lost { address: address.to_owned(), file: file.to_owned() };
    let path = cache.locate(entry)?.ok_or_else(lost)?;
    fs::read(&path).map_err(|source| PublishError::Io { path, source })
}

fn lies_there(path: &Path, bytes: &[u8]) -> bool {
    fs::read(path).is_ok_and(|there| there == bytes)
}

/// Writes `bytes` to `path`, whole or not at all, unless they are there already.
fn write(path: &Path, bytes: &[u8]) -> io::Result<bool> {
    if lies_there(path, bytes) {
        return Ok(false);
    }
    let dir = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(dir)?;
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    io::Write::write_all(&mut file, bytes)?;
    file.as_file().set_permissions(fs::Permissions::from_mode(0o644))?;
    palinode_cache::failpoint::step();
    file.persist(path)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_named_by_address() {
        let address = |coords: &[(&str, &str)]| Address {
            stage: "fig".into(),
            coords: coords.iter().map(|(axis, label)| ((*axis).to_owned(), (*label).to_owned())).collect(),
        };
        assert_eq!(place(&address(&[]), "figure.svg", true), "fig.svg");
        assert_eq!(place(&address(&[]), "figure.svg", false), "fig.figure.svg");
        assert_eq!(place(&address(&[]), "legend.svg", true), "fig.legend.svg");
        assert_eq!(place(&address(&[]), "a/b.csv", true), "fig.a%2fb.csv");
        assert_eq!(
            place(&address(&[("rank", "8"), ("m", "../a b")]), "table.csv", true),
            "fig/rank=8,m=%2e.%2fa b.csv"
        );
    }

    #[test]
    fn labels_never_share_a_file() {
        assert_ne!(safe("a/b"), safe("a%2fb"));
        assert_ne!(safe("a,b=c"), safe("a") + "," + &safe("b") + "=" + &safe("c"));
    }
}
