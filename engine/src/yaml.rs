//! Text to a YAML value and the places of its parts, within limits that hold for any bytes whatever.

use std::{
    collections::HashMap,
    fs,
    io::{self, Read as _},
    ops::Range,
    path::Path,
};

use saphyr_parser::{Event, Parser, Span};
use serde_yaml::Value;

use crate::{
    mistake::Mistake,
    overlay::Reader,
    source::{Children, Entry, Node, Places, Source},
};

mod plain;

pub(crate) use self::plain::assert_agrees;

/// Larger files are refused.
pub(crate) const MAX_BYTES: u64 = 16 << 20;
/// Deeper values are refused.
pub(crate) const MAX_DEPTH: usize = 100;
/// More values are refused; those that aliases repeat count each time.
pub(crate) const MAX_VALUES: usize = 1_000_000;

/// A mistake and the bytes that it is about.
pub(crate) type Found = (Option<Range<usize>>, Mistake);

/// The bytes of `file`; one that is too large is refused by its size, before any of it is read.
pub(crate) fn from_disk(file: &Path) -> io::Result<Vec<u8>> {
    let open = fs::File::open(file)?;
    if open.metadata()?.len() > MAX_BYTES {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let mut bytes = Vec::new();
    // Pipes and devices don't say how long they are.
    open.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The text of `file`; what is not UTF-8 is replaced, and told.
pub(crate) fn read(file: &Path, read: Reader<'_>) -> (Source, Option<Found>) {
    let bytes = match read(file) {
        Ok(bytes) if bytes.len() as u64 > MAX_BYTES => return (Source::default(), Some((None, Mistake::TooLarge))),
        Ok(bytes) => bytes,
        Err(error) => {
            let mistake = match error.kind() {
                io::ErrorKind::FileTooLarge => Mistake::TooLarge,
                _ => Mistake::Unreadable { error: palinode_cache::reason(&error) },
            };
            return (Source::default(), Some((None, mistake)));
        }
    };
    // Some editors put a mark before the text.
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").map(<[u8]>::to_vec).unwrap_or(bytes);
    match String::from_utf8(bytes) {
        Ok(text) => (Source::new(text), None),
        Err(error) => {
            let at = error.utf8_error().valid_up_to();
            let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
            (Source::new(text), Some((Some(at..at + '\u{FFFD}'.len_utf8()), Mistake::NotUtf8)))
        }
    }
}

/// The places of the values in `text`, as far as it can be read.
pub(crate) fn places(text: &str) -> Places {
    let mut scan = Scan::new(text);
    // What is wrong with it was told when it was parsed.
    let _ = scan.run(text);
    Places { nodes: scan.nodes, root: scan.root }
}

/// Parses the text of `source`.
///
/// A plain text is read in one walk. For any other two parsers must agree: the first walks the events, which takes no
/// stack, and keeps the limits; only then the second builds values.
pub(crate) fn parse(source: &Source) -> Result<Value, Vec<Found>> {
    let text = source.text();
    if let Some(value) = plain::value(text) {
        return Ok(value);
    }
    let mut scan = Scan::new(text);
    scan.run(text).map_err(|found| vec![*found])?;
    if !scan.repeated.is_empty() {
        let found = |(key, first, span): (String, usize, Range<usize>)| {
            let first_line = source.position(first).0.unwrap_or(1);
            (Some(span), Mistake::DuplicateKey { key, first_line })
        };
        return Err(scan.repeated.into_iter().map(found).collect());
    }
    match serde_yaml::from_str::<Value>(text).and_then(|mut value| value.apply_merge().map(|()| value)) {
        Ok(Value::Null) => Err(vec![(None, Mistake::Empty)]),
        Ok(value) => Ok(value),
        Err(error) => {
            let at = error.location().map(|location| source.offset(location.line(), location.column()));
            Err(vec![syntax(text, at, &error.to_string())])
        }
    }
}

/// Parses a value from the command line, within the same limits.
pub(crate) fn value(text: &str) -> Result<Value, String> {
    match parse(&Source::new(text.to_owned())) {
        Ok(value) => Ok(value),
        Err(found) => match found.into_iter().next() {
            // `~`, `null` and nothing at all are a value here.
            Some((_, Mistake::Empty)) | None => Ok(Value::Null),
            Some((_, mistake)) => Err(mistake.to_string()),
        },
    }
}

/// A syntax error at the byte `at`; a tab in the indentation there, or just before, is what people mostly mean by it.
fn syntax(text: &str, at: Option<usize>, message: &str) -> Found {
    let Some(at) = at else { return (None, Mistake::Syntax { message: message.to_owned() }) };
    // The parser looks ahead: it may be the first to see that brackets never end.
    if message.contains("recursion limit") {
        return (Some(at..at), Mistake::TooDeep);
    }
    let start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    let indent = text[start..].len() - text[start..].trim_start_matches([' ', '\t']).len();
    if let Some(tab) = text[start..start + indent].find('\t') {
        return (Some(start + tab..start + tab + 1), Mistake::Tab);
    }
    let length = text[at..].chars().next().map_or(0, char::len_utf8);
    (Some(at..at + length), Mistake::Syntax { message: message.to_owned() })
}

/// Events to an arena of places.
struct Scan {
    nodes: Vec<Node>,
    root: Option<usize>,
    /// Keys that stand twice in one mapping, with the byte of the first.
    repeated: Vec<(String, usize, Range<usize>)>,
    /// Mappings and sequences not yet closed.
    open: Vec<Open>,
    /// Node behind each anchor, and how many values it holds, once it is closed.
    anchors: HashMap<usize, (usize, usize)>,
    /// Byte of each character, where the text is not all ASCII.
    bytes: Option<Vec<u32>>,
    length: usize,
    values: usize,
}

struct Open {
    node: usize,
    anchor: usize,
    /// The place of a key that waits for its value.
    key: Option<Range<usize>>,
    /// How many values there were before.
    before: usize,
}

impl Scan {
    fn new(text: &str) -> Self {
        let bytes = (!text.is_ascii()).then(|| text.char_indices().map(|(byte, _)| byte as u32).collect());
        Self {
            nodes: Vec::new(),
            root: None,
            repeated: Vec::new(),
            open: Vec::new(),
            anchors: HashMap::new(),
            bytes,
            length: text.len(),
            values: 0,
        }
    }

    fn run(&mut self, text: &str) -> Result<(), Box<Found>> {
        let mut documents = 0;
        for event in Parser::new_from_str(text) {
            let (event, span) = event.map_err(|error| {
                let at = self.byte(error.marker().index());
                Box::new(syntax(text, Some(at), error.info()))
            })?;
            let span = self.range(span);
            match event {
                Event::DocumentStart(_) => {
                    documents += 1;
                    if documents > 1 {
                        return Err(Box::new((Some(span), Mistake::SeveralDocuments)));
                    }
                }
                Event::Scalar(scalar, _, anchor, _) => self.scalar(&scalar, anchor, span)?,
                Event::SequenceStart(anchor, _) => self.start(anchor, span, Children::List(Vec::new()))?,
                Event::MappingStart(anchor, _) => {
                    self.start(anchor, span, Children::Map(Vec::new(), HashMap::new()))?
                }
                Event::SequenceEnd | Event::MappingEnd => self.end(&span),
                Event::Alias(anchor) => self.alias(anchor, span)?,
                Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
            }
        }
        Ok(())
    }

    fn scalar(&mut self, text: &str, anchor: usize, span: Range<usize>) -> Result<(), Box<Found>> {
        self.count(1, &span)?;
        if let Some(Open { node, key: key @ None, .. }) = self.open.last_mut()
            && let Children::Map(entries, keys) = &mut self.nodes[*node].children
        {
            if let Some(first) = keys.get(text) {
                self.repeated.push((text.to_owned(), entries[*first].span.start, span.clone()));
            }
            keys.entry(text.to_owned()).or_insert(entries.len());
            *key = Some(span.clone());
            let node = self.add(span, Children::None);
            self.anchors.insert(anchor, (node, 1));
            return Ok(());
        }
        let node = self.add(span, Children::None);
        self.anchors.insert(anchor, (node, 1));
        self.attach(node);
        Ok(())
    }

    fn start(&mut self, anchor: usize, span: Range<usize>, children: Children) -> Result<(), Box<Found>> {
        if self.open.len() >= MAX_DEPTH {
            return Err(Box::new((Some(span), Mistake::TooDeep)));
        }
        let before = self.values;
        self.count(1, &span)?;
        // A mapping or sequence as a key gets an entry without a name.
        let node = self.add(span, children);
        self.open.push(Open { node, anchor, key: None, before });
        Ok(())
    }

    fn end(&mut self, span: &Range<usize>) {
        let Some(open) = self.open.pop() else { return };
        let node = &mut self.nodes[open.node];
        node.span.end = span.end.max(node.span.start);
        self.anchors.insert(open.anchor, (open.node, self.values - open.before));
        self.attach(open.node);
    }

    fn alias(&mut self, anchor: usize, span: Range<usize>) -> Result<(), Box<Found>> {
        match self.anchors.get(&anchor).copied() {
            Some((node, values)) => {
                self.count(values, &span)?;
                self.attach(node);
                Ok(())
            }
            None => Err(Box::new((Some(span), Mistake::SelfAlias))),
        }
    }

    fn add(&mut self, span: Range<usize>, children: Children) -> usize {
        self.nodes.push(Node { span, children });
        self.nodes.len() - 1
    }

    /// Hangs a finished node where it belongs.
    fn attach(&mut self, child: usize) {
        let Some(open) = self.open.last_mut() else {
            self.root.get_or_insert(child);
            return;
        };
        let child_span = self.nodes[child].span.clone();
        match &mut self.nodes[open.node].children {
            Children::List(items) => items.push(child),
            Children::Map(entries, _) => match open.key.take() {
                Some(span) => entries.push(Entry { span, value: child }),
                None => open.key = Some(child_span),
            },
            Children::None => {}
        }
    }

    fn count(&mut self, values: usize, span: &Range<usize>) -> Result<(), Box<Found>> {
        self.values = self.values.saturating_add(values);
        if self.values > MAX_VALUES { Err(Box::new((Some(span.clone()), Mistake::TooMany))) } else { Ok(()) }
    }

    fn range(&self, span: Span) -> Range<usize> {
        let (start, end) = (self.byte(span.start.index()), self.byte(span.end.index()));
        start..end.max(start)
    }

    /// The parser counts characters.
    fn byte(&self, character: usize) -> usize {
        match &self.bytes {
            None => character.min(self.length),
            Some(bytes) => bytes.get(character).map_or(self.length, |byte| *byte as usize),
        }
    }
}
