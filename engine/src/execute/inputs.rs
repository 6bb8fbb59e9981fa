//! What a job reads: the results upstream, at the places where they lie now.

use std::collections::BTreeMap;

use palinode_cache::StoredOutput;
use petgraph::graph::NodeIndex;

use super::Dispatcher;
use crate::{
    graph::{Binding, Source},
    job::{InputFile, InputFiles, JobInput, JobRow},
    perform::NoResult,
    plan::Settled,
};

impl Dispatcher<'_> {
    /// What arrives at the ports of `node`, with the places where it lies now.
    pub(super) fn inputs(&self, node: NodeIndex) -> Result<BTreeMap<String, JobInput>, NoResult> {
        let files = |port: &str, source: &Source| -> Result<Option<InputFiles>, NoResult> {
            let Some(Settled::Done(result)) = self.planner.settled(source.node) else { return Ok(None) };
            result.output(&source.port).map(|output| self.locate(port, output)).transpose()
        };
        let mut inputs = BTreeMap::new();
        for (port, binding) in &self.graph.instance(node).inputs {
            let input = match binding {
                Binding::One(source) => files(port, source)?.map(JobInput::One),
                Binding::Table { rows, .. } => {
                    let row = |row: &crate::graph::TableRow| {
                        let input = row.source.as_ref().map(|source| files(port, source)).transpose()?.flatten();
                        Ok(JobRow { coords: row.coords.clone(), input })
                    };
                    Some(JobInput::Table(rows.iter().map(row).collect::<Result<_, NoResult>>()?))
                }
            };
            inputs.extend(input.map(|input| (port.clone(), input)));
        }
        let files = self.planner.files(node).into_iter();
        inputs.extend(files.map(|(port, (_, external))| (port, JobInput::One(InputFiles::outside(&external)))));
        Ok(inputs)
    }

    fn locate(&self, port: &str, output: &StoredOutput) -> Result<InputFiles, NoResult> {
        let mut files = BTreeMap::new();
        for (name, entry) in &output.files {
            let Some(path) = self.cache.locate(entry)? else {
                let message = format!("`{name}` of input `{port}` was lost or damaged during this run; run again");
                return Err(NoResult::failed(message));
            };
            files.insert(name.to_string(), InputFile { path, entry: *entry });
        }
        Ok(InputFiles { digest: output.tree, files })
    }
}
