use serde_json::{Value, json};

use super::EvaluateDivergence;
use crate::{
    records::{DENSITIES, DIVERGENCE, DensityRow, DivergenceMean, METRICS},
    testing::{Bench, Done, problems},
};

/// Four identities with three templates, two positions each; the divergence is `scale` times a number of its own.
fn files(dir: &std::path::Path, name: &str, scale: f64) -> palinode_engine::job::InputFiles {
    let (mut rows, mut prompts) = (String::new(), String::new());
    for at in 0..12 {
        let (identity, template) = (at / 3, at % 3);
        let id = format!("{identity}.{template}");
        let group = ["a", "b"][identity % 2];
        let exposure = if identity < 2 { "seen" } else { "unseen" };
        prompts += &format!(
            "{}\n",
            json!({
                "id": id, "text": id, "group": group, "identity": format!("i{identity}"),
                "template": format!("t{template}"), "exposure": exposure,
            })
        );
        for position in 0..2 {
            let kl = scale * (identity + 1) as f64 * (template + position) as f64;
            rows += &format!(
                "{}\n",
                json!({
                    "prompt": id, "sample": 0, "position": position, "token": "t", "next": null, "kl": kl,
                    "reverse_kl": 2.0 * kl, "js": kl / 8.0, "tv": (kl / 8.0).min(1.0),
                })
            );
        }
    }
    let folder = dir.join(name);
    std::fs::create_dir_all(&folder).unwrap();
    let named = [(DIVERGENCE, rows), ("prompts.jsonl", prompts)].map(|(name, text)| {
        std::fs::write(folder.join(name), text).unwrap();
        (name.to_owned(), folder.join(name))
    });
    crate::testing::input_files(named)
}

fn run(with: Value) -> Done {
    let dir = tempfile::tempdir().unwrap();
    let at = |rank: Value, seed: u32| serde_json::from_value(json!([["rank", rank], ["seed", seed]])).unwrap();
    let rows = vec![
        (at(json!(2), 0), Some(files(dir.path(), "a", 0.01))),
        (at(json!(2), 1), Some(files(dir.path(), "b", 0.03))),
        (at(json!("full"), 0), Some(files(dir.path(), "c", 0.1))),
        (at(json!("full"), 1), None),
    ];
    Bench::new().gathered("divergences", rows).run::<EvaluateDivergence>(with).unwrap()
}

