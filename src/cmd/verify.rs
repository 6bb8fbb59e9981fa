//! `palinode verify`: is every byte in the cache what it was when it was stored?

use std::fmt::Write as _;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use palinode_cache::{VerifyProgress, VerifyReport};

use super::words::{count, size};
use crate::{
    cli::{Format, LogFormat, Talk, Verify},
    exit::Exit,
    output::{Failure, out},
};

/// Addresses that text names; JSON has all.
const SHOWN: usize = 20;

pub(crate) fn verify(args: &Verify, talk: &Talk) -> Result<Exit, Failure> {
    let cache = super::placed(&args.place)?;
    let bar = bar(talk);
    let progress = |progress: VerifyProgress| {
        bar.set_length(progress.total);
        bar.set_position(progress.bytes);
    };
    let report = cache.verify(&progress).map_err(|error| Failure::usage(error.to_string()))?;
    bar.finish_and_clear();
    match args.format {
        Format::Json => {
            let mut value = serde_json::json!(report);
            value["sound"] = report.sound().into();
            out(&format!("{value:#}\n"))?
        }
        Format::Text => out(&text(&report, cache.is_read_only()))?,
    };
    Ok(if report.sound() { Exit::Done } else { Exit::Failed })
}

/// A bar on a terminal; nothing in a log, where the report is enough.
fn bar(talk: &Talk) -> ProgressBar {
    let live = talk.log_format == LogFormat::Text && anstream::stderr().is_terminal();
    let target = if live { ProgressDrawTarget::stderr_with_hz(10) } else { ProgressDrawTarget::hidden() };
    let style = ProgressStyle::with_template("verifying {bar:32} {bytes}/{total_bytes} {bytes_per_sec}, {eta} left")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(Some(0), target).with_style(style)
}

fn text(report: &VerifyReport, read_only: bool) -> String {
    let mut text = String::new();
    let aside = if read_only { "can't be set aside in a read-only cache" } else { "set aside" };
    for damage in report.damaged.iter().take(SHOWN) {
        let _ = writeln!(text, "bad   {}: {}; {aside}", damage.file, damage.problem);
    }
    if report.damaged.len() > SHOWN {
        let _ = writeln!(text, "bad   and {} more", report.damaged.len() - SHOWN);
    }
    let forgotten =
        if read_only { "a file of it is bad" } else { "forgotten: a file of it is bad; the next run makes it again" };
    for (results, words) in
        [(&report.forgotten, forgotten), (&report.lost, "a file of it is nowhere; the next run makes it again")]
    {
        for address in results.values().take(SHOWN) {
            let _ = writeln!(text, "lost  {address}: {words}");
        }
        if results.len() > SHOWN {
            let _ = writeln!(text, "lost  and {} more", results.len() - SHOWN);
        }
    }
    let read = format!(
        "{} ({}) and {} read",
        count(report.blobs as usize, "blob"),
        size(report.bytes),
        count(report.records as usize, "record")
    );
    let found = match report.damaged.len() {
        0 if report.sound() => "all as they were stored".to_owned(),
        bad => format!("{bad} bad, {} lost", count(report.forgotten.len() + report.lost.len(), "result")),
    };
    let _ = writeln!(text, "{read}: {found}");
    text
}
