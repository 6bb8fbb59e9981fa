//! What fuzz targets call: each takes any bytes whatever, and panics only if a promise is broken.

use std::{io, path::Path, sync::Arc};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    address::{Reference, written},
    context::Context,
    expand::load_with,
    overrides::Overrides,
    registry::Registry,
    stage::{InputPort, Kind, Of, OutputPort, PathParam, PortType, StageError},
};

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Params {
    #[serde(default)]
    value: Value,
    #[serde(default)]
    count: Option<u32>,
    #[serde(default)]
    files: Vec<PathParam>,
}

struct Make;
impl Kind for Make {
    type Params = Params;
    const NAME: &'static str = "make";
    const ABOUT: &'static str = "Makes.";
    const REVISION: u32 = 1;
    fn inputs() -> Vec<InputPort> {
        vec![]
    }
    fn outputs() -> Vec<OutputPort> {
        vec![OutputPort::new("data", PortType::Dataset, ""), OutputPort::new("model", PortType::Model, "")]
    }
    fn run(_: Params, _: &Context<'_>) -> Result<(), StageError> {
        Ok(())
    }
}

struct Take;
impl Kind for Take {
    type Params = Params;
    const NAME: &'static str = "take";
    const ABOUT: &'static str = "Takes.";
    const REVISION: u32 = 1;
    fn inputs() -> Vec<InputPort> {
        vec![InputPort::one("one", PortType::Dataset, ""), InputPort::table("all", PortType::Dataset, "").optional()]
    }
    fn outputs() -> Vec<OutputPort> {
        vec![OutputPort::new("data", PortType::Dataset, "")]
    }
    fn run(_: Params, _: &Context<'_>) -> Result<(), StageError> {
        Ok(())
    }
}

/// A pipeline; what follows a NUL byte is a file beside it, `base.yaml`. Whatever it is, there is a graph or a problem,
/// and each problem lies in its file and has words.
pub fn yaml(bytes: &[u8]) {
    let mut parts = bytes.splitn(2, |byte| *byte == 0);
    let own = parts.next().unwrap_or_default();
    let base = parts.next();
    if let Ok(text) = std::str::from_utf8(own) {
        crate::yaml::assert_agrees(text);
    }
    let read = |path: &Path| match (path.file_name().and_then(|name| name.to_str()), base) {
        (Some("p.yaml"), _) => Ok(own.to_vec()),
        (Some("base.yaml"), Some(base)) => Ok(base.to_vec()),
        _ => Err(io::Error::from(io::ErrorKind::NotFound)),
    };
    let registry =
        Registry::new([Arc::new(Of::<Make>::NEW) as Arc<dyn crate::stage::StageKind>, Arc::new(Of::<Take>::NEW)]);
    for profiles in [Vec::new(), vec!["small".to_owned()]] {
        let overrides = Overrides { profiles, ..Overrides::default() };
        match load_with(Path::new("p.yaml"), &registry, &overrides, &read) {
            Ok(graph) => {
                for node in &graph.order {
                    let address = graph.instance(*node).address.to_string();
                    let found = graph.named(&address);
                    assert!(found.is_ok_and(|found| found.contains(node)), "`{address}` is not found by its address");
                }
            }
            Err(problems) => {
                assert!(!problems.problems.is_empty(), "no graph, and no problem");
                for problem in &problems.problems {
                    assert!(!problem.message().is_empty() && !problem.label().is_empty());
                    let hint = problem.hint();
                    assert!(hint.is_none_or(|hint| !hint.is_empty()));
                    let file = problems.file_of(problem).expect("a problem has its file");
                    let span = problem.span.clone();
                    assert!(span.is_none_or(|span| file.text.get(span).is_some()), "{problem:?}");
                }
            }
        }
    }
}

/// An address: what is read can be written and read again, and so can each of its labels alone.
pub fn address(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(reference) = Reference::parse(text) {
        let coords = reference.coords.iter().map(|coord| {
            let labels: Vec<_> = coord.labels.iter().map(|label| written(label)).collect();
            let labels = labels.join(",");
            if coord.listed { format!("{}=[{labels}]", coord.axis) } else { format!("{}={labels}", coord.axis) }
        });
        let output = reference.output.as_ref().map_or(String::new(), |output| format!(".{output}"));
        let coords = coords.collect::<Vec<_>>().join(",");
        let coords = if coords.is_empty() { coords } else { format!("[{coords}]") };
        let again = format!("{}{output}{coords}", reference.stage);
        assert_eq!(Reference::parse(&again).as_ref(), Ok(&reference), "`{text}` became `{again}`");
    }
    let _ = crate::overrides::SetPath::parse(text);
}

/// A record file, or the body of one behind a checksum that fits: it is a record, which is written as it was read, or an error with words.
pub fn record(bytes: &[u8]) {
    one_record(bytes);
    one_record(&palinode_cache::seal_record(bytes));
}

fn one_record(bytes: &[u8]) {
    match palinode_cache::parse_record(bytes) {
        Ok(record) => {
            let written = record.to_bytes().expect("what was read can be written");
            let again = palinode_cache::parse_record(&written).expect("what was written can be read");
            assert_eq!(serde_json::to_value(&again).ok(), serde_json::to_value(&record).ok());
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
