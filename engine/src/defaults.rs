//! `defaults:`, what each stage of a kind has unless it says otherwise.

use globset::Glob;
use serde_yaml::{Mapping, Value};

use crate::{
    data::{describe, key_text},
    mistake::Mistake,
    overlay::{At, Files, Found},
    params::Schema,
    problem::Report,
    registry::Registry,
    source::Place,
};

/// What may have a default.
pub(crate) const DEFAULTS: [&str; 4] = ["with", "resources", "retries", "timeout"];

/// Gives each stage of `whole` what it lacks, and notes who gave it.
pub(crate) fn apply(whole: &mut Value, files: &mut Files, found: &mut Vec<Found>) {
    let Some(defaults) = whole.get_mut("defaults").map(std::mem::take) else { return };
    let rules = read(&defaults, found);
    if let Some(Value::Mapping(stages)) = whole.get_mut("stages")
        && !rules.is_empty()
    {
        for (name, stage) in stages.iter_mut() {
            let (Some(name), Value::Mapping(stage)) = (name.as_str(), stage) else { continue };
            let Some(kind) = stage.get("uses").and_then(Value::as_str).map(str::to_owned) else { continue };
            let mine: Vec<_> = rules
                .iter()
                .filter(|rule| rule.glob.as_ref().map_or(rule.key == kind, |glob| glob.is_match(&kind)))
                .collect();
            // A key without a value says nothing, as elsewhere in a stage.
            stage.retain(|_, value| !value.is_null());
            for rule in &mine {
                fill(stage, &rule.gives);
            }
            if !mine.is_empty() {
                files.defaults.insert(name.to_owned(), mine.iter().map(|rule| rule.key.clone()).collect());
            }
        }
    }
    if let Value::Mapping(whole) = whole {
        whole.insert("defaults".into(), defaults);
    }
}

struct Rule {
    key: String,
    /// Where the key holds a `*`; else it is the name of a kind.
    glob: Option<globset::GlobMatcher>,
    gives: Mapping,
}

/// The rules, strong ones first: whole names, then patterns, the last one first.
fn read(defaults: &Value, found: &mut Vec<Found>) -> Vec<Rule> {
    let place = Place::root().to("defaults");
    let mut tell = |place: Place, mistake| found.push(Found { at: At::Whole(place), mistake });
    let wrong =
        |what: String, value: &Value| Mistake::WrongType { what, expected: "a mapping", found: describe(value) };
    let defaults = match defaults {
        Value::Null => return Vec::new(),
        Value::Mapping(defaults) => defaults,
        other => {
            tell(place, wrong("`defaults`".to_owned(), other));
            return Vec::new();
        }
    };
    let mut names = Vec::new();
    let mut globs = Vec::new();
    for (key, gives) in defaults {
        let Some(key) = key_text(key) else { continue };
        let place = place.to(&key);
        let mut gives = match gives {
            Value::Null => continue,
            Value::Mapping(gives) => gives.clone(),
            other => {
                tell(place, wrong(format!("the defaults of `{key}`"), other));
                continue;
            }
        };
        for key in gives.keys().filter_map(key_text).filter(|key| !DEFAULTS.contains(&key.as_str())) {
            let known = DEFAULTS.map(str::to_owned).to_vec();
            tell(place.to(&key).key(), Mistake::UnknownKey { key, within: "`defaults`", known });
        }
        // Told once here, not once more for each stage.
        gives.retain(|key, _| key.as_str().is_some_and(|key| DEFAULTS.contains(&key)));
        if !key.contains('*') {
            names.push(Rule { key, glob: None, gives });
            continue;
        }
        if gives.contains_key("with") {
            tell(place.to("with").key(), Mistake::DefaultsForAll { pattern: key.clone() });
            continue;
        }
        match Glob::new(&key) {
            Ok(glob) => globs.insert(0, Rule { key, glob: Some(glob.compile_matcher()), gives }),
            Err(error) => {
                let (what, name) = ("a pattern of kinds", format!("{key}` ({})", error.kind()));
                tell(place.key(), Mistake::BadName { what, name });
            }
        }
    }
    names.extend(globs);
    names
}

/// Adds what `own` lacks; what stands there, be it `null`, stays.
fn fill(own: &mut Mapping, weaker: &Mapping) {
    for (key, value) in weaker {
        match (own.get_mut(key), value) {
            (Some(Value::Mapping(own)), Value::Mapping(weaker)) => fill(own, weaker),
            (Some(_), _) => {}
            (None, value) => {
                own.insert(key.clone(), value.clone());
            }
        }
    }
}

/// Whether the kinds that `defaults` name are there, and have the params that are set for them.
pub(crate) fn check(whole: &Value, registry: &Registry, report: &mut Report<'_>) {
    let Some(Value::Mapping(defaults)) = whole.get("defaults") else { return };
    let place = Place::root().to("defaults");
    for (key, gives) in defaults {
        let Some(name) = key_text(key).filter(|key| !key.contains('*')) else { continue };
        let place = place.to(&name);
        let Some(kind) = registry.get(&name) else {
            let known = registry.iter().map(|kind| kind.name().to_owned()).collect();
            report.at(&place.key(), Mistake::UnknownKind { kind: name, known });
            continue;
        };
        let with = match gives.get("with") {
            None | Some(Value::Null) => continue,
            Some(Value::Mapping(with)) => with,
            Some(other) => {
                let (what, found) = ("`with`".to_owned(), describe(other));
                report.at(&place.to("with"), Mistake::WrongType { what, expected: "a mapping", found });
                continue;
            }
        };
        Schema::of(kind.as_ref()).check_known(
            &name,
            with.keys().filter_map(key_text).collect::<Vec<_>>().iter().map(String::as_str),
            &place.to("with"),
            report,
        );
    }
}
