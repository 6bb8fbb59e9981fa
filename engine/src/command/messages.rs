//! Why a command failed, in words: how it ended, and what its sandbox kept from it, as far as its last lines tell.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::process::ExitStatusExt as _,
    path::{Component, Path, PathBuf},
    process::ExitStatus,
};

use super::{sandbox::Rules, tools::Tools};
use crate::job::JobInput;

/// How it ended, if not well.
pub(super) fn ended(status: ExitStatus) -> Option<String> {
    if status.success() {
        return None;
    }
    Some(match (status.code(), status.signal()) {
        (Some(code), _) => format!("it exited with code {code}"),
        (None, Some(signal)) => format!("it was ended by {}", signal_words(signal)),
        (None, None) => "it did not end well".to_owned(),
    })
}

fn signal_words(signal: i32) -> String {
    let (name, why) = match signal {
        2 => ("SIGINT", "interrupted"),
        3 => ("SIGQUIT", "told to quit"),
        4 => ("SIGILL", "an instruction that this processor doesn't have"),
        6 => ("SIGABRT", "it gave up by itself"),
        7 => ("SIGBUS", "a broken memory access"),
        8 => ("SIGFPE", "an arithmetic error"),
        9 => ("SIGKILL", "somebody, or the system for want of memory, killed it"),
        11 => ("SIGSEGV", "a wrong memory access"),
        13 => ("SIGPIPE", "nobody read what it wrote"),
        14 => ("SIGALRM", "its own alarm"),
        15 => ("SIGTERM", "told to end"),
        24 => ("SIGXCPU", "too much processor time"),
        25 => ("SIGXFSZ", "too large a file"),
        31 => ("SIGSYS", "a forbidden system call"),
        other => return format!("signal {other}"),
    };
    format!("{name} ({why})")
}

/// What the sandbox kept from the command.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// A file or folder that it read and didn't declare.
    Read(PathBuf),
    /// A place outside of its folder that it wrote to.
    Write(PathBuf),
    /// Its own inputs.
    Inputs(PathBuf),
    /// A program.
    Tool(String),
    /// The network.
    Network,
}

/// How programs say that they reach nobody.
const UNREACHABLE: [&str; 6] = [
    "network is unreachable",
    "enetunreach",
    "name resolution",
    "could not resolve",
    "name or service not known",
    "getaddrinfo",
];

/// What to do where CUDA's driver doesn't start in a sandbox.
pub(super) const CUDA: &str =
    "CUDA's driver did not start in its sandbox (error 304); add `sandbox: off` to its `with`";

/// Whether its last lines say so: the driver gives up over anything that it may not do.
pub(super) fn is_cuda_kept_out<'l>(mut lines: impl Iterator<Item = &'l str>) -> bool {
    lines.any(|line| {
        ["rror 304", "cudaErrorOperatingSystem", "CUDA_ERROR_OPERATING_SYSTEM"].iter().any(|w| line.contains(w))
    })
}

/// Where a command ran, to make sense of what it says.
pub(super) struct Scene<'a> {
    pub(super) rules: &'a Rules,
    pub(super) tools: &'a Tools,
    pub(super) scratch: &'a Path,
    pub(super) work: &'a Path,
    /// The pipeline's folder.
    pub(super) home: &'a Path,
    /// What it reads.
    pub(super) inputs: &'a BTreeMap<String, JobInput>,
}

