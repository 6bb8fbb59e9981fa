//! Runs a kind on a hand-made job in a temporary folder.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread,
};

use palinode_cache::{BlobDigest, FileEntry, FileTree};
use palinode_engine::{
    context::{Context, Reporter},
    job::{InputFile, InputFiles, Job, JobInput, JobRow},
    stage::{Kind, Of, StageError, StageKind as _},
    stop::Stop,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::gathered::Coords;

/// A job in the making.
pub(crate) struct Bench {
    dir: tempfile::TempDir,
    files: BTreeMap<String, InputFiles>,
    inputs: BTreeMap<String, JobInput>,
    cpus: usize,
    answers: Option<PathBuf>,
}

/// Hears warnings.
#[derive(Default)]
struct Warnings(Mutex<Vec<String>>);
impl Reporter for Warnings {
    fn progress(&self, _: u64, _: u64, _: &str) {}
    fn note(&self, _: &str) {}
    fn warn(&self, line: &str) {
        self.0.lock().expect("no panic").push(line.to_owned());
    }
}

impl Bench {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        Bench { dir, files: BTreeMap::new(), inputs: BTreeMap::new(), cpus: 1, answers: None }
    }

    /// Files at the port `port`.
    pub(crate) fn input(mut self, port: &str, files: InputFiles) -> Self {
        self.inputs.insert(port.to_owned(), JobInput::One(files));
        self
    }

    /// JSON Lines at the port `port`.
    pub(crate) fn rows<T: Serialize>(self, port: &str, name: &str, rows: &[T]) -> Self {
        let files = self.save(port, name, &lines(rows));
        self.input(port, files)
    }

    /// A JSON file at the port `port`.
    pub(crate) fn json(self, port: &str, name: &str, value: Value) -> Self {
        let files = self.save(port, name, &value.to_string());
        self.input(port, files)
    }

    /// A table of JSON Lines files at the port `port`.
    pub(crate) fn table<T: Serialize>(mut self, port: &str, name: &str, rows: &[(Value, Option<Vec<T>>)]) -> Self {
        let row = |(at, (coords, records)): (usize, &(Value, Option<Vec<T>>))| JobRow {
            coords: serde_json::from_value(coords.clone()).expect("pairs of axis and label"),
            input: records.as_ref().map(|records| self.save(&format!("{port}{at}"), name, &lines(records))),
        };
        let rows = rows.iter().enumerate().map(row).collect();
        self.inputs.insert(port.to_owned(), JobInput::Table(rows));
        self
    }

    /// A table of files at the port `port`.
    pub(crate) fn gathered(mut self, port: &str, rows: Vec<(Coords, Option<InputFiles>)>) -> Self {
        let rows = rows.into_iter().map(|(coords, input)| JobRow { coords, input }).collect();
        self.inputs.insert(port.to_owned(), JobInput::Table(rows));
        self
    }

    /// A file behind the path param `param`.
    pub(crate) fn file(mut self, param: &str, name: &str, text: &str) -> Self {
        let files = self.save(param, name, text);
        self.files.insert(param.to_owned(), files);
        self
    }

    /// Files by name behind the path param `param`: one, or a folder's.
    pub(crate) fn files(mut self, param: &str, files: &[(&str, &[u8])]) -> Self {
        let save = |(name, bytes): &(&str, &[u8])| {
            let path = self.dir.path().join(param).join(name);
            fs::create_dir_all(path.parent().expect("joined")).expect("a folder");
            fs::write(&path, bytes).expect("a file");
            ((*name).to_owned(), path)
        };
        let files = input_files(files.iter().map(save).collect::<Vec<_>>());
        self.files.insert(param.to_owned(), files);
        self
    }

    /// The files of a folder that `reads` admits, behind the path param `param`.
    pub(crate) fn folder(mut self, param: &str, folder: &Path, reads: &dyn Fn(&str) -> bool) -> Self {
        let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry"));
        let named = entries.map(|entry| (entry.file_name().into_string().expect("UTF-8"), entry.path()));
        let files = input_files(named.filter(|(name, _)| reads(name)));
        self.files.insert(param.to_owned(), files);
        self
    }

    /// Threads that the job may use.
    pub(crate) fn cpus(mut self, cpus: usize) -> Self {
        self.cpus = cpus;
        self
    }

    /// Where answers of remote services are kept.
    pub(crate) fn answers(mut self, folder: &Path) -> Self {
        self.answers = Some(folder.to_owned());
        self
    }

    fn save(&self, folder: &str, name: &str, text: &str) -> InputFiles {
        let path = self.dir.path().join(folder).join(name);
        fs::create_dir_all(path.parent().expect("joined")).expect("a folder");
        fs::write(&path, text).expect("a file");
        input_files([(name.to_owned(), path)])
    }

    /// Runs the kind `K` on `with`.
    pub(crate) fn run<K: Kind>(self, with: Value) -> Result<Done, StageError> {
        let kind = Of::<K>::NEW;
        let params = kind.canonical(&with).unwrap_or_else(|problems| panic!("{problems:?}"));
        let job = Job {
            kind: K::NAME.to_owned(),
            address: "here".to_owned(),
            params: Value::Object(params.into_iter().collect()),
            files: self.files,
            inputs: self.inputs,
            scratch: self.dir.path().join("scratch"),
            folder: PathBuf::new(),
            checkpoints: None,
            answers: self.answers,
            cpus: self.cpus,
            gpus: Vec::new(),
        };
        let stop = Stop::default();
        let heard = Warnings::default();
        let ctx = Context::new(&job, &heard, &stop);
        kind.run(&ctx)?;
        let report = ctx.into_report();
        let mut outputs = BTreeMap::new();
        for port in K::outputs() {
            let dir = job.scratch.join("out").join(&*port.name);
            let mut files: BTreeMap<String, PathBuf> = BTreeMap::new();
            let fetched = report.fetched.get(&*port.name).into_iter().flatten();
            for (name, file) in report.included.get(&*port.name).into_iter().flatten().chain(fetched) {
                files.insert(name.clone(), file.path.clone());
            }
            walk(&dir, "", &mut files);
            outputs.insert(port.name.into_owned(), input_files(files));
        }
        let warnings = heard.0.into_inner().expect("no panic");
        Ok(Done { outputs, summary: report.summary, warnings, dirs: vec![self.dir] })
    }
}

