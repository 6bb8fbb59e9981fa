//! The command line: clap types only.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::machine;

mod seeing;

pub(crate) use self::seeing::*;

/// Declarative, incremental pipelines for experiments on language models.
///
/// Exit codes: 0 done; 1 a stage failed, or what was audited or verified is not intact; 2 the declaration or the call is wrong;
/// 130 interrupted.
#[derive(Debug, Parser)]
#[command(name = "palinode", version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    #[command(flatten)]
    pub(crate) talk: Talk,
}

/// How much is said on stderr, and in which form.
#[derive(Debug, Args)]
pub(crate) struct Talk {
    /// Say more: -v each stage's notes, -vv what the engine decides.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    /// The form of what is said on stderr.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Lines and progress bars for people.
    Text,
    /// One JSON object a line.
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Bring a pipeline, or a part of it, up to date.
    Run(Run),
    /// Say what `run` would do, and why; does nothing.
    Plan(Plan),
    /// Each stage on one line: fresh, stale (and why), never run, failed, running.
    Status(Status),
    /// Why a stage will run again, or where its cached result came from.
    Why(Why),
    /// Draw the pipeline.
    Graph(Graph),
    /// Ask a figure where it came from, and whether it was altered.
    Audit(Audit),
    /// The stage kinds with their ports and params.
    Kinds(Kinds),
    /// The log of a stage's last run.
    Logs(Logs),
    /// The past runs.
    Runs(Runs),
    /// A result: its files, sizes and places, how they begin, and who made it.
    Show(Show),
    /// Two runs side by side: params, outcomes, metrics.
    Diff(Diff),
    /// Remove results that neither the last runs nor a pin need.
    Gc(Gc),
    /// Keep results from being removed, under a name.
    Pin(Pin),
    /// The pins.
    Pins(Pins),
    /// Remove a pin.
    Unpin(Unpin),
    /// Read every file of the cache again; set bad ones aside, and forget their results.
    Verify(Verify),
    /// Write results, with all that they were made from, to one archive.
    Export(Export),
    /// Take results in from an archive: all of them, or none.
    Import(Import),
    /// All problems of a pipeline, and what in it nothing uses.
    Check(Check),
    /// The JSON Schema of pipelines, by which editors complete and check them.
    #[command(after_help = "Examples:
  palinode schema > pipelines/palinode.schema.json")]
    Schema,
    /// Write a pipeline to start from.
    Init(Init),
    /// A script that completes commands and options in a shell.
    Completions(Completions),
    /// Run jobs that a run hands over; `run` starts its workers itself.
    #[command(hide = true)]
    Worker,
}

/// A pipeline, with overrides.
#[derive(Debug, Args)]
pub(crate) struct Pipeline {
    /// The pipeline's YAML file.
    #[arg(value_name = "PIPELINE")]
    pub(crate) file: PathBuf,
    /// Lay a profile of the file over it; several in the order given.
    #[arg(long, value_name = "NAME")]
    pub(crate) profile: Vec<String>,
    /// Lay the params of a YAML or JSON file over it.
    #[arg(long, value_name = "FILE")]
    pub(crate) params: Vec<PathBuf>,
    /// Override a value of the file: `params.model=./weights`, `axes.seed=[0]`, `stages.tuned.with.steps=10`. The value
    /// is YAML; paths are relative to the current folder.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Where all stages with a param `device` compute, whatever the file says: `cpu`, `cuda`, `cuda:1`, `tch`, or `auto`.
    #[arg(long, value_name = "DEVICE")]
    pub(crate) device: Option<String>,
    /// The cache's folder [default: `.palinode` beside the pipeline].
    #[arg(long, value_name = "DIR", env = "PALINODE_CACHE")]
    pub(crate) cache: Option<PathBuf>,
}

