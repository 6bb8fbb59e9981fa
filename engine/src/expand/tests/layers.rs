//! `extends`, `profiles`, `defaults`, files of params, `--set`: what they lay over each other, and where problems with
//! them are told.

use insta::assert_snapshot;
use serde_json::json;

use super::*;

/// A folder of files; `p.yaml` is the pipeline.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new(files: &[(&str, &str)]) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        fs::create_dir_all(folder.0.path().join("words")).unwrap();
        for (name, text) in files {
            let path = folder.0.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        folder
    }

    fn load(&self, options: &[&str]) -> Result<Graph, Problems> {
        let mut sets = Vec::new();
        let (mut profiles, mut params) = (Vec::new(), Vec::new());
        for option in options {
            match option.split_once(' ') {
                Some(("--profile", name)) => profiles.push(name.to_owned()),
                Some(("--params", file)) => params.push(file.into()),
                _ => sets.push((*option).to_owned()),
            }
        }
        let overrides = Overrides::parse(&sets, self.0.path().join("words")).unwrap();
        load(&self.0.path().join("p.yaml"), &registry(), &Overrides { profiles, params, ..overrides })
    }

    fn graph(&self, options: &[&str]) -> Graph {
        self.load(options).unwrap_or_else(|problems| panic!("{problems}"))
    }

    fn told(&self, options: &[&str]) -> String {
        let Err(problems) = self.load(options) else { panic!("no problem is told") };
        told(&problems).replace(&*self.0.path().canonicalize().unwrap().to_string_lossy(), "DIR")
    }
}

/// Each instance with its params.
fn params(graph: &Graph) -> String {
    let line = |node| {
        let instance = graph.instance(node);
        let given = instance.params.iter().filter(|(_, value)| !value.is_null());
        let given: Vec<_> = given.map(|(name, value)| format!("{name}={value}")).collect();
        format!("{} {}", instance.address, given.join(" "))
    };
    graph.order.iter().map(|node| line(*node)).collect::<Vec<_>>().join("\n")
}

const BASE: &str = r#"
name: base
params: { k: 1, deep: { a: 1, b: 2 }, list: [1, 2] }
axes: { seed: [0, 1], model: [{ name: opt, width: 8 }, { name: llama, width: 16 }] }
stages:
  a: { uses: make, over: [seed], with: { value: "${params.k}", other: "${seed}" } }
  b: { uses: make, over: [model], with: { value: "${model.width}", other: "${params.deep}" } }
  c: { uses: collect, inputs: { models: b }, gather: [model] }
"#;

