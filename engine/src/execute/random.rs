//! Random graphs, run again and again with random edits between, against a model that knows no cache: which instances
//! run, in which order, and what comes out.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::{
    event::Outcome,
    fakes::{Pipe, Place, cases},
    graph::Missing,
};

/// One instance: its text, what it does with it, and which earlier ones it reads.
#[derive(Debug, Clone)]
struct Toy {
    text: u8,
    mode: Mode,
    inputs: Vec<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Mode {
    Echo,
    /// Different inputs often give the same output, which cuts a rerun off.
    Length,
    Fail,
}

/// What a person does between two runs.
#[derive(Debug, Clone)]
enum Edit {
    Text(prop::sample::Index, u8),
    Mode(prop::sample::Index, Mode),
    Inputs(prop::sample::Index, Vec<prop::sample::Index>),
    /// The same declaration, written in another order.
    Reorder(prop::sample::Index),
}

fn mode() -> impl Strategy<Value = Mode> {
    prop_oneof![6 => Just(Mode::Echo), 4 => Just(Mode::Length), 1 => Just(Mode::Fail)]
}

fn toys() -> impl Strategy<Value = Vec<Toy>> {
    let toy = (0u8..3, mode(), prop::collection::vec(any::<prop::sample::Index>(), 0..3));
    prop::collection::vec(toy, 1..9).prop_map(|toys| {
        let earlier = |(number, (text, mode, inputs)): (usize, (u8, Mode, Vec<prop::sample::Index>))| Toy {
            text,
            mode,
            inputs: distinct(&inputs, number),
        };
        toys.into_iter().enumerate().map(earlier).collect()
    })
}

fn edit() -> impl Strategy<Value = Edit> {
    let at = any::<prop::sample::Index>;
    prop_oneof![
        (at(), 0u8..3).prop_map(|(at, text)| Edit::Text(at, text)),
        (at(), mode()).prop_map(|(at, mode)| Edit::Mode(at, mode)),
        (at(), prop::collection::vec(at(), 0..3)).prop_map(|(at, inputs)| Edit::Inputs(at, inputs)),
        at().prop_map(Edit::Reorder),
    ]
}

/// Some of the first `below` numbers, each once.
fn distinct(inputs: &[prop::sample::Index], below: usize) -> Vec<usize> {
    let some: BTreeSet<_> = inputs.iter().filter(|_| below > 0).map(|input| input.index(below.max(1))).collect();
    some.into_iter().collect()
}

fn apply(edit: &Edit, toys: &mut [Toy], order: &mut [usize]) {
    let count = toys.len();
    match edit {
        Edit::Text(at, text) => toys[at.index(count)].text = *text,
        Edit::Mode(at, mode) => toys[at.index(count)].mode = *mode,
        Edit::Inputs(at, inputs) => toys[at.index(count)].inputs = distinct(inputs, at.index(count)),
        Edit::Reorder(at) => order.rotate_left(at.index(count)),
    }
}

/// The toys as a graph whose nodes are added in a topological order near to `order`.
fn pipe(toys: &[Toy], order: &[usize]) -> Pipe {
    let mut pipe = Pipe::new();
    let mut nodes = BTreeMap::new();
    while nodes.len() < toys.len() {
        let ready = |toy: &usize| !nodes.contains_key(toy) && toys[*toy].inputs.iter().all(|i| nodes.contains_key(i));
        let number = order.iter().copied().find(|toy| ready(toy)).unwrap();
        let toy = &toys[number];
        let mode = match toy.mode {
            Mode::Echo => "echo",
            Mode::Length => "length",
            Mode::Fail => "fail",
        };
        let node =
            pipe.add(&format!("s{number}"), "text", json!({ "text": "t".repeat(toy.text.into()), "mode": mode }));
        if !toy.inputs.is_empty() {
            let rows: Vec<_> = toy.inputs.iter().map(|input| nodes[input]).collect();
            pipe.gather(&rows, node, Missing::Error);
        }
        nodes.insert(number, node);
    }
    pipe
}

/// What determines a result: the text, the mode, what comes in.
type Key = (u8, Mode, Vec<String>);

/// What the model says of an instance.
#[derive(Debug, PartialEq)]
enum Expected {
    /// It has this output; its key was known before this run or not.
    Has {
        key: Key,
        known: bool,
    },
    Fails,
    Blocked,
}

/// What each toy comes to if the results of `known` are there; adds what is new.
fn model(toys: &[Toy], known: &mut HashMap<Key, String>) -> Vec<Expected> {
    let before: BTreeSet<_> = known.keys().map(|key| format!("{key:?}")).collect();
    let mut outputs: Vec<Option<String>> = Vec::new();
    let mut all = Vec::new();
    for toy in toys {
        let inputs: Option<Vec<String>> = toy.inputs.iter().map(|input| outputs[*input].clone()).collect();
        let (expected, output) = match (inputs, toy.mode) {
            (None, _) => (Expected::Blocked, None),
            (Some(_), Mode::Fail) => (Expected::Fails, None),
            (Some(inputs), mode) => {
                let text = "t".repeat(toy.text.into()) + &inputs.concat();
                let output = if mode == Mode::Length { text.chars().count().to_string() } else { text };
                let key = (toy.text, mode, inputs);
                known.insert(key.clone(), output.clone());
                let known = before.contains(&format!("{key:?}"));
                (Expected::Has { key, known }, Some(output))
            }
        };
        all.push(expected);
        outputs.push(output);
    }
    all
}

/// The output of `address` as it lies in the cache.
fn output(place: &Place, summary: &RunSummary, address: &str) -> Option<String> {
    let key = summary.nodes.iter().find(|node| node.address == address)?.key?;
    let record = place.cache.record(&key).unwrap()?;
    let path = place.cache.locate(&record.outputs["text"].0["text.txt"]).unwrap()?;
    std::fs::read_to_string(path).ok()
}

/// No instance starts before all that it reads has ended.
fn in_order(toys: &[Toy], events: &[Event]) -> bool {
    let name = |address: &str| address[1..].parse::<usize>().unwrap();
    let mut ended = BTreeSet::new();
    events.iter().all(|event| match event {
        Event::StageStarted { address, .. } => toys[name(address)].inputs.iter().all(|input| ended.contains(input)),
        Event::StageFinished { address, .. } | Event::StageCached { address, .. } => ended.insert(name(address)),
        _ => true,
    })
}

proptest! {
    #![proptest_config(cases(500))]

    #[test]
    fn what_runs_is_what_must(
        mut toys in toys(),
        edits in prop::collection::vec(prop::collection::vec(edit(), 0..3), 1..4),
    ) {
        let place = Place::quick();
        let mut known = HashMap::new();
        let mut order: Vec<usize> = (0..toys.len()).collect();
        for edits in std::iter::once(&Vec::new()).chain(&edits) {
            edits.iter().for_each(|edit| apply(edit, &mut toys, &mut order));
            let expected = model(&toys, &mut known);
            let options = RunOptions { out: None, ..place.options() };
            let (summary, events) = place.try_run(&pipe(&toys, &order), options).unwrap();
            prop_assert!(in_order(&toys, &events), "{:?}", events);
            // Of several with one new key exactly one runs.
            let mut ran: HashMap<&Key, usize> = HashMap::new();
            for (number, expected) in expected.iter().enumerate() {
                let address = format!("s{number}");
                let outcome = &summary.nodes.iter().find(|node| node.address == address).unwrap().outcome;
                match expected {
                    Expected::Fails => prop_assert!(matches!(outcome, Outcome::Failed(_)), "{address}: {outcome:?}"),
                    Expected::Blocked => prop_assert!(matches!(outcome, Outcome::Blocked(_)), "{address}: {outcome:?}"),
                    Expected::Has { key, known: there } => {
                        let executed = usize::from(*outcome == Outcome::Executed);
                        prop_assert!(executed == 1 || *outcome == Outcome::Cached, "{address}: {outcome:?}");
                        *ran.entry(key).or_default() += executed;
                        prop_assert!(!there || executed == 0, "{address} ran again");
                        prop_assert_eq!(output(&place, &summary, &address), Some(known[key].clone()));
                    }
                }
            }
            for expected in &expected {
                if let Expected::Has { key, known: false } = expected {
                    prop_assert_eq!(ran[key], 1, "{:?}", key);
                }
            }
        }
    }
}
