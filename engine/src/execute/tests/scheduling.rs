//! What runs when: interrupts, attempts, GPUs, and other processes.

use std::{collections::BTreeSet, time::Duration};

use super::*;
use crate::attempts::Attempts;

/// Calls `act` once `path` is as long as that.
fn when(path: PathBuf, len: u64, act: impl FnOnce() + Send + 'static) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        while fs::metadata(&path).map_or(0, |found| found.len()) < len {
            std::thread::sleep(Duration::from_millis(5));
        }
        act();
    })
}

fn told(events: &[Event]) -> Vec<String> {
    let line = |event: &Event| match event {
        Event::StageStarted { address, .. } => Some(format!("start {address}")),
        Event::StageFinished { address, .. } => Some(format!("finish {address}")),
        Event::StageRetrying { address, message, attempt, of, pause } => {
            Some(format!("retry {address}: {message}; {attempt} of {of} after {pause} s"))
        }
        Event::StageFailed { address, message, .. } => Some(format!("fail {address}: {message}")),
        Event::StageCancelled { address } => Some(format!("cancel {address}")),
        _ => None,
    };
    events.iter().filter_map(line).collect()
}

#[test]
fn a_drained_run_ends_what_runs_and_begins_nothing() {
    let place = Place::new();
    let counter = place.path("counter");
    let mut pipe = Pipe::new();
    let a = pipe.add("a", "text", json!({ "mode": "slow", "counter": counter.display().to_string() }));
    pipe.after("b", a, json!({}));
    let options = place.options();
    let interrupt = options.interrupt.clone();
    let hand = when(counter, 1, move || interrupt.drain());
    let (summary, events) = place.try_run(&pipe, options).unwrap();
    hand.join().unwrap();
    assert_eq!(counts(&summary), (1, 0, 0, 0, 1));
    assert_eq!(told(&events), ["start a", "finish a", "cancel b"]);
    assert!(!summary.complete());
}

#[test]
fn a_stopped_run_stops_what_runs() {
    let place = Place::new();
    let counter = place.path("counter");
    let mut pipe = Pipe::new();
    let a = pipe.add("a", "text", json!({ "mode": "endless", "counter": counter.display().to_string() }));
    pipe.after("b", a, json!({}));
    let options = place.options();
    let interrupt = options.interrupt.clone();
    let hand = when(counter, 1, move || interrupt.stop());
    let (summary, _) = place.try_run(&pipe, options).unwrap();
    hand.join().unwrap();
    assert_eq!(counts(&summary), (0, 0, 0, 0, 2));
}

#[test]
fn a_stage_that_is_broken_off_goes_on_from_its_checkpoint() {
    let place = Place::new();
    let counter = place.path("counter");
    let mut pipe = Pipe::new();
    pipe.add("a", "text", json!({ "mode": "count", "counter": counter.display().to_string() }));
    let drained = |executions, options: RunOptions| {
        let interrupt = options.interrupt.clone();
        let hand = when(counter.clone(), executions, move || {
            std::thread::sleep(Duration::from_millis(20));
            interrupt.drain();
        });
        let (summary, events) = place.try_run(&pipe, options).unwrap();
        hand.join().unwrap();
        assert_eq!(counts(&summary), (0, 0, 0, 0, 1));
        begins(&events)
    };
    let kept = || place.cache.checkpointed().unwrap().len();
    assert_eq!(drained(1, place.options()), 0);
    let (second, kept_then) = (drained(2, place.options()), kept());
    assert!(second > 0 && kept_then == 1);
    let (summary, events) = place.try_run(&pipe, place.options()).unwrap();
    assert_eq!(counts(&summary), (1, 0, 0, 0, 0));
    assert!(begins(&events) > second && kept() == 0);
    // One that is made again begins anew each time.
    for executions in [4, 5] {
        let force = ["a".to_owned()].into();
        assert_eq!(drained(executions, RunOptions { force, ..place.options() }), 0);
        assert_eq!(kept(), 1);
    }
}