#[test]
fn a_profile_may_name_what_an_extending_file_takes_away() {
    let base = format!("{BASE}profiles: {{ big: {{ params: {{ k: 9 }}, stages: {{ c: {{ with: {{}} }} }} }} }}\n");
    let files = |own: &str| Folder::new(&[("base.yaml", &base), ("p.yaml", &format!("extends: base.yaml\n{own}\n"))]);
    let folder = files("stages: { c: null }");
    assert_snapshot!(params(&folder.graph(&["--profile big"])), @r#"
    a[seed=0] other=0 value=9
    a[seed=1] other=1 value=9
    b[model=opt] other={"a":1,"b":2} value=8
    b[model=llama] other={"a":1,"b":2} value=16
    "#);
    // What nobody took away is a slip.
    let folder = files("profiles: { big: { stages: { d: {} } } }");
    assert_snapshot!(folder.told(&["--profile big"]), @r"
    2:30 «d» the profile names the stage `d`, which the pipeline doesn't have
      hint: known: `a`, `b`, `c`
    ");
}

#[test]
fn a_file_lies_over_what_it_extends() {
    let own = r#"
extends: base.yaml
params: { k: 7, deep: { b: null } }
axes: { model: [llama] }
stages:
  a: { with: { other: "s${seed}" } }
  c: null
  d: { uses: step, inputs: { model: b } }
"#;
    let folder = Folder::new(&[("base.yaml", BASE), ("p.yaml", own)]);
    let graph = folder.graph(&[]);
    assert_eq!(graph.pipeline, "base");
    assert_snapshot!(params(&graph), @r#"
    a[seed=0] other="s0" value=7
    a[seed=1] other="s1" value=7
    b[model=llama] other={"a":1,"b":null} value=16
    d[model=llama]
    "#);
    assert_snapshot!(drawn(&graph), @r"
    a[seed=0]
    a[seed=1]
    b[model=llama]
    d[model=llama] <- model b[model=llama]
    ");
}

#[test]
fn chains_lists_and_shared_bases_are_laid_once() {
    let folder = Folder::new(&[
        ("p.yaml", "extends: [sub/left.yaml, right.yaml]\n"),
        ("sub/left.yaml", "extends: ../root.yaml\nparams: { who: left, left: 1 }\n"),
        ("right.yaml", "extends: root.yaml\nparams: { who: right }\n"),
        (
            "root.yaml",
            "params: { who: root, left: 0 }\nstages: { a: { uses: make, with: { value: \"${params.who}\", other: \"${params.left}\" } } }\n",
        ),
    ]);
    assert_snapshot!(params(&folder.graph(&[])), @r#"a other=1 value="right""#);
}

#[test]
fn circles_of_files_are_shown() {
    let folder = Folder::new(&[
        ("p.yaml", "name: x\nextends: one.yaml\nstages: {}\n"),
        ("one.yaml", "extends: [two.yaml]\n"),
        ("two.yaml", "params: { x: 1 }\nextends: one.yaml\n"),
    ]);
    assert_snapshot!(folder.told(&[]), @r"
    two.yaml:2:10 «one.yaml» files extend each other in a circle: DIR/one.yaml -> DIR/two.yaml -> DIR/one.yaml
      hint: drop one `extends`
    ");
    let own = Folder::new(&[("p.yaml", "extends: ./p.yaml\nstages: {}\n")]);
    assert_snapshot!(own.told(&[]), @r"
    1:10 «./p.yaml» files extend each other in a circle: DIR/p.yaml -> DIR/p.yaml
      hint: drop one `extends`
    ");
}

#[test]
fn files_that_can_not_be_had_are_told_where_they_are_named() {
    let folder = Folder::new(&[
        ("p.yaml", "extends: [none.yaml, broken.yaml, list.yaml, 3]\nparams: { from: gone.yaml }\nstages: {}\n"),
        ("broken.yaml", "params:\n  x: [1\n"),
        ("list.yaml", "- 1\n"),
    ]);
    assert_snapshot!(folder.told(&["--params nothing.yaml"]), @r"
    --params nothing.yaml: the file can't be read: no such file or folder
    1:11 «none.yaml» `none.yaml` can't be read: no such file or folder
      hint: looked for DIR/none.yaml; paths are relative to the file that names them
    1:46 «3» `extends` must be the path of a file, or a list of them, not the number `3`
    2:17 «gone.yaml» `gone.yaml` can't be read: no such file or folder
      hint: looked for DIR/gone.yaml; paths are relative to the file that names them
    broken.yaml:3:1 «» not valid YAML: while parsing a flow sequence, expected ',' or ']'
      hint: check the indentation, and quote texts that hold `: `, `#`, `{` or `[`
    list.yaml:1:1 «- 1» a file that is extended must be a mapping, not a list
    ");
    let empty = Folder::new(&[("p.yaml", "extends: e.yaml\nstages: {}\n"), ("e.yaml", "# soon\n")]);
    assert_snapshot!(empty.told(&[]), @r"
    the file is empty
      hint: start with `name:` and `stages:`
    ");
    let many: Vec<_> = (0..70).map(|i| (format!("f{i}.yaml"), format!("extends: f{}.yaml\n", i + 1))).collect();
    let mut files: Vec<_> = many.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    files.push(("p.yaml", "extends: f0.yaml\nstages: {}\n"));
    assert_snapshot!(Folder::new(&files).told(&[]), @r"
    f62.yaml:1:10 «f63.yaml» more than 64 files make up this pipeline
      hint: put what they share into fewer files
    ");
}

#[test]
fn problems_are_told_in_the_file_that_has_them() {
    let base = r#"stages:
  a: { uses: tune, with: { steps: 0 } }
  b: { uses: tune, with: { steps: 1, rate: fast } }
  c: { uses: tune }
  d: { uses: step, inputs: { model: a } }
"#;
    let own = "extends: base.yaml\nstages:\n  b: { with: { steps: many } }\n  c: { with: { stpes: 1 } }\n  d: { inputs: { model: x } }\n";
    let folder = Folder::new(&[("base.yaml", base), ("p.yaml", own)]);
    assert_snapshot!(folder.told(&[]), @r"
    3:23 «many» `steps` must be a whole number, not the text `many`
    4:8 «with» `tune` needs the param `steps`
      hint: How many there are.
    4:16 «stpes» `tune` has no param `stpes`
      hint: did you mean `steps`?
    5:25 «x» unknown stage `x`
      hint: known: `a`, `b`, `c`, `d`
    base.yaml:2:35 «0» `steps`: must be at least 1
      hint: leave the stage out instead
    base.yaml:3:44 «fast» `rate` must be a number, not the text `fast`
    ");
    let Err(problems) = folder.load(&[]) else { unreachable!() };
    assert!(problems.to_string().contains("base.yaml:2:35: `steps`: must be at least 1"), "{problems}");
}

#[test]
fn paths_are_relative_to_the_file_that_gives_them() {
    let folder = Folder::new(&[
        (
            "p.yaml",
            "extends: sub/base.yaml\nparams: { from: params/p.json, one: own.txt }\nstages: { b: { with: { file: own.txt } } }\n",
        ),
        ("params/p.json", "{ \"two\": \"two.txt\", \"both\": [\"two.txt\", \"two.txt\"] }"),
        (
            "sub/base.yaml",
            r#"
params: { one: no.txt, two: no.txt, both: [] }
axes: { m: [{ name: x, file: base.txt }, { name: y, file: base.txt }] }
stages:
  a: { uses: tune, with: { steps: 1, file: "${params.one}", files: ["${params.two}", base.txt] } }
  b: { uses: tune, with: { steps: 2, file: base.txt, files: "${params.both}" } }
  c: { uses: tune, over: [m], with: { steps: 3, file: "${m.file}", note: "${m}" } }
"#,
        ),
        ("own.txt", "own"),
        ("sub/base.txt", "base"),
        ("params/two.txt", "two"),
        ("words/there.txt", "there"),
    ]);
    let paths = |options: &[&str]| {
        let graph = folder.graph(options);
        let lines = graph.order.iter().map(|node| {
            let instance = graph.instance(*node);
            let path = |path: &std::path::PathBuf| {
                let below = path.strip_prefix(folder.0.path()).unwrap();
                assert!(path.exists(), "{path:?}");
                below.display().to_string()
            };
            let paths: Vec<_> = instance.paths.values().map(path).collect();
            format!("{} {}", instance.address, paths.join(" "))
        });
        lines.collect::<Vec<_>>().join("\n")
    };
    assert_snapshot!(paths(&[]), @r"
    a own.txt params/two.txt sub/base.txt
    b own.txt params/two.txt params/two.txt
    c[m=x] sub/base.txt
    c[m=y] sub/base.txt
    ");
    // What is typed is relative to where it was typed, item by item; a record that was only picked is not.
    assert_snapshot!(paths(&["params.both[1]=there.txt", "axes.m[0].file=there.txt"]), @r"
    a own.txt params/two.txt sub/base.txt
    b own.txt params/two.txt words/there.txt
    c[m=x] words/there.txt
    c[m=y] sub/base.txt
    ");
    assert_snapshot!(paths(&["axes.m=[y]"]), @r"
    a own.txt params/two.txt sub/base.txt
    b own.txt params/two.txt params/two.txt
    c[m=y] sub/base.txt
    ");
}

const PROFILED: &str = r#"
params: { k: 1, judge: big }
axes: { seed: [0, 1, 2], model: [{ name: opt, w: 8 }, { name: llama, w: 16 }] }
defaults: { make: { with: { other: d } } }
profiles:
  small:
    params: { k: 2 }
    axes: { seed: [0], model: [opt] }
    resources: { memory: 1GiB, gpus: 0 }
    stages: { a: { with: { value: [profile, "${seed}"] } } }
  cheap: { params: { judge: tiny, k: 3 }, defaults: { make: { with: { other: "${params.judge}" } } } }
  nothing:
stages:
  a: { uses: make, over: [seed], with: { value: ["${params.k}", "${seed}"] }, resources: { cpus: 2, gpus: 1 } }
  b: { uses: make, over: [model], with: { value: "${model.w}" } }
"#;

#[test]
fn profiles_overlay_in_the_order_given() {
    let folder = Folder::new(&[("p.yaml", PROFILED)]);
    assert_snapshot!(params(&folder.graph(&["--profile nothing"])), @r#"
    a[seed=0] other="d" value=[1,0]
    a[seed=1] other="d" value=[1,1]
    a[seed=2] other="d" value=[1,2]
    b[model=opt] other="d" value=8
    b[model=llama] other="d" value=16
    "#);
    let small = folder.graph(&["--profile small"]);
    assert_snapshot!(params(&small), @r#"
    a[seed=0] other="d" value=["profile",0]
    b[model=opt] other="d" value=8
    "#);
    let resources = &small.instance(small.order[0]).resources;
    assert_eq!((resources.cpus, resources.memory_mib, resources.gpus), (2, 1024, 0));
    assert_snapshot!(params(&folder.graph(&["--profile small", "--profile cheap"])), @r#"
    a[seed=0] other="tiny" value=["profile",0]
    b[model=opt] other="tiny" value=8
    "#);
    assert_snapshot!(params(&folder.graph(&["--profile cheap", "--profile small"])), @r#"
    a[seed=0] other="tiny" value=["profile",0]
    b[model=opt] other="tiny" value=8
    "#);
}

#[test]
fn profiles_are_told_of_by_name_and_place() {
    let folder = Folder::new(&[("p.yaml", PROFILED)]);
    assert_snapshot!(folder.told(&["--profile smal"]), @r"
    --profile smal: there is no profile `smal`
      hint: did you mean `small`?
    ");
    let wrong =
        PROFILED.replace("seed: [0], model: [opt]", "sede: [0], model: [gpt]").replace("stages: { a:", "stages: { x:");
    let folder = Folder::new(&[("p.yaml", &wrong)]);
    assert!(folder.load(&[]).is_ok(), "a profile that nobody asked for is only looked at");
    assert_snapshot!(folder.told(&["--profile small"]), @r"
    8:13 «sede» the profile names the axis `sede`, which the pipeline doesn't have
      hint: did you mean `seed`?
    8:31 «[gpt]» the axis `model` has no label `gpt`
      hint: did you mean `opt`?
    10:15 «x» the profile names the stage `x`, which the pipeline doesn't have
      hint: known: `a`, `b`
    ");
    let shape = "profiles: { a: 3, b: { parms: {} } }\nstages: {}\n";
    assert_snapshot!(Folder::new(&[("p.yaml", shape)]).told(&[]), @r"
    1:16 «3» the profile `a` must be a mapping, not the number `3`
    1:24 «parms» unknown key `parms` in a profile
      hint: did you mean `params`?
    ");
    assert_snapshot!(Folder::new(&[("p.yaml", "profiles: 3\nstages: {}\n")]).told(&[]), @"1:11 «3» `profiles` must be a mapping, not the number `3`");
    let left_out = format!("{PROFILED}  c: {{ uses: step, inputs: {{ model: \"a[seed=2]\" }} }}\n");
    assert_snapshot!(Folder::new(&[("p.yaml", &left_out)]).told(&["--profile small"]), @r#"
    16:37 «"a[seed=2]"» the label `2` of the axis `seed` was left out by the profile `small`
      hint: keep it there, or leave out what needs it
    "#);
}

#[test]
fn profiles_of_a_base_are_inherited() {
    let folder = Folder::new(&[
        ("base.yaml", PROFILED),
        (
            "p.yaml",
            "extends: base.yaml\nprofiles: { small: { params: { judge: mine } }, cheap: { params: { k: 9 } } }\n",
        ),
    ]);
    assert_snapshot!(params(&folder.graph(&["--profile small", "--profile cheap"])), @r#"
    a[seed=0] other="tiny" value=["profile",0]
    b[model=opt] other="tiny" value=8
    "#);
}

#[test]
fn precedence_is_extends_file_profile_params_set() {
    let file = |k: &str, more: &str| format!("params: {{ from: [{k}.json], k: {k} }}\n{more}");
    let stages = "stages: { a: { uses: make, with: { value: \"${params.k}\", other: \"${params.x}\" } } }\n";
    let folder = Folder::new(&[
        ("base.yaml", &file("base", stages)),
        (
            "p.yaml",
            &file("own", "extends: base.yaml\nprofiles: { p: { params: { k: profile, from: profile.json } } }\n"),
        ),
        ("base.json", r#"{ "k": 1, "x": "base.json" }"#),
        ("own.json", r#"{ "k": 1, "x": "own.json" }"#),
        ("profile.json", r#"{ "k": 1, "x": "profile.json" }"#),
        ("words/given.yaml", "k: given\n"),
    ]);
    let shown = |options: &[&str]| params(&folder.graph(options));
    assert_snapshot!(shown(&[]), @r#"a other="own.json" value="own""#);
    assert_snapshot!(shown(&["--profile p"]), @r#"a other="profile.json" value="profile""#);
    assert_snapshot!(shown(&["--profile p", "--params given.yaml"]), @r#"a other="profile.json" value="given""#);
    assert_snapshot!(shown(&["params.x=2", "params.k=set", "params.x=3", "--profile p", "--params given.yaml"]), @r#"a other=3 value="set""#);
}

#[test]
fn params_from_files_are_data() {
    let folder = Folder::new(&[
        ("p.yaml", "params: { from: p.yml }\nstages: { a: { uses: make, with: { value: \"${params.x.y}\" } } }\n"),
        ("p.yml", "x: { y: [1, two] }\n"),
        ("words/list.yaml", "[1]\n"),
        ("words/wrong.yaml", "x: { y: !tag 1, z: \"${params.x}\" }\n"),
    ]);
    assert_snapshot!(params(&folder.graph(&[])), @r#"a value=[1,"two"]"#);
    assert_snapshot!(folder.told(&["--params list.yaml"]), @"list.yaml:1:1 «[1]» a file of params must be a mapping, not a list");
    assert_snapshot!(folder.told(&["--params wrong.yaml"]), @r"
    2:44 «${params.x.y}» `${params.x.y}` names nothing
    wrong.yaml:1:9 «!tag 1» the tag `!tag` can't be used here
      hint: only null, booleans, numbers, texts, lists and mappings are data
    ");
    let wrong = Folder::new(&[("p.yaml", "params: { from: { a: 1 } }\nstages: {}\n")]);
    assert_snapshot!(wrong.told(&[]), @"1:17 «{ a: 1 }» `params.from` must be the path of a file, or a list of them, not a mapping");
}

#[test]
fn sets_reach_into_lists_and_mappings() {
    let text = r#"
params: { list: [1, { deep: [x, y] }], "a.b": 1, 7: seven }
axes: { seed: [0, 1] }
stages:
  a: { uses: make, over: [seed], with: { value: ["${params.list}", "${seed}"], other: { k: [1, 2] } } }
"#;
    let folder = Folder::new(&[("p.yaml", text)]);
    let sets = [
        "params.list[1].deep[0]=1.5",
        "axes.seed[1]=7",
        "stages.a.with.other.k[1]=[a, b]",
        "stages.a.with.other.new.deep=true",
        "params.\"a.b\"='2'",
        "params.7=8",
        "params.list[0]=\"${no}\"",
    ];
    assert_snapshot!(params(&folder.graph(&sets[..6])), @r#"
    a[seed=0] other={"k":[1,["a","b"]],"new":{"deep":true}} value=[[1,{"deep":[1.5,"y"]}],0]
    a[seed=7] other={"k":[1,["a","b"]],"new":{"deep":true}} value=[[1,{"deep":[1.5,"y"]}],7]
    "#);
    assert_snapshot!(folder.told(&sets), @r"
    --set params.list[0]=${no}: `${...}` is only resolved in `with` and in paths of `inputs`
      hint: write the value here, or `$${` for a literal `${`
    ");
    let wrong = [
        "params.list[2]=1",
        "params.list.x=1",
        "params.a[0]=1",
        "axes.seed[0].name=1",
        "stages.a.with.value[9]=1",
        "stages.a.wiht.x=1",
        "stages.a.resources.cpus=none",
        "axes=1",
        "extends=x",
    ];
    assert_snapshot!(folder.told(&wrong), @r"
    --set params.list[2]=1: `params.list` has 2 items, [0] to [1], not [2]
      hint: set the whole list instead: `NAME=[...]`
    --set params.list.x=1: `params.list` is a list, not a mapping
      hint: a name after a dot is for mappings; an index in brackets for lists
    --set params.a[0]=1: nothing is called `params.a`
      hint: did you mean `params.7`?
    --set axes.seed[0].name=1: `axes.seed[0]` is the number `0`, not a mapping
      hint: a name after a dot is for mappings; an index in brackets for lists
    --set stages.a.with.value[9]=1: `stages.a.with.value` has 2 items, [0] to [1], not [9]
      hint: set the whole list instead: `NAME=[...]`
    --set axes=1: `axes` can't be set
      hint: `params.NAME`, `axes.NAME`, `stages.NAME.with.NAME` and other keys of stages and `defaults` can be set
    --set extends=x: `extends` can't be set
      hint: `params.NAME`, `axes.NAME`, `stages.NAME.with.NAME` and other keys of stages and `defaults` can be set
    --set stages.a.wiht.x=1: unknown key `wiht` in a stage
      hint: did you mean `with`?
    --set stages.a.resources.cpus=none: `cpus` must be a whole number from 1, not the text `none`
    ");
    let more = ["stages.a.resources.cpus=3", "stages.a.resources.memory=1GiB"];
    assert_eq!(folder.graph(&more).instance(folder.graph(&more).order[0]).resources.cpus, 3);
}

const DEFAULTED: &str = r#"
defaults:
  "*": { resources: { memory: 2GiB, cpus: 2 } }
  "t*": { resources: { cpus: 3 } }
  tune: { with: { steps: 5, note: n, file: here.txt }, resources: { gpus: 1 } }
stages:
  a: { uses: tune }
  b: { uses: tune, with: { steps: 6, file: null }, resources: { cpus: 4, gpus: null } }
  c: { uses: make, with: }
"#;

#[test]
fn defaults_give_what_a_stage_lacks() {
    let folder = Folder::new(&[("p.yaml", DEFAULTED), ("here.txt", "here")]);
    let graph = folder.graph(&[]);
    assert_snapshot!(params(&graph), @r#"
    a file="file" files=[] note="n" rate=1.0 steps=5
    b files=[] note="n" rate=1.0 steps=6
    c
    "#);
    let resources = graph.order.iter().map(|node| {
        let own = &graph.instance(*node).resources;
        format!("{} cpus {} memory {} gpus {}", graph.instance(*node).address, own.cpus, own.memory_mib, own.gpus)
    });
    assert_snapshot!(resources.collect::<Vec<_>>().join("\n"), @r"
    a cpus 3 memory 2048 gpus 1
    b cpus 4 memory 2048 gpus 0
    c cpus 2 memory 2048 gpus 0
    ");
    assert_eq!(folder.graph(&["defaults.tune.with.steps=9"]).instance(graph.order[0]).params["steps"], json!(9));
    assert_eq!(folder.graph(&["stages.a.with.steps=9"]).instance(graph.order[0]).params["steps"], json!(9));
}

#[test]
fn defaults_are_told_of_in_their_place() {
    let text = r#"
defaults:
  tune: { with: { steps: many, stpes: 1, note: [] }, resource: {} }
  tuen: { with: { steps: 1 } }
  make: 3
  "m*": { with: { value: 1 } }
  "[": { resources: { cpus: 0 } }
stages:
  a: { uses: tune, with: { rate: 1 } }
  b: { uses: tune, with: { files: [] } }
"#;
    assert_snapshot!(problems(text, &[]), @r#"
    3:26 «many» `steps` must be a whole number, not the text `many`
    3:32 «stpes» `tune` has no param `stpes`
      hint: known: `file`, `files`, `rank`, `rate`
    3:48 «[]» `note` must be a text, not a list
    3:54 «resource» unknown key `resource` in `defaults`
      hint: did you mean `resources`?
    4:3 «tuen» unknown kind `tuen`
      hint: did you mean `tune`?
    5:9 «3» the defaults of `make` must be a mapping, not the number `3`
    6:11 «with» `with` can't have defaults for all of `m*`: kinds differ in their params
      hint: name the kind, or give `resources`, `retries` and `timeout` alone
    7:3 «"["» unknown kind `[`
      hint: known: `batched`, `collect`, `count`, `join`, `make`, `step`, `tune`
    "#);
    assert_snapshot!(problems("defaults: [1]\nstages: {}\n", &[]), @"1:11 «[1]» `defaults` must be a mapping, not a list");
}

#[test]
fn keys_of_ones_own_are_ignored() {
    let text = "x-shared: &with { value: 1 }\nx-note: \"${anything}\"\nstages: { a: { uses: make, with: *with } }\n";
    assert_snapshot!(params(&loaded(text, &[])), @"a value=1");
    assert_snapshot!(problems("y-shared: 1\nstages: {}\n", &[]), @r"
    1:1 «y-shared» unknown key `y-shared` in the file
      hint: known: `name`, `params`, `axes`, `stages`, `extends`, `profiles`, `defaults`
    ");
}

#[test]
fn anchors_and_merge_keys_may_be_in_any_file() {
    let base = r#"
x-tune: &tune { uses: tune, with: &with { steps: 1, note: a } }
x-more: &more { resources: { cpus: 2 } }
stages:
  a: { <<: *tune }
  b: { <<: [*tune, *more], with: { <<: *with, steps: 2 } }
"#;
    let folder = Folder::new(&[
        ("base.yaml", base),
        ("p.yaml", "extends: base.yaml\nstages: { b: { with: { note: own } }, a: { with: { stpes: 1 } } }\n"),
    ]);
    assert_snapshot!(folder.told(&[]), @r"
    2:52 «stpes» `tune` has no param `stpes`
      hint: known: `file`, `files`, `rank`, `rate`
    ");
    let sets = ["stages.a.with={steps: 3}"];
    let folder =
        Folder::new(&[("base.yaml", base), ("p.yaml", "extends: base.yaml\nstages: { b: { with: { note: own } } }\n")]);
    assert_snapshot!(params(&folder.graph(&sets)), @r#"
    a files=[] note="" rate=1.0 steps=3
    b files=[] note="own" rate=1.0 steps=2
    "#);
}