#[test]
fn means_quantiles_and_densities_are_told() {
    let done = run(json!({ "measures": ["kl", "tv"], "resamples": 300 }));
    let line = |row: &DivergenceMean| {
        let coords = crate::figure::mark(&row.coords);
        let number = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.4}"));
        let [mean, low, high] = [row.mean, row.low, row.high].map(number);
        let part = [&row.exposure[..], &row.group].join(" ");
        format!(
            "{} {coords} {part}: {mean} ({low}, {high}) of {} in {}x{} over {}",
            row.measure,
            row.positions,
            row.instances,
            row.missing,
            row.resampling.join(", ")
        )
    };
    let rows: Vec<DivergenceMean> = done.rows("metrics", METRICS);
    let pooled: Vec<_> = rows.iter().filter(|row| !row.pooled.is_empty() && row.measure == "kl").map(line).collect();
    insta::assert_snapshot!(pooled.join("\n"), @r"
    kl rank=2 all all: 0.0750 (0.0167, 0.1515) of 48 in 2x0 over identity, template, seed
    kl rank=2 seen all: 0.0450 (0.0083, 0.0900) of 24 in 2x0 over identity, template, seed
    kl rank=2 unseen all: 0.1050 (0.0250, 0.1925) of 24 in 2x0 over identity, template, seed
    kl rank=2 all a: 0.0600 (0.0100, 0.1350) of 24 in 2x0 over identity, template, seed
    kl rank=2 seen a: 0.0300 (0.0083, 0.0650) of 12 in 2x0 over template, seed
    kl rank=2 unseen a: 0.0900 (0.0250, 0.1950) of 12 in 2x0 over template, seed
    kl rank=2 all b: 0.0900 (0.0167, 0.1800) of 24 in 2x0 over identity, template, seed
    kl rank=2 seen b: 0.0600 (0.0167, 0.1300) of 12 in 2x0 over template, seed
    kl rank=2 unseen b: 0.1200 (0.0333, 0.2600) of 12 in 2x0 over template, seed
    kl rank=full all all: 0.3750 (0.1250, 0.6875) of 24 in 1x1 over identity, template
    kl rank=full seen all: 0.2250 (0.0750, 0.4333) of 12 in 1x1 over identity, template
    kl rank=full unseen all: 0.5250 (0.1750, 0.8667) of 12 in 1x1 over identity, template
    kl rank=full all a: 0.3000 (0.0833, 0.6500) of 12 in 1x1 over identity, template
    kl rank=full seen a: 0.1500 (0.0500, 0.2500) of 6 in 1x1 over template
    kl rank=full unseen a: 0.4500 (0.1500, 0.7500) of 6 in 1x1 over template
    kl rank=full all b: 0.4500 (0.1500, 0.8667) of 12 in 1x1 over identity, template
    kl rank=full seen b: 0.3000 (0.1000, 0.5000) of 6 in 1x1 over template
    kl rank=full unseen b: 0.6000 (0.2000, 1.0000) of 6 in 1x1 over template
    ");
    // By hand: the mean of (i + 1) (t + p) over i in 0..4, t in 0..3, p in 0..2 is 2.5 * 1.5.
    let mean = rows.iter().find(|row| row.coords.len() == 2).unwrap().mean.unwrap();
    assert!((mean - 0.01 * 2.5 * 1.5).abs() < 1e-12, "{mean}");
    let densities: Vec<DensityRow> = done.rows("metrics", DENSITIES);
    let one = &densities[0];
    assert_eq!((one.zeros, one.values, one.x.len()), (4, 20, 200), "(template 0, position 0) is 0");
    let area: f64 = one.density.iter().sum::<f64>() * (one.x[1] - one.x[0]);
    assert!((area - 1.0).abs() < 0.01, "{area}");
    insta::assert_snapshot!(json!(done.summary), @r#"{"instances":3,"missing_instances":1,"positions":72,"zeros":4}"#);
    insta::assert_snapshot!(done.digest(), @"metrics dddd8babbd34");
}

#[test]
fn linear_densities_hold_zeros_and_equal_values_have_none() {
    let done = run(json!({ "scale": "linear", "measures": ["kl"], "resamples": 100, "points": 50 }));
    let densities: Vec<DensityRow> = done.rows("metrics", DENSITIES);
    assert_eq!((densities[0].zeros, densities[0].values, densities[0].x.len()), (0, 24, 50));
    let dir = tempfile::tempdir().unwrap();
    let rows = vec![(serde_json::from_value(json!([])).unwrap(), Some(files(dir.path(), "same", 0.0)))];
    let done = Bench::new().gathered("divergences", rows).run::<EvaluateDivergence>(json!({})).unwrap();
    let densities: Vec<DensityRow> = done.rows("metrics", DENSITIES);
    assert_eq!((densities[0].bandwidth, densities[0].zeros, densities[0].values), (None, 24, 0));
    let means: Vec<DivergenceMean> = done.rows("metrics", METRICS);
    assert_eq!((means[0].mean, means[0].low), (Some(0.0), Some(0.0)));
}

#[test]
fn params_are_checked() {
    let with = json!({ "measures": [], "points": 1, "resamples": 1, "confidence": 0 });
    insta::assert_snapshot!(problems::<EvaluateDivergence>(with), @r"
    resamples: give a number from 100 to 1000000
    confidence: give a number between 0 and 1 (hint: 95% is 0.95)
    measures: the list is empty (hint: give kl, reverse_kl, js or tv)
    points: give a number from 10 to 10000
    ");
}
