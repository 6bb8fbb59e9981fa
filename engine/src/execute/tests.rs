//! Whole runs over hand-made graphs of fake kinds.

use std::{fs, path::PathBuf};

use insta::assert_snapshot;
use jiff::Timestamp;
use palinode_cache::Record;
use serde_json::json;

use super::*;
use crate::{
    event::Outcome,
    fakes::{Pipe, Place},
    graph::Missing,
    runs,
};

mod failures;
mod figures;
mod scheduling;

/// Digests differ from build to build of the test's own fixtures: long ones as `[digest]`, short ones as `[short]`.
fn redact(text: &str) -> String {
    let is_hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
    let mut redacted = String::new();
    let mut rest = text;
    while let Some(start) = rest.find(is_hex) {
        let run = rest[start..].find(|c| !is_hex(c)).unwrap_or(rest.len() - start);
        redacted.push_str(&rest[..start]);
        redacted.push_str(match run {
            64 => "[digest]",
            12 => "[short]",
            _ => &rest[start..start + run],
        });
        rest = &rest[start + run..];
    }
    redacted + rest
}

/// (executed, cached, failed, blocked, cancelled).
fn counts(summary: &RunSummary) -> (usize, usize, usize, usize, usize) {
    (summary.executed, summary.cached, summary.failed, summary.blocked, summary.cancelled)
}

fn outcome<'a>(summary: &'a RunSummary, address: &str) -> &'a Outcome {
    &summary.nodes.iter().find(|node| node.address == address).unwrap().outcome
}

/// What the plan says of `address`, in words.
fn planned(place: &Place, pipe: &Pipe, address: &str) -> String {
    let plan = place.plan(pipe);
    match &plan.nodes.iter().find(|node| node.address == address).unwrap().decision {
        Decision::Hit(_) => "hit".into(),
        Decision::Run { reason, .. } => format!("run: {reason}"),
        Decision::Same { runs_as, .. } => format!("same as {runs_as}"),
        Decision::May { reason, .. } => format!("may run: {reason}"),
    }
}

fn record(place: &Place, summary: &RunSummary, address: &str) -> Record {
    let key = summary.nodes.iter().find(|node| node.address == address).unwrap().key.unwrap();
    place.cache.record(&key).unwrap().unwrap()
}

/// Where the only file of `address`'s output lies in the cache.
fn blob(place: &Place, summary: &RunSummary, address: &str) -> PathBuf {
    let record = record(place, summary, address);
    let entry = *record.outputs["text"].0.values().next().unwrap();
    place.cache.locate(&entry).unwrap().unwrap()
}

/// a -> b -> c, and a figure of b and c.
fn chain(a: &str) -> Pipe {
    let mut pipe = Pipe::new();
    let a = pipe.text("a", a);
    let b = pipe.after("b", a, json!({ "mode": "length" }));
    let c = pipe.after("c", b, json!({ "text": "c" }));
    let figure = pipe.add("figure", "draw", json!({}));
    pipe.gather(&[b, c], figure, Missing::Error);
    pipe
}

#[test]
fn a_second_run_executes_nothing() {
    let place = Place::new();
    assert_eq!(planned(&place, &chain("x"), "a"), "run: never run");
    assert_eq!(planned(&place, &chain("x"), "b"), "may run: never run");
    let first = place.run(&chain("x"));
    assert_eq!(counts(&first), (4, 0, 0, 0, 0));
    assert_eq!(first.written, [place.path("out/figure.csv"), place.path("out/figure.svg")]);
    assert_eq!(fs::read_to_string(place.path("out/figure.csv")).unwrap(), "1\nc1");
    let second = place.run(&chain("x"));
    assert_eq!(counts(&second), (0, 4, 0, 0, 0));
    assert_eq!((second.files, second.written.len()), (first.files, 0));
    assert_eq!(planned(&place, &chain("x"), "figure"), "hit");
}

