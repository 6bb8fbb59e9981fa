//! `palinode completions`: a script that completes commands and options in a shell.

use clap::CommandFactory as _;

use crate::{
    cli::{Cli, Completions},
    exit::Exit,
    output::{Failure, out},
};

pub(crate) fn completions(args: &Completions) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "palinode", &mut script);
    out(&String::from_utf8_lossy(&script))
}
