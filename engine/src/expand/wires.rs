//! Links the inputs of stages to ports, and checks their types.

use std::{borrow::Cow, path::Path, sync::Arc};

use super::{Expansion, Fields};
use crate::{
    mistake::Mistake,
    problem::Report,
    spec::{InputSpec, StageSpec},
    stage::{InputPort, OutputPort, PortType, StageKind},
};

/// An input whose port and source are known.
pub(crate) struct Wire<'a> {
    pub(crate) input: &'a InputSpec,
    pub(super) port: &'a InputPort,
    /// Number of the stage that it comes from.
    pub(crate) stage: usize,
    pub(super) output: Arc<str>,
}

/// The input ports of a stage: those of its kind, and for an open kind whatever else the stage names.
pub(super) fn inputs(kind: Option<&Arc<dyn StageKind>>, stage: &StageSpec) -> Vec<InputPort> {
    let Some(kind) = kind else { return Vec::new() };
    let mut ports = kind.inputs();
    if kind.open_inputs() {
        let open = |name: &String| InputPort {
            name: Cow::Owned(name.clone()),
            accepts: PortType::Any,
            optional: true,
            gathers: true,
            about: "",
        };
        let unknown: Vec<_> = stage.inputs.iter().filter(|input| ports.iter().all(|p| p.name != input.port)).collect();
        let files = stage.files.iter().filter(|files| ports.iter().all(|p| p.name != files.port));
        let names: Vec<_> =
            unknown.into_iter().map(|input| &input.port).chain(files.map(|files| &files.port)).collect();
        ports.reserve_exact(names.len());
        ports.extend(names.into_iter().map(open));
    }
    ports
}

/// The output ports of a stage.
pub(super) fn outputs(kind: Option<&Arc<dyn StageKind>>, with: Option<&Fields>) -> Vec<OutputPort> {
    let param = |name: &str| with.and_then(|with| with.get(name));
    kind.map(|kind| kind.outputs_of(&param)).unwrap_or_default()
}

impl Expansion<'_> {
    /// Links the inputs of a stage to ports; whether all of it, its kind too, could be.
    pub(super) fn wires(&self, number: usize, report: &mut Report<'_>) -> (Vec<Wire<'_>>, bool) {
        let (_, stage) = self.stage(number);
        let Some(uses) = &stage.uses else { return (Vec::new(), false) };
        let Some(kind) = self.kinds[number] else {
            let known = self.registry.iter().map(|kind| kind.name().to_owned()).collect();
            report.at(&stage.place.to("uses"), Mistake::UnknownKind { kind: uses.clone(), known });
            let find = |input: &InputSpec| self.spec.stages.get_index_of(&input.link.stage).is_none();
            stage.inputs.iter().filter(|input| find(input)).for_each(|input| self.unknown_stage(input, report));
            return (Vec::new(), false);
        };
        let ports = &self.ports[number];
        let mut wires = Vec::with_capacity(stage.inputs.len());
        for input in &stage.inputs {
            if report.is_full() {
                break;
            }
            let port = ports.iter().find(|port| port.name == input.port);
            if port.is_none() {
                let known = ports.iter().map(|port| port.name.to_string()).collect();
                let (kind, port) = (kind.name().to_owned(), input.port.clone());
                report.at(&input.place.key(), Mistake::UnknownPort { kind, port, known });
            }
            wires.extend(self.wire(input, port, report));
        }
        if kind.open_inputs() {
            self.check_open_names(stage, report);
        }
        let files_sound = self.check_files(stage, ports, kind.name(), report);
        if stage.inputs_sound {
            let linked = |port: &&InputPort| {
                stage.inputs.iter().any(|input| input.port == port.name)
                    || stage.files.iter().any(|files| files.port == port.name)
            };
            for port in ports.iter().filter(|port| !port.optional && !linked(port)) {
                let (kind, accepts) = (kind.name().to_owned(), type_words(port.accepts));
                let mistake = Mistake::UnlinkedPort {
                    kind,
                    port: port.name.to_string(),
                    accepts,
                    givers: self.givers(port.accepts),
                };
                report.at(&stage.place.to("inputs").key(), mistake);
            }
        }
        let sound = wires.len() == stage.inputs.len() && stage.inputs_sound && files_sound;
        (wires, sound)
    }

    fn unknown_stage(&self, input: &InputSpec, report: &mut Report<'_>) {
        let known = self.spec.stages.keys().cloned().collect();
        let name = input.link.stage.clone();
        let there = |folder: &Path| folder.join(&input.text).exists();
        let file = report.folder(&input.at).is_some_and(there).then(|| input.text.clone());
        report.at(&input.at.text(name.clone()), Mistake::UnknownStage { name, known, file });
    }

    fn wire<'b>(
        &'b self,
        input: &'b InputSpec,
        port: Option<&'b InputPort>,
        report: &mut Report<'_>,
    ) -> Option<Wire<'b>> {
        let Some(stage) = self.spec.stages.get_index_of(&input.link.stage) else {
            self.unknown_stage(input, report);
            return None;
        };
        let outputs = &self.outputs[stage];
        if outputs.is_empty() {
            // Its kind is unknown, or its outputs can't be read: which is told there.
            return None;
        }
        let wanted = input.link.output.as_deref();
        // Outputs that a file declares have no first one: of several, only the type can choose.
        let declared = self.kinds[stage].is_some_and(|kind| kind.outputs().is_empty());
        if wanted.is_none() && declared && outputs.len() > 1 {
            let takes = |output: &&OutputPort| port.is_some_and(|port| port.accepts.takes(output.gives));
            let mut fitting = outputs.iter().filter(takes);
            if let (Some(port), Some(output), None) = (port, fitting.next(), fitting.next()) {
                return Some(Wire { input, port, stage, output: Arc::from(&*output.name) });
            }
            let known = outputs.iter().map(|output| format!("{}.{}", input.link.stage, output.name)).collect();
            report.at(&input.at, Mistake::WhichOutput { stage: input.link.stage.clone(), known });
            return None;
        }
        let Some(output) = outputs.iter().find(|output| wanted.is_none_or(|wanted| output.name == wanted)) else {
            let known = outputs.iter().map(|output| output.name.to_string()).collect();
            let (stage, output) = (input.link.stage.clone(), wanted.unwrap_or("(any)").to_owned());
            report.at(&input.at.text(output.clone()), Mistake::UnknownOutput { stage, output, known });
            return None;
        };
        let port = port?;
        if !port.accepts.takes(output.gives) {
            let (accepts, gives) = (type_words(port.accepts), type_words(output.gives));
            let link = format!("{}.{}", input.link.stage, output.name);
            let givers = self.givers(port.accepts);
            report.at(&input.at, Mistake::PortType { port: port.name.to_string(), accepts, link, gives, givers });
        }
        Some(Wire { input, port, stage, output: Arc::from(&*output.name) })
    }

    /// What in this file gives `wanted`.
    fn givers(&self, wanted: PortType) -> Vec<String> {
        let stages = self.spec.stages.keys().zip(&self.outputs);
        let of = |(stage, outputs): (&String, &Vec<OutputPort>)| {
            let place = outputs.iter().position(|output| output.gives == wanted)?;
            Some(if place == 0 { stage.clone() } else { format!("{stage}.{}", outputs[place].name) })
        };
        stages.filter_map(of).collect()
    }
}

pub(crate) fn type_words(port: PortType) -> String {
    let name = serde_json::to_value(port).ok().and_then(|value| value.as_str().map(str::to_owned));
    format!("`{}`", name.unwrap_or_default())
}
