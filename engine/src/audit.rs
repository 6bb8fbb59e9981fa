//! Asking a figure where it came from, from its bytes alone; with a cache, also whether all that is behind it is there.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs, io,
    path::Path,
};

use palinode_cache::{Cache, CacheError, StageKey};
use serde::Serialize;

use crate::{
    lineage::{Lineage, Link, Node},
    stamp::{self, Stamp, StampError},
    why::{clip, coords},
};

/// What a file tells of itself, and whether to believe it.
#[derive(Debug, Clone, Serialize)]
pub struct Audit {
    /// Whether the file is as it was published.
    pub verdict: Verdict,
    /// Its stamp, if one could be read.
    pub stamp: Option<Stamp>,
    /// What it came from; empty if that can't be read.
    pub lineage: Lineage,
    /// Files behind it that a cache does not hold whole; none if no cache was asked.
    pub missing: Option<Vec<MissingBlob>>,
}

/// Whether a file is as it was published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Every byte is.
    Intact,
    /// It is not, for this reason.
    Altered(String),
    /// It has no readable stamp: altered, or never a figure of ours.
    NoStamp,
}

/// A file in a lineage that a cache does not hold whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MissingBlob {
    /// The result it belongs to.
    pub address: String,
    /// The output port.
    pub port: String,
    /// The file.
    pub file: String,
}

/// Audits the file at `path`, whatever its name. With a cache, every output file in its lineage is looked for there
/// and verified.
///
/// # Errors
/// If the file or the cache can't be read.
pub fn audit(path: &Path, cache: Option<&Cache>) -> Result<Audit, AuditError> {
    let bytes = fs::read(path).map_err(|source| AuditError::Io { path: path.to_owned(), source })?;
    Ok(audit_bytes(&bytes, cache)?)
}

/// A file that can't be audited.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The file can't be read.
    #[error("can't read it: {source}")]
    Io {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The cache can't be read.
    #[error(transparent)]
    Cache(#[from] CacheError),
}

/// [`audit`] of bytes in memory.
///
/// # Errors
/// If the cache can't be read.
pub fn audit_bytes(bytes: &[u8], cache: Option<&Cache>) -> Result<Audit, CacheError> {
    let (verdict, stamp) = match stamp::check(bytes) {
        Ok(stamp) => (Verdict::Intact, Some(stamp)),
        Err((StampError::Missing | StampError::Format, _)) => (Verdict::NoStamp, None),
        Err((error, stamp)) => (Verdict::Altered(error.to_string()), stamp.map(|stamp| *stamp)),
    };
    let lineage = stamp.as_ref().and_then(|stamp| stamp.lineage().ok()).unwrap_or_default();
    let missing = cache.map(|cache| missing(&lineage, cache)).transpose()?;
    Ok(Audit { verdict, stamp, lineage, missing })
}

fn missing(lineage: &Lineage, cache: &Cache) -> Result<Vec<MissingBlob>, CacheError> {
    let mut missing = Vec::new();
    for node in lineage.nodes.values() {
        for (port, files) in &node.outputs {
            for (file, entry) in files {
                if cache.locate(entry)?.is_none() {
                    let (address, port, file) = (node.address.clone(), port.clone(), file.clone());
                    missing.push(MissingBlob { address, port, file });
                }
            }
        }
    }
    Ok(missing)
}

impl Audit {
    /// For people: the verdict, what the file is, and the tree of results behind it.
    pub fn render(&self) -> String {
        let mut text = match &self.verdict {
            Verdict::Intact => "intact: every byte is as it was published\n".to_owned(),
            Verdict::Altered(why) => format!("altered: {why}\n"),
            Verdict::NoStamp => "altered, or not a Palinode figure: no stamp can be read\n".to_owned(),
        };
        let Some(stamp) = &self.stamp else { return text };
        let _ = writeln!(text, "  figure    {} of {}, file {}", stamp.address, stamp.pipeline, stamp.file);
        let _ = writeln!(text, "  key       {}", stamp.key);
        let _ = writeln!(text, "  content   {}", stamp.blob);
        let _ = writeln!(text, "  published by palinode {}", stamp.palinode);
        match &self.missing {
            None => {}
            Some(missing) if missing.is_empty() => {
                let count = self.lineage.nodes.len();
                let _ = writeln!(text, "  cache     every file of all {count} results behind it is there and whole");
            }
            Some(missing) => {
                let _ = writeln!(text, "  cache     {} files behind it are lost or damaged:", missing.len());
                for blob in missing {
                    let _ = writeln!(text, "    {}: `{}` of output `{}`", blob.address, blob.file, blob.port);
                }
            }
        }
        text.push('\n');
        let mut tree = Tree { lineage: &self.lineage, told: BTreeSet::new(), text };
        tree.result(&stamp.key, &Indent { first: String::new(), rest: String::new() }, "", None);
        tree.text
    }
}

/// Writes a lineage as a tree. A result that was told before is only named; of the rows of a gather, the first is told
/// in full and the others by what differs, all the way up.
struct Tree<'a> {
    lineage: &'a Lineage,
    told: BTreeSet<StageKey>,
    text: String,
}

