//! Finds and parses every file of a pipeline, and puts their layers in order.

use std::{
    collections::{BTreeSet, HashMap},
    path::{Path, PathBuf},
};

use serde_yaml::Value;

use crate::{
    data::describe,
    mistake::Mistake,
    overlay::{
        Reader, Replaced,
        files::{At, File, Files, Found},
        layers::Layer,
        merge, profiles, with_option,
    },
    overrides::Overrides,
    source::Place,
    yaml,
};

/// More files of one pipeline are refused.
const MAX_FILES: usize = 64;

/// What was read.
#[derive(Default)]
pub(super) struct Gathered {
    pub(super) files: Files,
    pub(super) found: Vec<Found>,
    /// The names of all profiles.
    pub(super) profiles: Vec<String>,
    /// The parsed files; `None` where one can't be parsed.
    values: Vec<Option<Value>>,
    /// The mappings to lay over each other, beside the layers.
    parts: Vec<Part>,
}

/// A mapping of a file.
struct Part {
    file: usize,
    /// A profile of it, else the whole file.
    profile: Option<String>,
    /// It holds params alone.
    params: bool,
}

struct Gather<'a> {
    read: Reader<'a>,
    gathered: Gathered,
    by_path: HashMap<PathBuf, usize>,
    /// Files that extend each other, weak ones first.
    chain: Vec<usize>,
    /// Files whose bases are being looked for.
    open: Vec<usize>,
}

pub(super) fn gather(file: &Path, overrides: &Overrides, read: Reader<'_>) -> Gathered {
    let gathered = Gathered::default();
    let mut gather = Gather { read, gathered, by_path: HashMap::new(), chain: Vec::new(), open: Vec::new() };
    let main = gather.file(file, None);
    gather.extend(main);
    for file in gather.chain.clone() {
        gather.params_of(file, None);
        gather.part(file, None);
    }
    gather.name_profiles();
    for profile in &overrides.profiles {
        gather.profile(profile);
    }
    for params in &overrides.params {
        let option = format!("--params {}", params.display());
        let file = gather.file(&overrides.cwd.join(params), Some(option));
        gather.params(file);
    }
    profiles::check(&gather.chain, &gather.gathered.values, &mut gather.gathered.found);
    gather.gathered
}

