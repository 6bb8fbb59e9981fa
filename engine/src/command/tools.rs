//! Programs from outside the system folders: where they are, what must be readable for them to run, and which version
//! they are.

use std::{
    collections::{BTreeMap, HashMap},
    ffi::OsString,
    fs::{self, File},
    io::Read as _,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex, OnceLock},
    thread,
    time::{Duration, Instant},
};

use palinode_cache::{Blob, Digest};

use super::sandbox::SYSTEM;

/// How long a tool may take to say its version.
const PATIENCE: Duration = Duration::from_secs(10);
/// A longer version is cut.
const LONGEST: usize = 200;

/// A tool that was found.
#[derive(Debug)]
pub(super) struct Tool {
    /// Where it was found; perhaps a symlink.
    pub(super) program: PathBuf,
    /// What must be readable.
    pub(super) grants: Vec<PathBuf>,
    version: OnceLock<String>,
}

/// Finds tools.
pub(super) struct Tools {
    path: OsString,
    home: Option<PathBuf>,
    /// Versions by the stat of programs, kept from run to run; `None`: nowhere.
    index: Option<PathBuf>,
    found: Mutex<HashMap<String, Option<Arc<Tool>>>>,
    versions: Mutex<Option<BTreeMap<String, String>>>,
}

impl Tools {
    pub(super) fn new(path: OsString, home: Option<PathBuf>, index: Option<PathBuf>) -> Self {
        Self { path, home, index, found: Mutex::default(), versions: Mutex::default() }
    }

    /// The tool `name`, if there is one.
    pub(super) fn find(&self, name: &str) -> Option<Arc<Tool>> {
        let mut found = self.found.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        found.entry(name.to_owned()).or_insert_with(|| self.look(name).map(Arc::new)).clone()
    }

    fn look(&self, name: &str) -> Option<Tool> {
        let program = self.program(name)?;
        let mut grants = self.installation(&program);
        // A script needs what runs it, a virtual environment what it was made from.
        if let Some(interpreter) = interpreter(&program) {
            let named =
                if interpreter.starts_with('/') { Some(interpreter.into()) } else { self.program(&interpreter) };
            grants.extend(named.iter().flat_map(|program: &PathBuf| self.installation(program)));
        }
        grants.sort();
        grants.dedup();
        Some(Tool { program, grants, version: OnceLock::new() })
    }

    /// The program `name`: an absolute path, or the first of that name on PATH.
    pub(super) fn program(&self, name: &str) -> Option<PathBuf> {
        if name.starts_with('/') {
            return Some(PathBuf::from(name)).filter(|path| can_run(path));
        }
        let dirs = std::env::split_paths(&self.path).filter(|dir| dir.is_absolute());
        dirs.map(|dir| dir.join(name)).find(|path| can_run(path))
    }

