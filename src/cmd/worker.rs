//! `palinode worker`: runs jobs that another palinode process hands it. Not for people: `run` starts workers itself.

use std::{
    io::{self, BufReader, Read, Write},
    os::{fd::AsFd as _, unix::net::UnixStream},
};

use palinode_engine::worker::{die_with_parent, serve};

use crate::{exit::Exit, output::Failure};

pub(crate) fn worker() -> Result<Exit, Failure> {
    let failed = |error: io::Error| Failure { message: format!("worker: {error}"), hint: None, exit: Exit::Failed };
    die_with_parent().map_err(failed)?;
    let registry = super::registry();
    let (requests, replies) = channel().map_err(failed)?;
    let orphaned = || {
        #[expect(
            clippy::exit,
            reason = "the run that wanted this job is gone; the thread that makes it can't be stopped"
        )]
        std::process::exit(1)
    };
    serve(&move |kind| registry.get(kind).cloned(), BufReader::new(requests), replies, orphaned).map_err(failed)?;
    Ok(Exit::Done)
}

type Channel = (Box<dyn Read + Send>, Box<dyn Write + Send>);

/// A socket at stdin is spoken over both ways, and stdout is free for whatever prints there; else stdin and stdout are.
fn channel() -> io::Result<Channel> {
    let stdin = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    if stdin.local_addr().is_ok() {
        return Ok((Box::new(stdin.try_clone()?), Box::new(stdin)));
    }
    Ok((Box::new(io::stdin()), Box::new(io::stdout())))
}
