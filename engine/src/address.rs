//! How instances are named in a file and on the command line: `stage`, `stage.output`, `stage[axis=label,axis=[a,b]]`.

use std::borrow::Cow;

use crate::axes::canonical_text;

/// A stage, perhaps one of its outputs, perhaps a part of its points.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reference {
    /// The stage's name (in a target, a pattern).
    pub(crate) stage: String,
    /// The output after the dot.
    pub(crate) output: Option<String>,
    /// What is between the brackets.
    pub(crate) coords: Vec<Coord>,
}

/// `axis=label` or `axis=[label,label]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Coord {
    pub(crate) axis: String,
    /// Canonical texts.
    pub(crate) labels: Vec<String>,
    /// Written as a list: keeps the axis.
    pub(crate) listed: bool,
}

impl Reference {
    /// Reads `stage.output[axis=label]`; what is wrong is told in a few words.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (name, coords) = match text.split_once('[') {
            None => (text, Vec::new()),
            Some((name, rest)) => {
                let inside = rest.strip_suffix(']').ok_or("the closing `]` is missing")?;
                (name, Cursor(inside).coords()?)
            }
        };
        let (stage, output) = match name.split_once('.') {
            None => (name, None),
            Some((stage, output)) => (stage, Some(output.trim().to_owned())),
        };
        let stage = stage.trim().to_owned();
        if stage.is_empty() {
            return Err("the stage's name is missing".to_owned());
        }
        Ok(Self { stage, output, coords })
    }
}

/// A label's canonical text as it is written between brackets: quoted where it would be read as something else.
pub(crate) fn written(label: &str) -> Cow<'_, str> {
    let word = label.starts_with(|c: char| c.is_ascii_alphabetic() || ('1'..='9').contains(&c))
        && label
            .bytes()
            .all(|b| b.is_ascii_digit() || (b.is_ascii_alphanumeric() && !label.as_bytes()[0].is_ascii_digit()));
    let plain =
        || !label.contains([',', '[', ']', '"', '\'']) && label.trim() == label && canonical_text(label) == label;
    if word || (!label.is_empty() && plain()) {
        Cow::Borrowed(label)
    } else if label.contains('"') {
        Cow::Owned(format!("'{}'", label.replace('\'', "''")))
    } else {
        Cow::Owned(format!("\"{label}\""))
    }
}

/// The rest of the text between the brackets.
struct Cursor<'a>(&'a str);

impl Cursor<'_> {
    fn coords(mut self) -> Result<Vec<Coord>, String> {
        let mut coords: Vec<Coord> = Vec::new();
        loop {
            let (axis, rest) = self.0.split_once('=').ok_or("`axis=label` expected between the brackets")?;
            let axis = axis.trim().to_owned();
            if coords.iter().any(|coord| coord.axis == axis) {
                return Err(format!("`{axis}` stands twice"));
            }
            self.0 = rest.trim_start();
            let (labels, listed) = match self.0.strip_prefix('[') {
                Some(rest) => {
                    self.0 = rest;
                    (self.list()?, true)
                }
                None => (vec![self.label()?], false),
            };
            coords.push(Coord { axis, labels, listed });
            self.0 = self.0.trim_start();
            if self.0.is_empty() {
                return Ok(coords);
            }
            self.0 = self.0.strip_prefix(',').ok_or("`,` expected between coordinates")?;
        }
    }

    fn list(&mut self) -> Result<Vec<String>, String> {
        let mut labels = Vec::new();
        loop {
            labels.push(self.label()?);
            if let Some(rest) = self.0.strip_prefix(',') {
                self.0 = rest;
            } else {
                self.0 = self.0.strip_prefix(']').ok_or("the closing `]` of a list of labels is missing")?;
                return Ok(labels);
            }
        }
    }

    /// A plain label, read as YAML does, or a quoted one, taken as it is; a quote in it is written twice.
    fn label(&mut self) -> Result<String, String> {
        let text = self.0.trim_start();
        if let Some(quote) = text.chars().next().filter(|c| matches!(c, '"' | '\'')) {
            let mut label = String::new();
            let mut rest = &text[1..];
            loop {
                let end = rest.find(quote).ok_or("a quote is not closed")?;
                label.push_str(&rest[..end]);
                rest = &rest[end + 1..];
                let Some(after) = rest.strip_prefix(quote) else { break };
                label.push(quote);
                rest = after;
            }
            self.0 = rest.trim_start();
            return Ok(label);
        }
        let end = text.find([',', ']']).unwrap_or(text.len());
        let label = text[..end].trim();
        self.0 = text[end..].trim_start();
        if label.is_empty() {
            return Err("a label is missing".to_owned());
        }
        Ok(canonical_text(label))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_read() {
        let whole = Reference::parse("tuned.model[rank=[2, full], rate=5e-5,name=\"a,b\"]").unwrap();
        assert_eq!((whole.stage.as_str(), whole.output.as_deref()), ("tuned", Some("model")));
        let coords: Vec<_> = whole.coords.iter().map(|c| (c.axis.as_str(), c.labels.join("|"), c.listed)).collect();
        assert_eq!(
            coords,
            [
                ("rank", "2|full".to_owned(), true),
                ("rate", "0.00005".to_owned(), false),
                ("name", "a,b".to_owned(), false)
            ]
        );
        assert_eq!(Reference::parse("base").unwrap().coords, []);
    }

    #[test]
    fn what_is_written_is_read_back() {
        let labels = [
            "2",
            "full",
            "0.00005",
            "5e-5",
            "a,b",
            "x[1]",
            "say \"hi\"",
            "it's",
            "007",
            " a ",
            "1e-20",
            "-3",
            "~",
            "",
            "a,\\n",
            "\"it's\", he said",
            "a,\u{c}",
        ];
        for label in labels {
            let text = format!("a[x={},y=1]", written(label));
            assert_eq!(Reference::parse(&text).unwrap().coords[0].labels, [label], "{text}");
        }
        assert_eq!(written("opt-1.3b"), "opt-1.3b");
        assert_eq!(written("5e-5"), "\"5e-5\"");
    }

    #[test]
    fn broken_references_are_told() {
        let cases = ["", "a[", "a[rank]", "a[rank=]", "a[rank=[2]", "a[rank=2,rank=3]", "a[rank=\"2]", "a[rank=[2]3]"];
        let told: Vec<_> = cases.iter().map(|text| Reference::parse(text).unwrap_err()).collect();
        insta::assert_snapshot!(told.join("\n"), @r"
        the stage's name is missing
        the closing `]` is missing
        `axis=label` expected between the brackets
        a label is missing
        the closing `]` of a list of labels is missing
        `rank` stands twice
        a quote is not closed
        `,` expected between coordinates
        ");
    }
}
