//! `dataset.sst2`: the Stanford Sentiment Treebank in two classes, as GLUE has it (Socher et al. 2013; Wang et al. 2019):
//! a folder of `train.tsv`, `dev.tsv` and `test.tsv`.

use std::collections::BTreeMap;

use palinode_engine::{
    context::Context,
    stage::{InputPort, Kind, OutputPort, ParamProblem, PathParam, StageError},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Parts, Raw,
    collect::collect,
    faults::Faults,
    read::{Column, Format, Table},
};
use crate::records::Part;

/// The kind.
pub(crate) struct Sst2;

/// `with` of `dataset.sst2`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Params {
    /// The folder with `train.tsv`, `dev.tsv` and `test.tsv` (each may also be `.zst` or `.gz`). GLUE's own `test.tsv`
    /// has no labels; it is then left out.
    folder: PathParam,
    /// Most examples of a part, drawn at random; all by default.
    #[serde(default)]
    take: BTreeMap<Part, usize>,
    /// Seeds what is drawn.
    #[serde(default)]
    seed: u64,
}

const FILES: [(Part, &str); 3] = [(Part::Train, "train.tsv"), (Part::Validation, "dev.tsv"), (Part::Test, "test.tsv")];

impl Params {
    fn parts(&self) -> Parts<'_> {
        Parts { take: &self.take, validation_share: None, seed: self.seed }
    }
}

/// The name of a table without the ending of its compression.
fn stem(name: &str) -> &str {
    name.strip_suffix(".zst").or_else(|| name.strip_suffix(".gz")).unwrap_or(name)
}

impl Kind for Sst2 {
    type Params = Params;
    const NAME: &'static str = "dataset.sst2";
    const ABOUT: &'static str = "Reads SST-2 as GLUE has it: movie sentences, negative or positive.";
    const REVISION: u32 = 1;

    fn inputs() -> Vec<InputPort> {
        Vec::new()
    }

    fn outputs() -> Vec<OutputPort> {
        super::outputs()
    }

    fn reads(_: &str, relative: &str) -> bool {
        FILES.iter().any(|(_, file)| stem(relative) == *file)
    }

    fn check(params: &Params) -> Vec<ParamProblem> {
        params.parts().problems(false)
    }

    fn run(params: Params, ctx: &Context<'_>) -> Result<(), StageError> {
        let files = ctx.files(&params.folder)?;
        let mut tables = Vec::new();
        for (part, wanted) in FILES {
            let found: Vec<_> = files.files.iter().filter(|(name, _)| stem(name) == wanted).collect();
            match found[..] {
                [(name, file)] => tables.push((part, name, &file.path)),
                [] if part == Part::Train => {
                    return Err(StageError::failed("the folder has no train.tsv (nor train.tsv.zst or train.tsv.gz)"));
                }
                [] => ctx.warn(format!("the folder has no {wanted}: the part {} is empty", part.name())),
                [(one, _), (other, _), ..] => {
                    return Err(StageError::failed(format!("the folder holds both {one} and {other}: keep one")));
                }
            }
        }
        collect(ctx, &params.parts(), &|faults, each| {
            for (part, name, path) in &tables {
                let table = Table { name, path, format: Some(Format::Tsv), header: true };
                let text = Column { names: vec!["sentence", "content", "text"], optional: false };
                // Only of the test part may labels be missing: GLUE keeps them.
                let label = Column { names: vec!["label"], optional: *part == Part::Test };
                let mut wrong = Faults::default();
                let mut row = 0;
                let mut unlabelled = 0;
                table.each(&[text, label], faults, &mut |line, cells| {
                    row += 1;
                    let label = match cells[1].map(str::trim) {
                        Some("0") => "negative",
                        Some("1") => "positive",
                        None => {
                            unlabelled += 1;
                            return Ok(());
                        }
                        Some(other) => {
                            wrong.add(name, line, &format!("of the label `{other}`, which is none of `0`, `1`"));
                            return Ok(());
                        }
                    };
                    let id = format!("{}-{row}", part.name());
                    let text = cells[0].unwrap_or("").trim();
                    each(Raw { file: name, line, id, text, label, group: None, part: *part })
                })?;
                if unlabelled > 0 {
                    ctx.warn(format!("{name} has no labels (GLUE keeps them): {unlabelled} sentences were left out"));
                    ctx.summary("unlabelled", unlabelled);
                }
                faults.append(wrong);
            }
            Ok(())
        })
    }
}
