//! Types of the commands that look at results and past runs, and keep or remove them.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{Format, Pipeline};

/// A cache, without a look into a pipeline.
#[derive(Debug, Args)]
pub(crate) struct Place {
    /// A pipeline whose cache is meant [default: `.palinode` in the current folder].
    #[arg(value_name = "PIPELINE")]
    pub(crate) pipeline: Option<PathBuf>,
    /// The cache's folder [default: `.palinode` beside the pipeline].
    #[arg(long, value_name = "DIR", env = "PALINODE_CACHE")]
    pub(crate) cache: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  palinode status p.yaml
  palinode status p.yaml --format json | jq '.stages[] | select(.stale > 0).stage'")]
pub(crate) struct Status {
    #[command(flatten)]
    pub(crate) pipeline: Pipeline,
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum GraphFormat {
    /// For Markdown on GitHub and GitLab.
    Mermaid,
    /// For Graphviz.
    Dot,
    /// For browsers and papers.
    Svg,
    /// For programs: each instance with its inputs.
    Json,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  palinode graph p.yaml > graph.mmd
  palinode graph p.yaml --format svg --status > graph.svg
  palinode graph p.yaml --instances --format dot | dot -Tpdf > graph.pdf")]
pub(crate) struct Graph {
    #[command(flatten)]
    pub(crate) pipeline: Pipeline,
    #[arg(long, value_enum, default_value_t = GraphFormat::Mermaid)]
    pub(crate) format: GraphFormat,
    /// Colour the nodes: fresh, stale, never run, failed, running.
    #[arg(long)]
    pub(crate) status: bool,
    /// A node for each instance instead of one for each stage.
    #[arg(long)]
    pub(crate) instances: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  palinode runs
  palinode runs p.yaml --limit 5
  palinode runs --format json | jq '.[0].run'")]
pub(crate) struct Runs {
    #[command(flatten)]
    pub(crate) place: Place,
    /// At most so many, the newest.
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20)]
    pub(crate) limit: usize,
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  palinode show p.yaml toxicity
  palinode show p.yaml tuned                    # has axes: lists its instances
  palinode show p.yaml 'tuned[rank=8,seed=1]'")]
pub(crate) struct Show {
    #[command(flatten)]
    pub(crate) pipeline: Pipeline,
    /// A stage, or one instance of it: `'tuned[rank=8,seed=1]'`.
    #[arg(value_name = "STAGE")]
    pub(crate) stage: String,
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
}

#[derive(Debug, Args)]
#[command(
    override_usage = "palinode diff [OPTIONS] [PIPELINE] <RUN_A> <RUN_B>",
    after_help = "Examples:
  palinode diff last~1 last
  palinode diff p.yaml 20260102T030405 last --format json"
)]
pub(crate) struct Diff {
    /// Two runs: ids of `palinode runs` or how they begin, `last`, `last~1` (the one before). A pipeline before them
    /// says whose cache is meant.
    #[arg(value_name = "RUN", num_args = 2..=3, required = true)]
    pub(crate) runs: Vec<String>,
    /// The cache's folder [default: `.palinode` beside the pipeline, or in the current folder].
    #[arg(long, value_name = "DIR", env = "PALINODE_CACHE")]
    pub(crate) cache: Option<PathBuf>,
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  palinode gc --dry-run
  palinode gc p.yaml --keep-runs 3
  palinode gc p.yaml --out --dry-run")]
pub(crate) struct Gc {
    #[command(flatten)]
    pub(crate) place: Place,
    /// Keep the results of the last N runs of each pipeline. What runs now, and what is pinned, is kept as well.
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub(crate) keep_runs: usize,
    /// Only say what would be removed.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Also remove what was set aside: damaged files, and results that others took the place of.
    #[arg(long)]
    pub(crate) aside: bool,
    /// Also remove published files of stages that PIPELINE no longer has [DIR: `out` beside it]. Altered ones stay.
    #[arg(long, value_name = "DIR", num_args = 0..=1, require_equals = true)]
    pub(crate) out: Option<Option<PathBuf>>,
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  palinode pin p.yaml paper-v1 'figure*'
  palinode pin p.yaml best 'tuned[rank=8,seed=1]' --replace")]
pub(crate) struct Pin {
    #[command(flatten)]
    pub(crate) pipeline: Pipeline,
    /// The pin's name: letters, digits, `-`, `_`, `.`.
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// The stages whose results are kept, with all that these were made from.
    #[arg(value_name = "STAGE", required = true)]
    pub(crate) stages: Vec<String>,
    /// Take the name over from an earlier pin.
    #[arg(long)]
    pub(crate) replace: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  palinode unpin paper-v1
  palinode unpin paper-v1 p.yaml")]
pub(crate) struct Unpin {
    /// The pin's name.
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) place: Place,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  palinode pins
  palinode pins p.yaml --format json")]
pub(crate) struct Pins {
    #[command(flatten)]
    pub(crate) place: Place,
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  palinode verify
  palinode verify p.yaml && palinode run p.yaml")]
pub(crate) struct Verify {
    #[command(flatten)]
    pub(crate) place: Place,
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  palinode export p.yaml figure2 -o figure2.tar
  palinode export p.yaml 'tuned[rank=8,seed=1]' -o tuned.tar")]
pub(crate) struct Export {
    #[command(flatten)]
    pub(crate) pipeline: Pipeline,
    /// The stages whose results are written, with all that these were made from.
    #[arg(value_name = "STAGE", required = true)]
    pub(crate) stages: Vec<String>,
    /// The archive.
    #[arg(short, long, value_name = "FILE.tar")]
    pub(crate) output: PathBuf,
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  palinode import figure2.tar
  palinode import figure2.tar p.yaml --pin from-alice")]
pub(crate) struct Import {
    /// The archive, from `palinode export`.
    #[arg(value_name = "FILE.tar")]
    pub(crate) archive: PathBuf,
    #[command(flatten)]
    pub(crate) place: Place,
    /// Pin what is imported, so that `gc` keeps it before a run has used it.
    #[arg(long, value_name = "NAME")]
    pub(crate) pin: Option<String>,
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
}
