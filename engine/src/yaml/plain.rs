//! The value of a text with which nothing is wrong and which has no anchors, aliases or tags, in one walk over its events.
//! Most are of this sort, and where their values stand need not be remembered, which takes more memory than the values;
//! nor need the events, which `serde_yaml` holds all at once.

use saphyr_parser::{Event, Parser, ScalarStyle};
use serde_yaml::{Mapping, Value};

use super::{MAX_DEPTH, MAX_VALUES};

/// `None` where it takes a closer look to say what it is, or what is wrong.
pub(super) fn value(text: &str) -> Option<Value> {
    // What the other parser refuses, or reads in a way of its own, such as a block that the end of the file breaks off.
    let odd = |c: char| c.is_control() && !matches!(c, '\t' | '\n' | '\r') || matches!(c, '\u{FEFF}'..='\u{FFFF}');
    if !text.ends_with('\n') || text.contains("<<") || text.contains(odd) {
        return None;
    }
    if let Some(halves) = Halves::of(text, LARGE)
        && let Some(value) = halves.value()
    {
        return Some(value);
    }
    walk(text).map(|(value, _)| value)
}

/// The value of `text`, and how many values are in it.
fn walk(text: &str) -> Option<(Value, usize)> {
    let (mut tree, mut documents) = (Tree::default(), 0);
    for event in Parser::new_from_str(text) {
        match event.ok()?.0 {
            Event::Scalar(text, style, 0, None) => tree.scalar(&text, style)?,
            Event::SequenceStart(0, None) => tree.open(Open::List(Vec::new()))?,
            Event::MappingStart(0, None) => tree.open(Open::Map(Vec::new(), None))?,
            Event::SequenceEnd | Event::MappingEnd => tree.close()?,
            Event::DocumentStart(_) if documents == 0 => documents += 1,
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
            _ => return None,
        }
    }
    tree.root.filter(|value| !value.is_null()).map(|value| (value, tree.values))
}

/// Texts from this size on are read in two halves at once.
const LARGE: usize = 64 << 10;

/// A large text is mostly one block mapping, `stages:`. It may be cut in two before any line that is indented as its first
/// entry is: within a scalar block lines are indented more, and a quote or bracket that is open there makes the first half
/// unreadable by itself.
struct Halves<'a> {
    key: &'a str,
    first: &'a str,
    /// With the line of the key before it.
    second: String,
}

impl<'a> Halves<'a> {
    fn of(text: &'a str, least: usize) -> Option<Self> {
        if text.len() < least {
            return None;
        }
        let mut top = None;
        let mut indent = None;
        let mut at = 0;
        for line in text.split_inclusive('\n') {
            let blank = line.len() - line.trim_start_matches(' ').len();
            match line.as_bytes().get(blank) {
                None | Some(b'\n' | b'\r' | b'#') => {}
                _ if blank == 0 => {
                    let key = line.trim_end().strip_suffix(':');
                    top = key.filter(|key| key.bytes().all(|byte| byte.is_ascii_alphabetic()) && !key.is_empty());
                    indent = None;
                }
                _ if at > text.len() / 2 && indent == Some(blank) => {
                    let key = top?;
                    return Some(Self { key, first: &text[..at], second: format!("{key}:\n{}", &text[at..]) });
                }
                _ => drop(indent.get_or_insert(blank)),
            }
            at += line.len();
        }
        None
    }

    fn value(&self) -> Option<Value> {
        // A thread that ends: what it allocated goes back to all, where one of a pool would keep it.
        let (first, second) = std::thread::scope(|scope| {
            let second = scope.spawn(|| walk(&self.second));
            (walk(self.first), second.join().ok().flatten())
        });
        let ((Value::Mapping(mut whole), some), (Value::Mapping(rest), more)) = (first?, second?) else { return None };
        for (key, value) in rest {
            match whole.get_mut(&key) {
                None => drop(whole.insert(key, value)),
                Some(Value::Mapping(begun)) if key == self.key => {
                    let Value::Mapping(more) = value else { return None };
                    for (key, value) in more {
                        begun.insert(key, value).is_none().then_some(())?;
                    }
                }
                Some(_) => return None,
            }
        }
        (some + more <= MAX_VALUES).then_some(Value::Mapping(whole))
    }
}

#[derive(Default)]
struct Tree {
    open: Vec<Open>,
    root: Option<Value>,
    values: usize,
}

enum Open {
    List(Vec<Value>),
    /// With the key whose value comes next. Only when all are there is it known how large a mapping it takes.
    Map(Vec<(String, Value)>, Option<String>),
}

impl Tree {
    fn scalar(&mut self, text: &str, style: ScalarStyle) -> Option<()> {
        if style == ScalarStyle::Plain { self.add(resolved(text)?) } else { self.add(Value::String(text.to_owned())) }
    }

    fn open(&mut self, open: Open) -> Option<()> {
        // What is open can't be a key.
        let is_key = matches!(self.open.last(), Some(Open::Map(_, None)));
        if is_key || self.open.len() >= MAX_DEPTH {
            return None;
        }
        self.open.push(open);
        self.count()
    }

    fn close(&mut self) -> Option<()> {
        let value = match self.open.pop()? {
            Open::List(items) => Value::Sequence(items),
            Open::Map(entries, None) => {
                let mut map = Mapping::with_capacity(entries.len());
                for (key, value) in entries {
                    // The same key twice is a mistake.
                    map.insert(Value::String(key), value).is_none().then_some(())?;
                }
                Value::Mapping(map)
            }
            Open::Map(_, Some(_)) => return None,
        };
        self.values -= 1;
        self.add(value)
    }

