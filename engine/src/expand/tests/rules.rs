//! One test for each rule of axes, links, templates, paths, overrides.

use insta::assert_snapshot;
use serde_json::json;

use super::*;

#[test]
fn axes_are_inherited_and_inputs_join_on_what_they_share() {
    let graph = loaded(
        r#"
axes: { seed: [0, 1], rank: [2, full] }
stages:
  both: { uses: join, inputs: { a: base, b: tuned } }
  tuned: { uses: step, over: [rank], inputs: { model: base }, with: { value: "${rank}" } }
  base: { uses: make, over: [seed], with: { value: "${seed}" } }
"#,
        &[],
    );
    assert_snapshot!(drawn(&graph), @r"
    base[seed=0]
    base[seed=1]
    tuned[seed=0,rank=2] <- model base[seed=0]
    tuned[seed=0,rank=full] <- model base[seed=0]
    tuned[seed=1,rank=2] <- model base[seed=1]
    tuned[seed=1,rank=full] <- model base[seed=1]
    both[seed=0,rank=2] <- a base[seed=0] <- b tuned[seed=0,rank=2]
    both[seed=0,rank=full] <- a base[seed=0] <- b tuned[seed=0,rank=full]
    both[seed=1,rank=2] <- a base[seed=1] <- b tuned[seed=1,rank=2]
    both[seed=1,rank=full] <- a base[seed=1] <- b tuned[seed=1,rank=full]
    ");
}

#[test]
fn inputs_repeat_along_axes_that_they_lack() {
    let graph = loaded(
        r#"
axes: { rank: [2, 8], seed: [0, 1] }
stages:
  ranks: { uses: make, over: [rank], with: { value: "${rank}" } }
  seeds: { uses: make, over: [seed], with: { value: "${seed}" } }
  both: { uses: join, inputs: { a: seeds, b: ranks } }
"#,
        &[],
    );
    assert_snapshot!(drawn(&graph), @r"
    ranks[rank=2]
    ranks[rank=8]
    seeds[seed=0]
    seeds[seed=1]
    both[rank=2,seed=0] <- a seeds[seed=0] <- b ranks[rank=2]
    both[rank=2,seed=1] <- a seeds[seed=1] <- b ranks[rank=2]
    both[rank=8,seed=0] <- a seeds[seed=0] <- b ranks[rank=8]
    both[rank=8,seed=1] <- a seeds[seed=1] <- b ranks[rank=8]
    ");
}

const TUNED: &str = r#"
axes: { seed: [0, 1], rank: [2, 8, full] }
stages:
  base: { uses: make, over: [seed], with: { value: "${seed}" } }
  tuned: { uses: step, over: [rank], inputs: { model: base }, with: { value: "${rank}" } }
"#;

fn tuned(stages: &str) -> Graph {
    loaded(&format!("{TUNED}{stages}"), &[])
}

/// The lines of one stage.
fn only(graph: &Graph, stage: &str) -> String {
    let drawn = drawn(graph);
    let mine = |line: &&str| line.split(['[', ' ']).next() == Some(stage);
    drawn.lines().filter(mine).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_fixed_coordinate_loses_its_axis_and_still_joins_on_the_others() {
    let graph = tuned("  pair: { uses: join, inputs: { a: tuned, b: \"tuned[rank=full]\" } }\n");
    assert_snapshot!(only(&graph, "pair"), @r"
    pair[seed=0,rank=2] <- a tuned[seed=0,rank=2] <- b tuned[seed=0,rank=full]
    pair[seed=0,rank=8] <- a tuned[seed=0,rank=8] <- b tuned[seed=0,rank=full]
    pair[seed=0,rank=full] <- a tuned[seed=0,rank=full] <- b tuned[seed=0,rank=full]
    pair[seed=1,rank=2] <- a tuned[seed=1,rank=2] <- b tuned[seed=1,rank=full]
    pair[seed=1,rank=8] <- a tuned[seed=1,rank=8] <- b tuned[seed=1,rank=full]
    pair[seed=1,rank=full] <- a tuned[seed=1,rank=full] <- b tuned[seed=1,rank=full]
    ");
}

#[test]
fn a_listed_coordinate_keeps_a_part_of_the_axis() {
    let graph = tuned("  part: { uses: step, inputs: { model: \"tuned.model[rank=[8, full], seed=1]\" } }\n");
    assert_snapshot!(only(&graph, "part"), @r"
    part[rank=8] <- model tuned[seed=1,rank=8]
    part[rank=full] <- model tuned[seed=1,rank=full]
    ");
}

#[test]
fn an_axis_may_come_again_after_a_fixed_coordinate_or_a_gather() {
    let graph = tuned(
        r#"  fixed: { uses: step, over: [rank], inputs: { model: "tuned[rank=2,seed=0]" }, with: { value: "${rank}" } }
  own: { uses: collect, over: [rank], inputs: { models: { from: tuned, gather: [rank, seed] } }, with: { value: "${rank}" } }
"#,
    );
    assert_snapshot!(only(&graph, "fixed"), @r"
    fixed[rank=2] <- model tuned[seed=0,rank=2]
    fixed[rank=8] <- model tuned[seed=0,rank=2]
    fixed[rank=full] <- model tuned[seed=0,rank=2]
    ");
    assert_eq!(only(&graph, "own").lines().count(), 3);
    assert_snapshot!(only(&graph, "own").lines().next().unwrap(), @r#"own[rank=2] <- models {seed=0,rank=2: tuned[seed=0,rank=2]; seed=0,rank=8: tuned[seed=0,rank=8]; seed=0,rank="full": tuned[seed=0,rank=full]; seed=1,rank=2: tuned[seed=1,rank=2]; seed=1,rank=8: tuned[seed=1,rank=8]; seed=1,rank="full": tuned[seed=1,rank=full]}"#);
}

#[test]
fn skip_takes_points_away_here_and_below() {
    let graph = loaded(
        r#"
axes: { seed: [0, 1], rank: [2, 8, full] }
stages:
  base: { uses: make, over: [seed], with: { value: "${seed}" } }
  tuned:
    uses: step
    over: [rank]
    inputs: { model: base }
    with: { value: "${rank}" }
    skip: [{ rank: full, seed: 1 }, { rank: [2, 8], seed: 0 }]
  after: { uses: step, inputs: { model: tuned } }
"#,
        &[],
    );
    assert_snapshot!(only(&graph, "after"), @r"
    after[seed=0,rank=full] <- model tuned[seed=0,rank=full]
    after[seed=1,rank=2] <- model tuned[seed=1,rank=2]
    after[seed=1,rank=8] <- model tuned[seed=1,rank=8]
    ");
}

#[test]
fn a_gather_joins_first_so_that_all_lists_share_one_table() {
    let graph = tuned("  all: { uses: collect, inputs: { models: tuned, more: base }, gather: [rank, seed] }\n");
    assert_snapshot!(only(&graph, "all").replace("; ", "\n").replace(" <-", "\n<-"), @r#"
    all
    <- models {seed=0,rank=2: tuned[seed=0,rank=2]
    seed=0,rank=8: tuned[seed=0,rank=8]
    seed=0,rank="full": tuned[seed=0,rank=full]
    seed=1,rank=2: tuned[seed=1,rank=2]
    seed=1,rank=8: tuned[seed=1,rank=8]
    seed=1,rank="full": tuned[seed=1,rank=full]}
    <- more {seed=0,rank=2: base[seed=0]
    seed=0,rank=8: base[seed=0]
    seed=0,rank="full": base[seed=0]
    seed=1,rank=2: base[seed=1]
    seed=1,rank=8: base[seed=1]
    seed=1,rank="full": base[seed=1]}
    "#);
}

#[test]
fn an_input_without_the_gathered_axes_stays_one() {
    let graph = tuned("  all: { uses: collect, inputs: { models: tuned, base: base }, gather: [rank] }\n");
    assert_snapshot!(only(&graph, "all"), @r#"
    all[seed=0] <- base base[seed=0] <- models {rank=2: tuned[seed=0,rank=2]; rank=8: tuned[seed=0,rank=8]; rank="full": tuned[seed=0,rank=full]}
    all[seed=1] <- base base[seed=1] <- models {rank=2: tuned[seed=1,rank=2]; rank=8: tuned[seed=1,rank=8]; rank="full": tuned[seed=1,rank=full]}
    "#);
}

#[test]
fn a_port_may_gather_for_itself() {
    let graph = tuned("  all: { uses: collect, inputs: { models: { from: tuned, gather: [rank] }, base: base } }\n");
    assert_snapshot!(only(&graph, "all"), @r#"
    all[seed=0] <- base base[seed=0] <- models {rank=2: tuned[seed=0,rank=2]; rank=8: tuned[seed=0,rank=8]; rank="full": tuned[seed=0,rank=full]}
    all[seed=1] <- base base[seed=1] <- models {rank=2: tuned[seed=1,rank=2]; rank=8: tuned[seed=1,rank=8]; rank="full": tuned[seed=1,rank=full]}
    "#);
}

#[test]
fn a_port_and_its_stage_may_gather_different_axes() {
    let graph = tuned(
        "  all: { uses: collect, inputs: { models: { from: \"tuned[rank=[2,8]]\", gather: [rank] } }, gather: [seed] }\n",
    );
    assert_snapshot!(only(&graph, "all"), @"all <- models {seed=0,rank=2: tuned[seed=0,rank=2]; seed=0,rank=8: tuned[seed=0,rank=8]; seed=1,rank=2: tuned[seed=1,rank=2]; seed=1,rank=8: tuned[seed=1,rank=8]}");
}

#[test]
fn a_gathering_port_takes_a_single_result_too() {
    let graph = tuned("  one: { uses: collect, inputs: { models: base } }\n");
    assert_snapshot!(only(&graph, "one"), @r"
    one[seed=0] <- models base[seed=0]
    one[seed=1] <- models base[seed=1]
    ");
}

#[test]
fn missing_points_are_dropped_only_if_asked() {
    let stages = r#"
  some: { uses: step, inputs: { model: tuned }, skip: [{ rank: full, seed: 1 }] }
  all: { uses: collect, inputs: { models: some }, gather: [seed, rank], missing: MISSING }
"#;
    let graph = tuned(&stages.replace("MISSING", "drop"));
    assert_snapshot!(only(&graph, "all").replace("; ", "\n"), @r#"
    all <- models {seed=0,rank=2: some[seed=0,rank=2]
    seed=0,rank=8: some[seed=0,rank=8]
    seed=0,rank="full": some[seed=0,rank=full]
    seed=1,rank=2: some[seed=1,rank=2]
    seed=1,rank=8: some[seed=1,rank=8]
    seed=1,rank="full": -}
    "#);
    let text = format!("{TUNED}{}", stages.replace("MISSING", "error"));
    assert_snapshot!(problems(text, &[]), @r"
    8:59 «[seed, rank]» the table at the input `models` of `all` lacks `seed=1,rank=full`
      hint: `missing: drop` leaves them out, and what comes out tells so
    ");
}

#[test]
fn a_label_that_no_point_has_is_not_missing() {
    let graph = tuned(
        r#"  low: { uses: step, inputs: { model: tuned }, skip: [{ rank: full }] }
  all: { uses: collect, inputs: { models: low }, gather: [rank] }
"#,
    );
    assert_snapshot!(only(&graph, "all"), @r"
    all[seed=0] <- models {rank=2: low[seed=0,rank=2]; rank=8: low[seed=0,rank=8]}
    all[seed=1] <- models {rank=2: low[seed=1,rank=2]; rank=8: low[seed=1,rank=8]}
    ");
}

#[test]
fn labels_are_canonical() {
    let graph = loaded(
        "axes: { rate: [5e-5, 1.0, 2, true, \"a,b\", 1e-20] }\nstages:\n  a: { uses: make, over: [rate], with: { value: \"${rate}\" } }\n",
        &[],
    );
    assert_snapshot!(drawn(&graph), @r#"
    a[rate=0.00005]
    a[rate=1]
    a[rate=2]
    a[rate=true]
    a[rate="a,b"]
    a[rate=1e-20]
    "#);
    let labels: Vec<_> = graph.order.iter().map(|node| graph.instance(*node).coords[0].1.clone()).collect();
    assert_eq!(labels, [json!(0.00005), json!(1), json!(2), json!(true), json!("a,b"), json!(1e-20)]);
    assert_eq!(graph.select(&["a[rate=0.00005]".into()]).unwrap().len(), 1);
    assert_eq!(graph.select(&["a[rate=\"a,b\"]".into()]).unwrap().len(), 1);
}

#[test]
fn fields_of_a_record_travel_together() {
    let graph = loaded(
        r#"
axes:
  model:
    - { name: opt, source: here.txt, size: { width: 8 } }
    - { name: llama, source: words, size: { width: 16 } }
stages:
  a: { uses: tune, over: [model], with: { file: "${model.source}", steps: "${model.size.width}", note: "of ${model}" } }
"#,
        &[],
    );
    let shown = graph.order.iter().map(|node| {
        let instance = graph.instance(*node);
        let end = instance.paths["file"].file_name().unwrap().to_string_lossy();
        format!("{} {} {} {end}", instance.address, instance.params["steps"], instance.params["note"])
    });
    assert_snapshot!(shown.collect::<Vec<_>>().join("\n"), @r#"
    a[model=opt] 8 "of opt" here.txt
    a[model=llama] 16 "of llama" words
    "#);
}

#[test]
fn templates_keep_types_and_escape() {
    let graph = loaded(
        r#"
params: { k: 5, deep: { list: [1, two], rate: 5.0e-05 } }
stages:
  a:
    uses: make
    with:
      value: ["${params.k}", "${params.deep.list}", "k=${params.k} rate=${params.deep.rate}", "$${params.k}", "a $ b {}"]
      other: { x: "${params.deep}" }
"#,
        &[],
    );
    let instance = graph.instance(graph.order[0]);
    assert_snapshot!(instance.params["value"], @r#"[5,[1,"two"],"k=5 rate=0.00005","${params.k}","a $ b {}"]"#);
    assert_snapshot!(instance.params["other"], @r#"{"x":{"list":[1,"two"],"rate":0.00005}}"#);
}

#[test]
fn canonical_params_have_defaults_and_no_paths() {
    let folder = tempfile::tempdir().unwrap();
    let text = r#"
params: { words: here.txt }
stages:
  a: { uses: tune, with: { steps: 3, file: "${params.words}", files: [words, "./words/there.txt"] } }
"#;
    let graph = load_in(folder.path(), text, &[]).unwrap();
    let instance = graph.instance(graph.order[0]);
    assert_snapshot!(serde_json::to_string(&instance.params).unwrap(), @r#"{"file":"file","files":["files[0]","files[1]"],"note":"","rank":null,"rate":1.0,"steps":3}"#);
    let paths: Vec<_> = instance.paths.iter().map(|(name, path)| (name.as_str(), path.clone())).collect();
    let there = folder.path().join("words/there.txt");
    assert_eq!(
        paths,
        [
            ("file", folder.path().join("here.txt")),
            ("files[0]", folder.path().join("words")),
            ("files[1]", there.clone())
        ]
    );
    // What is given on the command line is relative to where it was typed.
    let given = ["params.words=there.txt", "stages.a.with.files=[there.txt, ../here.txt]"];
    let graph = load_in(folder.path(), text, &given).unwrap();
    assert_eq!(graph.instance(graph.order[0]).paths["file"], there);
    assert_eq!(graph.instance(graph.order[0]).paths["files[0]"], there);
}

#[test]
fn overrides_replace_params_axes_and_fields() {
    let text = r#"
params: { deep: { k: 5 } }
axes:
  model: [{ name: opt, value: 1 }, { name: llama, value: 2 }]
  rank: [2, 8, full]
stages:
  a: { uses: make, over: [model], with: { value: "${model.value}", other: "${params.deep.k}" } }
  b: { uses: step, over: [rank], inputs: { model: a }, with: { value: "${rank}" }, skip: [{ rank: full, model: opt }] }
"#;
    let sets = ["params.deep.k=7", "axes.model=[llama]", "axes.rank=[2, 16]", "stages.b.with.other={x: 1}"];
    let graph = loaded(text, &sets);
    assert_snapshot!(drawn(&graph), @r"
    a[model=llama]
    b[model=llama,rank=2] <- model a[model=llama]
    b[model=llama,rank=16] <- model a[model=llama]
    ");
    let params = |i: usize| serde_json::to_string(&graph.instance(graph.order[i]).params).unwrap();
    assert_snapshot!(format!("{}\n{}", params(0), params(2)), @r#"
    {"other":7,"value":2}
    {"other":{"x":1},"value":16}
    "#);
}

#[test]
fn a_stage_without_with_may_be_set_one() {
    let graph = loaded("stages: { a: { uses: make } }", &["stages.a.with.value=3"]);
    assert_eq!(graph.instance(graph.order[0]).params["value"], json!(3));
}

#[test]
fn aliases_and_merges_are_followed() {
    let text = r#"
axes: { rank: &ranks [2, 8] }
stages:
  a: &a { uses: make, over: [rank], with: &with { value: "${rank}" } }
  b: { <<: *a, with: { <<: *with, other: 1 } }
"#;
    assert_eq!(loaded(text, &[]).order.len(), 4);
    assert_snapshot!(problems(text.replace("value: \"${rank}\"", "valve: 1"), &[]), @r"
    4:30 «rank» the axis `rank` is introduced here, but nothing in `with` uses it
      hint: use `${rank}` in `with`, or drop it from `over`
    4:51 «valve» `make` has no param `valve`
      hint: did you mean `value`?
    ");
}

#[test]
fn resources_have_units() {
    let text = "stages:\n  a: { uses: make, resources: { cpus: 4, memory: 1.5GiB, gpus: 1 } }\n  b: { uses: make, resources: { memory: 512 } }\n";
    let graph = loaded(text, &[]);
    let of = |i: usize| graph.instance(graph.order[i]).resources.clone();
    assert_eq!((of(0).cpus, of(0).memory_mib, of(0).gpus), (4, 1536, 1));
    assert_eq!((of(1).cpus, of(1).memory_mib, of(1).gpus), (1, 512, 0));
}

#[test]
fn edges_carry_ports_and_the_order_is_that_of_the_file_where_links_allow() {
    let graph = loaded(
        "stages:\n  last: { uses: join, inputs: { a: x, b: y } }\n  y: { uses: make }\n  x: { uses: make }\n  z: { uses: make }\n",
        &[],
    );
    let names: Vec<_> = graph.order.iter().map(|node| graph.instance(*node).address.stage.as_str()).collect();
    assert_eq!(names, ["y", "x", "last", "z"]);
    let edges = graph.dag.edge_indices().map(|edge| {
        let (from, to) = graph.dag.edge_endpoints(edge).unwrap();
        format!("{}-{}-{}", graph.instance(from).address, graph.dag[edge], graph.instance(to).address)
    });
    assert_eq!(edges.collect::<Vec<_>>(), ["x-a-last", "y-b-last"]);
}

#[test]
fn twenty_thousand_instances_are_no_trouble() {
    let labels: Vec<_> = (0..100).collect();
    let text = format!(
        r#"
axes: {{ x: {labels:?}, y: {labels:?} }}
stages:
  a: {{ uses: make, over: [x], with: {{ value: "${{x}}" }} }}
  b: {{ uses: step, over: [y], inputs: {{ model: a }}, with: {{ value: "${{y}}" }} }}
  c: {{ uses: join, inputs: {{ a: a, b: b }} }}
  d: {{ uses: collect, inputs: {{ models: c }}, gather: [x, y] }}
"#
    );
    let graph = loaded(&text, &[]);
    assert_eq!(graph.order.len(), 100 + 10_000 + 10_000 + 1);
    assert_eq!(graph.dag.edge_count(), 10_000 + 20_000 + 10_000);
}
