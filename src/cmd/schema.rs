//! `palinode schema`: the JSON Schema of pipelines, from the kinds, for editors.

use palinode_engine::schema;

use crate::{
    exit::Exit,
    output::{Failure, out},
};

pub(crate) fn schema() -> Result<Exit, Failure> {
    out(&text())
}

/// As it is written to a file.
pub(crate) fn text() -> String {
    format!("{:#}\n", schema::of_pipelines(&super::registry()))
}
