use palinode_engine::stage::StageError;
use serde_json::{Value, json};

use super::AccuracyFigure;
use crate::{
    evaluate_groups::tests::study,
    figure::inside,
    testing::{Bench, Done, problems},
};

fn draw(metrics: &Done, with: Value) -> Result<Done, StageError> {
    Bench::new().input("metrics", metrics.outputs["metrics"].clone()).run::<AccuracyFigure>(with)
}

#[test]
fn lines_are_told_apart_by_colour_dash_and_marker() {
    let metrics = study(true);
    let done = draw(&metrics, json!({ "title": "A made-up study" })).unwrap();
    let svg = done.text("figure", "figure.svg");
    inside(&svg);
    for (color, lines) in [("#c0392b", 3), ("#2166ac", 3)] {
        let drawn = svg.lines().filter(|line| line.starts_with("<polyline") && line.contains(color)).count();
        assert_eq!(drawn, lines, "{color}");
    }
    let dashes: std::collections::BTreeSet<&str> =
        svg.lines().filter_map(|line| line.split("stroke-dasharray=\"").nth(1)?.split('"').next()).collect();
    assert_eq!(dashes.len(), 2, "one for each rank but the full one");
    assert!(svg.contains("data-mark=\"rank=2,kept=0.25\""));
    let csv = done.text("figure", "figure.csv");
    insta::assert_snapshot!(csv.lines().take(4).collect::<Vec<_>>().join("\n"), @"");
    // Three lines of two groups at three shares.
    assert_eq!(csv.lines().count(), 1 + 18);
    let few = draw(&metrics, json!({ "order": ["full", 8], "bands": false })).unwrap();
    assert!(!few.text("figure", "figure.svg").contains("polygon fill=\"#c0392b\" fill-opacity"));
    assert_eq!(few.text("figure", "figure.csv").lines().count(), 1 + 12);
}

#[test]
fn what_can_not_be_drawn_is_told() {
    insta::assert_snapshot!(draw(&study(false), json!({})).err().unwrap(), @"");
    let metrics = study(true);
    insta::assert_snapshot!(draw(&metrics, json!({ "lines": "model" })).err().unwrap(), @"");
    insta::assert_snapshot!(draw(&metrics, json!({ "order": [2, 64] })).err().unwrap(), @"");
    insta::assert_snapshot!(problems::<AccuracyFigure>(json!({ "lines": "kept", "width": 1 })), @"");
}

#[test]
fn bytes_are_those_of_this_revision() {
    insta::assert_snapshot!(draw(&study(true), json!({})).unwrap().digest(), @"");
}
