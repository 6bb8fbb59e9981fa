//! Which layer gave a value: asked for a problem's place, and for the folder of a path.

use std::collections::BTreeSet;

use crate::{overlay::Files, source::Place};

/// A mapping that is laid over the weaker ones.
#[derive(Debug)]
pub(crate) struct Layer {
    from: From,
    /// Axes of which it only picked records by name: their content is of a weaker layer.
    pub(crate) picked: BTreeSet<String>,
}

#[derive(Debug)]
enum From {
    File {
        file: usize,
        /// Where in the file its mapping stands.
        prefix: Vec<String>,
        /// Where in the pipeline it is laid.
        mount: &'static [&'static str],
    },
    /// `--set`: its text and the path that it sets.
    Set { text: String, path: Vec<String> },
}

/// Who gave a value.
#[derive(Debug, PartialEq)]
pub(crate) enum Located<'a> {
    /// A file, and the place in it.
    File(usize, Place),
    /// An option of the command line.
    Option(&'a str),
}

impl Layer {
    /// The mapping at `prefix` in a file.
    pub(crate) fn of_file(file: usize, prefix: Vec<String>) -> Self {
        Self { from: From::File { file, prefix, mount: &[] }, picked: BTreeSet::new() }
    }

    /// A file of params.
    pub(crate) fn of_params(file: usize) -> Self {
        Self { from: From::File { file, prefix: Vec::new(), mount: &["params"] }, picked: BTreeSet::new() }
    }

    /// One `--set`, as text.
    pub(crate) fn of_set(text: String, path: Vec<String>) -> Self {
        Self { from: From::Set { text, path }, picked: BTreeSet::new() }
    }

    /// The file and the paths in it at which the value at `path` of the pipeline may stand.
    fn views(&self, path: &[String]) -> Option<(usize, Vec<Vec<String>>)> {
        let From::File { file, prefix, mount } = &self.from else { return None };
        let below = path.len() >= mount.len() && path.iter().zip(*mount).all(|(own, mount)| own == mount);
        let rest = below.then(|| &path[mount.len()..])?;
        let mut views = vec![[prefix, rest].concat()];
        // A profile's `resources` are laid over those of every stage.
        if let ([profiles, ..], [stages, _, resources, ..]) = (prefix.as_slice(), path)
            && (profiles, stages, resources) == (&"profiles".to_owned(), &"stages".to_owned(), &"resources".to_owned())
        {
            views.push([prefix, &path[2..]].concat());
        }
        Some((*file, views))
    }

    fn is_whole_file(&self) -> bool {
        matches!(&self.from, From::File { prefix, mount: [], .. } if prefix.is_empty())
    }
}

/// Whether the value at `place` was written in a `--set`.
pub(crate) fn is_set(files: &Files, place: &Place) -> bool {
    let path = &place.path()[..];
    let mine = |layer: &Layer| match &layer.from {
        From::Set { path: set, .. } => {
            path.starts_with(set) && !matches!(path, [axes, axis, ..] if axes == "axes" && layer.picked.contains(axis))
        }
        From::File { .. } => false,
    };
    files.layers.iter().any(mine)
}

/// The strongest layer that has `place`; of those that have only a part of its path, the one with most of it.
/// `content` asks for who wrote the value, where a stronger layer only picked it.
pub(crate) fn locate<'a>(files: &'a Files, place: &Place, content: bool) -> Located<'a> {
    let path = &place.path()[..];
    let mut best: Option<(usize, usize, Vec<String>)> = None;
    for layer in files.layers.iter().rev() {
        if content && matches!(path, [axes, axis, ..] if axes == "axes" && layer.picked.contains(axis)) {
            continue;
        }
        if let From::Set { text, path: set } = &layer.from {
            if path.starts_with(set) {
                return Located::Option(text);
            }
            continue;
        }
        if path.is_empty() && !layer.is_whole_file() {
            continue;
        }
        let Some((file, views)) = layer.views(path) else { continue };
        for view in views {
            let reach = files.files[file].source.reach(&view);
            if reach.whole || reach.ends {
                return Located::File(file, place.with_path(view));
            }
            let missing = view.len() - reach.depth;
            if best.as_ref().is_none_or(|(least, ..)| missing < *least) {
                best = Some((missing, file, view));
            }
        }
    }
    if let Some((file, view)) = from_defaults(files, path) {
        return Located::File(file, place.with_path(view));
    }
    // A path that only a `--set` has begun: a problem there is the set's.
    let set = files.layers.iter().rev().find_map(|layer| match &layer.from {
        From::Set { text, path: set } if set.starts_with(path) => Some(text),
        _ => None,
    });
    if let (Some(text), true) = (set, best.as_ref().is_none_or(|(missing, ..)| *missing > 0)) {
        return Located::Option(text);
    }
    match best {
        Some((_, file, view)) => Located::File(file, place.with_path(view)),
        None => Located::File(0, Place::root()),
    }
}

/// What a stage has from `defaults`.
fn from_defaults(files: &Files, path: &[String]) -> Option<(usize, Vec<String>)> {
    let [stages, stage, rest @ ..] = path else { return None };
    let keys = files.defaults.get(stage).filter(|_| stages == "stages")?;
    keys.iter().find_map(|key| {
        let path = [&["defaults".to_owned(), key.clone()], rest].concat();
        files.layers.iter().rev().find_map(|layer| {
            let (file, views) = layer.views(&path)?;
            let view = views.into_iter().next()?;
            let reach = files.files[file].source.reach(&view);
            (reach.whole || reach.ends && reach.depth + rest.len() > view.len()).then_some((file, view))
        })
    })
}
