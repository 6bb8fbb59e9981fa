//! Spec to graph: links ports, refuses cycles, expands axes, fills in params. One stage's problem hides none of
//! another's: a stage is expanded if what it depends on could be.

mod files;
mod fill;
mod wires;

pub(crate) use wires::{Wire, type_words};

use std::{collections::HashMap, path::Path, sync::Arc};

use indexmap::IndexMap;
use palinode_cache::Cache;
use petgraph::graph::{DiGraph, NodeIndex};

use crate::{
    defaults,
    graph::{Binding, Graph, Instance, Missing, Source, TableRow},
    lint::{self, Checked},
    mistake::Mistake,
    order::order,
    overlay::{Files, Overlaid, Reader, overlay},
    overrides::Overrides,
    params::{Folders, Schema},
    points::{Bound, Link, MAX_POINTS, Points},
    problem::{self, Problems, Report},
    registry::Registry,
    spec::{Spec, StageSpec, name_of},
    stage::{InputPort, OutputPort, StageKind},
    yaml,
};

/// Reads a pipeline's file and expands it to a graph.
///
/// # Errors
/// All problems of the file, and of `overrides`.
pub fn load(file: &Path, registry: &Registry, overrides: &Overrides) -> Result<Graph, Problems> {
    load_with(file, registry, overrides, &yaml::from_disk)
}

/// The same for whoever plans with `cache` next: it looks up results while the rest of the file is read.
///
/// # Errors
/// As for [`load`].
pub fn load_for(cache: &Cache, file: &Path, registry: &Registry, overrides: &Overrides) -> Result<Graph, Problems> {
    let named = |pipeline: &str| cache.look_ahead(pipeline);
    let checked = examine(file, registry, overrides, &yaml::from_disk, Some(&named), false);
    checked.graph.ok_or(checked.problems)
}

/// The same; files are had from `read`.
pub(crate) fn load_with(
    file: &Path,
    registry: &Registry,
    overrides: &Overrides,
    read: Reader<'_>,
) -> Result<Graph, Problems> {
    let checked = examine(file, registry, overrides, read, None, false);
    checked.graph.ok_or(checked.problems)
}

/// All problems and lints.
pub(crate) fn check(file: &Path, registry: &Registry, overrides: &Overrides) -> Checked {
    examine(file, registry, overrides, &yaml::from_disk, None, true)
}

/// `named` is told the pipeline's name as soon as that is known.
fn examine(
    file: &Path,
    registry: &Registry,
    overrides: &Overrides,
    read: Reader<'_>,
    named: Option<&dyn Fn(&str)>,
    lints: bool,
) -> Checked {
    let Overlaid { files, value, replaced, profiles, found } = overlay(file, overrides, read);
    let mut report = Report::new(&files);
    found.into_iter().for_each(|found| report.found(found));
    let mut graph = None;
    let mut findings = Vec::new();
    if let Some(mut value) = value {
        if let Some(named) = named {
            named(&name_of(&value, file));
        }
        defaults::check(&value, registry, &mut report);
        let mut spec = Spec::read(file, &mut value, lints, &replaced, &mut report);
        let mut withs: Vec<_> = spec.stages.values_mut().map(|stage| stage.with.take()).collect();
        let expansion = Expansion::new(&spec, &withs, registry);
        expansion.impose(&mut withs, &overrides.everywhere);
        graph = expansion.expand(withs, &files, &overrides.cwd, &mut report);
        if lints {
            findings = lint::lints(&value, &spec, &expansion, &files);
        }
    }
    let problems = report.finish(file);
    let graph = graph.filter(|_| problems.problems.is_empty());
    // Nobody asks for the texts where there is nothing to show in them.
    let texts = if findings.is_empty() { Vec::new() } else { problem::sources(&files) };
    Checked { graph, problems, findings, files: texts, profiles }
}

/// `with`, as declared.
type Fields = serde_json::Map<String, serde_json::Value>;

pub(crate) struct Expansion<'a> {
    spec: &'a Spec,
    kinds: Vec<Option<&'a Arc<dyn StageKind>>>,
    ports: Vec<Vec<InputPort>>,
    outputs: Vec<Vec<OutputPort>>,
    schemas: HashMap<&'a str, Schema>,
    registry: &'a Registry,
}

