//! What is allowed and yet probably not meant.

use insta::assert_snapshot;

use super::*;
use crate::lint;

fn lints(text: &str) -> String {
    lints_with(text, Overrides::default())
}

fn lints_with(text: &str, overrides: Overrides) -> String {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("p.yaml");
    fs::write(&file, text).unwrap();
    let checked = lint::check(&file, &registry(), &overrides);
    let line = |finding: &lint::Finding| {
        let marked = &checked.files[finding.file].text[finding.span.clone().unwrap()];
        let place = format!("{}:{} «{marked}»", finding.line.unwrap(), finding.column.unwrap());
        format!("{place} {} ({})\n  hint: {}", finding.lint, finding.lint.name(), finding.lint.hint())
    };
    checked.findings.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn params_are_used_by_parts() {
    let text = r#"
params:
  whole: { a: 1, b: { c: 2 } }
  part: { a: 1, b: { c: 2, d: 3 }, e: 4 }
  not: { a: 1 }
  list: [1]
  in_text: x
  "a.b": 1
stages:
  a: { uses: make, with: { value: ["${params.whole}", "${params.part.b.c}"], other: "say ${ params.in_text }, $${params.list}" } }
"#;
    assert_snapshot!(lints(text), @r"
    4:11 «a» nothing uses the param `params.part.a` (unused-param)
      hint: use `${params.part.a}` in a `with`, or drop it
    4:28 «d» nothing uses the param `params.part.b.d` (unused-param)
      hint: use `${params.part.b.d}` in a `with`, or drop it
    4:36 «e» nothing uses the param `params.part.e` (unused-param)
      hint: use `${params.part.e}` in a `with`, or drop it
    5:3 «not» nothing uses the param `params.not` (unused-param)
      hint: use `${params.not}` in a `with`, or drop it
    6:3 «list» nothing uses the param `params.list` (unused-param)
      hint: use `${params.list}` in a `with`, or drop it
    ");
    assert_eq!(lints("params: { x: 1 }\nstages: { a: { uses: make, with: { value: \"${params}\" } } }\n"), "");
}

#[test]
fn axes_and_defaults_that_nothing_has() {
    let text = r#"
axes: { seed: [0], rank: [1] }
defaults: { make: { with: { other: 1 } }, tune: {}, "m*": {}, "x*": { retries: 1 } }
stages:
  a: { uses: make, over: [seed], with: { value: "${seed}" } }
"#;
    assert_snapshot!(lints(text), @r#"
    2:20 «rank» no stage is over the axis `rank` (unused-axis)
      hint: introduce it at a stage: `over: [rank]`, or drop it
    3:43 «tune» no stage has the defaults of `tune` (unused-defaults)
      hint: drop it, or name a kind that a stage `uses`
    3:63 «"x*"» no stage has the defaults of `x*` (unused-defaults)
      hint: fix the pattern, or drop it
    "#);
}

#[test]
fn what_a_profile_takes_the_use_of_is_no_mistake() {
    let text = r#"
params: { given: 1, default: 2, never: 3 }
axes: { seed: [0, 1], other: [0] }
defaults: { make: { with: { other: "${params.default}" } }, tune: {} }
stages:
  a: { uses: make, over: [seed], with: { value: ["${seed}", "${params.given}"] } }
  b: { uses: make, with: { value: 1 } }
profiles: { small: { stages: { a: null } } }
"#;
    let small = Overrides { profiles: vec!["small".to_owned()], ..Overrides::default() };
    let never = "nothing uses the param `params.never` (unused-param)";
    for told in [lints(text), lints_with(text, small)] {
        assert!(told.contains(never) && told.contains("axis `other`") && told.contains("defaults of `tune`"), "{told}");
        assert!(!told.contains("given") && !told.contains("default`") && !told.contains("`seed`"), "{told}");
        assert!(!told.contains("defaults of `make`"), "{told}");
    }
}

#[test]
fn stages_are_unused_beside_something_more_final() {
    let data = "  data: { uses: make, with: { value: 1 } }\n  table: { uses: count, inputs: { model: data } }\n";
    // Its end is a table; a model that nothing takes is probably forgotten.
    assert_snapshot!(lints(&format!("stages:\n{data}  more: {{ uses: make, with: {{ value: 2 }} }}\n")), @r"
    4:3 «more» nothing uses what the stage `more` gives: `dataset`, `model` (unused-stage)
      hint: link it to an input, or drop it; `palinode run PIPELINE more` runs a stage for its own sake
    ");
    // Two ends of one kind, or models alone, are what the pipeline is for.
    assert_eq!(lints(&format!("stages:\n{data}  again: {{ uses: count, inputs: {{ model: data }} }}\n")), "");
    assert_eq!(lints("stages:\n  a: { uses: make }\n  b: { uses: make }\n"), "");
    // Whoever is lost may have been meant by the link that leads nowhere.
    let lost = format!("stages:\n{data}  more: {{ uses: make }}\n  c: {{ uses: step, inputs: {{ model: mroe }} }}\n");
    assert_eq!(lints(&lost), "");
}

#[test]
fn lints_are_told_beside_problems() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("p.yaml");
    fs::write(&file, "params: { x: 1 }\nstages: { a: { uses: maek } }\n").unwrap();
    let checked = lint::check(&file, &registry(), &Overrides::default());
    assert!(checked.graph.is_none());
    assert_eq!((checked.problems.problems.len(), checked.findings.len()), (1, 1));
}
