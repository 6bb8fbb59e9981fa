//! The study's pipelines, end to end, in their small form: the same graphs on models of a few thousand random weights.

use std::path::Path;

use crate::support::Sandbox;

/// Pipelines with a profile `small`, how many instances that has at least, and what comes out.
const PIPELINES: [(&str, &[&str]); 5] = [
    ("paper/toxicity-opt", &["figure2.svg", "figure6.densities.csv", "figure_towards_full.png"]),
    ("paper/toxicity-llama", &["figure2.csv", "figure6.svg"]),
    ("paper/toxicity", &["figure2.svg", "figure6.svg"]),
    ("paper/honest-race", &["figure11.svg", "figure12.csv"]),
    ("judge", &["figure_identities.csv", "figure_agreement.svg"]),
];

fn file(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines").join(format!("{name}.yaml")).display().to_string()
}

#[test]
fn small_profiles_give_their_figures_and_nothing_reruns() {
    let sandbox = Sandbox::new();
    for (name, figures) in PIPELINES {
        let (file, out) = (file(name), format!("out-{}", name.replace('/', "-")));
        let cache = ["--cache", "cache", "--profile", "small"];
        sandbox.call(&[&["run", &*file, "--out", &*out], &cache[..]].concat()).ok();
        for figure in figures {
            assert!(!sandbox.read(&format!("{out}/{figure}")).is_empty(), "{name}: {figure}");
        }
        let plan = sandbox.call(&[&["plan", &*file], &cache[..]].concat()).ok().stdout;
        assert!(plan.ends_with(" cached, 0 to run, 0 may run\n"), "{name}: {plan}");
    }
}

/// Both models together take what was made for each alone.
#[test]
fn what_one_pipeline_made_another_takes() {
    let sandbox = Sandbox::new();
    let cache = ["--cache", "cache", "--profile", "small"];
    for name in ["paper/toxicity-opt", "paper/toxicity-llama"] {
        sandbox.call(&[&["run", &*file(name), "--out", "out", "tuned", "judged"], &cache[..]].concat()).ok();
    }
    let plan = sandbox.call(&[&["plan", &*file("paper/toxicity"), "tuned", "judged"], &cache[..]].concat()).ok().stdout;
    assert!(plan.ends_with(" cached, 0 to run, 0 may run\n"), "{plan}");
}

#[test]
fn figure_3_is_drawn_for_its_prompt() {
    let sandbox = Sandbox::new();
    let cache = ["--cache", "cache", "--profile", "small", "--out", "out"];
    sandbox.call(&[&["run", &*file("paper/toxicity-llama"), "figure3"], &cache[..]].concat()).ok();
    let folder = sandbox.path().join("out/figure3");
    let svg = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let svg = svg.filter(|path| path.extension().is_some_and(|extension| extension == "svg")).collect::<Vec<_>>();
    assert_eq!(svg.len(), 1, "{svg:?}");
    let text = std::fs::read_to_string(&svg[0]).unwrap();
    for grid in ["base", "rank 2", "rank 8", "rank full"] {
        assert!(text.contains(grid), "{grid}");
    }
}