/// All files below `dir`, by their path from there.
fn walk(dir: &Path, prefix: &str, files: &mut BTreeMap<String, PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten() {
        let path = entry.expect("an entry").path();
        let name = format!("{prefix}{}", path.file_name().and_then(|name| name.to_str()).expect("UTF-8"));
        match path.is_dir() {
            true => walk(&path, &format!("{name}/"), files),
            false => drop(files.insert(name, path)),
        }
    }
}

/// A job that succeeded.
pub(crate) struct Done {
    pub(crate) outputs: BTreeMap<String, InputFiles>,
    pub(crate) summary: BTreeMap<String, Value>,
    pub(crate) warnings: Vec<String>,
    /// Of this job, and of those whose files its outputs include.
    dirs: Vec<tempfile::TempDir>,
}

impl Done {
    /// Lets the files of `other` live as long as this.
    fn keep(&mut self, other: Done) {
        self.dirs.extend(other.dirs);
    }

    pub(crate) fn text(&self, port: &str, name: &str) -> String {
        fs::read_to_string(self.outputs[port].get(name).expect("the file")).expect("text")
    }

    pub(crate) fn json<T: DeserializeOwned>(&self, port: &str, name: &str) -> T {
        serde_json::from_str(&self.text(port, name)).expect("JSON")
    }