    fn add(&mut self, value: Value) -> Option<()> {
        self.count()?;
        match self.open.last_mut() {
            None => self.root.replace(value).is_none().then_some(()),
            Some(Open::List(items)) => {
                items.push(value);
                Some(())
            }
            Some(Open::Map(entries, key)) => match key.take() {
                Some(key) => {
                    entries.push((key, value));
                    Some(())
                }
                None => {
                    // Keys that are no texts could be the same as a text.
                    let Value::String(text) = value else { return None };
                    *key = Some(text);
                    Some(())
                }
            },
        }
    }

    fn count(&mut self) -> Option<()> {
        self.values += 1;
        (self.values <= MAX_VALUES).then_some(())
    }
}

/// What a scalar without quotes is. Whatever could be anything but a text is left to `serde_yaml`.
fn resolved(text: &str) -> Option<Value> {
    const WORDS: [&str; 11] = ["", "~", "null", "Null", "NULL", "true", "True", "TRUE", "false", "False", "FALSE"];
    let number = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '+' | '-' | '_');
    let starts = text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '.' | '+' | '-'));
    // By themselves these would be the marks between documents.
    let mark = text.starts_with("---") || text.starts_with("...");
    match (starts && !mark && text.chars().all(number)) || WORDS.contains(&text) {
        true => serde_yaml::from_str(text).ok(),
        false => Some(Value::String(text.to_owned())),
    }
}

/// What is read in one walk is what `serde_yaml` reads, where that reads anything, and what is read in halves.
pub(crate) fn assert_agrees(text: &str) {
    if let (Some(whole), Some(halves)) = (value(text), Halves::of(text, 0).and_then(|halves| halves.value())) {
        assert_eq!(format!("{whole:?}"), format!("{halves:?}"), "{text:?}");
    }
    if let (Some(plain), Ok(value)) = (value(text), serde_yaml::from_str::<Value>(text)) {
        assert_eq!(format!("{plain:?}"), format!("{value:?}"), "{text:?}");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn scalars_are_what_serde_yaml_says() {
        let texts = [
            "1",
            "-1",
            "+1",
            "0",
            "007",
            "0x1F",
            "0o17",
            "0b11",
            "1_000",
            "1.5",
            "5e-5",
            "1e3",
            ".5",
            "1.",
            "-.inf",
            ".nan",
            ".NaN",
            "18446744073709551615",
            "-9223372036854775809",
            "~",
            "null",
            "NULL",
            "true",
            "False",
            "yes",
            "on",
            "No",
            "1.2.3",
            "1-2",
            "-",
            "--",
            "./x",
            "../in/a",
            "~/x",
            "e5",
            "0.1.0",
            "2026-11-25",
            "12:30",
            "- ",
            "a#b",
            "...x",
            "---x",
            "'1'",
            "\"true\"",
            "''",
            "nUll",
        ];
        for text in texts {
            for text in
                [format!("a: {text}\n"), format!("- {text}\n"), format!("{{a: {text}}}\n"), format!("{text}: 1\n")]
            {
                assert_agrees(&text);
            }
        }
    }

    #[test]
    fn a_closer_look_is_taken_where_one_is_due() {
        for text in
            ["a: 1\na: 2", "1: x", "a: &b 1", "a: !x 1", "", "~", "a: 1\n---\nb: 2", "? [a]\n: b", "a: \u{7}", "[a"]
        {
            assert!(value(&format!("{text}\n")).is_none(), "{text:?}");
        }
        let line = |text: &str| value(&format!("{text}\n"));
        assert!(line("a: {b: [1, x, ~]}").is_some());
        let nested = |depth| line(&format!("{}{}", "[".repeat(depth), "]".repeat(depth)));
        assert!(nested(MAX_DEPTH).is_some() && nested(MAX_DEPTH + 1).is_none());
    }

    #[test]
    fn halves_make_the_whole() {
        let halves = |text: &str| Halves::of(text, 0).map(|halves| halves.value());
        let entry = |name: &str| format!("  {name}:\n    uses: x\n    with: {{ a: [1, 2], b: |\n        a\n  # c\n\n");
        let entry = |name: &str| entry(name).replace("b: |\n        a\n", "b: c }\n    over: |\n      a: b\n      c\n");
        let text = format!("name: n\nstages:\n{}{}{}axes: {{ s: [1] }}\n", entry("a"), entry("b"), entry("c"));
        assert_eq!(halves(&text), Some(walk(&text).map(|(value, _)| value)));
        assert!(halves(&text).flatten().is_some());
        for (text, why) in [
            ("stages:\n  a: \"x\n  b: y\n  c: z\"\n", "an open quote"),
            ("stages:\n  a: [x,\n  b, y,\n  z]\n", "an open bracket"),
            ("stages:\n  a: 1\n  b: 2222222222222\n  a: 3\n", "the same key in both"),
            ("stages:\n  a aaaaaaaaaaaaa\n  b\n", "a text of several lines"),
        ] {
            assert!(halves(text).flatten().is_none(), "{why}");
        }
        assert!(halves("stages: |\n  aaaaaaaaaaaaaaaaa\n  b: 1\n").is_none(), "a block");
        assert!(halves("a: 1\nb: 2\nc: 3\n").is_none(), "nothing to cut");
    }

    proptest! {
        #![proptest_config(crate::fakes::cases(500))]
        #[test]
        fn it_agrees_with_serde_yaml(text in r#"([ab1.~\-_"'#:,\[\]{}|> \n+0x]|  |: |- |\n  )*"#) {
            assert_agrees(&format!("{text}\n"));
        }
    }
}