impl Scene<'_> {
    /// What the last of these lines that tells anything tells.
    pub(super) fn kept<'l>(&self, lines: impl DoubleEndedIterator<Item = &'l str>) -> Option<Kept> {
        lines.rev().find_map(|line| self.line(line))
    }

    fn line(&self, line: &str) -> Option<Kept> {
        let lower = line.to_lowercase();
        if !self.rules.network && UNREACHABLE.iter().any(|words| lower.contains(words)) {
            return Some(Kept::Network);
        }
        let denied = lower.contains("permission denied")
            || lower.contains("eacces")
            || lower.contains("operation not permitted");
        let absent = lower.contains("no such file") || lower.contains("enoent") || lower.contains("not found");
        if !denied && !absent {
            return None;
        }
        words(line).find_map(|word| self.word(word, denied))
    }

    fn word(&self, word: &str, denied: bool) -> Option<Kept> {
        let looks = word.starts_with('/') || word.contains('/') || word.contains('.');
        if !looks {
            // A bare name: a program, or a file beside the pipeline.
            let tool = || self.tools.program(word).filter(|path| !self.rules.allow(path));
            return match tool() {
                Some(_) => Some(Kept::Tool(word.to_owned())),
                None => self.beside(word, denied),
            };
        }
        if word == "/" || word == "." || word == ".." {
            return None;
        }
        let path = normal(&self.work.join(word));
        if path.starts_with(self.scratch.join("in")) {
            return denied.then_some(Kept::Inputs(path));
        }
        if path.starts_with(self.scratch) {
            return self.beside(word, denied);
        }
        if !denied && word.starts_with('/') {
            // Landlock never says that something is not there.
            return None;
        }
        match fs::symlink_metadata(&path) {
            Ok(_) if self.rules.allow(&path) => None,
            Ok(_) if self.is_program(&path) => Some(Kept::Tool(path.display().to_string())),
            Ok(_) => Some(Kept::Read(path)),
            Err(_) => {
                let parent = path.parent()?;
                (denied && parent.exists() && !self.rules.write.iter().any(|root| path.starts_with(root)))
                    .then_some(Kept::Write(path))
            }
        }
    }

    /// A file of the pipeline's folder that was looked for in the command's.
    fn beside(&self, word: &str, denied: bool) -> Option<Kept> {
        if denied || word.starts_with('/') || !word.contains('.') && !self.home.join(word).is_dir() {
            return None;
        }
        let path = normal(&self.home.join(word));
        (path.exists() && !path.starts_with(self.scratch)).then_some(Kept::Read(path))
    }

    fn is_program(&self, path: &Path) -> bool {
        use std::os::unix::fs::PermissionsExt as _;
        let bin = path.parent().and_then(Path::file_name).is_some_and(|name| name == "bin" || name == "sbin");
        bin && fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    }

    /// What to do about it.
    pub(super) fn advice(&self, kept: &Kept) -> String {
        match kept {
            Kept::Read(path) if ["/proc", "/sys", "/dev"].iter().any(|root| path.starts_with(root)) => format!(
                "it uses `{}`, which commands see only if they declare `tools`; add `tools: [...]` with the program that does so to its `with`",
                path.display()
            ),
            Kept::Read(path) => {
                if let Some(here) = self.declared(path) {
                    return format!("it reads `{}`, which it has as `{here}`", path.display());
                }
                let stem = path.file_stem().unwrap_or_default().to_string_lossy();
                let port: String =
                    stem.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }).collect();
                let port = if port.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
                    port
                } else {
                    format!("in_{port}")
                };
                let shown = match path.strip_prefix(self.home) {
                    Ok(relative) => format!("./{}", relative.display()),
                    Err(_) => path.display().to_string(),
                };
                let file = if path.is_dir() {
                    String::new()
                } else {
                    format!("/{}", path.file_name().unwrap_or_default().to_string_lossy())
                };
                let up = "../".repeat(1 + self.depth());
                format!(
                    "it reads `{}`, which is not declared; add `inputs: {{ {port}: {shown} }}` and read `{up}in/{port}{file}`",
                    path.display()
                )
            }
            Kept::Write(path) => format!(
                "it writes to `{}`, outside of its folder; write below the working folder, and declare it under `outputs`",
                path.display()
            ),
            Kept::Inputs(path) => {
                let shown = path.strip_prefix(self.scratch).unwrap_or(path).display();
                format!("it writes to `{shown}`: inputs can only be read; copy them into the working folder first")
            }
            Kept::Tool(name) => format!("it runs `{name}`, which is not declared; add `tools: [{name}]` to its `with`"),
            Kept::Network => {
                "it uses the network, which is off; add `network: true` to its `with`, or declare what it fetches as an input"
                    .to_owned()
            }
        }
    }

    /// Where in its folder a file is that it declared.
    fn declared(&self, path: &Path) -> Option<String> {
        let up = "../".repeat(1 + self.depth());
        self.inputs.iter().find_map(|(port, input)| {
            let JobInput::One(files) = input else { return None };
            let (name, _) = files.files.iter().find(|(_, file)| file.path == path)?;
            Some(format!("{up}in/{port}/{name}"))
        })
    }

    /// How many folders below `work/` it ran.
    fn depth(&self) -> usize {
        self.work
            .strip_prefix(self.scratch.join("work"))
            .map_or(0, |below| below.components().filter(|part| matches!(part, Component::Normal(_))).count())
    }
}

/// The words of a line that may be names: what stands between quotes, blanks and colons.
fn words(line: &str) -> impl Iterator<Item = &str> {
    let between = |c: char| c.is_whitespace() || "'\"`:;,()<>[]{}=‘’“”".contains(c);
    line.split(between).map(|word| word.trim_end_matches('.')).filter(|word| !word.is_empty())
}

/// Without `.` and `..`, as the path is written.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => drop(normal.pop()),
            part => normal.push(part),
        }
    }
    normal
}
