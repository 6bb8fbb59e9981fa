//! What ends commands when this process dies and can't: a shell that is told which process groups run, and kills them
//! when nobody is left to tell it more.

use std::{
    io::Write as _,
    os::unix::process::CommandExt as _,
    process::{Child, ChildStdin, Command, Stdio},
    sync::Mutex,
};

/// `+ GROUP` and `- GROUP` say what runs; the end of its input says that we are gone.
const SCRIPT: &str = r#"trap '' INT TERM HUP QUIT
groups=' '
while read -r what group; do
  case $what in
    +) groups="$groups$group " ;;
    -) groups="${groups%% $group *} ${groups#* $group }" ;;
  esac
done
for group in $groups; do kill -s KILL -- "-$group"; done"#;

/// Started with the first command.
#[derive(Default)]
pub(super) struct Guard(Mutex<Option<Watcher>>);

struct Watcher {
    process: Child,
    /// Closed when this process ends, however it does: no child inherits it.
    input: Option<ChildStdin>,
}

impl Guard {
    /// A process group runs.
    pub(super) fn add(&self, group: u32) {
        self.say('+', group);
    }

    /// It has ended.
    pub(super) fn remove(&self, group: u32) {
        self.say('-', group);
    }

    fn say(&self, what: char, group: u32) {
        let mut watcher = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if watcher.is_none() {
            *watcher =
                start().map_err(|error| tracing::warn!(%error, "no guard for commands: kill -9 would leave them")).ok();
        }
        if let Some(input) = watcher.as_mut().and_then(|watcher| watcher.input.as_mut()) {
            // One write is whole or not at all, up to the size of a pipe's buffer.
            let _ = input.write_all(format!("{what} {group}\n").as_bytes());
        }
    }
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
