//! `palinode diff`: two runs side by side.

use std::{fmt::Write as _, path::Path};

use palinode_engine::{
    compare::{Comparison, Difference, Row, compare},
    runs::RunInfo,
    why::clip_both,
};
use serde_json::Value;

use super::words::{count, table, time};
use crate::{
    cli::{Diff, Format},
    exit::Exit,
    output::{Failure, out},
    report::span,
};

/// Instances, and things of one instance, that text shows; JSON has all.
const INSTANCES: usize = 40;
const ROWS: usize = 30;
const CELL: usize = 40;

pub(crate) fn diff(args: &Diff) -> Result<Exit, Failure> {
    let (pipeline, a, b) = match &args.runs[..] {
        [pipeline, a, b] => (Some(Path::new(pipeline)), a, b),
        [a, b] => (None, a, b),
        _ => return Err(Failure::usage("give two runs")),
    };
    let cache = super::there(super::place(pipeline, args.cache.as_ref())?)?;
    let found = compare(&cache, a, b).map_err(|error| Failure::usage(error.to_string()))?;
    match args.format {
        Format::Json => {
            let mut value = serde_json::json!(found);
            // Each instance's end is in the differences, as far as it matters.
            for side in ["a", "b"] {
                if let Some(summary) = value[side]["summary"].as_object_mut() {
                    summary.remove("nodes");
                }
            }
            out(&format!("{value:#}\n"))
        }
        Format::Text => out(&text(&found)),
    }
}

fn text(found: &Comparison) -> String {
    let mut text = table(&[run("a", &found.a), run("b", &found.b)], &[]);
    for changed in found.changed.iter().take(INSTANCES) {
        text.push_str(&instance(changed));
    }
    let mut more = |words: String| {
        let _ = writeln!(text, "{words}");
    };
    if found.changed.len() > INSTANCES {
        more(format!("and {} that differ: --format json has all", count(found.changed.len() - INSTANCES, "instance")));
    }
    for (old, new) in &found.renamed {
        more(format!("renamed: {old} -> {new}"));
    }
    for (side, only) in [("a", &found.only_a), ("b", &found.only_b)] {
        match &only[..] {
            [] => {}
            [first] => more(format!("only in {side}: {first}")),
            [first, rest @ ..] => more(format!("only in {side}: {first} and {} more", rest.len())),
        }
    }
    more(format!("{} the same, {} different", found.same, found.changed.len()));
    text
}

fn run(name: &str, run: &RunInfo) -> Vec<String> {
    let ended = match &run.summary {
        Some(summary) => format!(
            "{} executed, {} cached, {} failed, {}",
            summary.executed,
            summary.cached,
            summary.failed,
            span(summary.seconds)
        ),
        None if run.live => "running".to_owned(),
        None => "killed".to_owned(),
    };
    vec![name.to_owned(), run.run.clone(), time(run.started), run.pipeline.clone(), ended]
}

fn instance(changed: &Difference) -> String {
    let mut text = format!("\n{}\n", changed.address);
    let row = |row: &Row| {
        let (a, b) = clip_both(&cell(&row.a), &cell(&row.b), CELL);
        vec![format!("  {}", row.name), a, b, change(row)]
    };
    text.push_str(&table(&changed.rows.iter().take(ROWS).map(row).collect::<Vec<_>>(), &[1, 2, 3]));
    if changed.rows.len() > ROWS {
        let _ = writeln!(text, "  and {} more", changed.rows.len() - ROWS);
    }
    if changed.incomplete {
        text.push_str("  (a record is no longer in the cache, so more may differ)\n");
    }
    text
}

fn cell(value: &Option<Value>) -> String {
    let text = match value {
        None => "-".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) if number.is_f64() => rounded(number.as_f64().unwrap_or(f64::NAN)),
        Some(value) => value.to_string(),
    };
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// `+0.03 (+12.5%)`.
fn change(row: &Row) -> String {
    let Some(difference) = row.difference else { return String::new() };
    let plus = if difference >= 0.0 { "+" } else { "" };
    let share = match row.a.as_ref().and_then(Value::as_f64) {
        Some(a) if a != 0.0 => format!(" ({plus}{:.1}%)", 100.0 * difference / a.abs()),
        _ => String::new(),
    };
    format!("{plus}{}{share}", rounded(difference))
}

/// At most six digits behind the point or, where a number is small, six that tell something.
fn rounded(number: f64) -> String {
    if number != 0.0 && (number.abs() < 1e-3 || number.abs() >= 1e9) {
        return format!("{number:.4e}");
    }
    let text = format!("{number:.6}");
    let short = text.trim_end_matches('0').trim_end_matches('.');
    if short.is_empty() || short == "-0" { "0".to_owned() } else { short.to_owned() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_are_told_with_what_they_grew() {
        let row = |a: Value, b: Value| {
            let difference = a.as_f64().zip(b.as_f64()).map(|(a, b)| b - a);
            Row { name: String::new(), a: Some(a), b: Some(b), difference }
        };
        assert_eq!(change(&row(json!(0.25), json!(0.28))), "+0.03 (+12.0%)");
        assert_eq!(change(&row(json!(4), json!(2))), "-2 (-50.0%)");
        assert_eq!(change(&row(json!(-4), json!(-2))), "+2 (+50.0%)");
        assert_eq!(change(&row(json!(0), json!(2))), "+2");
        assert_eq!(change(&row(json!("a"), json!("b"))), "");
        assert_eq!(
            [rounded(5e-5), rounded(0.0), rounded(-1.5), rounded(1e12)],
            ["5.0000e-5", "0", "-1.5", "1.0000e12"]
        );
    }
}
