//! What ends commands when this process dies and can't: a shell that is told which process groups run, and kills them
//! when nobody is left to tell it more.

use std::{
    io::Write as _,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::Mutex,
};

/// `? FOLDER` says that a command is about to start there, `! FOLDER` that it has or couldn't; `+ GROUP` and `- GROUP`
/// say what runs; the end of its input says that we are gone. What started in a folder in the last moment, its group
/// still untold, is found by that folder; it may be about to be born, so this looks more than once.
const SCRIPT: &str = r#"trap '' INT TERM HUP QUIT
line='
'
groups=' '
starting=$line
while IFS=' ' read -r what which; do
  case $what in
    '?') starting="$starting$which$line" ;;
    '!') starting="${starting%%"$line$which$line"*}$line${starting#*"$line$which$line"}" ;;
    +) groups="$groups$which " ;;
    -) groups="${groups%% $which *} ${groups#* $which }" ;;
  esac
done
for group in $groups; do kill -s KILL -- "-$group"; done
[ "$starting" = "$line" ] && exit
set -f
IFS=$line
for look in 1 2 3; do
  for folder in $starting; do
    set +f
    for process in /proc/[0-9]*; do
      [ "$process/cwd" -ef "$folder" ] || continue
      read -r stat <"$process/stat" || continue
      stat=${stat##*) ? }
      stat=${stat#* }
      group=${stat%% *}
      [ "/proc/$group" = "$process" ] && kill -s KILL -- "-$group"
    done
    set -f
  done
  sleep .1
done"#;

/// Started with the first command.
#[derive(Default)]
pub(super) struct Guard(Mutex<Option<Watcher>>);

struct Watcher {
    process: Child,
    /// Closed when this process ends, however it does: no child inherits it.
    input: Option<ChildStdin>,
}

impl Guard {
    /// A command is about to start in `folder`, where nothing else runs.
    pub(super) fn starting(&self, folder: &Path) {
        self.say(&told('?', folder));
    }

    /// It has, as a process group, or it couldn't.
    pub(super) fn started(&self, folder: &Path, group: Option<u32>) {
        let group = group.map(|group| format!("+ {group}\n")).unwrap_or_default();
        self.say(&(group + &told('!', folder)));
    }

    /// Its process group has ended.
    pub(super) fn ended(&self, group: u32) {
        self.say(&format!("- {group}\n"));
    }

    fn say(&self, words: &str) {
        let mut watcher = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if watcher.is_none() {
            *watcher =
                start().map_err(|error| tracing::warn!(%error, "no guard for commands: kill -9 would leave them")).ok();
        }
        if let Some(input) = watcher.as_mut().and_then(|watcher| watcher.input.as_mut()) {
            // One write is whole or not at all, up to the size of a pipe's buffer.
            let _ = input.write_all(words.as_bytes());
        }
    }
}

/// Nothing where the folder's name would be two lines, which would be read as words of their own.
fn told(what: char, folder: &Path) -> String {
    let line = format!("{what} {}\n", folder.display());
    if line.lines().count() == 1 { line } else { String::new() }
}

fn start() -> std::io::Result<Watcher> {
    let mut command = Command::new("/bin/sh");
    // A group of its own: Ctrl-C in a terminal is for us to hear.
    command.args(["-c", SCRIPT]).env_clear().current_dir("/").process_group(0);
    let mut process = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let input = process.stdin.take();
    Ok(Watcher { process, input })
}

impl Drop for Watcher {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.process.wait();
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    /// A command as they are started here.
    fn command(folder: &Path) -> Child {
        Command::new("/bin/sleep").arg("1000").current_dir(folder).process_group(0).spawn().unwrap()
    }

    fn ends(child: &mut Child) -> bool {
        let began = Instant::now();
        while child.try_wait().unwrap().is_none() {
            if began.elapsed() > Duration::from_secs(30) {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        true
    }

    #[test]
    fn it_kills_what_runs_and_what_it_was_only_told_would_start() {
        let folder = tempfile::tempdir().unwrap();
        let [untold, told, done, beside] = ["un told*", "told", "done", "beside"].map(|name| {
            let path = folder.path().join(name);
            std::fs::create_dir(&path).unwrap();
            path
        });
        let guard = Guard::default();
        for path in [&untold, &told, &done] {
            guard.starting(path);
        }
        let mut children = [&untold, &told, &done, &beside].map(|path| command(path));
        guard.started(&told, Some(children[1].id()));
        guard.started(&done, Some(children[2].id()));
        guard.ended(children[2].id());
        drop(guard);
        assert!(ends(&mut children[0]), "what started, its group untold");
        assert!(ends(&mut children[1]), "what ran");
        for other in &mut children[2..] {
            assert!(other.try_wait().unwrap().is_none(), "what is not its own goes on");
            other.kill().unwrap();
            other.wait().unwrap();
        }
    }
}