#[test]
fn a_changed_param_is_the_reason_and_equal_outputs_cut_off() {
    let place = Place::new();
    place.run(&chain("x"));
    assert_eq!(planned(&place, &chain("y"), "a"), "run: `with.text` changed: \"x\" -> \"y\"");
    assert_eq!(planned(&place, &chain("y"), "b"), "may run: waits on a");
    // `b` is the length of `a`: it comes out the same.
    assert_eq!(counts(&place.run(&chain("y"))), (2, 2, 0, 0, 0));
    assert_eq!(counts(&place.run(&chain("yy"))), (4, 0, 0, 0, 0));
    // All of it was there before.
    assert_eq!(counts(&place.run(&chain("x"))), (0, 4, 0, 0, 0));
}

#[test]
fn a_changed_input_is_the_reason() {
    let place = Place::new();
    place.run(&chain("x"));
    let mut pipe = Pipe::new();
    let a = pipe.text("a", "yy");
    let b = pipe.after("b", a, json!({}));
    place.run(&{
        let mut pipe = Pipe::new();
        pipe.text("other", "yy");
        pipe
    });
    pipe.0.dag[b].params = chain("x").0.dag[b].params.clone();
    let words = planned(&place, &pipe, "b");
    assert!(words.starts_with("run: input `one` changed ("), "{words}");
}

#[test]
fn a_lost_output_is_made_again_and_the_rest_stays() {
    let place = Place::new();
    let first = place.run(&chain("x"));
    fs::remove_file(blob(&place, &first, "b")).unwrap();
    assert_eq!(planned(&place, &chain("x"), "b"), "run: output lost: `text.txt` of output `text`");
    assert_eq!(counts(&place.run(&chain("x"))), (1, 3, 0, 0, 0));
    assert_eq!(counts(&place.run(&chain("x"))), (0, 4, 0, 0, 0));
}

#[test]
fn a_corrupt_output_is_noticed_and_made_again() {
    let place = Place::new();
    let first = place.run(&chain("x"));
    let path = blob(&place, &first, "c");
    fs::remove_file(&path).unwrap();
    fs::write(&path, "cX").unwrap();
    assert_eq!(counts(&place.run(&chain("x"))), (1, 3, 0, 0, 0));
    assert_eq!(fs::read_to_string(path).unwrap(), "c1");
}

#[test]
fn a_forced_stage_runs_and_its_record_stays_if_it_comes_out_the_same() {
    let place = Place::new();
    let first = place.run(&chain("x"));
    let force = RunOptions { force: ["a".to_owned()].into(), ..place.options() };
    let (second, events) = place.try_run(&chain("x"), force).unwrap();
    assert_eq!(counts(&second), (1, 3, 0, 0, 0));
    assert_eq!(record(&place, &first, "a"), record(&place, &second, "a"));
    assert!(!events.iter().any(|event| matches!(event, Event::StageWarned { .. })));
}

#[test]
fn the_same_result_at_two_addresses_runs_once() {
    let place = Place::new();
    let counter = place.path("counter").display().to_string();
    let mut pipe = Pipe::new();
    // The second needs less to be ready than the first.
    let root = pipe.text("root", "r");
    let copy = pipe.text("copy", "r");
    for (address, from) in [("one", root), ("two", copy)] {
        pipe.after(address, from, json!({ "counter": counter, "mode": "slow" }));
    }
    let summary = place.run(&pipe);
    assert_eq!(counts(&summary), (2, 2, 0, 0, 0));
    assert_eq!(fs::read_to_string(place.path("counter")).unwrap(), "x");
    assert_eq!(planned(&place, &pipe, "two"), "hit");
    let mut pipe = Pipe::new();
    pipe.text("one", "t");
    pipe.text("two", "t");
    assert_eq!(planned(&place, &pipe, "two"), "same as one");
}

