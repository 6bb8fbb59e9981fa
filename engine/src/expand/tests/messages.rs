//! The words of each problem that `broken` and `rules` don't show.

use insta::assert_snapshot;

use super::*;

/// Problems of stages beside a `base` over seeds and a `tuned` over ranks.
fn told(stages: &str) -> String {
    let head = r#"
axes: { seed: [0, 1], rank: [2, 8, full] }
stages:
  base: { uses: make, over: [seed], with: { value: "${seed}" } }
  tuned: { uses: step, over: [rank], inputs: { model: base }, with: { value: "${rank}" } }
"#;
    problems(format!("{head}{stages}"), &[])
}

#[test]
fn names_and_types_of_the_top() {
    let text = r#"
nme: x
name: [x]
axes: { params: [1], "a b": [1] }
stages:
  1st: { uses: make }
  a.b: { uses: make }
  c: make
  d: { uses: make, over: x, missing: never, resources: { cpus: 0, memory: 4XB, gpu: 1 }, skip: 3 }
  e: { with: [1], inputs: { model: 3 } }
"#;
    assert_snapshot!(problems(text, &[]), @r#"
    2:1 «nme» unknown key `nme` in the file
      hint: did you mean `name`?
    3:7 «[x]» `name` must be a text, not a list
    4:9 «params» `params` can't be the name of an axis
      hint: use letters, digits, `_` and `-`, starting with a letter; `params` is taken
    4:22 «"a b"» `a b` can't be the name of an axis
      hint: use letters, digits, `_` and `-`, starting with a letter; `params` is taken
    6:3 «1st» `1st` can't be the name of a stage
      hint: use letters, digits, `_` and `-`, starting with a letter; `params` is taken
    7:3 «a.b» `a.b` can't be the name of a stage
      hint: use letters, digits, `_` and `-`, starting with a letter; `params` is taken
    8:6 «make» a stage must be a mapping, not the text `make`
    9:26 «x» `over` must be a list, not the text `x`
      hint: put it in brackets: `[...]`
    9:38 «never» `missing` must be `error` or `drop`, not the text `never`
    9:64 «0» `cpus` must be a whole number from 1, not the number `0`
    9:75 «4XB» `4XB` is not an amount of memory
      hint: write `4GiB`, `512MiB`, or a number of MiB
    9:80 «gpu» unknown key `gpu` in `resources`
      hint: did you mean `gpus`?
    9:96 «3» `skip` must be a list, not the number `3`
      hint: put it in brackets: `[...]`
    10:3 «e» `uses` is missing in a stage
      hint: add `uses: ...`
    10:14 «[1]» `with` must be a mapping, not a list
    10:36 «3» the input `model` must be a text like `stage`, `stage.output` or `./path`, not the number `3`
    "#);
    assert_snapshot!(problems("name: x\n", &[]), @r"
    1:1 «name: x» `stages` is missing in the file
      hint: add `stages: ...`
    ");
}

#[test]
fn labels() {
    let text = r#"
axes:
  empty: []
  scalar: 3
  twice: [5e-5, 0.00005]
  ones: [1, 1.0]
  clash: [1, "1"]
  deep: [[1], null]
  mixed: [{ name: a }, b]
  nameless: [{ nam: a }]
  names: [{ name: a, x: 1 }, { name: a, x: 2 }, { name: b }, { name: c, x: 1, y: 2 }, { name: [d], x: 1 }]
  infinite: [.inf]
  late: ["${params.x}"]
params: { x: "${rank}", y: "$${literal}" }
stages: {}
"#;
    assert_snapshot!(problems(text, &[]), @r#"
    3:10 «[]» the axis `empty` is empty
      hint: give it at least one label
    4:11 «3» the axis `scalar` must be a list, not the number `3`
      hint: put it in brackets: `[...]`
    5:17 «0.00005» the label `0.00005` stands twice in the axis `twice`
      hint: labels are compared by value: `5e-5` is `0.00005`, and `1.0` is `1`
    6:13 «1.0» the label `1` stands twice in the axis `ones`
      hint: labels are compared by value: `5e-5` is `0.00005`, and `1.0` is `1`
    7:14 «"1"» the axis `clash` has both the number and the text `1`
      hint: keep one of them
    8:10 «[1]» a list can't be a label
      hint: labels are numbers, texts or booleans, or records with a `name`
    8:15 «null» null can't be a label
      hint: labels are numbers, texts or booleans, or records with a `name`
    9:24 «b» the axis `mixed` mixes records and plain labels
      hint: make all of them records with a `name`, or none
    10:14 «{ nam: a }» this record of the axis `nameless` has no `name`
      hint: add `name: ...`, its label
    11:38 «a» the label `a` stands twice in the axis `names`
      hint: labels are compared by value: `5e-5` is `0.00005`, and `1.0` is `1`
    11:49 «{ name: b }» records of the axis `names` differ in their fields: this one lacks `x`
      hint: give each record the same fields
    11:62 «{ name: c, x: 1, y: 2 }» records of the axis `names` differ in their fields: only this one has `y`
      hint: give each record the same fields
    11:95 «[d]» a list can't be a label
      hint: labels are numbers, texts or booleans, or records with a `name`
    12:14 «.inf» the number `.inf` can't be used here
      hint: only null, booleans, numbers, texts, lists and mappings are data
    13:11 «${» `${...}` is only resolved in `with` and in paths of `inputs`
      hint: write the value here, or `$${` for a literal `${`
    14:15 «${» `${...}` is only resolved in `with` and in paths of `inputs`
      hint: write the value here, or `$${` for a literal `${`
    "#);
}

#[test]
fn over() {
    assert_snapshot!(told(r#"  a: { uses: step, over: [rank, rank, sed], inputs: { model: tuned }, with: { value: "${rank}" } }
"#), @r"
    6:27 «rank» `over: rank`, but the input `model` already brings `rank`
      hint: drop it from `over`
    6:33 «rank» `rank` stands twice in `over`
      hint: drop one
    6:39 «sed» unknown axis `sed`
      hint: did you mean `seed`?
    ");
}

#[test]
fn gather() {
    assert_snapshot!(told(r#"  a: { uses: collect, inputs: { models: tuned }, gather: [rnak] }
  b: { uses: collect, inputs: { models: base }, gather: [rank] }
  c: { uses: step, inputs: { model: tuned }, gather: [rank, seed] }
  d: { uses: collect, inputs: { models: { from: tuned, gather: [rank] }, more: tuned }, gather: [rank] }
  e: { uses: collect, inputs: { models: { from: "tuned[rank=2]", gather: [rank] } } }
  f: { uses: step, inputs: { model: tuned }, missing: drop }
  g: { uses: collect, inputs: { models: { gather: [rank] }, more: { from: tuned, gahter: [rank] } } }
"#), @r"
    6:59 «rnak» `gather: rnak`, but no input brings `rnak`
      hint: did you mean `rank`?
    7:58 «rank» `gather: rank`, but no input brings `rank`
      hint: known: `seed`
    8:37 «tuned» the input `model` takes one result, but `tuned` comes as a table along `seed, rank`
      hint: fix a coordinate, like `stage[axis=label]`, or drop the `gather`
    9:98 «rank» `rank` is gathered by the input `models` and by the stage
      hint: gather it in one place
    10:75 «rank» `tuned[rank=2]` has no axis `rank`
      hint: known: `seed`
    11:46 «missing» `missing` says something about a `gather`, and there is none here
      hint: drop it
    12:33 «models» `from` is missing in an input
      hint: add `from: ...`
    12:82 «gahter» unknown key `gahter` in an input
      hint: did you mean `gather`?
    ");
}

#[test]
fn skip() {
    assert_snapshot!(told(r#"  a: { uses: step, inputs: { model: "tuned[rank=[2,8]]" }, skip: [{ rank: full }, {}] }
  b: { uses: step, inputs: { model: tuned }, skip: [{ rank: ful }, { rnk: 2 }, { rank: [[2]] }] }
  c: { uses: collect, inputs: { models: tuned }, gather: [rank], skip: [{ rank: 2 }] }
  d: { uses: step, inputs: { model: tuned }, skip: [{ rank: [2, 8, full] }] }
"#), @r"
    6:67 «{ rank: full }» this `skip` matches no point of `a`
      hint: drop it, or fix its labels
    6:83 «{}» this `skip` matches no point of `a`
      hint: drop it, or fix its labels
    7:88 «[[2]]» a list can't be a label
      hint: labels are numbers, texts or booleans, or records with a `name`
    8:75 «rank» `skip` names the axis `rank`, which `c` doesn't have
      hint: it is gathered: choose at the input instead, `stage[axis=[...]]`
    9:3 «d» no point of `d` is left
      hint: check `skip`, and what its inputs skip or fix
    ");
}

#[test]
fn coordinates() {
    assert_snapshot!(told(r#"  a: { uses: step, inputs: { model: "tuned[rank=16]" } }
  b: { uses: step, inputs: { model: "tuned[size=2]" } }
  c: { uses: step, inputs: { model: "tuned[rank=" } }
  d: { uses: join, inputs: { a: "tuned[rank=[2]]", b: "tuned[rank=[8]]" } }
"#), @r#"
    6:37 «"tuned[rank=16]"» the axis `rank` has no label `16`
      hint: known: `2`, `8`, `full`
    7:44 «size» `tuned` has no axis `size`
      hint: known: `seed`, `rank`
    8:37 «"tuned[rank="» `tuned[rank=` is not an input: the closing `]` is missing
      hint: write `stage`, `stage.output`, `stage[axis=label]`, `{ from: stage, gather: [axis] }`, or `./path` for files
    9:3 «d» no point of `d` is left
      hint: check `skip`, and what its inputs skip or fix
    "#);
}

#[test]
fn links() {
    assert_snapshot!(told(r#"  a: { uses: step }
  b: { uses: step, inputs: { model: tunde } }
  c: { uses: step, inputs: { model: tuned.modl } }
  d: { uses: stpe, inputs: { model: nothing } }
"#), @r"
    6:3 «a» nothing is linked to the input `model` of `step`
      hint: `model` comes from `base`, `tuned`, `a`, `b`, `c`
    7:37 «tunde» unknown stage `tunde`
      hint: did you mean `tuned`?
    8:43 «modl» `tuned` has no output `modl`
      hint: did you mean `model`?
    9:14 «stpe» unknown kind `stpe`
      hint: did you mean `step`?
    9:37 «nothing» unknown stage `nothing`
      hint: known: `base`, `tuned`, `a`, `b`, `c`, `d`
    ");
}

#[test]
fn axes_that_reach_no_key() {
    assert_snapshot!(problems(r#"
axes:
  seed: [0, 1]
  rank: [2, 8]
  model: [{ name: a, width: 8 }, { name: b, width: 8 }]
stages:
  unused: { uses: make, over: [seed, rank], with: { value: "${rank}" } }
  same: { uses: make, over: [model], with: { value: "${model.width}" } }
"#, &[]), @r"
    7:32 «seed» the axis `seed` is introduced here, but nothing in `with` uses it
      hint: use `${seed}` in `with`, or drop it from `over`
    8:30 «model» the axis `model` changes nothing: `with` comes out the same for each of its labels
      hint: drop `model` from `over`: its points would be one result, told several times
    ");
    // A param that is in no key makes no results.
    let batched = "axes: { n: [1, 2] }\nstages: { a: { uses: batched, over: [n], with: { other: \"${n}\" } } }\n";
    assert_snapshot!(problems(batched, &[]), @r"
    2:38 «n» the axis `n` changes nothing: `with` comes out the same for each of its labels
      hint: drop `n` from `over`: its points would be one result, told several times
    ");
    loaded(&batched.replace("other", "value"), &[]);
    // One label can't differ from another.
    loaded("axes: { seed: [0] }\nstages: { a: { uses: make, over: [seed], with: { value: \"${seed}\" } } }", &[]);
}

#[test]
fn templates() {
    let text = r#"
params: { judge: x, list: [1] }
axes:
  rank: [2, 8]
  model: [{ name: a, width: 8 }, { name: b, width: 9 }]
stages:
  a: { uses: make, over: [model], with: { value: ["${params.jugde}", "${modle}", "${model.widht}", "${rank}"], other: "${model.width}" } }
  b: { uses: make, with: { value: "${oops", other: "is ${params.list}" } }
  c: { uses: collect, inputs: { models: ok }, gather: [rank], with: { value: "${rank}" } }
  ok: { uses: make, over: [rank], with: { value: "${rank}" } }
"#;
    assert_snapshot!(problems(text, &[]), @r"
    7:52 «${params.jugde}» `${params.jugde}` names nothing
      hint: did you mean `params.judge`?
    7:71 «${modle}» `${modle}` names nothing
      hint: did you mean `model`?
    7:83 «${model.widht}» `${model.widht}`: records of `model` have no field `widht`
      hint: did you mean `width`?
    7:101 «${rank}» `${rank}` can't be used: this stage has no axis `rank`
      hint: introduce it: `over: [rank]`
    8:36 «${» `${` is not closed
      hint: add `}`, or write `$${` for a literal `${`
    8:56 «${params.list}» `${params.list}` is a list, which can't stand inside a text
      hint: use it alone, as the whole value
    9:79 «${rank}» `${rank}` can't be used: this stage gathers `rank`
      hint: use what stays after the `gather`, or gather it only at an input
    ");
}

#[test]
fn params_of_a_kind() {
    let text = r#"
axes: { rank: [2, full, half, none] }
stages:
  a: { uses: tune, with: { stpes: 3, rate: fast, rank: [2], files: one } }
  b: { uses: tune, over: [rank], with: { steps: 3, rank: "${rank}" } }
  c: { uses: tune, with: { steps: 0 } }
  d: { uses: tune, with: { steps: 1, file: gone.txt, files: [here.txt, "", gone/too] } }
  e: { uses: tune, with: { steps: -1 } }
"#;
    let told = problems(text, &[]);
    let looked = |line: &&str| !line.contains("hint: looked for");
    assert_snapshot!(told.lines().filter(looked).collect::<Vec<_>>().join("\n"), @r#"
    4:20 «with» `tune` needs the param `steps`
      hint: How many there are.
    4:28 «stpes» `tune` has no param `stpes`
      hint: did you mean `steps`?
    4:44 «fast» `rate` must be a number, not the text `fast`
    4:56 «[2]» `rank` must be a whole number or `full`, not a list
    4:68 «one» `files` must be a list, not the text `one`
    5:58 «"${rank}"» `rank`: expected a whole number or `full` (at rank=half)
    6:35 «0» `steps`: must be at least 1
      hint: leave the stage out instead
    7:44 «gone.txt» `gone.txt` does not exist
    7:72 «""» the path `files[1]` is empty
    7:76 «gone/too» `gone/too` does not exist
    8:35 «-1» `steps`: invalid value: integer `-1`, expected u32
    "#);
}

#[test]
fn overrides() {
    let text = r#"
params: { judge: x }
axes: { rank: [2, full], model: [{ name: opt }, { name: llama }] }
stages:
  a: { uses: make, over: [rank], with: { value: "${rank}" } }
  b: { uses: step, inputs: { model: "a[rank=full]" } }
"#;
    let sets =
        ["params.jugde=1", "axes.rnak=[1]", "axes.model=[bert]", "stages.c.with.x=1", "name=y", "params.judge.deep=1"];
    assert_snapshot!(problems(text, &sets), @r#"
    --set params.jugde=1: nothing is called `params.jugde`
      hint: did you mean `params.judge`?
    --set axes.rnak=[1]: nothing is called `axes.rnak`
      hint: did you mean `axes.rank`?
    --set axes.model=["bert"]: the axis `model` has no label `bert`
      hint: known: `opt`, `llama`
    --set stages.c.with.x=1: nothing is called `stages.c`
      hint: did you mean `stages.a`?
    --set name=y: `name` can't be set
      hint: `params.NAME`, `axes.NAME`, `stages.NAME.with.NAME` and other keys of stages and `defaults` can be set
    --set params.judge.deep=1: `params.judge` is the text `x`, not a mapping
      hint: a name after a dot is for mappings; an index in brackets for lists
    "#);
    assert_snapshot!(problems(text, &["axes.rank=3"]), @r"
    --set axes.rank=3: the axis `rank` must be a list, not the number `3`
      hint: put it in brackets: `[...]`
    ");
    assert_snapshot!(problems(text, &["axes.rank=[]"]), @r"
    --set axes.rank=[]: the axis `rank` is empty
      hint: give it at least one label
    ");
    assert_snapshot!(problems(text, &["axes.rank=[2, 2.0]", "stages.a.with.vlaue=1"]), @r"
    --set axes.rank=[2,2.0]: the label `2` stands twice in the axis `rank`
      hint: labels are compared by value: `5e-5` is `0.00005`, and `1.0` is `1`
    --set stages.a.with.vlaue=1: `make` has no param `vlaue`
      hint: known: `other`
    ");
    assert_snapshot!(problems(text, &["axes.rank=[2]"]), @r#"
    6:37 «"a[rank=full]"» the label `full` of the axis `rank` was left out by `--set`
      hint: keep it there, or leave out what needs it
    "#);
    let parse = |set: &str| Overrides::parse(&[set.to_owned()], "/".into()).unwrap_err().to_string();
    assert_snapshot!(parse("judge"), @"`--set judge` lacks a `name=`");
    assert_snapshot!(parse("params.judge=[1"), @"the value of `--set params.judge=[1` can't be used: not valid YAML: while parsing a flow sequence, expected ',' or ']'");
}
