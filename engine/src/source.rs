//! Where each value of a file stands: values are read without positions, and a problem looks its place up here.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{Arc, OnceLock},
};

use compact_str::{CompactString, ToCompactString};

use crate::yaml;

/// A value, or its key, by path from the top of the file: `stages`, `tuned`, `with`, `rank`. Places below one place share
/// the way to it: nearly all that are made are never asked where they are.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    way: Option<Arc<Step>>,
    part: Part,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Step {
    above: Option<Arc<Step>>,
    segment: CompactString,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Part {
    Value,
    Key,
    /// The first occurrence of a text in the value.
    Text(String),
}

impl Place {
    /// The whole file.
    pub(crate) fn root() -> Self {
        Self { way: None, part: Part::Value }
    }

    /// The value under the key or index `segment`.
    pub(crate) fn to(&self, segment: impl ToCompactString) -> Self {
        let step = Step { above: self.way.clone(), segment: segment.to_compact_string() };
        Self { way: Some(Arc::new(step)), part: Part::Value }
    }

    /// The key instead of the value.
    pub(crate) fn key(&self) -> Self {
        Self { way: self.way.clone(), part: Part::Key }
    }

    /// `text` within the value.
    pub(crate) fn text(&self, text: impl Into<String>) -> Self {
        Self { way: self.way.clone(), part: Part::Text(text.into()) }
    }

    /// Keys and indices from the top.
    pub(crate) fn path(&self) -> Vec<String> {
        let steps = std::iter::successors(self.way.as_deref(), |step| step.above.as_deref());
        let mut path: Vec<_> = steps.map(|step| step.segment.to_string()).collect();
        path.reverse();
        path
    }

    /// The same part of the value that lies below `prefix`.
    pub(crate) fn under(&self, prefix: &[&str]) -> Self {
        let path = prefix.iter().map(|segment| (*segment).to_owned()).chain(self.path());
        self.with_path(path)
    }

    /// The same part of the value at `path`.
    pub(crate) fn with_path(&self, path: impl IntoIterator<Item = String>) -> Self {
        let below = |above, segment: String| Some(Arc::new(Step { above, segment: segment.into() }));
        Self { way: path.into_iter().fold(None, below), part: self.part.clone() }
    }
}

/// A file's text, and the places of its values: a tree in an arena, in which an alias shares its anchor's node.
#[derive(Debug, Default)]
pub(crate) struct Source {
    text: String,
    /// The byte at which each line starts.
    lines: Vec<usize>,
    /// Found when first asked for: nobody asks where values stand in a file with which nothing is wrong.
    places: OnceLock<Places>,
}

/// The places of a file's values.
#[derive(Debug, Default)]
pub(crate) struct Places {
    pub(crate) nodes: Vec<Node>,
    pub(crate) root: Option<usize>,
}

/// A value's place.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) span: Range<usize>,
    pub(crate) children: Children,
}

#[derive(Debug)]
pub(crate) enum Children {
    None,
    List(Vec<usize>),
    /// Entries, and which of them is first with a key.
    Map(Vec<Entry>, HashMap<String, usize>),
}

/// A key's place, and its value's node.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) span: Range<usize>,
    pub(crate) value: usize,
}

/// How far a file goes along a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reach {
    /// So many keys and indices are there.
    pub(crate) depth: usize,
    /// All of them.
    pub(crate) whole: bool,
    /// The path goes on below a list or a scalar: nothing weaker shows through.
    pub(crate) ends: bool,
}

