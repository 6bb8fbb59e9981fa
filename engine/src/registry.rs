//! The stage kinds that a pipeline may use.

use std::{collections::BTreeMap, sync::Arc};

use crate::stage::StageKind;

/// Kinds by name.
#[derive(Clone, Default)]
pub struct Registry(BTreeMap<&'static str, Arc<dyn StageKind>>);

impl Registry {
    /// Of the one list of kinds; of two with the same name the later counts.
    pub fn new(kinds: impl IntoIterator<Item = Arc<dyn StageKind>>) -> Self {
        Self(kinds.into_iter().map(|kind| (kind.name(), kind)).collect())
    }

    /// The kind `name`.
    pub fn get(&self, name: &str) -> Option<&Arc<dyn StageKind>> {
        self.0.get(name)
    }

    /// All kinds, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<dyn StageKind>> {
        self.0.values()
    }
}
