use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::{
    fakes::{Pipe, cases},
    graph::Missing,
};

fn pipe() -> Pipe {
    let mut pipe = Pipe::new();
    let base = pipe.text("base", "x");
    let rows: Vec<_> = (0..3).map(|i| pipe.after(&format!("tuned[x={i}]"), base, json!({}))).collect();
    let all = pipe.text("all", "");
    pipe.gather(&rows, all, Missing::Error);
    pipe
}

#[test]
fn axes_are_one_node_unless_instances_are_asked_for() {
    let pipe = pipe();
    insta::assert_snapshot!(Drawing::stages(&pipe.0).mermaid(), @r#"
    flowchart LR
      s0["<b>base</b><br/>text"]
      s1["<b>tuned</b><br/>text<br/>x: 3"]
      s2["<b>all</b><br/>text"]
      s0 -->|one| s1
      s1 ==>|all| s2
    "#);
    let all = Drawing::instances(&pipe.0);
    assert_eq!((all.nodes.len(), all.edges.len()), (5, 6));
    assert!(all.mermaid().contains("<b>tuned[x=1]</b>"));
    insta::assert_snapshot!(Drawing::stages(&pipe.0).dot(), @r#"
    digraph "test" {
      rankdir=LR;
      node [shape=box];
      "base" [label="base\ntext"];
      "tuned" [label="tuned\ntext\nx: 3"];
      "all" [label="all\ntext"];
      "base" -> "tuned" [label="one"];
      "tuned" -> "all" [label="all", style=bold];
    }
    "#);
}

#[test]
fn a_stage_has_the_colour_of_its_worst_instance() {
    let pipe = pipe();
    let order = &pipe.0.order;
    let mut drawing = Drawing::stages(&pipe.0);
    let mut words: BTreeMap<NodeIndex, &'static str> = order.iter().map(|node| (*node, "fresh")).collect();
    words.insert(order[2], "stale");
    words.insert(order[3], "failed");
    drawing.colour(&words);
    let mermaid = drawing.mermaid();
    assert!(mermaid.ends_with("class s1 failed\n  classDef fresh fill:#d5f0d9,stroke:#2e8b4a\n  class s0,s2 fresh\n"));
    assert!(drawing.dot().contains("fillcolor=\"#f9d4d1\""));
    let svg = drawing.svg().unwrap();
    assert!(svg.contains("<title>tuned: failed</title>") && svg.contains(">fresh</text>"));
    assert!(!svg.contains(">stale</text>"), "it is not drawn, so the legend has no word for it");
}

#[test]
fn no_name_breaks_a_format() {
    let mut pipe = Pipe::new();
    pipe.text("a\"]<b>&#1;|\u{1b}", "");
    let drawing = Drawing::stages(&pipe.0);
    assert!(drawing.mermaid().contains("<b>a#quot;]#lt;b#gt;#amp;#35;1;| </b>"), "{}", drawing.mermaid());
    assert!(drawing.svg().unwrap().contains("a&quot;]&lt;b&gt;&amp;#1;|?"));
    assert!(drawing.dot().contains("\"a\\\"]<b>&#1;|"));
}

#[test]
fn too_many_nodes_are_refused() {
    let mut pipe = Pipe::new();
    (0..301).for_each(|i| _ = pipe.text(&format!("a[x={i}]"), ""));
    assert!(Drawing::stages(&pipe.0).svg().is_ok());
    let error = Drawing::instances(&pipe.0).svg().unwrap_err().to_string();
    assert_eq!(error, "301 nodes are too many to lay out as SVG: 300 at most");
}

proptest! {
    #![proptest_config(cases(60))]

    #[test]
    fn any_graph_is_laid_out(links in proptest::collection::vec((0usize..12, 0usize..12), 0..40)) {
        let mut pipe = Pipe::new();
        let nodes: Vec<_> = (0..12).map(|i| pipe.text(&format!("s{i}"), "")).collect();
        for to in 0..12 {
            let rows: Vec<_> = links.iter().filter(|(a, b)| *b == to && a < b).map(|(a, _)| nodes[*a]).collect();
            if !rows.is_empty() {
                pipe.gather(&rows, nodes[to], Missing::Error);
            }
        }
        let svg = Drawing::stages(&pipe.0).svg().unwrap();
        prop_assert_eq!(svg.matches("<g>").count(), 12);
        prop_assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }
}
