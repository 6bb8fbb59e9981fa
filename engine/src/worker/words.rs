//! How a process ended, in words.

use std::{os::unix::process::ExitStatusExt as _, process::ExitStatus};

/// What became of a worker that ended in the middle of a job.
pub(super) fn ended(status: Option<ExitStatus>) -> String {
    let Some(status) = status else { return "its worker process is gone".to_owned() };
    let Some(signal) = status.signal() else {
        let code = status.code().unwrap_or_default();
        return format!(
            "its worker process ended by itself, with exit code {code}: a bug in the kind, or in a library"
        );
    };
    let (name, meaning) = match signal {
        4 => ("SIGILL", "an instruction that this CPU doesn't know"),
        6 => ("SIGABRT", "it aborted; the reason is in its last lines"),
        7 => ("SIGBUS", "a file that it had mapped was cut short, or memory failed"),
        8 => ("SIGFPE", "a division by zero"),
        9 => ("SIGKILL", "out of memory, most likely; or someone killed it"),
        11 => ("SIGSEGV", "an invalid access to memory, or its stack ran over"),
        15 => ("SIGTERM", "someone ended it"),
        24 => ("SIGXCPU", "its limit of CPU time"),
        25 => ("SIGXFSZ", "its limit of file size"),
        _ => ("signal", "see `man 7 signal`"),
    };
    let dumped = if status.core_dumped() { ", core dumped" } else { "" };
    match name {
        "signal" => format!("its worker process was killed by signal {signal} ({meaning}){dumped}"),
        _ => format!("its worker process was killed by {name} ({meaning}){dumped}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_words() {
        let told = |raw| ended(Some(ExitStatus::from_raw(raw)));
        assert_eq!(
            told(9),
            "its worker process was killed by SIGKILL (out of memory, most likely; or someone killed it)"
        );
        assert_eq!(
            told(6 | 0x80),
            "its worker process was killed by SIGABRT (it aborted; the reason is in its last lines), core dumped"
        );
        assert_eq!(told(40), "its worker process was killed by signal 40 (see `man 7 signal`)");
        assert_eq!(
            told(3 << 8),
            "its worker process ended by itself, with exit code 3: a bug in the kind, or in a library"
        );
        assert_eq!(ended(None), "its worker process is gone");
    }
}
