//! The path in `--set params.a.b[0]=v`.

use std::fmt;

/// Keys and indices: `params.deep."a.b"[0]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SetPath(Vec<Step>);

/// One step of a path.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Step {
    /// Into a mapping.
    Key(String),
    /// Into a list, from 0.
    Index(usize),
}

impl Step {
    pub(crate) fn key(&self) -> Option<&str> {
        match self {
            Self::Key(key) => Some(key),
            Self::Index(_) => None,
        }
    }
}

impl SetPath {
    /// Reads the path in front of the first `=` that is not quoted, and gives what comes behind it. What is wrong is
    /// told in a few words; nothing, where there is no `=` or nothing before it.
    pub(crate) fn parse(set: &str) -> Result<(Self, &str), Option<String>> {
        if set.trim_start().starts_with('=') || !set.contains('=') {
            return Err(None);
        }
        let mut steps = Vec::new();
        let mut rest = set.trim_start();
        loop {
            let (step, after) = key(rest)?;
            steps.push(step);
            rest = after;
            while let Some(inside) = rest.strip_prefix('[') {
                let end = inside.find(']').ok_or_else(|| Some("the closing `]` of an index is missing".to_owned()))?;
                let index = inside[..end].trim();
                let parsed = index
                    .parse()
                    .map_err(|_| Some(format!("`[{index}]` is no index: write a whole number, 0 for the first")))?;
                steps.push(Step::Index(parsed));
                rest = &inside[end + 1..];
            }
            rest = rest.trim_start();
            if let Some(value) = rest.strip_prefix('=') {
                return Ok((Self(steps), value));
            }
            rest = rest.strip_prefix('.').ok_or_else(|| {
                Some(if rest.is_empty() {
                    "the `=` is missing".to_owned()
                } else {
                    format!("`.`, `[` or `=` expected before `{rest}`")
                })
            })?;
        }
    }

    pub(crate) fn steps(&self) -> &[Step] {
        &self.0
    }

    pub(crate) fn starts_with(&self, key: &str) -> bool {
        self.0.first().and_then(Step::key) == Some(key)
    }

    /// The steps as places name them.
    pub(crate) fn texts(&self) -> Vec<String> {
        let text = |step: &Step| match step {
            Step::Key(key) => key.clone(),
            Step::Index(index) => index.to_string(),
        };
        self.0.iter().map(text).collect()
    }

    /// The first `count` steps, as they are written.
    pub(crate) fn shown(&self, count: usize) -> String {
        Self(self.0[..count.min(self.0.len())].to_vec()).to_string()
    }

    /// The path that has `key` at `at`, where it ends.
    pub(crate) fn sibling(&self, at: usize, key: &str) -> String {
        let mut steps = self.0[..at].to_vec();
        steps.push(Step::Key(key.to_owned()));
        Self(steps).to_string()
    }
}

impl fmt::Display for SetPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, step) in self.0.iter().enumerate() {
            match step {
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Key(key) => {
                    let dot = if i == 0 { "" } else { "." };
                    let plain = !key.is_empty() && !key.contains(['.', '[', ']', '=', '"', '\'', ' ']);
                    let quote = if plain {
                        ""
                    } else if key.contains('"') {
                        "'"
                    } else {
                        "\""
                    };
                    write!(f, "{dot}{quote}{key}{quote}")?;
                }
            }
        }
        Ok(())
    }
}

/// One key, perhaps quoted, and what follows it.
fn key(text: &str) -> Result<(Step, &str), Option<String>> {
    let text = text.trim_start();
    if let Some(quote) = text.chars().next().filter(|c| matches!(c, '"' | '\'')) {
        let end = text[1..].find(quote).ok_or_else(|| Some("a quote is not closed".to_owned()))?;
        return Ok((Step::Key(text[1..1 + end].to_owned()), &text[end + 2..]));
    }
    let end = text.find(['.', '[', '=']).unwrap_or(text.len());
    let key = text[..end].trim();
    if key.is_empty() {
        return Err(Some("a name is missing between the dots".to_owned()));
    }
    Ok((Step::Key(key.to_owned()), &text[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_and_written_back() {
        for (set, steps, value) in [
            ("params.x=1", "params|x", "1"),
            ("params.a.b[0]=v", "params|a|b|0", "v"),
            ("axes.model[1].source = ./x", "axes|model|1|source", " ./x"),
            ("params.\"a.b=c\"[0][12]=", "params|a.b=c|0|12", ""),
            ("stages.a.with.text=k=v", "stages|a|with|text", "k=v"),
        ] {
            let (path, rest) = SetPath::parse(set).unwrap();
            assert_eq!((path.texts().join("|"), rest), (steps.to_owned(), value), "{set}");
            assert_eq!(SetPath::parse(&format!("{path}={rest}")).unwrap().0, path, "{set}");
        }
    }

    #[test]
    fn what_is_no_path_is_told() {
        let told = [
            "x",
            "=1",
            "params.=1",
            "params.a[=1",
            "params.a[x]=1",
            "params.a[-1]=1",
            "params.\"a=1",
            "params.a[0]b=1",
        ]
        .map(|set| SetPath::parse(set).unwrap_err().unwrap_or_else(|| "-".to_owned()));
        insta::assert_snapshot!(told.join("\n"), @r"
        -
        -
        a name is missing between the dots
        the closing `]` of an index is missing
        `[x]` is no index: write a whole number, 0 for the first
        `[-1]` is no index: write a whole number, 0 for the first
        a quote is not closed
        `.`, `[` or `=` expected before `b=1`
        ");
    }
}
