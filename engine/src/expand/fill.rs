//! A stage's `with` at each of its points, and its instances.

use std::{
    collections::{HashMap, HashSet},
    rc::Rc,
    sync::Arc,
};

use indexmap::IndexMap;
use petgraph::graph::DiGraph;
use serde_json::Value;

use crate::{
    graph::{Address, Binding, Instance},
    mistake::Mistake,
    params::{Filled, Folders, With},
    points::Points,
    problem::Report,
    spec::StageSpec,
    stage::StageKind,
    template::{Scope, Template},
};

use super::{
    Expansion, Fields,
    files::{FilesTemplate, Looked},
};

impl Expansion<'_> {
    /// Params and paths at each point. Points that differ only in axes which `with` doesn't use share them.
    pub(super) fn fill(
        &self,
        number: usize,
        with: Option<Fields>,
        own: &Points,
        complete: bool,
        folders: &mut Folders<'_>,
        report: &mut Report<'_>,
    ) -> Option<Vec<Rc<Filled>>> {
        let (_, stage) = self.stage(number);
        let (kind, with) = (self.kinds[number]?, with?);
        let gathered = own.gathered();
        let axes = &self.spec.axes;
        let scope = Scope { params: &self.spec.params, axes, own: &own.grid.axes, gathered: &gathered };
        let place = stage.place.to("with");
        let parse = |(name, value): (&String, &Value)| {
            Template::parse(value, &place.to(name), &scope, report).map(|template| (name.clone(), template))
        };
        let fields: Vec<_> = with.iter().map(parse).collect();
        let fields: Vec<_> = fields.into_iter().collect::<Option<_>>()?;
        let files: Vec<_> = stage.files.iter().map(|files| FilesTemplate::parse(files, &scope, report)).collect();
        let files: Vec<_> = files.into_iter().collect::<Option<_>>()?;
        let schema = &self.schemas[kind.name()];
        let ports = stage.inputs.iter().map(|input| &input.port).chain(stage.files.iter().map(|files| &files.port));
        let linked = ports.map(String::as_str).collect();
        let mut with = With { kind, schema, axes, fields, place, linked, complete, told: HashSet::new() };

        let mut used = with.used_axes();
        files.iter().for_each(|files| files.axes(&mut used));
        let used: Vec<usize> = used.into_iter().collect();
        let mut looked = Looked::new();
        let mut distinct: HashMap<Vec<usize>, Option<Rc<Filled>>> = HashMap::new();
        let mut filled = Vec::new();
        own.each(axes.len(), |at| {
            let key: Vec<_> = used.iter().map(|axis| at[*axis]).collect();
            let one = distinct.entry(key).or_insert_with(|| {
                let found: Vec<_> = files.iter().map(|files| files.fill(at, folders, &mut looked, report)).collect();
                let mut filled = with.fill(at, folders, report)?;
                filled.files = found.into_iter().collect::<Option<_>>()?;
                Some(Rc::new(filled))
            });
            filled.push(one.clone());
        });
        self.check_axes(stage, kind.unkeyed(), &used, &distinct, report);
        filled.into_iter().collect()
    }

    /// An axis that reaches no key of the stage which introduces it would be one result, told several times.
    fn check_axes(
        &self,
        stage: &StageSpec,
        unkeyed: &[&str],
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
                        !other.same_key(filled, unkeyed)
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
    pub(super) fn add(
        &self,
        dag: &mut DiGraph<Instance, String>,
        number: usize,
        kind: &Arc<dyn StageKind>,
        own: &Points,
        bindings: Vec<IndexMap<String, Binding>>,
        filled: Vec<Rc<Filled>>,
    ) {
        let (name, stage) = self.stage(number);
        let axes = &self.spec.axes;
        let mut content = bindings.into_iter().zip(filled);
        own.each(axes.len(), |at| {
            let Some((inputs, filled)) = content.next() else { return };
            // The last of those that share it takes it.
            let Filled { params, paths, files } = Rc::unwrap_or_clone(filled);
            let labels = own.grid.axes.iter().map(|axis| (&axes[*axis].name, &axes[*axis].labels[at[*axis]]));
            let mut resources = stage.resources.clone();
            resources.gpus = resources.gpus.max(kind.gpus(&params));
            let instance = Instance {
                address: Address {
                    stage: name.to_owned(),
                    coords: labels.clone().map(|(axis, label)| (axis.clone(), label.text.clone())).collect(),
                },
                coords: labels.map(|(axis, label)| (axis.clone(), label.value.clone())).collect(),
                kind: kind.clone(),
                params,
                paths,
                files,
                inputs,
                resources,
                attempts: stage.attempts.clone(),
            };
            let edges: Vec<_> = instance.links().map(|(port, node)| (port.to_owned(), node)).collect();
            let node = dag.add_node(instance);
            for (port, from) in edges.into_iter().filter(|(_, from)| from.index() < node.index()) {
                dag.add_edge(from, node, port);
            }
        });
    }
}