/// What stands before the lines of a result: its own, and those below it.
struct Indent {
    first: String,
    rest: String,
}

impl Tree<'_> {
    /// `like`: the result at the same place behind the first row of a gather.
    fn result(&mut self, key: &StageKey, indent: &Indent, label: &str, like: Option<&StageKey>) {
        let Indent { first, rest } = indent;
        let lineage = self.lineage;
        let Some(node) = lineage.nodes.get(key) else {
            let _ = writeln!(self.text, "{first}{label}{} (its record was gone when this was published)", key.short());
            return;
        };
        let like = like.and_then(|key| lineage.nodes.get(key)).filter(|like| like.kind == node.kind);
        let _ = write!(self.text, "{first}{label}{}  {} r{}  {}", node.address, node.kind, node.revision, key.short());
        if !self.told.insert(*key) {
            self.text.push_str(if facts(node).is_empty() && node.inputs.is_empty() { "\n" } else { "  (see above)\n" });
            return;
        }
        self.text.push('\n');
        let known = like.map(facts).unwrap_or_default();
        let mut left: usize = node.inputs.values().map(Vec::len).sum();
        for fact in facts(node).iter().filter(|fact| !known.contains(fact)) {
            let _ = writeln!(self.text, "{rest}{} {fact}", if left > 0 { "│ " } else { "  " });
        }
        for (port, links) in &node.inputs {
            let alike = alike(links);
            for (row, link) in links.iter().enumerate() {
                left -= 1;
                let (branch, below) = if left == 0 { ("└─ ", "   ") } else { ("├─ ", "│  ") };
                let label = label_of(port, link, alike.get(&link.source).copied().unwrap_or(1));
                let indent = Indent { first: format!("{rest}{branch}"), rest: format!("{rest}{below}") };
                let counterpart = like.and_then(|like| like.inputs.get(port)?.get(row)?.source.as_ref());
                let first_row = links.first().filter(|_| row > 0).and_then(|link| link.source.as_ref());
                match &link.source {
                    Some(source) => self.result(source, &indent, &label, counterpart.or(first_row)),
                    None if link.content.is_some() => {
                        let name = link.outside.as_deref().unwrap_or("files");
                        let _ = writeln!(self.text, "{}{label}{name}, from outside", indent.first);
                    }
                    None => {
                        let _ = writeln!(self.text, "{}{label}dropped: it failed or does not exist", indent.first);
                    }
                }
            }
        }
    }
}

/// How many rows of a gather each result fills.
fn alike(links: &[Link]) -> BTreeMap<Option<StageKey>, usize> {
    let mut counts = BTreeMap::new();
    links.iter().for_each(|link| *counts.entry(link.source).or_default() += 1);
    counts
}

fn label_of(port: &str, link: &Link, alike: usize) -> String {
    let same = if alike > 1 { format!(" (one result for {alike} rows)") } else { String::new() };
    match (coords(&link.coords).as_str(), link.content) {
        ("", Some(content)) => format!("{port} {} <- ", content.short()),
        ("", None) => format!("{port} <- "),
        (coords, Some(content)) => format!("{port}[{coords}] {}{same} <- ", content.short()),
        (coords, None) => format!("{port}[{coords}] <- "),
    }
}

/// What a result was made of beside its inputs, one line each.
fn facts(node: &Node) -> Vec<String> {
    let outside = |(param, file): (&String, &crate::lineage::OutsideFile)| {
        format!("{param} = {} {}", file.name, file.digest.short())
    };
    let param = |(name, value): (&String, &serde_json::Value)| format!("{name} = {}", clip(value));
    let params = node.params.iter().filter(|(name, _)| !node.files.contains_key(*name));
    let numerics = node.numerics.iter().map(|(name, value)| format!("numerics {name} = {value}"));
    node.files.iter().map(outside).chain(params.map(param)).chain(numerics).collect()
}
