//! Whole runs over hand-made graphs of fake kinds.

use std::{fs, path::PathBuf, sync::atomic::Ordering, time::Duration};

use insta::assert_snapshot;
use serde_json::json;

use super::*;
use crate::{
    audit::{Verdict, audit},
    explain::explain,
    fakes::{Pipe, Place},
    runs,
};

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
fn a_result_that_comes_out_differently_is_told_and_replaced() {
    let place = Place::new();
    let mut pipe = Pipe::new();
    pipe.add("a", "text", json!({ "mode": "random" }));
    let first = place.run(&pipe);
    let force = RunOptions { force: ["a".to_owned()].into(), ..place.options() };
    let (second, events) = place.try_run(&pipe, force).unwrap();
    assert_ne!(record(&place, &second, "a").execution.started, first_started(&place, &first, &events));
    let told = events.iter().find_map(|event| match event {
        Event::StageWarned { line, .. } => Some(line.as_str()),
        _ => None,
    });
    assert_snapshot!(told.unwrap(), @"`text` of `text` came out differently than before with the same inputs: NOT REPRODUCIBLE, though the kind promises the same bytes");
    assert_eq!(counts(&place.run(&pipe)), (0, 1, 0, 0, 0));
}

/// When the first result at `a` was made, as the second run could know it.
fn first_started(place: &Place, first: &RunSummary, _: &[Event]) -> Timestamp {
    runs::events(place.cache.root(), &first.run).unwrap()[0].time
}

