//! `${params.x}`, `${axis}` and `${axis.field}` in `with`: parsed once per stage, filled in for each point.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::{
    axes::{Axis, number_text},
    mistake::Mistake,
    problem::Report,
    source::Place,
};

/// A value with its references resolved as far as the file alone allows: params are in, axes are open.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Template {
    Const(Value, Origin),
    /// A value by label of an axis.
    Axis(usize, Vec<(Value, Origin)>),
    Text(Vec<Piece>, Origin),
    List(Vec<Template>),
    Map(Vec<(String, Template)>),
}

/// A part of a text.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Piece {
    Text(String),
    Axis(usize, Vec<String>),
}

/// Who gave a value: a path is relative to the folder of the file, or to that in which the command was typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// One of the pipeline's files, by its number.
    File(usize),
    Command,
}

impl Origin {
    /// The pipeline's own file.
    pub(crate) const MAIN: Self = Self::File(0);
}

/// What a stage's templates may refer to.
pub(crate) struct Scope<'a> {
    pub(crate) params: &'a Value,
    pub(crate) axes: &'a [Axis],
    /// Axes of the stage.
    pub(crate) own: &'a [usize],
    /// Axes that it gathers.
    pub(crate) gathered: &'a [usize],
}

impl Template {
    /// Parses `value`, which stands at `place`; `None` where it has a problem, which `report` hears.
    pub(crate) fn parse(value: &Value, place: &Place, scope: &Scope<'_>, report: &mut Report<'_>) -> Option<Self> {
        match value {
            Value::String(text) => Self::parse_text(text, place, scope, report),
            Value::Array(items) => {
                let parse = |(i, item): (usize, &Value)| Self::parse(item, &place.to(i), scope, report);
                let items: Vec<_> = items.iter().enumerate().map(parse).collect();
                items.into_iter().collect::<Option<_>>().map(Self::List)
            }
            Value::Object(fields) => {
                let parse = |(name, field): (&String, &Value)| {
                    Some((name.clone(), Self::parse(field, &place.to(name), scope, report)?))
                };
                let fields: Vec<_> = fields.iter().map(parse).collect();
                fields.into_iter().collect::<Option<_>>().map(Self::Map)
            }
            scalar => Some(Self::Const(scalar.clone(), origin(place, report))),
        }
    }

    fn parse_text(text: &str, place: &Place, scope: &Scope<'_>, report: &mut Report<'_>) -> Option<Self> {
        let tokens = match tokens(text) {
            Ok(tokens) => tokens,
            Err(mistake) => {
                report.at(&place.text("${"), mistake);
                return None;
            }
        };
        if let [Token::Name(name)] = tokens.as_slice() {
            return scope.resolve(name, place, report);
        }
        let mut pieces = Vec::new();
        let mut sound = true;
        for token in tokens {
            match token {
                Token::Text(text) => pieces.push(Piece::Text(text)),
                Token::Name(name) => match scope.resolve(name, place, report) {
                    Some(template) => match template.piece(name) {
                        Ok(piece) => pieces.push(piece),
                        Err(mistake) => {
                            report.at(&place.text(format!("${{{name}}}")), mistake);
                            sound = false;
                        }
                    },
                    None => sound = false,
                },
            }
        }
        fn constant(piece: &Piece) -> Option<&str> {
            match piece {
                Piece::Text(text) => Some(text),
                Piece::Axis(..) => None,
            }
        }
        let origin = origin(place, report);
        sound.then(|| match pieces.iter().map(constant).collect::<Option<String>>() {
            Some(text) => Self::Const(Value::String(text), origin),
            None => Self::Text(pieces, origin),
        })
    }

    /// As a part of a text.
    fn piece(self, name: &str) -> Result<Piece, Mistake> {
        let text = |value: &Value| match value {
            Value::String(text) => Ok(text.clone()),
            Value::Number(number) => Ok(number_text(number)),
            Value::Bool(b) => Ok(b.to_string()),
            Value::Null => Err("null"),
            Value::Array(_) => Err("a list"),
            Value::Object(_) => Err("a mapping"),
        };
        let piece = match &self {
            Self::Const(value, _) => text(value).map(Piece::Text),
            Self::Axis(axis, values) => {
                let texts = values.iter().map(|(value, _)| text(value));
                texts.collect::<Result<_, _>>().map(|values| Piece::Axis(*axis, values))
            }
            Self::Text(..) => Err("a template"),
            Self::List(_) => Err("a list"),
            Self::Map(_) => Err("a mapping"),
        };
        piece.map_err(|found| Mistake::NotText { name: name.to_owned(), found })
    }

    /// The value at a point; `at` holds the place of the label for each axis of the pipeline.
    pub(crate) fn fill(&self, at: &[usize]) -> Value {
        match self {
            Self::Const(value, _) => value.clone(),
            Self::Axis(axis, values) => values[at[*axis]].0.clone(),
            Self::Text(pieces, _) => {
                let text = |piece: &Piece| match piece {
                    Piece::Text(text) => text.clone(),
                    Piece::Axis(axis, texts) => texts[at[*axis]].clone(),
                };
                Value::String(pieces.iter().map(text).collect())
            }
            Self::List(items) => Value::Array(items.iter().map(|item| item.fill(at)).collect()),
            Self::Map(fields) => {
                let fields = fields.iter().map(|(name, field)| (name.clone(), field.fill(at)));
                Value::Object(fields.collect::<Map<_, _>>())
            }
        }
    }

