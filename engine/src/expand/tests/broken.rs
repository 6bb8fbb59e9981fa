//! Files that are broken in every way: a message each, never a panic, never slow.

use insta::assert_snapshot;

use super::*;

#[test]
fn a_tab() {
    assert_snapshot!(problems("stages:\n\ta: { uses: make }\n", &[]), @r"
    2:1 «	» a tab is used for indentation, which YAML forbids
      hint: use spaces
    ");
    assert_snapshot!(problems("stages:\n  a:\n  \tuses: make\n", &[]), @r"
    3:3 «	» a tab is used for indentation, which YAML forbids
      hint: use spaces
    ");
}

#[test]
fn a_wrong_type() {
    assert_snapshot!(problems("stages:\n  a: { uses: tune, with: { steps: many } }\n", &[]), @"2:35 «many» `steps` must be a whole number, not the text `many`");
}

#[test]
fn an_unknown_key() {
    assert_snapshot!(problems("stages:\n  a: { uses: make, wiht: {} }\n", &[]), @r"
    2:20 «wiht» unknown key `wiht` in a stage
      hint: did you mean `with`?
    ");
}

#[test]
fn a_misspelt_kind() {
    assert_snapshot!(problems("stages:\n  a: { uses: maek }\n", &[]), @r"
    2:14 «maek» unknown kind `maek`
      hint: did you mean `make`?
    ");
}

#[test]
fn a_cycle() {
    let text = r#"
stages:
  ok: { uses: make, with: { valeu: 1 } }
  a: { uses: step, inputs: { model: c } }
  b: { uses: step, inputs: { model: a } }
  c: { uses: join, inputs: { a: b, b: ok } }
  self: { uses: step, inputs: { model: self } }
  below: { uses: step, inputs: { model: c } }
"#;
    assert_snapshot!(problems(text, &[]), @r"
    3:29 «valeu» `make` has no param `valeu`
      hint: did you mean `value`?
    4:37 «c» stages depend on each other in a circle: a -> b -> c -> a
      hint: cut one of these links
    7:40 «self» stages depend on each other in a circle: self -> self
      hint: cut one of these links
    ");
}

#[test]
fn a_wrong_port() {
    let text = "stages:\n  a: { uses: make }\n  b: { uses: step, inputs: { modle: a } }\n  c: { uses: step, inputs: { model: a.data } }\n";
    assert_snapshot!(problems(text, &[]), @r"
    3:20 «inputs» nothing is linked to the input `model` of `step`
      hint: `model` comes from `a`, `b`, `c`
    3:30 «modle» `step` has no input `modle`
      hint: did you mean `model`?
    4:37 «a.data» the input `model` takes `model`, but `a.data` gives `dataset`
      hint: `model` comes from `a`, `b`, `c`
    ");
}

#[test]
fn a_duplicate_key() {
    assert_snapshot!(problems("stages:\n  a: { uses: make }\n  b: { uses: make }\n  a: { uses: make, uses: step }\n", &[]), @r"
    4:3 «a» the key `a` stands twice; first on line 2
      hint: remove or rename one
    4:20 «uses» the key `uses` stands twice; first on line 4
      hint: remove or rename one
    ");
}

#[test]
fn a_missing_param() {
    assert_snapshot!(problems("stages:\n  a:\n    uses: tune\n  b:\n    uses: tune\n    with: { rate: 1 }\n", &[]), @r"
    2:3 «a» `tune` needs the param `steps`
      hint: How many there are.
    6:5 «with» `tune` needs the param `steps`
      hint: How many there are.
    ");
}

#[test]
fn an_empty_file() {
    assert_snapshot!(problems("", &[]), @r"
    the file is empty
      hint: start with `name:` and `stages:`
    ");
    assert_snapshot!(problems("# nothing but this\n", &[]), @r"
    the file is empty
      hint: start with `name:` and `stages:`
    ");
    assert_snapshot!(problems("{}", &[]), @r"
    1:1 «{}» `stages` is missing in the file
      hint: add `stages: ...`
    ");
    assert_snapshot!(problems("just words", &[]), @"1:1 «just words» the file must be a mapping, not the text `just words`");
}

#[test]
fn deep_nesting() {
    let deep = |open: &str, n: usize| format!("params: {}", open.repeat(n));
    assert_snapshot!(problems(deep("[", 10_000), &[]).replace(&"[".repeat(100), ""), @r"
    1:264 «» values are nested more than 100 deep
      hint: check for brackets that are not closed
    ");
    // What is nested without brackets, or much deeper, is stopped at the same depth.
    for text in [deep("[", 2_000_000), deep("{a: ", 500_000), deep("- ", 500_000), deep("? ", 500_000)] {
        assert!(try_load(&text, &[]).is_err());
    }
    let block: String = (0..10_000).map(|i| format!("{}a:\n", " ".repeat(i.min(1000)))).collect();
    assert!(try_load(block, &[]).is_err());
}

#[test]
fn bytes_that_are_not_text() {
    assert_snapshot!(problems(b"name: caf\xe9\nstages: {}\n", &[]), @r"
    1:10 «�» the file is not UTF-8 text
      hint: save it as UTF-8
    ");
    assert_snapshot!(problems(b"\xff\xfe\x00\x01", &[]), @r"
    1:1 «�» the file is not UTF-8 text
      hint: save it as UTF-8
    ");
}

#[test]
fn bombs_of_anchors() {
    let mut text = "params:\n  a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for i in 1..10 {
        let before = format!("*a{}", i - 1);
        text.push_str(&format!("  a{i}: &a{i} [{}]\n", [before.as_str(); 9].join(", ")));
    }
    assert_snapshot!(problems(&text, &[]), @"8:12 «*a5» the file holds more than 1000000 values, counting what aliases repeat");
    // One long anchor, many aliases: each cheap, together not.
    let wide = format!("params:\n  a: &a [{}]\n  b: [{}]\n", "x,".repeat(2000), "*a,".repeat(2000));
    assert!(problems(wide, &[]).contains("counting what aliases repeat"));
    assert_snapshot!(problems("params: &a [*a]\n", &[]), @r"
    1:13 «*a» an anchor contains itself
      hint: write the value out
    ");
    assert_snapshot!(problems("params: *a\n", &[]), @r"
    1:9 «*» not valid YAML: while parsing node, found unknown anchor
      hint: an anchor stands before what refers to it: `x-base: &base { ... }`; a text that begins with `*` or `&` is quoted
    ");
}

#[test]
fn other_syntax() {
    assert_snapshot!(problems("stages:\n  a: { uses: make\n", &[]), @r"
    3:1 «» not valid YAML: while parsing a flow mapping, did not find expected ',' or '}'
      hint: check the indentation, and quote texts that hold `: `, `#`, `{` or `[`
    ");
    assert_snapshot!(problems("name: a: b\n", &[]), @r"
    1:8 «:» not valid YAML: mapping values are not allowed in this context
      hint: check the indentation, and quote texts that hold `: `, `#`, `{` or `[`
    ");
    assert_snapshot!(problems("name: é\n---\nname: b\n", &[]), @r"
    2:1 «---» the file holds more than one YAML document
      hint: remove the `---` and what follows, or make it a file of its own
    ");
    assert_snapshot!(problems("name: \"a\nstages: {}\n", &[]), @r#"
    1:7 «"» not valid YAML: invalid indentation in quoted scalar
      hint: check the indentation, and quote texts that hold `: `, `#`, `{` or `[`
    "#);
    assert_snapshot!(problems("params: { x: !tag 1, y: .nan, [a]: 1 }\nstages: {}\n", &[]), @r"
    1:9 «{ x: !tag 1, y: .nan, [a]: 1 }» a list as a key can't be used here
      hint: only null, booleans, numbers, texts, lists and mappings are data
    1:14 «!tag 1» the tag `!tag` can't be used here
      hint: only null, booleans, numbers, texts, lists and mappings are data
    1:25 «.nan» the number `.nan` can't be used here
      hint: only null, booleans, numbers, texts, lists and mappings are data
    ");
}

#[test]
fn files_that_can_not_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let problem = |path: &Path| load(path, &registry(), &Overrides::default()).err().unwrap().problems[0].message();
    assert_snapshot!(problem(&folder.path().join("none.yaml")), @"the file can't be read: no such file or folder");
    assert_snapshot!(problem(folder.path()), @"the file can't be read: Is a directory (os error 21)");
    assert_snapshot!(problems(vec![b'#'; (16 << 20) + 1], &[]), @r"
    the file is larger than 16 MiB
      hint: put large lists into a file of their own, and give its path
    ");
}

#[test]
fn long_files_are_not_slow() {
    // A chain as long as the file, which no recursion may follow.
    let chain: String =
        (1..3_000).map(|i| format!("  s{i}: {{ uses: step, inputs: {{ model: s{} }} }}\n", i - 1)).collect();
    let graph = loaded(&format!("stages:\n  s0: {{ uses: make }}\n{chain}"), &[]);
    assert_eq!(graph.order.len(), 3_000);
    let circle = problems(format!("stages:\n  s0: {{ uses: step, inputs: {{ model: s2999 }} }}\n{chain}"), &[]);
    assert!(circle.contains("in a circle: s0 -> s1 -> s2"));
    // Each line is wrong, in a way whose hint looks at all others.
    let lost: String = (0..2_000).map(|i| format!("  s{i}: {{ uses: step, inputs: {{ model: t{i} }} }}\n")).collect();
    let told = problems(format!("stages:\n{lost}"), &[]);
    assert_snapshot!(told.lines().last().unwrap(), @"these are the first 200 problems; there may be more");
    assert_eq!(told.lines().filter(|line| line.contains("unknown stage")).count(), 200);
}

#[test]
fn too_many_points_are_not_counted_out() {
    let labels: Vec<_> = (0..1000).collect();
    let text = format!(
        "axes: {{ x: {labels:?}, y: {labels:?}, z: {labels:?} }}\nstages:\n  a: {{ uses: make, over: [x, y, z], with: {{ value: \"${{x}}${{y}}${{z}}\" }} }}\n"
    );
    assert_snapshot!(problems(text, &[]), @r"
    3:3 «a» `a` has 1000000000 points, more than 200000
      hint: shorten an axis, or `gather` earlier
    ");
    let text = r#"
axes: { x: LABELS, y: LABELS }
stages:
  a: { uses: make, over: [x], with: { value: "${x}" } }
  b: { uses: make, over: [y], with: { value: "${y}" } }
  many: { uses: collect, inputs: { models: { from: a, gather: [x] }, base: b } }
"#;
    let labels = |n: usize| format!("{:?}", (0..n).collect::<Vec<_>>());
    assert_snapshot!(problems(text.replace("LABELS", &labels(2000)), &[]), @r"
    6:3 «many» the tables of `many` would have 4000000 rows, more than 2000000
      hint: shorten an axis, or `gather` earlier
    ");
    let stage = |i: usize| format!("  s{i}: {{ uses: make, over: [x], with: {{ value: [{i}, \"${{x}}\"] }} }}\n");
    let stages: String = (0..50).map(stage).collect();
    assert_snapshot!(problems(format!("axes: {{ x: {} }}\nstages:\n{stages}", labels(5000)), &[]), @r"
    43:3 «s40» `s40` would bring the pipeline to 205000 instances, more than 200000
      hint: shorten an axis, or `gather` earlier
    ");
}
