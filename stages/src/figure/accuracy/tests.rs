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
    insta::assert_snapshot!(csv.lines().take(4).collect::<Vec<_>>().join("\n"), @"
    panel,group,role,line,proportion,train,accuracy,low,high,runs
    ,no,majority,2,0.2,1000,0.925,0.8746875000000001,0.9753125,2
    ,no,majority,2,0.4,1000,0.8875,0.8125,0.95,2
    ,no,majority,2,0.8,1000,0.85,0.775,0.925,2
    ");
    // Three lines of two groups at three shares.
    assert_eq!(csv.lines().count(), 1 + 18);
    let few = draw(&metrics, json!({ "order": ["full", 8], "bands": false })).unwrap();
    assert!(!few.text("figure", "figure.svg").contains("polygon fill=\"#c0392b\" fill-opacity"));
    assert_eq!(few.text("figure", "figure.csv").lines().count(), 1 + 12);
}

#[test]
fn what_can_not_be_drawn_is_told() {
    insta::assert_snapshot!(draw(&study(false), json!({})).err().unwrap(), @"the metrics don't know the sizes of the groups in training: link `counts` of `dataset.downsample` to `evaluate.groups`");
    let metrics = study(true);
    insta::assert_snapshot!(draw(&metrics, json!({ "lines": "model" })).err().unwrap(), @"the metrics have no axis `model` to have lines of: gather it in `evaluate.groups`, or name another as `lines`");
    insta::assert_snapshot!(draw(&metrics, json!({ "order": [2, 64] })).err().unwrap(), @"`order` names `64`, which has no accuracy");
    insta::assert_snapshot!(problems::<AccuracyFigure>(json!({ "lines": "kept", "width": 1 })), @"
    width: 1 is not from 160 to 4000 pixels
    share: the axis `kept` has the lines already
    ");
}

#[test]
fn bytes_are_those_of_this_revision() {
    insta::assert_snapshot!(draw(&study(true), json!({})).unwrap().digest(), @"figure 3797d2c9d004");
}
