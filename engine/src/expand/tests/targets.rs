//! What targets select, and what drawings show.

use insta::assert_snapshot;

use super::*;
use crate::draw;

fn study() -> Graph {
    loaded(
        r#"
name: a "study"
axes: { seed: [0, 1], rank: [2, full] }
stages:
  base: { uses: make, over: [seed], with: { value: "${seed}" } }
  tuned: { uses: step, over: [rank], inputs: { model: base }, with: { value: "${rank}" } }
  again: { uses: step, inputs: { model: tuned } }
  all: { uses: collect, inputs: { models: again, base: "base[seed=0]" }, gather: [seed, rank] }
  alone: { uses: make }
"#,
        &[],
    )
}

fn selected(targets: &[&str]) -> String {
    let graph = study();
    let targets: Vec<_> = targets.iter().map(|target| (*target).to_owned()).collect();
    match graph.select(&targets) {
        Ok(selection) => {
            let addresses = selection.iter().map(|node| graph.instance(*node).address.to_string());
            addresses.collect::<Vec<_>>().join(" ")
        }
        Err(error) => format!("{error}\n  hint: {}", error.hint().unwrap()),
    }
}

#[test]
fn a_target_comes_with_what_it_needs() {
    assert_snapshot!(selected(&["tuned[rank=2,seed=1]"]), @"base[seed=1] tuned[seed=1,rank=2]");
    assert_eq!(selected(&["+tuned[rank=2,seed=1]"]), selected(&["tuned[rank=2,seed=1]"]));
    assert_snapshot!(selected(&["again[rank=full]", "alone"]), @"base[seed=0] base[seed=1] tuned[seed=0,rank=full] tuned[seed=1,rank=full] again[seed=0,rank=full] again[seed=1,rank=full] alone");
    assert_eq!(selected(&[]).split(' ').count(), study().order.len());
}

#[test]
fn a_plus_brings_what_depends_on_it_and_all_that_this_needs() {
    // The gather at the end is whole: it needs the other points too.
    assert_eq!(selected(&["tuned[rank=2,seed=1]+"]).split(' ').count(), 2 + 4 + 4 + 1);
    assert_snapshot!(selected(&["alone+"]), @"alone");
}

#[test]
fn globs_and_lists_of_labels_select_several() {
    assert_snapshot!(selected(&["{base,alone}"]), @"base[seed=0] base[seed=1] alone");
    assert_snapshot!(selected(&["*[rank=2]"]), @"base[seed=0] base[seed=1] tuned[seed=0,rank=2] tuned[seed=1,rank=2] again[seed=0,rank=2] again[seed=1,rank=2]");
    assert_snapshot!(selected(&["base[seed=[0, 1]]"]), @"base[seed=0] base[seed=1]");
    assert_snapshot!(selected(&["al[ol]*"]), @"base[seed=0] base[seed=1] tuned[seed=0,rank=2] tuned[seed=0,rank=full] tuned[seed=1,rank=2] tuned[seed=1,rank=full] again[seed=0,rank=2] again[seed=0,rank=full] again[seed=1,rank=2] again[seed=1,rank=full] all alone");
}

#[test]
fn a_target_that_selects_nothing_is_told() {
    let told = [
        "tunde",
        "tuned[rank=8]",
        "tuned[rank=",
        "tuned.model",
        "base[rank=2]",
        "alone[x=1]",
        "tuned[sed=1]",
        "tuned[rank=ful]",
    ]
    .map(|target| selected(&[target]));
    assert_snapshot!(told.join("\n"), @r"
    no stage is called `tunde`
      hint: did you mean `tuned`?
    `tuned` has nothing at `rank=8`
      hint: known: `2`, `full`
    `tuned[rank=` is not a target: the closing `]` is missing
      hint: write `stage`, `stage+`, `+stage` or `stage[axis=label]`
    `tuned.model` is not a target: it names the output `model`, but a stage runs as a whole
      hint: write `stage`, `stage+`, `+stage` or `stage[axis=label]`
    `base` has no axis `rank`
      hint: known: `seed`
    `alone` has no axis `x`
      hint: leave the brackets out
    `tuned` has no axis `sed`
      hint: did you mean `seed`?
    `tuned` has nothing at `rank=ful`
      hint: did you mean `full`?
    ");
}

#[test]
fn as_mermaid() {
    assert_snapshot!(draw::Drawing::stages(&study()).mermaid(), @r#"
    flowchart LR
      s0["<b>base</b><br/>make<br/>seed: 2"]
      s1["<b>tuned</b><br/>step<br/>seed x rank: 4"]
      s2["<b>again</b><br/>step<br/>seed x rank: 4"]
      s3["<b>all</b><br/>collect"]
      s4["<b>alone</b><br/>make"]
      s0 -->|model| s1
      s1 -->|model| s2
      s0 -->|base| s3
      s2 ==>|models| s3
    "#);
}

#[test]
fn as_dot() {
    assert_snapshot!(draw::Drawing::stages(&study()).dot(), @r#"
    digraph "a \"study\"" {
      rankdir=LR;
      node [shape=box];
      "base" [label="base\nmake\nseed: 2"];
      "tuned" [label="tuned\nstep\nseed x rank: 4"];
      "again" [label="again\nstep\nseed x rank: 4"];
      "all" [label="all\ncollect"];
      "alone" [label="alone\nmake"];
      "base" -> "tuned" [label="model"];
      "tuned" -> "again" [label="model"];
      "base" -> "all" [label="base"];
      "again" -> "all" [label="models", style=bold];
    }
    "#);
}
