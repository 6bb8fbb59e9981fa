//! Axes: declared once, at the top, in order; their labels in one canonical form.

use std::collections::HashMap;

use serde_json::{Map, Number, Value};

use crate::{
    data::{describe, json},
    mistake::Mistake,
    problem::Report,
    source::Place,
};

/// A named axis.
#[derive(Debug, Clone, Default)]
pub(crate) struct Axis {
    pub(crate) name: String,
    pub(crate) labels: Vec<Label>,
    /// Canonical texts of the labels before a stronger layer replaced them.
    pub(crate) declared: Vec<String>,
    /// Who that was.
    pub(crate) replaced_by: String,
    /// It has a problem of its own, so that nothing else is said about those who use it.
    pub(crate) broken: bool,
    index: HashMap<String, usize>,
}

/// One label of an axis.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Label {
    /// Canonical text.
    pub(crate) text: String,
    /// Canonical value.
    pub(crate) value: Value,
    /// All fields, if it is a record.
    pub(crate) record: Option<Map<String, Value>>,
}

impl Axis {
    /// The place of a label by its canonical text.
    pub(crate) fn find(&self, text: &str) -> Option<usize> {
        self.index.get(text).copied()
    }

    /// The place of a label, or what to say of one that isn't there.
    pub(crate) fn label(&self, text: &str) -> Result<usize, Mistake> {
        self.find(text).ok_or_else(|| {
            let (axis, label) = (self.name.clone(), text.to_owned());
            if self.declared.iter().any(|declared| declared == text) {
                Mistake::LabelLeftOut { axis, label, by: self.replaced_by.clone() }
            } else {
                Mistake::UnknownLabel { axis, label, known: self.labels.iter().map(|l| l.text.clone()).collect() }
            }
        })
    }

    /// Reads the labels at `place`.
    pub(crate) fn read(name: &str, value: &serde_yaml::Value, place: &Place, report: &mut Report<'_>) -> Self {
        let problems = report.len();
        let mut axis = Self { name: name.to_owned(), ..Self::default() };
        match value {
            serde_yaml::Value::Sequence(items) => {
                if items.is_empty() {
                    report.at(place, Mistake::EmptyAxis { axis: name.to_owned() });
                }
                for (i, item) in items.iter().enumerate() {
                    axis.add(item, &place.to(i), report);
                }
            }
            other => report.at(
                place,
                Mistake::WrongType { what: format!("the axis `{name}`"), expected: "a list", found: describe(other) },
            ),
        }
        axis.broken = report.len() > problems;
        axis
    }

    fn add(&mut self, item: &serde_yaml::Value, place: &Place, report: &mut Report<'_>) {
        let axis = self.name.clone();
        let Some(item) = json(item, place, report) else { return };
        let (value, record, at) = match item {
            Value::Object(record) => match record.get("name") {
                Some(name) => (name.clone(), Some(record), place.to("name")),
                None => return report.at(place, Mistake::RecordName { axis }),
            },
            scalar => (scalar, None, place.clone()),
        };
        let Some((text, value)) = canonical(&value) else {
            return report.at(&at, Mistake::BadLabel { found: describe_json(&value) });
        };
        if let Some(first) = self.labels.first() {
            match (&first.record, &record) {
                (Some(first), Some(record)) => {
                    if let Some(difference) = difference(first, record) {
                        report.at(place, Mistake::RecordFields { axis: axis.clone(), difference });
                    }
                }
                (None, None) => {}
                _ => report.at(place, Mistake::MixedAxis { axis: axis.clone() }),
            }
        }
        if let Some(first) = self.find(&text) {
            let label = text;
            let same = self.labels[first].value == value;
            let mistake =
                if same { Mistake::DuplicateLabel { axis, label } } else { Mistake::LabelClash { axis, label } };
            return report.at(&at, mistake);
        }
        self.index.insert(text.clone(), self.labels.len());
        self.labels.push(Label { text, value, record });
    }
}

fn difference(first: &Map<String, Value>, other: &Map<String, Value>) -> Option<String> {
    let lacks = first.keys().find(|field| !other.contains_key(*field)).map(|field| format!("this one lacks `{field}`"));
    let adds =
        other.keys().find(|field| !first.contains_key(*field)).map(|field| format!("only this one has `{field}`"));
    lacks.or(adds)
}

/// A label's canonical text and value; `None` if it is not a scalar.
pub(crate) fn canonical(label: &Value) -> Option<(String, Value)> {
    match label {
        Value::String(text) => Some((text.clone(), label.clone())),
        Value::Bool(b) => Some((b.to_string(), label.clone())),
        Value::Number(number) => {
            let number = canonical_number(number);
            Some((number_text(&number), Value::Number(number)))
        }
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// A label's canonical text, from how it is written between brackets: `5e-5` is `0.00005`.
pub(crate) fn canonical_text(written: &str) -> String {
    let value = serde_yaml::from_str::<Value>(written).ok();
    value.as_ref().and_then(canonical).map_or_else(|| written.to_owned(), |(text, _)| text)
}

/// Floats without a fraction become integers.
fn canonical_number(number: &Number) -> Number {
    match number.as_f64() {
        Some(x) if number.is_f64() && x.fract() == 0.0 && x.abs() < 9.0e15 => Number::from(x as i64),
        _ => number.clone(),
    }
}

/// The shortest decimal text that gives the same number, without an exponent unless it were long.
pub(crate) fn number_text(number: &Number) -> String {
    match (number.is_f64(), canonical_number(number).as_f64()) {
        (true, Some(x)) if x != 0.0 && !(1e-7..1e16).contains(&x.abs()) => format!("{x:e}"),
        (true, Some(x)) => x.to_string(),
        _ => number.to_string(),
    }
}

fn describe_json(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a mapping".to_owned(),
        scalar => format!("`{scalar}`"),
    }
}