/// Where the fake that counts began.
fn begins(events: &[Event]) -> usize {
    let note = events.iter().find_map(|event| match event {
        Event::StageNote { line, .. } => line.strip_prefix("from ").map(str::to_owned),
        _ => None,
    });
    note.unwrap().parse().unwrap()
}

#[test]
fn a_stage_that_fails_is_tried_again() {
    let place = Place::new();
    let mut pipe = Pipe::new();
    let counter = |name: &str| place.path(name).display().to_string();
    let attempts = Attempts { retries: 2, backoff: Duration::from_millis(1), timeout: None };
    for (stage, text) in [("lucky", "3"), ("unlucky", "4")] {
        let node = pipe.add(stage, "text", json!({ "mode": "flaky", "text": text, "counter": counter(stage) }));
        pipe.0.dag[node].attempts = attempts.clone();
    }
    let (summary, events) = place.try_run(&pipe, RunOptions { jobs: 1, ..place.options() }).unwrap();
    assert_eq!(counts(&summary), (1, 0, 1, 0, 0));
    assert_snapshot!(told(&events).join("\n"), @r#"
    start lucky
    retry lucky: no luck at attempt 1; 2 of 3 after 0.001 s
    retry lucky: no luck at attempt 2; 3 of 3 after 0.002 s
    finish lucky
    start unlucky
    retry unlucky: no luck at attempt 1; 2 of 3 after 0.001 s
    retry unlucky: no luck at attempt 2; 3 of 3 after 0.002 s
    fail unlucky: no luck at attempt 3 (attempt 3 of 3)
    "#);
    // Attempts are no part of the result.
    pipe.0.dag[NodeIndex::new(0)].attempts = Attempts::default();
    assert_eq!(planned(&place, &pipe, "lucky"), "hit");
}

#[test]
fn an_attempt_that_takes_too_long_is_ended() {
    let place = Place::new();
    let mut pipe = Pipe::new();
    let node = pipe.add("a", "text", json!({ "mode": "endless" }));
    let timeout = Some(Duration::from_millis(20));
    pipe.0.dag[node].attempts = Attempts { retries: 1, backoff: Duration::from_millis(1), timeout };
    let (summary, events) = place.try_run(&pipe, place.options()).unwrap();
    assert_eq!(counts(&summary), (0, 0, 1, 0, 0));
    assert_snapshot!(told(&events).join("\n"), @r#"
    start a
    retry a: timed out after 20ms (`timeout`); 2 of 2 after 0.001 s
    fail a: timed out after 20ms (`timeout`) (attempt 2 of 2)
    "#);
}

#[test]
fn fail_fast_begins_nothing_more() {
    let place = Place::new();
    let mut pipe = Pipe::new();
    pipe.add("bad", "text", json!({ "mode": "fail" }));
    pipe.text("good", "g");
    let one = RunOptions { jobs: 1, ..place.options() };
    let summary = place.try_run(&pipe, RunOptions { fail_fast: true, ..one.clone() }).unwrap().0;
    assert_eq!(counts(&summary), (0, 0, 1, 0, 1));
    assert_eq!(counts(&place.try_run(&pipe, one).unwrap().0), (1, 0, 1, 0, 0));
}

#[test]
fn each_gpu_is_one_stages_at_a_time() {
    let place = Place::new();
    let counter = place.path("counter").display().to_string();
    let mut pipe = Pipe::new();
    for (stage, text) in [("a", "2"), ("b", " 2")] {
        // Neither ends before both have begun.
        let node = pipe.add(stage, "text", json!({ "mode": "gpus", "text": text, "counter": counter }));
        pipe.0.dag[node].resources.gpus = 1;
    }
    let gpu_locks = Some(place.path("gpus"));
    let options = RunOptions { gpus: vec![4, 7], gpu_locks, ..place.options() };
    let summary = place.try_run(&pipe, options).unwrap().0;
    let ids = ["a", "b"].map(|stage| fs::read_to_string(blob(&place, &summary, stage)).unwrap());
    assert_eq!(BTreeSet::from(ids), ["[4]".to_owned(), "[7]".to_owned()].into());
}

#[test]
fn what_asks_for_more_than_there_is_is_told_before_anything_runs() {
    let place = Place::new();
    let mut pipe = Pipe::new();
    let done = pipe.text("done", "d");
    place.run(&pipe);
    pipe.0.dag[done].resources.gpus = 8;
    pipe.text("first", "f");
    for (stage, cpus, memory_mib, gpus) in [("cpu", 5, 0, 0), ("memory", 1, 300, 0), ("gpu", 1, 0, 1)] {
        let node = pipe.text(stage, stage);
        pipe.0.dag[node].resources = crate::graph::Resources { cpus, memory_mib, gpus };
    }
    let options = RunOptions { memory_mib: Some(200), ..place.options() };
    let error = place.try_run(&pipe, options).unwrap_err();
    assert_snapshot!(error.to_string(), @r#"
    test.yaml: the stage `cpu` asks for 5 CPUs, and the run may use 4
    test.yaml: the stage `memory` asks for 300 MiB of memory, and the run may use 200 MiB
    test.yaml: the stage `gpu` asks for 1 GPU, and the run may use none
    "#);
    let RunError::TooMuch(error) = error else { panic!("{error}") };
    assert_snapshot!(error.hint, @r#"lower its `resources`, or say what may be used: `--cpus 5`"#);
    assert_eq!(planned(&place, &pipe, "first"), "run: never run");
}

#[test]
fn who_waits_for_another_process_does_something_else_meanwhile() {
    let place = Place::new();
    let mut pipe = Pipe::new();
    let a = pipe.text("a", "a");
    pipe.after("b", a, json!({ "text": "b" }));
    let key = place.plan(&pipe).nodes[0].decision.key().unwrap();
    // As another process that makes `a`, dies, and leaves the lock.
    let lock = place.cache.lock(&key).unwrap();
    let counter = place.path("counter");
    pipe.add("c", "text", json!({ "text": "c", "counter": counter.display().to_string() }));
    let hand = when(counter, 1, move || drop(lock));
    let (summary, events) = place.try_run(&pipe, RunOptions { jobs: 1, ..place.options() }).unwrap();
    hand.join().unwrap();
    assert_eq!(counts(&summary), (3, 0, 0, 0, 0));
    let waits = events.iter().filter(|event| matches!(event, Event::StageWaiting { address, .. } if address == "a"));
    assert_eq!(waits.count(), 1);
}

#[test]
fn who_only_waits_need_not_be_waited_for() {
    let place = Place::new();
    let mut pipe = Pipe::new();
    pipe.text("a", "a");
    let key = place.plan(&pipe).nodes[0].decision.key().unwrap();
    let _lock = place.cache.lock(&key).unwrap();
    let options = place.options();
    let interrupt = options.interrupt.clone();
    let hand = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        interrupt.drain();
    });
    let (summary, _) = place.try_run(&pipe, options).unwrap();
    hand.join().unwrap();
    assert_eq!(counts(&summary), (0, 0, 0, 0, 1));
}

#[test]
fn the_longest_chain_as_it_took_last_time_goes_first() {
    let place = Place::new();
    // `short` is declared first; `slow` took longer, but something else comes out of it now.
    let pipe = |text: &str| {
        let mut pipe = Pipe::new();
        pipe.add("short", "text", json!({ "text": text }));
        pipe.add("slow", "text", json!({ "text": format!("slow {text}"), "mode": "slow" }));
        pipe
    };
    place.run(&pipe("x"));
    let (_, events) = place.try_run(&pipe("y"), RunOptions { jobs: 1, ..place.options() }).unwrap();
    assert_eq!(told(&events)[0], "start slow");
}

#[test]
fn the_state_of_the_checkout_is_in_the_record() {
    let place = Place::new();
    let mut pipe = Pipe::new();
    pipe.text("a", "a");
    let options = RunOptions { git: Git::new(|| Some("abc-dirty".into())), ..place.options() };
    let summary = place.try_run(&pipe, options).unwrap().0;
    assert_eq!(record(&place, &summary, "a").execution.git.as_deref(), Some("abc-dirty"));
}
