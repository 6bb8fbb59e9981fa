//! YAML to plain data, and what to call it in a message.

use std::borrow::Cow;

use serde_json::{Map, Value as Json};
use serde_yaml::Value as Yaml;

use crate::{mistake::Mistake, problem::Report, source::Place};

/// YAML to plain data: no tags, no infinities, keys as text. All problems are told; then there is no value.
pub(crate) fn json(value: &Yaml, place: &Place, report: &mut Report<'_>) -> Option<Json> {
    sound(value).or_else(|| told(value, place, report))
}

/// Data with which nothing is wrong: where its parts stand need not be known.
fn sound(value: &Yaml) -> Option<Json> {
    Some(match value {
        Yaml::Null => Json::Null,
        Yaml::Bool(b) => Json::Bool(*b),
        Yaml::String(text) => Json::String(text.clone()),
        Yaml::Number(number) => Json::Number(finite(number)?),
        Yaml::Sequence(items) => Json::Array(items.iter().map(sound).collect::<Option<_>>()?),
        Yaml::Mapping(map) => {
            let field = |(key, value)| Some((key_text(key)?, sound(value)?));
            Json::Object(map.iter().map(field).collect::<Option<_>>()?)
        }
        Yaml::Tagged(_) => return None,
    })
}

fn finite(number: &serde_yaml::Number) -> Option<serde_json::Number> {
    let float = || number.as_f64().and_then(serde_json::Number::from_f64);
    let whole = number.as_i64().map(Into::into).or_else(|| number.as_u64().map(Into::into));
    whole.or_else(float)
}

/// The same, with all problems.
fn told(value: &Yaml, place: &Place, report: &mut Report<'_>) -> Option<Json> {
    let refused = |found: &str| Mistake::NotData { found: found.to_owned() };
    match value {
        Yaml::Null => Some(Json::Null),
        Yaml::Bool(b) => Some(Json::Bool(*b)),
        Yaml::String(text) => Some(Json::String(text.clone())),
        Yaml::Number(number) => {
            let found = finite(number).map(Json::Number);
            if found.is_none() {
                report.at(place, refused(&format!("the number `{number}`")));
            }
            found
        }
        Yaml::Sequence(items) => {
            let items: Vec<_> = items.iter().enumerate().map(|(i, item)| told(item, &place.to(i), report)).collect();
            items.into_iter().collect::<Option<Vec<_>>>().map(Json::Array)
        }
        Yaml::Mapping(map) => {
            let mut fields = Map::new();
            let mut sound = true;
            for (key, value) in map {
                let Some(key) = key_text(key) else {
                    report.at(place, refused(&format!("{} as a key", describe(key))));
                    sound = false;
                    continue;
                };
                match told(value, &place.to(&key), report) {
                    Some(value) => {
                        fields.insert(key, value);
                    }
                    None => sound = false,
                }
            }
            sound.then_some(Json::Object(fields))
        }
        Yaml::Tagged(tagged) => {
            report.at(place, refused(&format!("the tag `{}`", tagged.tag)));
            None
        }
    }
}

pub(crate) fn key_text(key: &Yaml) -> Option<String> {
    key_str(key).map(Cow::into_owned)
}

pub(crate) fn key_str(key: &Yaml) -> Option<Cow<'_, str>> {
    match key {
        Yaml::String(text) => Some(Cow::Borrowed(text)),
        Yaml::Number(number) => Some(Cow::Owned(number.to_string())),
        Yaml::Bool(b) => Some(Cow::Owned(b.to_string())),
        _ => None,
    }
}

/// Texts of params and axes are taken as they are: a template there would be a silent mistake.
pub(crate) fn no_templates(value: &Json, place: &Place, report: &mut Report<'_>) {
    match value {
        Json::String(text) if text.contains("${") && !text.contains("$${") => {
            report.at(&place.text("${"), Mistake::TemplateHere);
        }
        Json::Array(items) => {
            items.iter().enumerate().for_each(|(i, item)| no_templates(item, &place.to(i), report));
        }
        Json::Object(fields) => fields.iter().for_each(|(key, item)| no_templates(item, &place.to(key), report)),
        _ => {}
    }
}

/// What a value is, for people.
pub(crate) fn describe(value: &Yaml) -> String {
    match value {
        Yaml::Null => "null".to_owned(),
        Yaml::Bool(b) => format!("`{b}`"),
        Yaml::Number(number) => format!("the number `{number}`"),
        Yaml::String(text) => format!("the text `{}`", shortened(text)),
        Yaml::Sequence(_) => "a list".to_owned(),
        Yaml::Mapping(_) => "a mapping".to_owned(),
        Yaml::Tagged(tagged) => format!("a value with the tag `{}`", tagged.tag),
    }
}

/// At most 40 characters of `text`.
pub(crate) fn shortened(text: &str) -> String {
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}