/// What stages may use together. Stages say what they need under `resources`.
#[derive(Debug, Args)]
pub(crate) struct Resources {
    /// CPUs [default: those of this machine].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) cpus: Option<u16>,
    /// Memory, like `32GiB` or in MiB [default: that of this machine].
    #[arg(long, value_name = "AMOUNT", value_parser = machine::parse_memory)]
    pub(crate) memory: Option<u64>,
    /// GPUs: how many (`2`), or their ids (`0,3`; a single one: `3,`) [default: those of this machine].
    #[arg(long, value_name = "N|IDS", value_parser = machine::Gpus::parse)]
    pub(crate) gpus: Option<machine::Gpus>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  palinode run p.yaml
  palinode run p.yaml 'tuned[rank=8]+' --set axes.seed=[0]
  palinode run p.yaml --jobs 4 --gpus 2 --fail-fast")]
pub(crate) struct Run {
    #[command(flatten)]
    pub(crate) pipeline: Pipeline,
    /// What to bring up to date: `tuned`, `tuned+` (with all downstream), `'tuned[rank=8]'`, `'fig*'` [default: all].
    #[arg(value_name = "TARGET")]
    pub(crate) targets: Vec<String>,
    /// Stages at once [default: as many as there are CPUs].
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) jobs: Option<u16>,
    #[command(flatten)]
    pub(crate) resources: Resources,
    /// Run heavy stages in this process rather than in worker processes: a crash of one ends the run.
    #[arg(long)]
    pub(crate) in_process: bool,
    /// When a stage fails, go on with all that doesn't need it. This is the default.
    #[arg(short, long, overrides_with = "fail_fast")]
    pub(crate) keep_going: bool,
    /// When a stage fails, begin no further one; those that run may end.
    #[arg(long, overrides_with = "keep_going")]
    pub(crate) fail_fast: bool,
    /// Run this stage again though its result is cached.
    #[arg(long, value_name = "STAGE")]
    pub(crate) force: Vec<String>,
    /// Where figures and tables are published [default: `out` beside the pipeline].
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// The form of the summary on stdout.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  palinode plan p.yaml
  palinode plan p.yaml toxicity --set params.model=./weights")]
pub(crate) struct Plan {
    #[command(flatten)]
    pub(crate) pipeline: Pipeline,
    /// As for `run`.
    #[arg(value_name = "TARGET")]
    pub(crate) targets: Vec<String>,
    /// As for `run`.
    #[arg(long, value_name = "STAGE")]
    pub(crate) force: Vec<String>,
    #[command(flatten)]
    pub(crate) resources: Resources,
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  palinode why p.yaml 'tuned[rank=8,seed=1]'
  palinode why p.yaml toxicity --format json")]
pub(crate) struct Why {
    #[command(flatten)]
    pub(crate) pipeline: Pipeline,
    /// A stage, or one instance of it: `'tuned[rank=8,seed=1]'`.
    #[arg(value_name = "STAGE")]
    pub(crate) stage: String,
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  palinode audit out/figure2.svg
  palinode audit ~/mail/figure2.png --cache .palinode")]
pub(crate) struct Audit {
    /// A published figure: SVG or PNG, wherever it lies and whatever its name.
    #[arg(value_name = "FIGURE")]
    pub(crate) figure: PathBuf,
    /// A cache in which to look for the results that the figure names.
    #[arg(long, value_name = "DIR", env = "PALINODE_CACHE")]
    pub(crate) cache: Option<PathBuf>,
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  palinode kinds
  palinode kinds finetune")]
pub(crate) struct Kinds {
    /// Only these kinds.
    #[arg(value_name = "KIND")]
    pub(crate) names: Vec<String>,
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  palinode logs p.yaml 'tuned[rank=8,seed=1]'")]
pub(crate) struct Logs {
    #[command(flatten)]
    pub(crate) pipeline: Pipeline,
    /// A stage, or one instance of it.
    #[arg(value_name = "STAGE")]
    pub(crate) stage: String,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  palinode check p.yaml
  palinode check p.yaml --deny warnings --allow unused-param")]
pub(crate) struct Check {
    #[command(flatten)]
    pub(crate) pipeline: Pipeline,
    /// Make a lint an error: `unused-stage`, `unused-param`, `unused-axis`, `unused-defaults`, or `warnings` for all.
    #[arg(long, value_name = "LINT")]
    pub(crate) deny: Vec<String>,
    /// Don't tell of a lint.
    #[arg(long, value_name = "LINT")]
    pub(crate) allow: Vec<String>,
    /// Findings are drawn on stderr, or given as JSON on stdout.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  palinode init
  palinode init my-study")]
pub(crate) struct Init {
    /// The folder.
    #[arg(value_name = "DIR", default_value = ".")]
    pub(crate) dir: PathBuf,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  palinode completions bash > ~/.local/share/bash-completion/completions/palinode")]
pub(crate) struct Completions {
    /// The shell.
    #[arg(value_name = "SHELL", value_enum)]
    pub(crate) shell: clap_complete::Shell,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_help_of_each_command_has_an_example_that_is_a_right_call() {
        for command in Cli::command().get_subcommands().filter(|command| !command.is_hide_set()) {
            let name = command.get_name();
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let calls: Vec<_> = help.lines().filter(|line| line.starts_with(&format!("  palinode {name}"))).collect();
            assert!(!calls.is_empty(), "the help of `{name}` has no example");
            for call in calls {
                // As far as the shell would hand it over.
                let call = call.trim().split(['|', '>', '#', '&']).next().unwrap_or_default();
                let words = call.split_whitespace().map(|word| word.trim_matches('\''));
                if let Err(error) = Cli::try_parse_from(words) {
                    panic!("`{call}`: {error}");
                }
            }
        }
    }
}