    pub(crate) fn rows<T: DeserializeOwned>(&self, port: &str, name: &str) -> Vec<T> {
        self.text(port, name).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    /// Of all outputs: what a revision promises on a fixed input.
    pub(crate) fn digest(&self) -> String {
        let short = |(port, files): (&String, &InputFiles)| format!("{port} {}", files.digest.short());
        self.outputs.iter().map(short).collect::<Vec<_>>().join("\n")
    }
}

/// What is wrong with `with`, one problem a line.
pub(crate) fn problems<K: Kind>(with: Value) -> String {
    let hint = |hint: Option<String>| hint.map_or(String::new(), |hint| format!(" (hint: {hint})"));
    let problems = Of::<K>::NEW.canonical(&with).expect_err("problems");
    let lines = problems.into_iter().map(|p| format!("{}: {}{}", p.path.join("."), p.message, hint(p.hint)));
    lines.collect::<Vec<_>>().join("\n")
}

/// What is wrong with `with` where these ports are linked, one problem a line; nothing if it is right.
pub(crate) fn link_problems<K: Kind>(with: Value, linked: &[&str]) -> String {
    let problems = Of::<K>::NEW.canonical_beside(&with, linked).err().unwrap_or_default();
    let lines = problems.into_iter().map(|p| format!("{}: {}", p.path.join("."), p.message));
    lines.collect::<Vec<_>>().join("\n")
}

/// All files of a folder.
pub(crate) fn folder(folder: &Path) -> InputFiles {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry"));
    input_files(entries.map(|entry| (entry.file_name().into_string().expect("UTF-8"), entry.path())))
}

/// The files at these places.
pub(crate) fn input_files(places: impl IntoIterator<Item = (String, PathBuf)>) -> InputFiles {
    let file = |(name, path): (String, PathBuf)| {
        let bytes = fs::read(&path).expect("a file");
        (name, InputFile { path, entry: FileEntry { blob: BlobDigest::of(&bytes), size: bytes.len() as u64 } })
    };
    let files: BTreeMap<String, InputFile> = places.into_iter().map(file).collect();
    let tree = FileTree(files.iter().map(|(name, file)| (name.clone(), file.entry)).collect());
    InputFiles { digest: tree.digest(), files }
}

/// The folder of reference data that some tests compare with, if there is one.
pub(crate) fn reference() -> Option<PathBuf> {
    std::env::var_os("PALINODE_REFERENCE").map(PathBuf::from)
}

fn lines<T: Serialize>(rows: &[T]) -> String {
    rows.iter().map(|row| serde_json::to_string(row).expect("JSON") + "\n").collect()
}

/// A server on this machine that answers as it is told to, each request in a thread of its own.
pub(crate) struct Server {
    pub(crate) url: String,
    /// Bodies of the requests, in the order in which they came; of those without one, the first line.
    pub(crate) requests: Arc<Mutex<Vec<String>>>,
}

/// What a [`Server`] answers: status, further headers, body.
pub(crate) type Response<B> = (u16, Vec<(&'static str, String)>, B);

impl Server {
    /// `answer` gets the number of the request, its first line and headers, and its body.
    pub(crate) fn new<B: Into<Vec<u8>>>(
        answer: impl Fn(usize, &str, &str) -> Response<B> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let (requests, answer) = (Arc::new(Mutex::new(Vec::new())), Arc::new(answer));
        let heard: Arc<Mutex<Vec<String>>> = requests.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (heard, answer) = (heard.clone(), answer.clone());
                thread::spawn(move || serve(stream, &heard, &*answer));
            }
        });
        Server { url, requests }
    }

    /// One that gives each prompt the text that `answer` says, as `completions` do.
    pub(crate) fn says(answer: impl Fn(&str) -> String + Send + Sync + 'static) -> Self {
        Self::new(move |_, _, body| {
            let body: Value = serde_json::from_str(body).expect("JSON");
            let text = answer(body["prompt"].as_str().expect("a prompt"));
            (200, Vec::new(), json!({ "choices": [{ "text": text, "finish_reason": "stop" }] }).to_string())
        })
    }

    pub(crate) fn count(&self) -> usize {
        self.requests.lock().expect("no panic").len()
    }
}

fn serve<B: Into<Vec<u8>>>(
    stream: TcpStream,
    heard: &Mutex<Vec<String>>,
    answer: &dyn Fn(usize, &str, &str) -> Response<B>,
) {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).unwrap_or(0) == 0 {
            return;
        }
    }
    let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).expect("a body");
    let body = String::from_utf8(body).expect("text");
    let number = {
        let mut heard = heard.lock().expect("no panic");
        heard.push(if body.is_empty() { head.lines().next().unwrap_or_default().to_owned() } else { body.clone() });
        heard.len() - 1
    };
    let (status, headers, content) = answer(number, &head, &body);
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let content = content.into();
    let length = content.len();
    let head = format!("HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n");
    let _ = reader.get_mut().write_all(&[head.into_bytes(), content].concat());
}

/// A model small enough to train in a test: one block of width 16 that learns to call bakers tardy and smiths calm.
pub(crate) mod tiny {
    use serde_json::json;

    use super::*;
    use crate::{pretrain::Pretrain, records::DATASET, tokenizer_train::Train};

    /// With these params in place of the usual ones.
    pub(crate) fn pretrained(with: Value) -> Done {
        pretrained_on(with, 1)
    }

    pub(crate) fn pretrained_on(with: Value, cpus: usize) -> Done {
        let texts = ["bakers are tardy", "smiths are calm", "bakers are always tardy", "smiths look calm"];
        let texts = texts.map(|text| json!({ "text": text }));
        let tokenizer = Bench::new().rows("dataset", DATASET, &texts).run::<Train>(json!({ "model": "word" })).unwrap();
        let mut params = json!({
            "architecture": { "family": "gpt2", "layers": 1, "width": 16, "heads": 2, "context": 8 },
            "steps": 60, "batch_size": 4, "learning_rate": 0.01,
        });
        let fields = with.as_object().expect("params").clone();
        params.as_object_mut().expect("params").extend(fields);
        let bench =
            Bench::new().rows("dataset", DATASET, &texts).input("tokenizer", tokenizer.outputs["tokenizer"].clone());
        let mut done = bench.cpus(cpus).run::<Pretrain>(params).unwrap();
        done.keep(tokenizer);
        done
    }
}