    /// Adds the axes that it refers to.
    pub(crate) fn axes(&self, found: &mut BTreeSet<usize>) {
        match self {
            Self::Const(..) => {}
            Self::Axis(axis, _) => {
                found.insert(*axis);
            }
            Self::Text(pieces, _) => found.extend(pieces.iter().filter_map(|piece| match piece {
                Piece::Text(_) => None,
                Piece::Axis(axis, _) => Some(*axis),
            })),
            Self::List(items) => items.iter().for_each(|item| item.axes(found)),
            Self::Map(fields) => fields.iter().for_each(|(_, field)| field.axes(found)),
        }
    }

    /// Who gave it at a point; of a list, its item `item`.
    pub(crate) fn origin(&self, item: Option<usize>, at: &[usize]) -> Origin {
        match self {
            Self::Const(_, origin) | Self::Text(_, origin) => *origin,
            Self::Axis(axis, values) => values[at[*axis]].1,
            Self::List(items) => item.and_then(|i| items.get(i)).map_or(Origin::MAIN, |item| item.origin(None, at)),
            Self::Map(_) => Origin::MAIN,
        }
    }

    /// A value of the user's as it is: each part with who gave it, where that can differ.
    fn constant(value: &Value, place: &Place, report: &Report<'_>) -> Self {
        match value {
            Value::Array(items) if !report.one_origin() => {
                let item = |(i, item)| Self::constant(item, &place.to(i), report);
                Self::List(items.iter().enumerate().map(item).collect())
            }
            Value::Object(fields) if !report.one_origin() => {
                let field =
                    |(name, field): (&String, &Value)| (name.clone(), Self::constant(field, &place.to(name), report));
                Self::Map(fields.iter().map(field).collect())
            }
            value => Self::Const(value.clone(), origin(place, report)),
        }
    }
}

fn origin(place: &Place, report: &Report<'_>) -> Origin {
    report.origin(place).map_or(Origin::Command, Origin::File)
}

impl Scope<'_> {
    /// What `${name}` stands for.
    fn resolve(&self, name: &str, place: &Place, report: &mut Report<'_>) -> Option<Template> {
        let found = self.look_up(name, report);
        found.map_err(|mistake| report.at(&place.text(format!("${{{name}}}")), mistake)).ok()
    }

    fn look_up(&self, name: &str, report: &Report<'_>) -> Result<Template, Mistake> {
        let unknown = |known| Mistake::UnknownName { name: name.to_owned(), known };
        let (head, fields) = match name.split_once('.') {
            Some((head, rest)) => (head, rest.split('.').collect()),
            None => (name, Vec::new()),
        };
        if head == "params" {
            let mut place = Place::root().to("params");
            let mut path = head.to_owned();
            let mut value = self.params;
            for field in fields {
                value = value.get(field).ok_or_else(|| unknown(names_in(value, &path)))?;
                place = place.to(field);
                path = format!("{path}.{field}");
            }
            return Ok(Template::constant(value, &place, report));
        }
        let Some(index) = self.axes.iter().position(|axis| axis.name == head) else {
            let mut known = names_in(self.params, "params");
            known.extend(self.own.iter().map(|axis| self.axes[*axis].name.clone()));
            return Err(unknown(known));
        };
        let axis = &self.axes[index];
        if self.gathered.contains(&index) {
            return Err(Mistake::GatheredAxis { axis: head.to_owned() });
        }
        if !self.own.contains(&index) {
            return Err(Mistake::AxisNotHere { axis: head.to_owned() });
        }
        let place = Place::root().to("axes").to(head);
        let mut values = Vec::new();
        for (i, label) in axis.labels.iter().enumerate() {
            let mut value = &label.value;
            for (depth, field) in fields.iter().enumerate() {
                let inside =
                    if depth == 0 { label.record.as_ref().and_then(|r| r.get(*field)) } else { value.get(*field) };
                value = inside.ok_or_else(|| Mistake::UnknownField {
                    name: name.to_owned(),
                    axis: head.to_owned(),
                    field: (*field).to_owned(),
                    known: label.record.iter().flat_map(|record| record.keys().cloned()).collect(),
                })?;
            }
            let place = fields.iter().fold(place.to(i), |place, field| place.to(field));
            values.push((value.clone(), origin(&place, report)));
        }
        Ok(Template::Axis(index, values))
    }
}

fn names_in(value: &Value, path: &str) -> Vec<String> {
    let fields = value.as_object();
    fields.into_iter().flat_map(|fields| fields.keys()).map(|field| format!("{path}.{field}")).collect()
}

/// The names between `${` and `}` in a text.
pub(crate) fn names(text: &str) -> Vec<&str> {
    let name = |token| match token {
        Token::Name(name) => Some(name),
        Token::Text(_) => None,
    };
    tokens(text).map(|tokens| tokens.into_iter().filter_map(name).collect()).unwrap_or_default()
}

enum Token<'a> {
    Text(String),
    Name(&'a str),
}

/// Splits a text at its `${...}`; `$${` is a literal `${`.
fn tokens(text: &str) -> Result<Vec<Token<'_>>, Mistake> {
    let mut tokens = Vec::new();
    let mut literal = String::new();
    let mut rest = text;
    while let Some(dollar) = rest.find("${") {
        if rest[..dollar].ends_with('$') {
            literal.push_str(&rest[..dollar - 1]);
            literal.push_str("${");
            rest = &rest[dollar + 2..];
            continue;
        }
        literal.push_str(&rest[..dollar]);
        let end = rest[dollar..].find('}').ok_or(Mistake::UnclosedTemplate)?;
        if !literal.is_empty() {
            tokens.push(Token::Text(std::mem::take(&mut literal)));
        }
        tokens.push(Token::Name(rest[dollar + 2..dollar + end].trim()));
        rest = &rest[dollar + end + 1..];
    }
    literal.push_str(rest);
    if !literal.is_empty() || tokens.is_empty() {
        tokens.push(Token::Text(literal));
    }
    Ok(tokens)
}
