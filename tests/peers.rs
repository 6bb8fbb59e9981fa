//! What users of other engines were told wrongly, or asked for (docs/peers.md), where no other test holds it.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::{mini::MINI, support::Sandbox};

fn addresses(nodes: &Value, wanted: impl Fn(&Value) -> bool) -> BTreeSet<String> {
    let nodes = nodes["nodes"].as_array().expect("nodes are listed");
    let address = |node: &Value| node["address"].as_str().expect("each has its address").to_owned();
    nodes.iter().filter(|node| wanted(node)).map(address).collect()
}

/// Elsewhere a dry run says that a stage is unchanged, and then the real run executes it.
#[test]
fn a_plan_says_no_hit_that_the_run_executes_and_no_run_that_it_leaves_out() {
    let sandbox = Sandbox::with(MINI);
    sandbox.run(&[]);
    let mut text = MINI.to_owned();
    for (from, to) in [
        ("sentences: 200", "sentences: 210"),
        ("steps: 30", "steps: 31"),
        ("{ k: 2 }", "{ k: 3 }"),
        ("bars: rank", "bars: rank, title: Again"),
        ("max_new_tokens: 3, seed: 3", "max_new_tokens: 2, seed: 3"),
    ] {
        assert!(text.contains(from), "`{from}` is not in the pipeline");
        text = text.replace(from, to);
        sandbox.write("p.yaml", &text);
        let plan = sandbox.call(&["plan", "p.yaml", "--format", "json"]).ok().json();
        let hits = addresses(&plan, |node| node["decision"].get("hit").is_some());
        let runs = addresses(&plan, |node| node["decision"].get("run").is_some());
        assert!(!runs.is_empty(), "`{to}` changes something");
        let ran = addresses(&sandbox.run(&[]), |node| node["outcome"] == "executed");
        assert!(hits.is_disjoint(&ran), "planned as hits, and executed: {:?}", hits.intersection(&ran));
        assert!(runs.is_subset(&ran), "planned to run, and not executed: {:?}", runs.difference(&ran));
    }
}
