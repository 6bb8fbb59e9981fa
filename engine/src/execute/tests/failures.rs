//! Stages that fail, stop or come out otherwise.

use super::*;
use crate::perform::failed_dir;

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