impl<'a> Expansion<'a> {
    fn new(spec: &'a Spec, withs: &[Option<Fields>], registry: &'a Registry) -> Self {
        let kind = |stage: &StageSpec| stage.uses.as_deref().and_then(|name| registry.get(name));
        let kinds: Vec<_> = spec.stages.values().map(kind).collect();
        let ports = kinds.iter().zip(spec.stages.values()).map(|(kind, stage)| wires::inputs(*kind, stage)).collect();
        let outputs = kinds.iter().zip(withs).map(|(kind, with)| wires::outputs(*kind, with.as_ref())).collect();
        let mut schemas = HashMap::new();
        for kind in kinds.iter().flatten() {
            // Once for each kind: thousands of stages may be of one.
            schemas.entry(kind.name()).or_insert_with(|| Schema::of(kind.as_ref()));
        }
        Self { spec, kinds, ports, outputs, schemas, registry }
    }

    /// Gives each stage whose kind has one of these params this value of it.
    fn impose(&self, withs: &mut [Option<Fields>], params: &[(String, serde_json::Value)]) {
        for (kind, with) in self.kinds.iter().zip(withs) {
            let (Some(kind), Some(with)) = (kind, with) else { continue };
            let own = params.iter().filter(|(name, _)| self.schemas[kind.name()].has(name));
            with.extend(own.map(|(name, value)| (name.clone(), value.clone())));
        }
    }

    /// What a stage gives.
    pub(crate) fn outputs(&self, number: usize) -> &[OutputPort] {
        &self.outputs[number]
    }

    fn stage(&self, number: usize) -> (&'a str, &'a StageSpec) {
        let (name, stage) = self.spec.stages.get_index(number).expect("stages are numbered by their place");
        (name, stage)
    }

    /// Each stage's `with` goes once it is filled in: together they are as large as the graph.
    fn expand(
        &self,
        mut withs: Vec<Option<Fields>>,
        files: &Files,
        command: &Path,
        report: &mut Report<'_>,
    ) -> Option<Graph> {
        let count = self.spec.stages.len();
        let mut wires = Vec::new();
        let mut sound = Vec::new();
        let mut complete = Vec::new();
        for (number, with) in withs.iter().enumerate() {
            if report.is_full() {
                return None;
            }
            let (found, all) = self.wires(number, report);
            complete.push(self.check_with(number, with.as_ref(), report));
            wires.push(found);
            sound.push(all);
        }
        let order = order(&wires, &sound, self.spec, report);

        let of_files = files.files.iter().map(|file| file.folder.as_path()).collect();
        let mut folders = Folders { files: of_files, command, exists: HashMap::new() };
        let mut points: Vec<Option<Points>> = (0..count).map(|_| None).collect();
        let mut dag: DiGraph<Instance, String> = DiGraph::with_capacity(count, count);
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
            let with = withs[number].take();
            let filled = self.fill(number, with, &own, complete[number], &mut folders, report);
            if let (Some(bindings), Some(filled), Some(kind)) = (bindings, filled, self.kinds[number]) {
                self.add(&mut dag, number, kind, &own, bindings, filled);
            }
            points[number] = Some(own);
        }
        let order = dag.node_indices().collect();
        (dag.node_count() == nodes as usize).then(|| Graph {
            pipeline: self.spec.name.clone(),
            file: files.files[0].path.clone(),
            dag,
            order,
        })
    }

    fn check_with(&self, number: usize, with: Option<&Fields>, report: &mut Report<'_>) -> bool {
        let (_, stage) = self.stage(number);
        match (self.kinds[number], with) {
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
    ) -> Option<Vec<IndexMap<String, Binding>>> {
        let (name, stage) = self.stage(number);
        let axes = &self.spec.axes;
        let problems = report.len();
        let tables: Vec<_> = links.iter().map(|link| own.table(link)).collect();
        for (wire, table) in wires.iter().zip(&tables) {
            if !table.is_empty() && !wire.port.gathers {
                let names: Vec<_> = table.iter().map(|(axis, _)| axes[*axis].name.as_str()).collect();
                let mistake = Mistake::TableToOne {
                    port: wire.port.name.to_string(),
                    link: wire.input.text.clone(),
                    axes: names.join(", "),
                };
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
            let mut ports = IndexMap::with_capacity(wires.len());
            for (((wire, link), table), lacking) in wires.iter().zip(links).zip(&tables).zip(&mut lacking) {
                let from = |node: u32| Source { node: NodeIndex::new(node as usize), port: wire.output.clone() };
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
                ports.insert(wire.port.name.to_string(), binding);
            }
            ports.sort_unstable_keys();
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
}

#[cfg(test)]
mod tests;