impl Source {
    pub(crate) fn new(text: String) -> Self {
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(newline, _)| newline + 1)).collect();
        Self { text, lines, ..Self::default() }
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    fn places(&self) -> &Places {
        self.places.get_or_init(|| yaml::places(&self.text))
    }

    fn node(&self, node: usize) -> &Node {
        &self.places().nodes[node]
    }

    /// Line and column of the byte `offset`, from 1.
    pub(crate) fn position(&self, offset: usize) -> (Option<usize>, Option<usize>) {
        let line = self.lines.partition_point(|start| *start <= offset);
        let start = line.checked_sub(1).and_then(|line| self.lines.get(line));
        match start.and_then(|start| self.text.get(*start..offset)) {
            Some(before) => (Some(line), Some(before.chars().count() + 1)),
            None => (None, None),
        }
    }

    /// The byte at a line and column counted from 1, clamped to the text.
    pub(crate) fn offset(&self, line: usize, column: usize) -> usize {
        let start = self.lines.get(line.saturating_sub(1)).copied().unwrap_or(self.text.len());
        let rest = &self.text[start..];
        rest.char_indices().nth(column.saturating_sub(1)).map_or(self.text.len(), |(byte, _)| start + byte)
    }

    /// The bytes of `place`; of the deepest value on its path that the file has.
    pub(crate) fn span(&self, place: &Place) -> Option<Range<usize>> {
        let mut node = self.places().root?;
        let mut key = None;
        let mut found = true;
        for segment in &place.path() {
            match self.child(node, segment) {
                Some((entry, child)) => (node, key) = (child, entry.map(|entry| &entry.span).or(key)),
                None => {
                    found = false;
                    break;
                }
            }
        }
        let value = self.trimmed(&self.node(node).span);
        let long = self.text.get(value.clone()).is_none_or(|text| text.contains('\n'));
        match (&place.part, key) {
            (Part::Text(text), _) if found => {
                let inside = self.text.get(value.clone()).and_then(|slice| slice.find(text));
                Some(inside.map_or(value.clone(), |at| value.start + at..value.start + at + text.len()))
            }
            (Part::Key, Some(key)) => Some(key.clone()),
            (_, Some(key)) if !found || long => Some(key.clone()),
            (_, None) if long => {
                let line = self.text.get(value.clone()).and_then(|text| text.lines().next()).map_or(0, str::len);
                Some(value.start..value.start + line)
            }
            _ => Some(value),
        }
    }

    /// How far the values of this file go along `path`.
    pub(crate) fn reach(&self, path: &[String]) -> Reach {
        let Some(mut node) = self.places().root else { return Reach { depth: 0, whole: false, ends: false } };
        for (depth, segment) in path.iter().enumerate() {
            match self.child(node, segment) {
                Some((_, child)) => node = child,
                None => {
                    let ends = !matches!(self.node(node).children, Children::Map(..));
                    return Reach { depth, whole: false, ends };
                }
            }
        }
        Reach { depth: path.len(), whole: true, ends: false }
    }

    fn child(&self, node: usize, segment: &str) -> Option<(Option<&Entry>, usize)> {
        match &self.node(node).children {
            Children::None => None,
            Children::List(items) => items.get(segment.parse::<usize>().ok()?).map(|item| (None, *item)),
            Children::Map(entries, keys) => {
                let find = |key: &str| keys.get(key).and_then(|entry| entries.get(*entry));
                let own = find(segment).map(|entry| (Some(entry), entry.value));
                own.or_else(|| self.merged(find("<<")?, segment))
            }
        }
    }

    /// Looks behind a `<<`.
    fn merged(&self, merge: &Entry, segment: &str) -> Option<(Option<&Entry>, usize)> {
        match &self.node(merge.value).children {
            Children::None => None,
            Children::Map(..) => self.child(merge.value, segment),
            Children::List(maps) => maps.iter().find_map(|map| match &self.node(*map).children {
                Children::Map(..) => self.child(*map, segment),
                _ => None,
            }),
        }
    }

    /// Without the blank space that a block's end includes.
    fn trimmed(&self, span: &Range<usize>) -> Range<usize> {
        match self.text.get(span.clone()) {
            Some(text) => span.start..span.start + text.trim_end().len().max(usize::from(!text.is_empty())),
            None => span.clone(),
        }
    }
}