#[test]
fn two_runs_at_once_on_one_cache_execute_once() {
    let place = Place::new();
    let counter = place.path("counter").display().to_string();
    let run = || {
        let mut pipe = Pipe::new();
        let a = pipe.add("a", "text", json!({ "counter": counter, "mode": "slow" }));
        pipe.after("b", a, json!({ "counter": counter, "mode": "slow" }));
        // As another process would: with its own view of the cache.
        let cache = Cache::open(place.cache.root()).unwrap();
        place.run_on(&pipe, &cache, RunOptions { jobs: 2, ..RunOptions::default() })
    };
    let summaries =
        std::thread::scope(|scope| [scope.spawn(run), scope.spawn(run)].map(|thread| thread.join().unwrap()));
    assert_eq!(summaries.iter().map(|summary| summary.executed).sum::<usize>(), 2);
    assert_eq!(summaries.iter().map(|summary| summary.cached).sum::<usize>(), 2);
    assert_eq!(fs::read_to_string(place.path("counter")).unwrap(), "xx");
}

#[test]
fn an_outside_file_counts_by_content() {
    let place = Place::new();
    let (file, moved) = (place.path("in.txt"), place.path("moved.txt"));
    fs::write(&file, "hello").unwrap();
    let pipe = |path: &PathBuf| {
        let mut pipe = Pipe::new();
        let a = pipe.outside("a", path, json!({ "include": "whole/" }));
        pipe.after("b", a, json!({}));
        pipe
    };
    let first = place.run(&pipe(&file));
    assert_eq!(counts(&first), (2, 0, 0, 0, 0));
    let names: Vec<_> = record(&place, &first, "a").outputs["text"].0.keys().cloned().collect();
    assert_eq!(names, ["text.txt", "whole/file.txt"]);
    fs::write(&file, "hello").unwrap();
    fs::copy(&file, &moved).unwrap();
    assert_eq!(counts(&place.run(&pipe(&moved))), (0, 2, 0, 0, 0));
    fs::write(&moved, "other").unwrap();
    let words = planned(&place, &pipe(&moved), "a");
    assert!(words.starts_with("run: files behind `with.source` changed ("), "{words}");
    fs::remove_file(&moved).unwrap();
    let error = place.try_run(&pipe(&moved), place.options()).unwrap_err().to_string();
    assert!(error.starts_with("a: `with.source`: can't read"), "{error}");
}

#[test]
fn records_hold_the_log_and_the_facts_and_no_times_among_them() {
    let (one, two) = (Place::new(), Place::new());
    let mut pipe = Pipe::new();
    pipe.add("a", "text", json!({ "mode": "talk" }));
    let [first, second] = [&one, &two].map(|place| record(place, &place.run(&pipe), "a"));
    assert_eq!(first.parts, second.parts);
    assert_eq!((first.key, &first.outputs, first.log), (second.key, &second.outputs, second.log));
    assert_eq!(first.summary, [("count".to_owned(), json!(3))].into());
    let log = one.cache.locate(&first.log).unwrap().unwrap();
    assert_snapshot!(fs::read_to_string(log).unwrap(), @r"
    a note
    warning: a warning
    step: 3 of 3
    ");
    assert_eq!(first.execution.determinism, "bitwise");
}

#[test]
fn the_log_of_a_run_tells_what_happened() {
    let place = Place::new();
    let (summary, events) = place.try_run(&chain("x"), place.options()).unwrap();
    let logged: Vec<_> =
        runs::events(place.cache.root(), &summary.run).unwrap().into_iter().map(|line| line.event).collect();
    let told: Vec<_> = events
        .into_iter()
        .filter(|event| !matches!(event, Event::StageProgress { .. } | Event::RunExpects { .. }))
        .collect();
    assert_eq!(logged, told);
    place.run(&chain("y"));
    let list = runs::list(place.cache.root()).unwrap();
    assert_eq!(list.len(), 2);
    assert!(list.iter().all(|run| run.pipeline == "test" && run.summary.as_ref().is_some_and(RunSummary::complete)));
}
