//! Spec to graph: links ports, refuses cycles, expands axes, fills in params. One stage's problem hides none of
//! another's: a stage is expanded if what it depends on could be.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::Path,
    rc::Rc,
    sync::Arc,
};

use petgraph::graph::{DiGraph, NodeIndex};
use serde_json::Value;

use crate::{
    graph::{Address, Binding, Graph, Instance, Missing, Source, TableRow},
    mistake::Mistake,
    order::order,
    overrides::{self, Overrides},
    params::{Filled, Folders, Schema, With},
    points::{Bound, Link, MAX_POINTS, Points},
    problem::{Problems, Report},
    registry::Registry,
    spec::{InputSpec, Spec, StageSpec},
    stage::{InputPort, PortType, StageKind},
    template::{Scope, Template},
    yaml,
};

/// Reads a pipeline's file and expands it to a graph.
///
/// # Errors
/// All problems of the file, and of `overrides`.
pub fn load(file: &Path, registry: &Registry, overrides: &Overrides) -> Result<Graph, Problems> {
    let (mut source, unreadable) = yaml::read(file);
    let parsed = match unreadable {
        Some(found) => Err(vec![found]),
        None => yaml::parse(&mut source),
    };
    let mut report = Report::new(&source);
    let graph = match parsed {
        Err(found) => {
            found.into_iter().for_each(|(span, mistake)| report.spanned(span, mistake));
            None
        }
        Ok(mut value) => {
            let declared = overrides::apply(&mut value, overrides, &mut report);
            let spec = Spec::read(file, &value, &declared, &mut report);
            Expansion::new(&spec, registry).expand(file, &overrides.cwd, &mut report)
        }
    };
    report.finish(file)?;
    graph.ok_or_else(|| Problems { file: file.to_owned(), source: source.text().to_owned(), problems: Vec::new() })
}

/// An input whose port and source are known.
#[derive(Clone, Copy)]
pub(crate) struct Wire<'a> {
    pub(crate) input: &'a InputSpec,
    port: &'a InputPort,
    /// Number of the stage that it comes from.
    pub(crate) stage: usize,
    output: &'static str,
}

struct Expansion<'a> {
    spec: &'a Spec,
    kinds: Vec<Option<&'a Arc<dyn StageKind>>>,
    ports: Vec<Vec<InputPort>>,
    schemas: HashMap<&'a str, Schema>,
    registry: &'a Registry,
}

impl<'a> Expansion<'a> {
    fn new(spec: &'a Spec, registry: &'a Registry) -> Self {
        let kind = |stage: &StageSpec| stage.uses.as_deref().and_then(|name| registry.get(name));
        let kinds: Vec<_> = spec.stages.values().map(kind).collect();
        let ports = kinds.iter().map(|kind| kind.map(|kind| kind.inputs()).unwrap_or_default()).collect();
        let schemas = kinds.iter().flatten().map(|kind| (kind.name(), Schema::of(kind.as_ref()))).collect();
        Self { spec, kinds, ports, schemas, registry }
    }

    fn stage(&self, number: usize) -> (&'a str, &'a StageSpec) {
        let (name, stage) = self.spec.stages.get_index(number).expect("stages are numbered by their place");
        (name, stage)
    }

    fn expand(&self, file: &Path, command: &Path, report: &mut Report<'_>) -> Option<Graph> {
        let count = self.spec.stages.len();
        let mut wires = Vec::new();
        let mut sound = Vec::new();
        let mut complete = Vec::new();
        for number in 0..count {
            if report.is_full() {
                return None;
            }
            let (found, all) = self.wires(number, report);
            complete.push(self.check_with(number, report));
            wires.push(found);
            sound.push(all);
        }
        let order = order(&wires, &sound, self.spec, report);

        let absolute = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
        let folder = absolute.parent().unwrap_or(Path::new("/"));
        let mut folders = Folders { file: folder, command, exists: HashMap::new() };
        let mut points: Vec<Option<Points>> = (0..count).map(|_| None).collect();
        let mut dag: DiGraph<Instance, String> = DiGraph::new();
        let mut nodes = 0u32;
        for number in order {
            let (name, stage) = self.stage(number);
            let wires = &wires[number];
            let axes = &self.spec.axes;
            let links: Option<Vec<_>> = wires
                .iter()
                .map(|wire| Link::new(wire.input, wire.stage, points[wire.stage].as_ref()?, axes, report))
                .collect::<Vec<_>>()
                .into_iter()
                .collect();
            let (Some(links), true) = (links, stage.sound) else { continue };
            let Some(own) = Points::new(name, stage, &links, &points, axes, nodes, report) else { continue };
            let instances = nodes as usize + own.len();
            if instances > MAX_POINTS {
                let mistake = Mistake::TooManyInstances { stage: name.to_owned(), instances, limit: MAX_POINTS };
                report.at(&stage.place.key(), mistake);
                break;
            }
            nodes = instances as u32;
            let bindings = self.bindings(number, wires, &links, &own, &points, report);
            let filled = self.fill(number, &own, complete[number], &mut folders, report);
            if let (Some(bindings), Some(filled), Some(kind)) = (bindings, filled, self.kinds[number]) {
                self.add(&mut dag, number, kind, &own, bindings, &filled);
            }
            points[number] = Some(own);
        }
        let order = dag.node_indices().collect();
        (dag.node_count() == nodes as usize).then(|| Graph {
            pipeline: self.spec.name.clone(),
            file: file.to_owned(),
            dag,
            order,
        })
    }

