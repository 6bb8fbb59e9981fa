//! `inputs`: what is linked to each port, another stage's result or files from outside.

use serde_json::Value as Json;
use serde_yaml::Value as Yaml;

use super::{mapping, names, unknown, wrong};
use crate::{address::Reference, data::json, mistake::Mistake, problem::Report, source::Place};

/// A result that is linked to a port.
pub(crate) struct InputSpec {
    pub(crate) port: String,
    pub(crate) place: Place,
    /// Where the link's text stands.
    pub(crate) at: Place,
    pub(crate) text: String,
    pub(crate) link: Reference,
    pub(crate) gather: Vec<(String, Place)>,
}

/// Files from outside that are linked to a port.
pub(crate) struct FilesSpec {
    pub(crate) port: String,
    pub(crate) place: Place,
    /// Where the paths stand.
    pub(crate) at: Place,
    /// A path, or a list of patterns; with templates.
    pub(crate) paths: Json,
    pub(crate) patterns: bool,
}

/// What is linked to a port.
pub(crate) enum Input {
    Link(InputSpec),
    Files(FilesSpec),
}

impl Input {
    pub(super) fn read(port: String, value: &Yaml, place: Place, report: &mut Report<'_>) -> Option<Self> {
        let (link, at, gather) = match value {
            Yaml::Mapping(_) if value.get("files").is_some() => return Self::patterns(port, value, place, report),
            Yaml::Mapping(_) => {
                let mut gather = Vec::new();
                for (key, value, place) in mapping("an input", value, &place, report) {
                    match &*key {
                        "from" => {}
                        "gather" => gather = names("`gather`", "gather", value, &place, report),
                        _ => report.at(&place.key(), unknown(key, "an input", &["from", "gather", "files"])),
                    }
                }
                let Some(from) = value.get("from") else {
                    report.at(&place.key(), Mistake::MissingKey { key: "from", within: "an input" });
                    return None;
                };
                (from, place.to("from"), gather)
            }
            other => (other, place.clone(), Vec::new()),
        };
        let Yaml::String(text) = link else {
            report.at(
                &at,
                wrong(&format!("the input `{port}`"), "a text like `stage`, `stage.output` or `./path`", link),
            );
            return None;
        };
        if is_path(text) && !value.is_mapping() {
            return Some(Self::Files(FilesSpec {
                port,
                place,
                at,
                paths: Json::String(text.clone()),
                patterns: false,
            }));
        }
        match Reference::parse(text) {
            Ok(link) => Some(Self::Link(InputSpec { port, place, at, text: text.clone(), link, gather })),
            Err(reason) => {
                report.at(&at, Mistake::BadLink { text: text.clone(), reason });
                None
            }
        }
    }

    fn patterns(port: String, value: &Yaml, place: Place, report: &mut Report<'_>) -> Option<Self> {
        let problems = report.len();
        let at = place.to("files");
        let mut paths = Json::Null;
        for (key, value, place) in mapping("an input", value, &place, report) {
            match (&*key, value) {
                ("files", Yaml::String(one)) => paths = Json::Array(vec![Json::String(one.clone())]),
                ("files", Yaml::Sequence(items)) if !items.is_empty() && items.iter().all(Yaml::is_string) => {
                    paths = json(value, &place, report)?;
                }
                ("files", other) => {
                    report.at(&place, wrong("`files`", "a pattern like `data/*.csv`, or a list of them", other));
                }
                _ => report.at(&place.key(), unknown(key, "an input of files", &["files"])),
            }
        }
        (report.len() == problems).then_some(Self::Files(FilesSpec { port, place, at, paths, patterns: true }))
    }
}

/// Whether a link's text is a path. A name of a stage holds neither `/` nor `$`.
fn is_path(text: &str) -> bool {
    text == "." || text == ".." || ["./", "../", "/"].iter().any(|start| text.starts_with(start)) || text.contains("${")
}
