//! Who may import whom: the engine never sees burn, the cache knows nothing of pipelines.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
};

use serde_json::Value;

/// The crates of the workspace and those of ours that each may depend on.
const ALLOWED: &[(&str, &[&str])] = &[
    ("palinode-cache", &[]),
    ("palinode-models", &[]),
    ("palinode-engine", &["palinode-cache"]),
    ("palinode-stages", &["palinode-engine", "palinode-models"]),
    ("palinode", &["palinode-cache", "palinode-engine", "palinode-stages"]),
];

/// Each crate of the workspace and what it depends on, tests aside.
fn edges() -> BTreeMap<String, BTreeSet<String>> {
    let args = ["metadata", "--no-deps", "--offline", "--format-version", "1"];
    let output = Command::new(env!("CARGO")).args(args).current_dir(env!("CARGO_MANIFEST_DIR")).output();
    let metadata: Value = serde_json::from_slice(&output.expect("cargo runs").stdout).expect("cargo gives JSON");
    let name = |value: &Value| value["name"].as_str().expect("a name").to_owned();
    let package = |package: &Value| {
        let dependencies = package["dependencies"].as_array().expect("a list").iter();
        (name(package), dependencies.filter(|dependency| dependency["kind"] != "dev").map(name).collect())
    };
    metadata["packages"].as_array().expect("a list").iter().map(package).collect()
}

#[test]
fn crates_import_only_whom_they_may() {
    let edges = edges();
    let names: Vec<_> = ALLOWED.iter().map(|(name, _)| name.to_string()).collect();
    assert_eq!(edges.keys().cloned().collect::<BTreeSet<_>>(), names.into_iter().collect(), "a crate without a rule");
    for (name, allowed) in ALLOWED {
        let ours = edges[*name].iter().filter(|dependency| dependency.starts_with("palinode"));
        for dependency in ours {
            assert!(allowed.contains(&dependency.as_str()), "`{name}` must not depend on `{dependency}`");
        }
    }
}

#[test]
fn only_models_sees_burn() {
    for (name, dependencies) in edges() {
        let burn: Vec<_> = dependencies.iter().filter(|d| d.starts_with("burn") || d.starts_with("cubecl")).collect();
        assert!(name == "palinode-models" || burn.is_empty(), "`{name}` depends on {burn:?}");
    }
}