impl Gather<'_> {
    /// Reads and parses a file, once. One that can't even be read is a problem of the `option` that names it.
    fn file(&mut self, path: &Path, option: Option<String>) -> usize {
        let canonical = path.canonicalize().or_else(|_| std::path::absolute(path)).unwrap_or_else(|_| path.to_owned());
        if let Some(file) = self.by_path.get(&canonical) {
            return *file;
        }
        let number = self.gathered.values.len();
        self.by_path.insert(canonical, number);
        let (source, unreadable) = yaml::read(path, self.read);
        let parsed = match unreadable {
            Some(found) => Err(vec![found]),
            None => yaml::parse(&source),
        };
        let value = match parsed {
            Ok(value) => Some(value),
            Err(found) => {
                for (span, mistake) in found {
                    let at = match &option {
                        Some(option) if matches!(mistake, Mistake::Unreadable { .. }) => At::Option(option.clone()),
                        _ => At::Span(number, span),
                    };
                    self.gathered.found.push(Found { at, mistake });
                }
                None
            }
        };
        self.gathered.files.files.push(File::new(path, source));
        self.gathered.values.push(value);
        number
    }

    /// Reads a file that `file` names at `place`.
    fn named(&mut self, file: usize, place: &Place, name: &str) -> Option<usize> {
        let path = self.gathered.files.files[file].folder.join(name);
        if self.gathered.values.len() >= MAX_FILES {
            self.tell(file, place, Mistake::TooManyFiles { limit: MAX_FILES });
            return None;
        }
        let before = (self.gathered.values.len(), self.gathered.found.len());
        let number = self.file(&path, None);
        // What can't be read is told where it is named, not as a problem of a file that isn't there.
        if before.0 == number
            && let Some(found) = self.gathered.found.get_mut(before.1)
            && let Mistake::Unreadable { error } = &found.mistake
        {
            let mistake = Mistake::NamedUnreadable {
                name: name.to_owned(),
                error: error.clone(),
                looked: path.display().to_string(),
            };
            *found = Found { at: At::Place(file, place.clone()), mistake };
        }
        Some(number)
    }

    fn tell(&mut self, file: usize, place: &Place, mistake: Mistake) {
        self.gathered.found.push(Found { at: At::Place(file, place.clone()), mistake });
    }

    /// Puts `file` into the chain, after all that it extends.
    fn extend(&mut self, file: usize) {
        if self.chain.contains(&file) {
            return;
        }
        self.open.push(file);
        let extends = self.gathered.values[file].as_ref().and_then(|value| value.get("extends")).cloned();
        let place = Place::root().to("extends");
        for (name, place) in self.names(file, "`extends`", extends.as_ref(), &place) {
            let Some(base) = self.named(file, &place, &name) else { continue };
            if let Some(start) = self.open.iter().position(|open| *open == base) {
                let path = |file: &usize| self.gathered.files.files[*file].path.display().to_string();
                let files = self.open[start..].iter().chain([&base]).map(path).collect();
                self.tell(file, &place, Mistake::ExtendsCycle { files });
            } else {
                self.extend(base);
            }
        }
        self.open.pop();
        if file != 0 {
            self.must_be_mapping(file, "a file that is extended");
        }
        self.chain.push(file);
    }

    /// One name, or a list of names.
    fn names(&mut self, file: usize, what: &str, value: Option<&Value>, place: &Place) -> Vec<(String, Place)> {
        let items = match value {
            None | Some(Value::Null) => return Vec::new(),
            Some(Value::Sequence(items)) => items.iter().enumerate().map(|(i, item)| (item, place.to(i))).collect(),
            Some(one) => vec![(one, place.clone())],
        };
        let mut names = Vec::new();
        for (item, place) in items {
            match item {
                Value::String(name) if !name.is_empty() => names.push((name.clone(), place)),
                other => {
                    let (what, expected) = (what.to_owned(), "the path of a file, or a list of them");
                    self.tell(file, &place, Mistake::WrongType { what, expected, found: describe(other) });
                }
            }
        }
        names
    }

    fn must_be_mapping(&mut self, file: usize, what: &str) -> bool {
        match &self.gathered.values[file] {
            Some(Value::Mapping(_)) => true,
            Some(other) => {
                let mistake =
                    Mistake::WrongType { what: what.to_owned(), expected: "a mapping", found: describe(other) };
                self.tell(file, &Place::root(), mistake);
                // Not to be laid over anything.
                self.gathered.values[file] = None;
                false
            }
            None => false,
        }
    }

    fn part(&mut self, file: usize, profile: Option<&str>) {
        let prefix = profile.map(|name| vec!["profiles".to_owned(), name.to_owned()]).unwrap_or_default();
        self.gathered.files.layers.push(Layer::of_file(file, prefix));
        self.gathered.parts.push(Part { file, profile: profile.map(str::to_owned), params: false });
    }

    fn params(&mut self, file: usize) {
        self.must_be_mapping(file, "a file of params");
        self.gathered.files.layers.push(Layer::of_params(file));
        self.gathered.parts.push(Part { file, profile: None, params: true });
    }

    /// `params: { from: ... }` of a file, or of a profile in it.
    fn params_of(&mut self, file: usize, profile: Option<&str>) {
        let mut place = Place::root();
        let mut value = self.gathered.values[file].as_ref();
        for key in profile.iter().flat_map(|name| ["profiles", *name]).chain(["params", "from"]) {
            place = place.to(key);
            value = value.and_then(|value| value.get(key));
        }
        let value = value.cloned();
        for (name, place) in self.names(file, "`params.from`", value.as_ref(), &place) {
            if let Some(params) = self.named(file, &place, &name) {
                self.params(params);
            }
        }
    }

    fn name_profiles(&mut self) {
        let values = self.chain.iter().filter_map(|file| self.gathered.values[*file].as_ref());
        let profiles = values.filter_map(|value| value.get("profiles"));
        let names: BTreeSet<_> = profiles.flat_map(profiles::names).collect();
        self.gathered.profiles = names.into_iter().collect();
    }

    /// The profile `name` of each file that has it.
    fn profile(&mut self, name: &str) {
        let profiles = |file: &usize| self.gathered.values[*file].as_ref().and_then(|value| value.get("profiles"));
        let with: Vec<usize> =
            self.chain.iter().copied().filter(|file| profiles(file).is_some_and(|p| p.get(name).is_some())).collect();
        if with.is_empty() && self.chain.iter().all(|file| self.gathered.values[*file].is_some()) {
            let mistake = Mistake::UnknownProfile { profile: name.to_owned(), known: self.gathered.profiles.clone() };
            self.gathered.found.push(with_option(format!("--profile {name}"), mistake));
        }
        for file in with {
            self.params_of(file, Some(name));
            self.part(file, Some(name));
        }
    }
}

impl Gathered {
    /// Lays all parts over each other; the parsed files are used up.
    pub(super) fn take_value(&mut self, replaced: &mut HashMap<String, Replaced>) -> Option<Value> {
        if self.values.iter().any(Option::is_none) {
            return None;
        }
        // The weakest is taken as it is: a pipeline of one file is not copied.
        let mut parts = std::mem::take(&mut self.parts).into_iter().enumerate().peekable();
        let plain = parts.peek().is_some_and(|(_, part)| !part.params) && self.files.is_plain();
        if plain {
            return self.values[0].take().map(merge::without_params_from);
        }
        let mut whole = Value::Mapping(serde_yaml::Mapping::new());
        let mut removed = Vec::new();
        for (layer, part) in parts {
            let Some(value) = &self.values[part.file] else { continue };
            let over = match &part.profile {
                Some(profile) => value.get("profiles").and_then(|profiles| profiles.get(profile)).cloned(),
                None => Some(value.clone()),
            };
            let Some(over) = over else { continue };
            if part.profile.is_none() {
                removed.extend(merge::removed(&over));
            }
            let by = match &part.profile {
                Some(profile) => format!("the profile `{profile}`"),
                None => format!("`{}`", self.files.files[part.file].path.display()),
            };
            let over = if part.params { merge::as_params(over) } else { merge::without_params_from(over) };
            let mut merge = merge::Merge { by, profile: part.profile.as_deref(), replaced, picked: Vec::new() };
            let problems = merge.lay(&mut whole, over);
            self.files.layers[layer].picked.extend(std::mem::take(&mut merge.picked));
            for (place, mistake) in problems {
                // What a file takes away from one that it extends is missing by intent.
                if matches!(&mistake, Mistake::ProfileUnknown { what, name, .. } if removed.contains(&(*what, name.clone())))
                {
                    continue;
                }
                let place = match &part.profile {
                    Some(profile) => place.under(&["profiles", profile]),
                    None => place,
                };
                self.found.push(Found { at: At::Place(part.file, place), mistake });
            }
        }
        Some(whole)
    }
}
