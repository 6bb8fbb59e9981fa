//! `dataset.imdb`: the Large Movie Review Dataset (Maas et al. 2011), as its folder `aclImdb` or as tables.

use std::{borrow::Cow, collections::BTreeMap, fs, path::Path};

use palinode_engine::{
    context::Context,
    stage::{InputPort, Kind, OutputPort, ParamProblem, PathParam, StageError},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Parts, Raw,
    collect::{Each, collect},
    faults::Faults,
    read::{Column, Table, own_name},
};
use crate::records::Part;

/// The kind.
pub(crate) struct Imdb;

/// `with` of `dataset.imdb`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Params {
    /// The folder `aclImdb`, with `train/pos`, `train/neg`, `test/pos` and `test/neg`. Its reviews without labels are
    /// not read.
    #[serde(default)]
    folder: Option<PathParam>,
    /// Or a table of the training part (TSV, CSV or JSON Lines, also `.zst` or `.gz`, or Parquet) with columns `text` (or
    /// `review`) and `label` (or `sentiment`): `neg`, `negative` or `0`, `pos`, `positive` or `1`.
    #[serde(default)]
    train: Option<PathParam>,
    /// The table of the test part.
    #[serde(default)]
    test: Option<PathParam>,
    /// The share of the training part that becomes the validation part: the data set has none.
    #[serde(default)]
    validation_share: Option<f64>,
    /// Put a space where reviews have `<br />`.
    #[serde(default = "yes")]
    strip_breaks: bool,
    /// Most examples of a part, drawn at random; all by default.
    #[serde(default)]
    take: BTreeMap<Part, usize>,
    /// Seeds what is drawn.
    #[serde(default)]
    seed: u64,
}

fn yes() -> bool {
    true
}

impl Params {
    fn parts(&self) -> Parts<'_> {
        Parts { take: &self.take, validation_share: self.validation_share, seed: self.seed }
    }

    fn clean<'t>(&self, text: &'t str) -> Cow<'t, str> {
        match self.strip_breaks && text.contains("<br />") {
            true => text.replace("<br /><br />", "<br />").replace("<br />", " ").into(),
            false => text.into(),
        }
    }
}

/// Part, and class, of a review's place in the folder: `train/pos/0_9.txt`.
fn place(relative: &str) -> Option<(Part, &'static str)> {
    let mut parts = relative.split('/');
    let place = match (parts.next()?, parts.next()?) {
        ("train", "pos") => (Part::Train, "positive"),
        ("train", "neg") => (Part::Train, "negative"),
        ("test", "pos") => (Part::Test, "positive"),
        ("test", "neg") => (Part::Test, "negative"),
        _ => return None,
    };
    (parts.next()?.ends_with(".txt") && parts.next().is_none()).then_some(place)
}

impl Kind for Imdb {
    type Params = Params;
    const NAME: &'static str = "dataset.imdb";
    const ABOUT: &'static str = "Reads IMDb's movie reviews, negative or positive: the folder aclImdb, or tables.";
    const REVISION: u32 = 1;

    fn inputs() -> Vec<InputPort> {
        Vec::new()
    }

    fn outputs() -> Vec<OutputPort> {
        super::outputs()
    }

    fn reads(param: &str, relative: &str) -> bool {
        param != "folder" || place(relative).is_some()
    }

    fn check(params: &Params) -> Vec<ParamProblem> {
        let mut problems = params.parts().problems(false);
        let tables = params.train.is_some() || params.test.is_some();
        if params.folder.is_some() && tables {
            let problem = ParamProblem::new("folder", "the reviews come from tables already");
            problems.push(problem.hint("give the folder, or `train` and `test`"));
        }
        if params.folder.is_none() && params.train.is_none() {
            let problem = ParamProblem::new("folder", "nothing says where the reviews are");
            problems.push(problem.hint("give `folder` (aclImdb), or the tables `train` and `test`"));
        }
        problems
    }

    fn run(params: Params, ctx: &Context<'_>) -> Result<(), StageError> {
        if let Some(folder) = &params.folder {
            let files = ctx.files(folder)?;
            return collect(ctx, &params.parts(), &|faults, each| {
                for (name, file) in &files.files {
                    params.review(name, &file.path, faults, each)?;
                }
                Ok(())
            });
        }
        let mut tables = Vec::new();
        for (part, path) in [(Part::Train, &params.train), (Part::Test, &params.test)] {
            let Some(path) = path else { continue };
            let folder = || StageError::failed(format!("`{}` is a folder; give aclImdb as `folder`", path.0));
            tables.push((part, ctx.files(path)?.single().ok_or_else(folder)?));
        }
        collect(ctx, &params.parts(), &|faults, each| {
            for &(part, (name, path)) in &tables {
                let table = Table { name: own_name(name, path), path, format: None, header: true };
                params.table(&table, part, faults, each)?;
            }
            Ok(())
        })
    }
}

impl Params {
    fn review(&self, name: &str, path: &Path, faults: &mut Faults, each: &mut Each<'_>) -> Result<(), StageError> {
        let Some((part, label)) = place(name) else { return Ok(()) };
        let bytes = fs::read(path).map_err(StageError::io(path))?;
        let Ok(text) = String::from_utf8(bytes) else {
            faults.add(name, 0, "not UTF-8");
            return Ok(());
        };
        let id = name.strip_suffix(".txt").unwrap_or(name).to_owned();
        each(Raw { file: name, line: 0, id, text: self.clean(&text).trim(), label, group: None, part })
    }

    fn table(&self, table: &Table<'_>, part: Part, faults: &mut Faults, each: &mut Each<'_>) -> Result<(), StageError> {
        let named = |names: [&'static str; 2]| Column { names: names.to_vec(), optional: false };
        let columns = [named(["text", "review"]), named(["label", "sentiment"])];
        let mut wrong = Faults::default();
        let mut row = 0;
        table.each(&columns, faults, &mut |line, cells| {
            row += 1;
            let label = match cells[1].map(str::trim) {
                Some("neg" | "negative" | "0") => "negative",
                Some("pos" | "positive" | "1") => "positive",
                other => {
                    let other = other.unwrap_or("");
                    let what = format!(
                        "of the label `{other}`, which is none of `neg`, `negative`, `0`, `pos`, `positive`, `1`"
                    );
                    wrong.add(table.name, line, &what);
                    return Ok(());
                }
            };
            let text = self.clean(cells[0].unwrap_or(""));
            let id = format!("{}-{row}", part.name());
            each(Raw { file: table.name, line, id, text: text.trim(), label, group: None, part })
        })?;
        faults.append(wrong);
        Ok(())
    }
}