    /// What is installed beside a program, also where a symlink leads: the folder above `bin`, or else only the
    /// program's own folder.
    fn installation(&self, program: &Path) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut links = vec![program.to_owned()];
        links.extend(fs::canonicalize(program));
        for program in links {
            let Some(dir) = program.parent() else { continue };
            let is_bin = dir.file_name().is_some_and(|name| name == "bin" || name == "sbin" || name == "shims");
            let above = dir.parent().filter(|above| is_bin && !self.is_too_much(above));
            found.push(above.unwrap_or(dir).to_owned());
        }
        found
    }

    /// A folder with much more in it than programs.
    fn is_too_much(&self, dir: &Path) -> bool {
        dir.parent().is_none_or(|parent| parent.parent().is_none() && dir != Path::new("/usr"))
            || self.home.as_deref().is_some_and(|home| home.starts_with(dir))
    }

    /// What tells one version of the tool from another: what it says of itself, and of a script, or of a program that the
    /// system doesn't bring, its content.
    pub(super) fn version(&self, tool: &Tool) -> String {
        tool.version.get_or_init(|| self.known_version(&tool.program)).clone()
    }

    fn known_version(&self, program: &Path) -> String {
        let real = fs::canonicalize(program).unwrap_or_else(|_| program.to_owned());
        let Ok(meta) = fs::metadata(&real) else { return "unknown".to_owned() };
        let stat = format!(
            "{} {} {}.{} {}.{}",
            meta.ino(),
            meta.len(),
            meta.mtime(),
            meta.mtime_nsec(),
            meta.ctime(),
            meta.ctime_nsec()
        );
        // The name counts: one program may be several tools, by the name that it is called.
        let id = format!("{} {} {stat}", program.display(), real.display());
        let mut versions = self.versions.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let known = versions.get_or_insert_with(|| self.load());
        if let Some(version) = known.get(&id) {
            return version.clone();
        }
        // What a person builds is built again without another version.
        let own = real.starts_with("/usr/local") || !SYSTEM.iter().any(|root| real.starts_with(root));
        let version = match ask(program) {
            Some(said) if own => format!("{said}, {}", content(&real)),
            Some(said) => said,
            None => content(&real),
        };
        // Of this place only the newest is worth keeping.
        let place = format!("{} {} ", program.display(), real.display());
        known.retain(|id, _| !id.starts_with(&place));
        known.insert(id, version.clone());
        self.save(known);
        version
    }

    fn load(&self) -> BTreeMap<String, String> {
        let text = self.index.as_ref().and_then(|index| fs::read(index).ok());
        text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
    }

    /// Kept if it can be: else it is asked for again.
    fn save(&self, versions: &BTreeMap<String, String>) {
        let write = |index: &Path| -> std::io::Result<()> {
            let dir = index.parent().filter(|dir| dir.is_dir()).ok_or(std::io::ErrorKind::NotFound)?;
            let mut file = tempfile::NamedTempFile::new_in(dir)?;
            serde_json::to_writer(&mut file, versions)?;
            file.persist(index)?;
            Ok(())
        };
        if let Some(Err(error)) = self.index.as_deref().map(write) {
            tracing::debug!(%error, "can't keep the versions of tools");
        }
    }
}

fn can_run(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// What the first line of a script says that it is for; behind `env`, its first word.
fn interpreter(program: &Path) -> Option<String> {
    let mut head = Vec::new();
    File::open(program).ok()?.take(512).read_to_end(&mut head).ok()?;
    let line = head.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let line = String::from_utf8_lossy(line).into_owned();
    let mut words = line.split_whitespace();
    let first = words.next()?;
    match first.rsplit('/').next() {
        Some("env") => words.find(|word| !word.starts_with('-') && !word.contains('=')).map(str::to_owned),
        _ => Some(first.to_owned()),
    }
}

/// The first line that a program prints when asked for its version. A script isn't asked: who knows what it would do.
fn ask(program: &Path) -> Option<String> {
    if interpreter(program).is_some() {
        return None;
    }
    let mut command = Command::new(program);
    command.arg("--version").env_clear().env("LANG", "C.UTF-8").current_dir("/");
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().ok()?;
    let outputs = [child.stdout.take().map(read), child.stderr.take().map(read)];
    let started = Instant::now();
    let mut pause = Duration::from_micros(100);
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if started.elapsed() < PATIENCE => thread::sleep(pause),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
        }
        pause = (pause * 2).min(Duration::from_millis(10));
    };
    let texts = outputs.into_iter().flatten().filter_map(|output| output.join().ok());
    let line =
        texts.filter_map(|text| text.lines().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned)).next()?;
    status.success().then(|| line.chars().take(LONGEST).collect())
}

fn read(output: impl std::io::Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = output.take(64 << 10).read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn content(program: &Path) -> String {
    match fs::read(program) {
        Ok(bytes) => format!("blake3 {}", Digest::<Blob>::of(&bytes).hex()),
        Err(_) => "unknown".to_owned(),
    }
}
