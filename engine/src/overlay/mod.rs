//! One pipeline out of several layers: the file, what it extends, params from files, profiles, the command line.
//!
//! From weak to strong: what `extends` names < the file < `--profile`, in the order given < `--params`, in the order
//! given < `--set`. In each file `params: { from: ... }` is weaker than what stands beside it. Mappings are laid over
//! each other key by key; anything else replaces what was there. Which layer gave a value is looked up only when
//! somebody asks: for a problem's place, or for the folder that a path is relative to.

mod files;
mod gather;
mod layers;
mod merge;
mod profiles;

use std::{collections::HashMap, path::Path};

use serde_yaml::Value;

use crate::{
    defaults,
    mistake::Mistake,
    overrides::{self, Overrides},
};

pub(crate) use files::{At, Files, Found};
pub(crate) use layers::{Layer, Located};

/// How the text of a file is had: a test or a fuzz target has none on disk.
pub(crate) type Reader<'a> = &'a dyn Fn(&Path) -> std::io::Result<Vec<u8>>;

/// All layers as one value.
pub(crate) struct Overlaid {
    /// Who gave what.
    pub(crate) files: Files,
    /// `None` where a file can't be parsed.
    pub(crate) value: Option<Value>,
    /// Axes whose labels a layer replaced: what was there before, and who replaced it.
    pub(crate) replaced: HashMap<String, Replaced>,
    /// The names of the profiles that there are.
    pub(crate) profiles: Vec<String>,
    /// What was wrong on the way.
    pub(crate) found: Vec<Found>,
}

/// An axis before its labels were replaced.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Replaced {
    pub(crate) before: Value,
    /// In words: `--set`, "the profile `small`", a file.
    pub(crate) by: String,
}

/// Reads `file` and all that it is laid over with.
pub(crate) fn overlay(file: &Path, overrides: &Overrides, read: Reader<'_>) -> Overlaid {
    let mut gathered = gather::gather(file, overrides, read);
    let mut replaced = HashMap::new();
    let mut value = gathered.take_value(&mut replaced);
    let gather::Gathered { mut files, mut found, profiles, .. } = gathered;
    if let Some(value) = &mut value {
        for about_defaults in [true, false] {
            overrides::apply(value, overrides, about_defaults, &mut files, &mut replaced, &mut found);
            if about_defaults {
                defaults::apply(value, &mut files, &mut found);
            }
        }
    }
    Overlaid { files, value, replaced, profiles, found }
}

/// A problem with an option of the command line.
fn with_option(option: String, mistake: Mistake) -> Found {
    Found { at: At::Option(option), mistake }
}
