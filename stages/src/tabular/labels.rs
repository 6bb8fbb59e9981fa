//! Which labels of a table mean what.

use std::fmt;

use palinode_engine::stage::ParamProblem;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

/// A label as a table writes it: in YAML a text, a number or a truth value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(crate) struct LabelText(pub(crate) String);

// By hand: `toxic: [0, 1]` is what people write, and the table holds texts.
impl<'de> Deserialize<'de> for LabelText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = LabelText;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a label: a text, a number or a truth value")
            }
            fn visit_bool<E>(self, value: bool) -> Result<LabelText, E> {
                Ok(LabelText(value.to_string()))
            }
            fn visit_i64<E>(self, value: i64) -> Result<LabelText, E> {
                Ok(LabelText(value.to_string()))
            }
            fn visit_u64<E>(self, value: u64) -> Result<LabelText, E> {
                Ok(LabelText(value.to_string()))
            }
            fn visit_f64<E>(self, value: f64) -> Result<LabelText, E> {
                Ok(LabelText(value.to_string()))
            }
            fn visit_str<E>(self, value: &str) -> Result<LabelText, E> {
                Ok(LabelText(value.to_owned()))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for LabelText {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Label".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": ["string", "number", "boolean"] })
    }
}

/// What labels mean.
pub(crate) struct Meaning<'p> {
    pub(crate) toxic: &'p [LabelText],
    pub(crate) not_toxic: &'p [LabelText],
    pub(crate) unsure: &'p [LabelText],
    pub(crate) threshold: Option<f64>,
}

impl Meaning<'_> {
    pub(crate) fn problems(&self) -> Vec<ParamProblem> {
        let mut problems = Vec::new();
        let lists = [("toxic", self.toxic), ("not_toxic", self.not_toxic), ("unsure", self.unsure)];
        match self.threshold {
            Some(threshold) if !threshold.is_finite() => {
                problems.push(ParamProblem::new("threshold", format!("{threshold} is no number")));
            }
            Some(_) => {
                for (field, _) in lists[..2].iter().filter(|(_, list)| !list.is_empty()) {
                    problems.push(ParamProblem::new(field, "says nothing beside `threshold`").hint("give one of them"));
                }
            }
            None => {
                for (field, _) in lists[..2].iter().filter(|(_, list)| list.is_empty()) {
                    let problem = ParamProblem::new(field, "no label has this meaning");
                    problems.push(problem.hint("list the labels as the table writes them, or give `threshold`"));
                }
            }
        }
        for (at, (field, list)) in lists.iter().enumerate() {
            let other = |label: &LabelText| lists[..at].iter().find(|(_, list)| list.contains(label));
            if let Some((label, (other, _))) = list.iter().find_map(|label| Some((label, other(label)?))) {
                problems.push(ParamProblem::new(field, format!("`{}` is in `{other}` too", label.0)));
            }
        }
        problems
    }

    /// What a cell says; `None` for one that can't say.
    pub(crate) fn of(&self, cell: &str) -> Result<Option<bool>, String> {
        let cell = cell.trim();
        let number = cell.parse::<f64>().ok().filter(|number| number.is_finite());
        // 1, 1.0 and "1" are one label.
        let is = |label: &LabelText| label.0 == cell || number.is_some_and(|number| label.0.parse() == Ok(number));
        if self.unsure.iter().any(is) {
            return Ok(None);
        }
        if let Some(threshold) = self.threshold {
            return number
                .map(|number| Some(number >= threshold))
                .ok_or_else(|| format!("its label `{cell}` is no number"));
        }
        match (self.toxic.iter().any(is), self.not_toxic.iter().any(is)) {
            (true, _) => Ok(Some(true)),
            (_, true) => Ok(Some(false)),
            _ if cell.is_empty() => Err("its label is empty".to_owned()),
            _ => Err(format!("its label `{cell}` is in none of `toxic`, `not_toxic` and `unsure`")),
        }
    }
}
