//! Links between stages: each input to a port of its kind and an output of another stage, by name and type.

use std::sync::Arc;

use crate::{
    mistake::Mistake,
    problem::Report,
    spec::InputSpec,
    stage::{InputPort, PortType, StageKind},
};

use super::{Expansion, Wire};

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
        let mut wires = Vec::new();
        for input in &stage.inputs {
            if report.is_full() {
                break;
            }
            let port = ports.iter().find(|port| port.name == input.port);
            if port.is_none() {
                let known = ports.iter().map(|port| port.name.to_owned()).collect();
                let (kind, port) = (kind.name().to_owned(), input.port.clone());
                report.at(&input.place.key(), Mistake::UnknownPort { kind, port, known });
            }
            wires.extend(self.wire(input, port, report));
        }
        if stage.inputs_sound {
            let linked = |port: &&InputPort| stage.inputs.iter().any(|input| input.port == port.name);
            for port in ports.iter().filter(|port| !port.optional && !linked(port)) {
                let (kind, accepts) = (kind.name().to_owned(), type_words(port.accepts));
                let mistake =
                    Mistake::UnlinkedPort { kind, port: port.name, accepts, givers: self.givers(port.accepts) };
                report.at(&stage.place.to("inputs").key(), mistake);
            }
        }
        let sound = wires.len() == stage.inputs.len() && stage.inputs_sound;
        (wires, sound)
    }

    fn unknown_stage(&self, input: &InputSpec, report: &mut Report<'_>) {
        let known = self.spec.stages.keys().cloned().collect();
        let name = input.link.stage.clone();
        report.at(&input.at.text(name.clone()), Mistake::UnknownStage { name, known });
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
        let outputs = self.kinds[stage]?.outputs();
        let wanted = input.link.output.as_deref();
        let Some(output) = outputs.iter().find(|output| wanted.is_none_or(|wanted| output.name == wanted)) else {
            let known = outputs.iter().map(|output| output.name.to_owned()).collect();
            let (stage, output) = (input.link.stage.clone(), wanted.unwrap_or("(any)").to_owned());
            report.at(&input.at.text(output.clone()), Mistake::UnknownOutput { stage, output, known });
            return None;
        };
        let port = port?;
        if port.accepts != output.gives {
            let (accepts, gives) = (type_words(port.accepts), type_words(output.gives));
            let link = format!("{}.{}", input.link.stage, output.name);
            let givers = self.givers(port.accepts);
            report.at(&input.at, Mistake::PortType { port: port.name, accepts, link, gives, givers });
        }
        Some(Wire { input, port, stage, output: output.name })
    }

    /// What in this file gives `wanted`.
    fn givers(&self, wanted: PortType) -> Vec<String> {
        let stages = self.spec.stages.keys().zip(&self.kinds);
        let of = |(stage, kind): (&String, &Option<&Arc<dyn StageKind>>)| {
            let outputs = kind.map(|kind| kind.outputs()).unwrap_or_default();
            let place = outputs.iter().position(|output| output.gives == wanted)?;
            Some(if place == 0 { stage.clone() } else { format!("{stage}.{}", outputs[place].name) })
        };
        stages.filter_map(of).collect()
    }
}

fn type_words(port: PortType) -> String {
    let name = serde_json::to_value(port).ok().and_then(|value| value.as_str().map(str::to_owned));
    format!("`{}`", name.unwrap_or_default())
}
