//! Laying one mapping over another: key by key, and anything else as a whole.

use std::collections::{HashMap, hash_map::Entry};

use serde_yaml::{Mapping, Value};

use crate::{mistake::Mistake, overlay::Replaced, overrides, source::Place};

/// What is known while a layer is laid.
pub(super) struct Merge<'a> {
    /// Who the layer is, in words.
    pub(super) by: String,
    /// The profile that it is.
    pub(super) profile: Option<&'a str>,
    pub(super) replaced: &'a mut HashMap<String, Replaced>,
    /// Axes of which it picked records by name.
    pub(super) picked: Vec<String>,
}

/// What `null` and lists mean at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Zone {
    Root,
    Axes,
    /// `stages` and `defaults`: mappings of mappings that hold a `with`.
    Stages,
    Stage,
    /// Values of the user's: `null` is one of them.
    Data,
    /// Where `null` takes away what a weaker layer has.
    Plain,
}

impl Zone {
    fn below(self, key: &str) -> Self {
        match (self, key) {
            (Self::Root, "params") | (Self::Stage, "with") | (Self::Data, _) => Self::Data,
            (Self::Root, "axes") => Self::Axes,
            (Self::Root, "stages" | "defaults") => Self::Stages,
            (Self::Stages, _) => Self::Stage,
            _ => Self::Plain,
        }
    }
}

impl Merge<'_> {
    /// Lays `over` over `whole`. Gives what is wrong with it, by place in `over`.
    pub(super) fn lay(&mut self, whole: &mut Value, mut over: Value) -> Vec<(Place, Mistake)> {
        let mut problems = Vec::new();
        if let Value::Mapping(top) = &mut over {
            top.remove("extends");
            top.remove("profiles");
            if self.profile.is_some() {
                self.only_known(whole, top, &mut problems);
                if let Some(resources) = top.remove("resources") {
                    for_all_stages(whole, &resources);
                }
            }
            if let Some(axes) = top.get_mut("axes") {
                self.axes(whole, axes, &mut problems);
            }
        }
        // A profile without content.
        if !over.is_null() {
            lay(whole, over, Zone::Root);
        }
        problems
    }

    /// Labels of an axis of records pick these by name; what an axis was before is kept for messages.
    fn axes(&mut self, whole: &Value, axes: &mut Value, problems: &mut Vec<(Place, Mistake)>) {
        let Value::Mapping(axes) = axes else { return };
        for (name, labels) in axes.iter_mut() {
            let Some(name) = name.as_str() else { continue };
            let Some(before) = whole.get("axes").and_then(|axes| axes.get(name)) else { continue };
            match overrides::pick(name, before, labels) {
                Ok((picked, picks)) => {
                    if picks {
                        self.picked.push(name.to_owned());
                    }
                    *labels = picked;
                    if let Entry::Vacant(entry) = self.replaced.entry(name.to_owned()) {
                        entry.insert(Replaced { before: before.clone(), by: self.by.clone() });
                    }
                }
                Err(mistake) => {
                    // What was there stays, so that nothing is said twice.
                    *labels = before.clone();
                    problems.push((Place::root().to("axes").to(name), mistake));
                }
            }
        }
    }

    /// A profile changes what the pipeline has: axes and stages that it names must be there.
    fn only_known(&self, whole: &Value, over: &mut Mapping, problems: &mut Vec<(Place, Mistake)>) {
        for (key, what) in [("axes", "axis"), ("stages", "stage")] {
            let known: Vec<String> = names(whole.get(key));
            let Some(Value::Mapping(named)) = over.get_mut(key) else { continue };
            let strange = |name: &&Value| name.as_str().is_none_or(|name| !contains(whole, key, name));
            for name in named.keys().filter(strange).cloned().collect::<Vec<_>>() {
                named.shift_remove(&name);
                let Some(name) = name.as_str().map(str::to_owned) else { continue };
                let place = Place::root().to(key).to(&name).key();
                problems.push((place, Mistake::ProfileUnknown { what, name, known: known.clone() }));
            }
        }
    }
}

/// The axes and stages that a file takes away: what they are, and their names.
pub(super) fn removed(over: &Value) -> Vec<(&'static str, String)> {
    let nulls = |(key, what)| {
        let named = over.get(key).and_then(Value::as_mapping).into_iter().flatten();
        named.filter(|(_, value)| value.is_null()).filter_map(move |(name, _)| Some((what, name.as_str()?.to_owned())))
    };
    [("axes", "axis"), ("stages", "stage")].into_iter().flat_map(nulls).collect()
}

fn contains(whole: &Value, key: &str, name: &str) -> bool {
    whole.get(key).is_some_and(|within| within.get(name).is_some())
}

fn names(value: Option<&Value>) -> Vec<String> {
    let map = value.and_then(Value::as_mapping);
    map.into_iter().flat_map(Mapping::keys).filter_map(Value::as_str).map(str::to_owned).collect()
}

fn for_all_stages(whole: &mut Value, resources: &Value) {
    let Some(Value::Mapping(stages)) = whole.get_mut("stages") else { return };
    for stage in stages.values_mut() {
        if let Value::Mapping(stage) = stage {
            let own = stage.entry("resources".into()).or_insert(Value::Null);
            lay(own, resources.clone(), Zone::Plain);
        }
    }
}

fn lay(base: &mut Value, over: Value, zone: Zone) {
    let (base, over) = match (base, over) {
        (Value::Mapping(base), Value::Mapping(over)) => (base, over),
        (base, over) => return *base = over,
    };
    for (key, value) in over {
        let below = zone.below(key.as_str().unwrap_or_default());
        if value.is_null() && zone != Zone::Data && base.contains_key(&key) {
            // Nothing said is not the same as taking away all params, axes or stages.
            if zone != Zone::Root {
                base.shift_remove(&key);
            }
            continue;
        }
        match base.get_mut(&key) {
            Some(own) => lay(own, value, below),
            None => {
                base.insert(key, value);
            }
        }
    }
}

/// A file of params as a pipeline that holds nothing else.
pub(super) fn as_params(params: Value) -> Value {
    Value::Mapping(Mapping::from_iter([("params".into(), params)]))
}

/// Without `params.from`, which has been followed.
pub(super) fn without_params_from(mut value: Value) -> Value {
    if let Some(Value::Mapping(params)) = value.get_mut("params") {
        params.shift_remove("from");
    }
    value
}
