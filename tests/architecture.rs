//! Who may import whom: the engine never sees burn, the cache knows nothing of pipelines.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, MetadataCommand};

/// The crates of the workspace and those of ours that each may depend on.
const ALLOWED: &[(&str, &[&str])] = &[
    ("palinode-cache", &[]),
    ("palinode-models", &[]),
    ("palinode-engine", &["palinode-cache"]),
    ("palinode-stages", &["palinode-engine", "palinode-models"]),
    ("palinode", &["palinode-cache", "palinode-engine", "palinode-stages"]),
];

fn edges() -> BTreeMap<String, BTreeSet<String>> {
    let metadata =
        MetadataCommand::new().no_deps().other_options(vec!["--offline".into()]).exec().expect("cargo metadata");
    let package = |package: &cargo_metadata::Package| {
        let normal = package.dependencies.iter().filter(|dependency| dependency.kind != DependencyKind::Development);
        (package.name.to_string(), normal.map(|dependency| dependency.name.clone()).collect())
    };
    metadata.packages.iter().map(package).collect()
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