#[test]
fn a_failure_blocks_only_what_depends_on_it() {
    let place = Place::new();
    let mut pipe = Pipe::new();
    let bad = pipe.add("bad", "text", json!({ "mode": "fail", "text": "dice" }));
    let behind = pipe.after("behind", bad, json!({}));
    pipe.after("further", behind, json!({}));
    let panics = pipe.add("panics", "text", json!({ "mode": "panic" }));
    let good = pipe.text("good", "g");
    let strict = pipe.add("strict", "text", json!({ "text": "s" }));
    pipe.gather(&[good, bad], strict, Missing::Error);
    let lenient = pipe.add("lenient", "text", json!({ "text": "l" }));
    pipe.gather(&[good, bad, panics], lenient, Missing::Drop);
    let (summary, events) = place.try_run(&pipe, place.options()).unwrap();
    assert_eq!(counts(&summary), (2, 0, 2, 3, 0));
    assert_snapshot!(format!("{:?}", outcome(&summary, "bad")), @r#"Failed("no luck with dice")"#);
    assert_snapshot!(format!("{:?}", outcome(&summary, "panics")), @r#"Failed("panicked (a bug in the kind `text`): out of cheese")"#);
    assert_snapshot!(format!("{:?}", outcome(&summary, "further")), @r#"Blocked("bad")"#);
    assert_eq!(fs::read_to_string(blob(&place, &summary, "lenient")).unwrap(), "lg(dropped)(dropped)");
    let rows = &record(&place, &summary, "lenient").parts.inputs["all"];
    assert!(matches!(rows, palinode_cache::PortContent::Table(rows) if rows[1].content.is_none()));
    let kept = events.iter().find_map(|event| match event {
        Event::StageFailed { address, kept, .. } if address == "bad" => kept.clone(),
        _ => None,
    });
    let kept = kept.unwrap();
    assert_eq!(kept, failed_dir(place.cache.root(), "bad"));
    assert_eq!(fs::read_to_string(kept.join("log")).unwrap(), "about to fail\nbad: failed: no luck with dice\n");
    assert_eq!(fs::read_to_string(kept.join("out/text/text.txt")).unwrap(), "partial");
    assert_eq!(planned(&place, &pipe, "bad"), "run: never run");
}

#[test]
fn an_output_port_left_empty_is_a_failure() {
    let place = Place::new();
    let mut pipe = Pipe::new();
    pipe.add("a", "text", json!({ "mode": "empty" }));
    assert_snapshot!(format!("{:?}", outcome(&place.run(&pipe), "a")), @r#"Failed("it wrote nothing to its output `text`")"#);
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
fn an_input_edited_meanwhile_fails_the_stage_and_nothing_is_recorded() {
    let place = Place::new();
    let file = place.path("in.txt");
    fs::write(&file, "hello").unwrap();
    let mut pipe = Pipe::new();
    pipe.outside("a", &file, json!({ "edit": true }));
    let (summary, _) = place.try_run(&pipe, place.options()).unwrap();
    let Outcome::Failed(message) = outcome(&summary, "a") else { panic!("{summary:?}") };
    assert!(
        message.ends_with("(in `with.source`) changed since this run began; nothing was recorded, run again"),
        "{message}"
    );
    assert_eq!(place.cache.record(&summary.nodes[0].key.unwrap()).unwrap(), None);
}

#[test]
fn two_files_of_one_name_in_an_output_are_an_error() {
    let place = Place::new();
    let file = place.path("text.txt");
    fs::write(&file, "hello").unwrap();
    let folder = place.path("folder");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("text.txt"), "hello").unwrap();
    let mut pipe = Pipe::new();
    pipe.outside("a", &folder, json!({ "include": "" }));
    assert_snapshot!(format!("{:?}", outcome(&place.run(&pipe), "a")), @r#"Failed("output `text` has two files named `text.txt`: one written, one included")"#);
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
fn a_cancelled_run_stops_what_runs_and_begins_nothing() {
    let place = Place::new();
    let mut pipe = Pipe::new();
    let a = pipe.add("a", "text", json!({ "mode": "endless" }));
    pipe.after("b", a, json!({}));
    let options = RunOptions { jobs: 1, ..place.options() };
    let cancel = options.cancelled.clone();
    let canceller = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        cancel.store(true, Ordering::Relaxed);
    });
    let (summary, _) = place.try_run(&pipe, options).unwrap();
    canceller.join().unwrap();
    assert_eq!(counts(&summary), (0, 0, 0, 0, 2));
    assert!(!summary.complete());
}

#[test]
fn the_log_of_a_run_tells_what_happened() {
    let place = Place::new();
    let (summary, events) = place.try_run(&chain("x"), place.options()).unwrap();
    let logged: Vec<_> =
        runs::events(place.cache.root(), &summary.run).unwrap().into_iter().map(|line| line.event).collect();
    let told: Vec<_> = events.into_iter().filter(|event| !matches!(event, Event::StageProgress { .. })).collect();
    assert_eq!(logged, told);
    place.run(&chain("y"));
    let list = runs::list(place.cache.root()).unwrap();
    assert_eq!(list.len(), 2);
    assert!(list.iter().all(|run| run.pipeline == "test" && run.summary.as_ref().is_some_and(RunSummary::complete)));
}

#[test]
fn published_files_come_back_and_nothing_runs() {
    let place = Place::new();
    place.run(&chain("x"));
    let svg = place.path("out/figure.svg");
    let original = fs::read(&svg).unwrap();
    let changed = String::from_utf8(original.clone()).unwrap().replace("<text>", "<text >");
    fs::write(&svg, changed).unwrap();
    fs::remove_file(place.path("out/figure.csv")).unwrap();
    let again = place.run(&chain("x"));
    assert_eq!((counts(&again), again.written.len()), ((0, 4, 0, 0, 0), 2));
    assert_eq!(fs::read(&svg).unwrap(), original);
    // A renamed stage: the same results under other names.
    let mut renamed = chain("x");
    renamed.0.dag[NodeIndex::new(0)].address.stage = "corpus".into();
    let again = place.run(&renamed);
    assert_eq!((counts(&again), again.written), ((0, 4, 0, 0, 0), vec![svg.clone()]));
    let stamp = audit(&svg, None).unwrap();
    assert!(stamp.lineage.nodes.values().any(|node| node.address == "corpus"));
}

#[test]
fn a_figure_tells_where_it_came_from_wherever_it_is() {
    let place = Place::new();
    let summary = place.run(&chain("x"));
    let copy = place.path("mailed.dat");
    fs::copy(place.path("out/figure.svg"), &copy).unwrap();
    let told = audit(&copy, Some(&place.cache)).unwrap();
    assert_eq!((&told.verdict, told.missing.as_deref()), (&Verdict::Intact, Some(&[][..])));
    {
        assert_snapshot!(redact(&told.render()), @r#"
    intact: every byte is as it was published
      figure    figure of test, file figure/figure.svg
      key       [digest]
      content   [digest]
      published by palinode 0.1.0
      cache     every file of all 4 results behind it is there and whole

    figure  draw r1  [short]
    ├─ all[x=0] [short] <- b  text r1  [short]
    │  │  counter = ""
    │  │  mode = "length"
    │  │  text = ""
    │  └─ one [short] <- a  text r1  [short]
    │        counter = ""
    │        mode = "echo"
    │        text = "x"
    └─ all[x=1] [short] <- c  text r1  [short]
       │  mode = "echo"
       │  text = "c"
       └─ one [short] <- b  text r1  [short]  (see above)
    "#)
    }
    // One digit of the figure is changed.
    let text = fs::read_to_string(&copy).unwrap().replace("c1</text>", "c2</text>");
    fs::write(&copy, text).unwrap();
    let told = audit(&copy, None).unwrap();
    assert!(told.render().starts_with("altered: its content was changed"), "{}", told.render());
    fs::remove_file(blob(&place, &summary, "b")).unwrap();
    let told = audit(&place.path("out/figure.svg"), Some(&place.cache)).unwrap();
    assert_eq!(told.missing.unwrap()[0].address, "b");
    let told = audit(&place.path("out/figure.csv"), None).unwrap();
    assert_snapshot!(told.render(), @"altered, or not a Palinode figure: no stamp can be read");
}

#[test]
fn rows_of_a_gather_are_told_by_what_differs() {
    let place = Place::new();
    let mut pipe = Pipe::new();
    let shared = pipe.text("shared", "s");
    let rows: Vec<_> = (0..3)
        .map(|x| {
            let base = pipe.after(&format!("base[x={x}]"), shared, json!({ "text": x.to_string() }));
            pipe.after(&format!("tuned[x={x}]"), base, json!({ "text": "t" }))
        })
        .collect();
    let figure = pipe.add("figure", "draw", json!({}));
    pipe.gather(&rows, figure, Missing::Error);
    place.run(&pipe);
    let told = audit(&place.path("out/figure.svg"), None).unwrap();
    let tree = told.render().split_once("\n\n").unwrap().1.to_owned();
    {
        assert_snapshot!(redact(&tree), @r#"
    figure  draw r1  [short]
    ├─ all[x=0] [short] <- tuned[x=0]  text r1  [short]
    │  │  counter = ""
    │  │  mode = "echo"
    │  │  text = "t"
    │  └─ one [short] <- base[x=0]  text r1  [short]
    │     │  counter = ""
    │     │  mode = "echo"
    │     │  text = "0"
    │     └─ one [short] <- shared  text r1  [short]
    │           counter = ""
    │           mode = "echo"
    │           text = "s"
    ├─ all[x=1] [short] <- tuned[x=1]  text r1  [short]
    │  └─ one [short] <- base[x=1]  text r1  [short]
    │     │  text = "1"
    │     └─ one [short] <- shared  text r1  [short]  (see above)
    └─ all[x=2] [short] <- tuned[x=2]  text r1  [short]
       └─ one [short] <- base[x=2]  text r1  [short]
          │  text = "2"
          └─ one [short] <- shared  text r1  [short]  (see above)
    "#)
    }
}

#[test]
fn why_tells_the_maker_and_the_last_difference() {
    let place = Place::new();
    let first = place.run(&chain("x"));
    let pipe = chain("y");
    let why = |node: usize| {
        let nodes = [NodeIndex::new(node)].into();
        explain(&pipe.0, &pipe.all(), &nodes, &place.cache).unwrap().remove(0).render()
    };
    assert_snapshot!(why(0), @r#"
    a (text)
      will run: `with.text` changed: "x" -> "y"
    "#);
    let second = place.run(&pipe);
    let text = why(0);
    assert!(text.contains(&format!("in run {}", second.run)), "{text}");
    assert!(text.contains(&format!("before, in run {}", first.run)), "{text}");
    assert!(text.ends_with("    `with.text` changed: \"x\" -> \"y\"\n"), "{text}");
    assert!(text.contains("  from text, revision 1\n    with.counter = \"\"\n"), "{text}");
    // `b` came out the same: its result is the first run's.
    let text = why(2);
    assert!(text.contains(&format!("in run {}", first.run)), "{text}");
}
