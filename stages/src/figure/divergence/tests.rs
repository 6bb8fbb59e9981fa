use serde_json::{Value, json};

use super::DivergenceFigure;
use crate::{
    figure::png,
    records::{DENSITIES, METRICS},
    testing::{Bench, Done, input_files, problems},
};

/// Means and densities as `evaluate.divergence` tells them, of ranks that move further as they rise.
fn files(dir: &std::path::Path, labels: &[Value], zeros: usize) -> palinode_engine::job::InputFiles {
    let (mut means, mut densities) = (String::new(), String::new());
    for (at, label) in labels.iter().enumerate() {
        let mean = 0.02 * 2f64.powi(at as i32);
        let part = json!({
            "measure": "kl", "coords": [["rank", label]], "pooled": ["seed"], "split": "all", "exposure": "all",
            "group": "all", "identity": "all", "instances": 3, "missing": 0, "prompts": 12, "positions": 240,
            "mean": mean, "low": mean * 0.8, "high": mean * 1.3, "confidence": 0.95,
            "resampling": ["identity", "template", "seed"], "quantiles": [[0.5, mean]],
        });
        means += &format!("{part}\n");
        let x: Vec<f64> = (0..60).map(|step| -6.0 + step as f64 * 0.1).collect();
        let middle = mean.log10();
        let y: Vec<f64> = x.iter().map(|x| (-(x - middle) * (x - middle)).exp()).collect();
        let density = json!({
            "measure": "kl", "coords": [["rank", label]], "pooled": ["seed"], "split": "all", "exposure": "all",
            "group": "all", "scale": "log10", "kernel": "gaussian", "rule": "silverman", "bandwidth": 0.2,
            "values": 240 - zeros, "zeros": zeros, "x": x, "density": y,
        });
        densities += &format!("{density}\n");
    }
    let named = [(METRICS, means), (DENSITIES, densities)].map(|(name, text)| {
        std::fs::write(dir.join(name), text).unwrap();
        (name.to_owned(), dir.join(name))
    });
    input_files(named)
}

fn labels() -> Vec<Value> {
    vec![json!("full"), json!(64), json!(2), json!(8), json!(32), json!(4)]
}

fn run(with: Value) -> Done {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::new().input("divergences", files(dir.path(), &labels(), 3));
    bench.run::<DivergenceFigure>(with).unwrap()
}

fn fails(with: Value) -> String {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::new().input("divergences", files(dir.path(), &labels(), 0));
    bench.run::<DivergenceFigure>(with).err().expect("a failure").to_string()
}

#[test]
fn ranks_stand_in_order_and_full_last() {
    let done = run(json!({}));
    let csv = done.text("figure", "figure.csv");
    let order: Vec<&str> = csv.lines().skip(1).map(|line| line.split(',').nth(1).unwrap()).collect();
    assert_eq!(order, ["2", "4", "8", "32", "64", "full"]);
    assert_eq!(done.text("figure", "densities.csv").lines().count(), 1 + 6 * 60);
    let svg = done.text("figure", "figure.svg");
    assert_eq!(svg.matches("data-mark=\"rank=full\"").count(), 2, "a mean and a density");
    assert!(svg.contains("18 values of 0 have no logarithm"));
    crate::figure::inside(&svg);
    png::tree(&svg).unwrap();
    insta::assert_snapshot!(done.digest(), @"figure eda63730ae5c");
}

#[test]
fn the_axes_name_what_is_the_measure() {
    let named = |with: Value| run(with).text("figure", "figure.svg");
    assert!(named(json!({})).contains("mean KL(base \u{2016} tuned)"));
    assert!(named(json!({ "base_label": "full" })).contains("mean KL(full \u{2016} tuned)"));
}

#[test]
fn a_column_of_a_page_is_wide_enough() {
    let done = run(json!({ "width": 340, "title": "How far from the base", "order": [2, "full"] }));
    let svg = done.text("figure", "figure.svg");
    assert!(svg.contains("width=\"340\""));
    crate::figure::inside(&svg);
}

#[test]
fn models_have_rows_of_their_own_and_what_is_missing_is_told() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let row = |at: usize| Some(files(dirs[at].path(), &labels(), 0));
    let at = |name: &str| vec![("model".to_owned(), json!(name))];
    let rows = vec![(at("<opt> & co"), row(0)), (at("llama"), row(1)), (at("gone"), None)];
    let done = Bench::new().gathered("divergences", rows).run::<DivergenceFigure>(json!({})).unwrap();
    let svg = done.text("figure", "figure.svg");
    assert!(svg.contains("model &lt;opt&gt; &amp; co") && svg.contains("Missing results, left out: 1."));
    assert_eq!(done.summary["points"], 12);
    crate::figure::inside(&svg);
}

#[test]
fn what_can_not_be_drawn_is_said() {
    let said = [
        fails(json!({ "measure": "tv" })),
        fails(json!({ "points": "model" })),
        fails(json!({ "order": [3] })),
        fails(json!({ "where": { "model": "opt" } })),
    ];
    insta::assert_snapshot!(said.join("\n"), @r"
    the input `divergences` holds no tv of the split `all`, exposure `all` and group `all`, so there is nothing to draw
    `points` names the axis `model`, which the means lack (they have: rank); gather it, or name another
    `order` names `3`, which `rank` has not; it has: full, 64, 2, 8, 32, 4
    there is no mean at model=opt
    ");
    insta::assert_snapshot!(problems::<DivergenceFigure>(json!({ "split": "dev", "width": 5, "where": { "rank": 2 } })), @r"
    width: 5 is not from 300 to 8000 pixels
    split: `dev` is no split (hint: give all, validation, test)
    where: the axis `rank` is along the means already
    ");
}
