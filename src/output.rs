//! Stdout is data, stderr is talk: the two functions through which all of it goes, and how a command fails.

use std::io::Write as _;

use crate::exit::Exit;

/// A command that could not do its work.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
    pub(crate) exit: Exit,
}

impl Failure {
    /// The declaration or the call is wrong.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, exit: Exit::Usage }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// `error: ...`, with the hint on a line of its own. A message that was drawn already (it ends in a newline)
    /// stays as it is.
    pub(crate) fn show(&self) {
        let text =
            if self.message.ends_with('\n') { self.message.clone() } else { format!("error: {}\n", self.message) };
        say(&text);
        if let Some(hint) = &self.hint {
            say(&format!("hint: {hint}\n"));
        }
    }
}

/// Writes data to stdout. A reader that went away (`palinode kinds | head`) is no error.
pub(crate) fn out(text: &str) -> Result<Exit, Failure> {
    let mut stdout = anstream::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure { message: format!("stdout: {error}"), hint: None, exit: Exit::Failed })
        }
        _ => Ok(Exit::Done),
    }
}

/// Talks on stderr.
pub(crate) fn say(text: &str) {
    // There is nowhere left to complain to.
    let _ = anstream::stderr().lock().write_all(text.as_bytes());
}