    /// Links the inputs of a stage to ports; whether all of it, its kind too, could be.
    fn wires(&self, number: usize, report: &mut Report<'_>) -> (Vec<Wire<'_>>, bool) {
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

    fn check_with(&self, number: usize, report: &mut Report<'_>) -> bool {
        let (_, stage) = self.stage(number);
        match (self.kinds[number], &stage.with) {
            (Some(kind), Some(with)) => {
                self.schemas[kind.name()].check_names(kind.name(), with, &stage.place.to("with"), report)
            }
            _ => false,
        }
    }

    /// What is linked to each port at each point.
    fn bindings(
        &self,
        number: usize,
        wires: &[Wire<'_>],
        links: &[Link<'_>],
        own: &Points,
        points: &[Option<Points>],
        report: &mut Report<'_>,
    ) -> Option<Vec<BTreeMap<String, Binding>>> {
        let (name, stage) = self.stage(number);
        let axes = &self.spec.axes;
        let problems = report.len();
        let tables: Vec<_> = links.iter().map(|link| own.table(link)).collect();
        for (wire, table) in wires.iter().zip(&tables) {
            if !table.is_empty() && !wire.port.gathers {
                let names: Vec<_> = table.iter().map(|(axis, _)| axes[*axis].name.as_str()).collect();
                let mistake =
                    Mistake::TableToOne { port: wire.port.name, link: wire.input.text.clone(), axes: names.join(", ") };
                report.at(&wire.input.at, mistake);
            }
        }
        if report.len() > problems {
            return None;
        }
        let missing = stage.missing.unwrap_or_default();
        let coord = |(axis, label): (usize, usize)| (axes[axis].name.clone(), axes[axis].labels[label].value.clone());
        let mut bindings = Vec::new();
        let mut lacking: Vec<Vec<String>> = vec![Vec::new(); wires.len()];
        own.each(axes.len(), |at| {
            let mut ports = BTreeMap::new();
            for (((wire, link), table), lacking) in wires.iter().zip(links).zip(&tables).zip(&mut lacking) {
                let from = |node: u32| Source { node: NodeIndex::new(node as usize), port: wire.output };
                let Some(bound) = points[wire.stage].as_ref().and_then(|source| own.bind(link, table, source, at))
                else {
                    continue;
                };
                let binding = match bound {
                    Bound::One(node) => Binding::One(from(node)),
                    Bound::Table(rows) => {
                        let mut table = Vec::with_capacity(rows.len());
                        for (coords, node) in rows {
                            if node.is_none() && missing == Missing::Error {
                                let text = |(axis, label): &(usize, usize)| {
                                    format!("{}={}", axes[*axis].name, axes[*axis].labels[*label].text)
                                };
                                lacking.push(coords.iter().map(text).collect::<Vec<_>>().join(","));
                            }
                            let coords = coords.into_iter().map(coord).collect();
                            table.push(TableRow { coords, source: node.map(from) });
                        }
                        Binding::Table { rows: table, missing }
                    }
                };
                ports.insert(wire.port.name.to_owned(), binding);
            }
            bindings.push(ports);
        });
        for (wire, mut lacking) in wires.iter().zip(lacking).filter(|(_, lacking)| !lacking.is_empty()) {
            lacking.dedup();
            let shown: Vec<_> = lacking.iter().take(3).map(|point| format!("`{point}`")).collect();
            let more = if lacking.len() > 3 { format!(" and {} more", lacking.len() - 3) } else { String::new() };
            let place =
                if wire.input.gather.is_empty() { stage.place.to("gather") } else { wire.input.place.to("gather") };
            let (port, points) = (wire.input.port.clone(), format!("{}{more}", shown.join(", ")));
            report.at(&place, Mistake::MissingPoints { port, stage: name.to_owned(), points });
        }
        (report.len() == problems).then_some(bindings)
    }

    /// Params and paths at each point. Points that differ only in axes which `with` doesn't use share them.
    fn fill(
        &self,
        number: usize,
        own: &Points,
        complete: bool,
        folders: &mut Folders<'_>,
        report: &mut Report<'_>,
    ) -> Option<Vec<Rc<Filled>>> {
        let (_, stage) = self.stage(number);
        let (kind, with) = (self.kinds[number]?, stage.with.as_ref()?);
        let gathered = own.gathered();
        let axes = &self.spec.axes;
        let scope = Scope { params: &self.spec.params, axes, own: &own.grid.axes, gathered: &gathered };
        let place = stage.place.to("with");
        let parse = |(name, value): (&String, &Value)| {
            Template::parse(value, &place.to(name), &scope, report).map(|template| (name.clone(), template))
        };
        let fields: Vec<_> = with.iter().map(parse).collect();
        let fields: Vec<_> = fields.into_iter().collect::<Option<_>>()?;
        let schema = &self.schemas[kind.name()];
        let mut with = With { kind, schema, axes, fields, place, complete, told: HashSet::new() };

        let used: Vec<usize> = with.used_axes().into_iter().collect();
        let mut distinct: HashMap<Vec<usize>, Option<Rc<Filled>>> = HashMap::new();
        let mut filled = Vec::new();
        own.each(axes.len(), |at| {
            let key: Vec<_> = used.iter().map(|axis| at[*axis]).collect();
            let one = distinct.entry(key).or_insert_with(|| with.fill(at, folders, report).map(Rc::new));
            filled.push(one.clone());
        });
        self.check_axes(stage, &used, &distinct, report);
        filled.into_iter().collect()
    }

    /// An axis that reaches no key of the stage which introduces it would be one result, told several times.
    fn check_axes(
        &self,
        stage: &StageSpec,
        used: &[usize],
        distinct: &HashMap<Vec<usize>, Option<Rc<Filled>>>,
        report: &mut Report<'_>,
    ) {
        for (axis, place) in &stage.over {
            let Some(at) = used.iter().position(|used| self.spec.axes[*used].name == *axis) else {
                report.at(place, Mistake::AxisUnused { axis: axis.clone() });
                continue;
            };
            // Compares points that differ in this axis alone.
            let mut first: HashMap<Vec<usize>, &Filled> = HashMap::new();
            let mut compared = false;
            let differs = distinct.iter().any(|(key, filled)| {
                let Some(filled) = filled else { return true };
                let rest: Vec<_> = key.iter().enumerate().filter(|(i, _)| *i != at).map(|(_, label)| *label).collect();
                match first.get(&rest) {
                    Some(other) => {
                        compared = true;
                        **other != **filled
                    }
                    None => {
                        first.insert(rest, filled);
                        false
                    }
                }
            });
            if compared && !differs {
                report.at(place, Mistake::AxisWithoutEffect { axis: axis.clone() });
            }
        }
    }

    /// Adds the instances of a stage, whose producers are there.
    fn add(
        &self,
        dag: &mut DiGraph<Instance, String>,
        number: usize,
        kind: &Arc<dyn StageKind>,
        own: &Points,
        bindings: Vec<BTreeMap<String, Binding>>,
        filled: &[Rc<Filled>],
    ) {
        let (name, stage) = self.stage(number);
        let axes = &self.spec.axes;
        let mut content = bindings.into_iter().zip(filled);
        own.each(axes.len(), |at| {
            let Some((inputs, filled)) = content.next() else { return };
            let labels = own.grid.axes.iter().map(|axis| (&axes[*axis].name, &axes[*axis].labels[at[*axis]]));
            let instance = Instance {
                address: Address {
                    stage: name.to_owned(),
                    coords: labels.clone().map(|(axis, label)| (axis.clone(), label.text.clone())).collect(),
                },
                coords: labels.map(|(axis, label)| (axis.clone(), label.value.clone())).collect(),
                kind: kind.clone(),
                params: filled.params.clone(),
                paths: filled.paths.clone(),
                inputs,
                resources: stage.resources.clone(),
            };
            let edges: Vec<_> = instance.links().map(|(port, node)| (port.to_owned(), node)).collect();
            let node = dag.add_node(instance);
            for (port, from) in edges.into_iter().filter(|(_, from)| from.index() < node.index()) {
                dag.add_edge(from, node, port);
            }
        });
    }
}

fn type_words(port: PortType) -> String {
    let name = serde_json::to_value(port).ok().and_then(|value| value.as_str().map(str::to_owned));
    format!("`{}`", name.unwrap_or_default())
}

#[cfg(test)]
mod tests;
