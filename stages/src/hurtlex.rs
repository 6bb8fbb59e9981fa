//! HurtLex (Bassignana, Basile, Patti: "HurtLex: A Multilingual Lexicon of Words to Hurt", CLiC-it 2018): a lexicon of
//! lemmas, each `conservative` (hurtful in itself) or `inclusive` (also those that are hurtful in some contexts).

use palinode_engine::{
    context::Context,
    stage::{PathParam, StageError},
};
use serde::Deserialize;

use crate::records::only_file;

/// What is used of a row.
#[derive(Debug, Deserialize)]
pub(crate) struct Entry {
    pub(crate) lemma: String,
    pub(crate) level: String,
}

impl Entry {
    pub(crate) fn is_conservative(&self) -> bool {
        self.level == "conservative"
    }
}

/// The rows of the file behind `param`.
pub(crate) fn read(ctx: &Context<'_>, param: &PathParam) -> Result<Vec<Entry>, StageError> {
    let failed = |error: csv::Error| StageError::failed(format!("`{}` is not a HurtLex file: {error}", param.0));
    let path = only_file(ctx, param)?;
    let mut reader = csv::ReaderBuilder::new().delimiter(b'\t').quoting(false).from_path(path).map_err(failed)?;
    reader.deserialize().collect::<Result<_, _>>().map_err(failed)
}
