use palinode_engine::stage::StageError;
use serde_json::{Value, json};

use super::BoundaryFigure;
use crate::{
    evaluate_boundary::Boundary,
    figure::inside,
    records::PREDICTIONS,
    testing::{Bench, Done, problems},
};

fn boundaries() -> Done {
    let run = |rank: Value, data: &str, sharp: f64| {
        let one = |at: usize| {
            let positive = 0.5 + (at as f64 / 100.0 - 0.4) * sharp;
            let label = if at.is_multiple_of(4) { "negative" } else { "positive" };
            json!({
                "id": at.to_string(), "label": label, "group": label, "split": "test",
                "predicted": if positive > 0.5 { "positive" } else { "negative" },
                "probabilities": { "positive": positive, "negative": 1.0 - positive },
            })
        };
        (json!([["data", data], ["rank", rank], ["seed", 0]]), Some((0..100).map(one).collect::<Vec<Value>>()))
    };
    let rows = ["imdb", "sst2"]
        .into_iter()
        .flat_map(|data| [run(json!(2), data, 0.5), run(json!(8), data, 0.65), run(json!("full"), data, 0.8)]);
    Bench::new()
        .table("predictions", PREDICTIONS, &rows.collect::<Vec<_>>())
        .run::<Boundary>(json!({ "minority": "positive" }))
        .unwrap()
}

fn draw(boundary: &Done, with: Value) -> Result<Done, StageError> {
    Bench::new().input("boundary", boundary.outputs["boundary"].clone()).run::<BoundaryFigure>(with)
}

#[test]
fn panels_are_ranks_and_rows_are_data() {
    let boundary = boundaries();
    let with = json!({ "decided": "positive", "titles": { "data=sst2": "SST-2" } });
    let done = draw(&boundary, with).unwrap();
    let svg = done.text("figure", "figure.svg");
    inside(&svg);
    assert_eq!((&done.summary["rows"], &done.summary["panels"]), (&json!(2), &json!(6)));
    assert!(svg.contains("SST-2") && svg.contains("data imdb") && svg.contains("data-mark=\"data=sst2,rank=full\""));
    // The minority is blue.
    let blue = svg.lines().position(|line| line.contains("#2166ac")).unwrap();
    assert!(svg.lines().skip(blue).take(3).any(|line| line.contains("minority (positive)")));
    let csv = done.text("figure", "figure.csv");
    assert_eq!(csv.lines().count(), 1 + 6 * 2 * 101);
    let one =
        draw(&boundary, json!({ "decided": "positive", "where": { "data": "imdb" }, "order": ["full", 2] })).unwrap();
    assert_eq!((&one.summary["rows"], &one.summary["panels"]), (&json!(1), &json!(2)));
}

#[test]
fn what_can_not_be_drawn_is_told() {
    let boundary = boundaries();
    let told = |with: Value| draw(&boundary, with).err().unwrap().to_string();
    insta::assert_snapshot!(told(json!({})), @"say by `decided` which class is meant: negative, positive");
    insta::assert_snapshot!(told(json!({ "decided": "neutral" })), @"nothing was decided to be `neutral`; there are negative, positive");
    insta::assert_snapshot!(told(json!({ "decided": "positive", "across": "model" })), @"the results have no axis `model` to have panels of: gather it in `evaluate.boundary`, or name another as `across`");
    insta::assert_snapshot!(told(json!({ "decided": "positive", "where": { "data": "agnews" } })), @"`where`: there is no result with `data` = agnews");
    insta::assert_snapshot!(problems::<BoundaryFigure>(json!({ "where": { "rank": 2 }, "height": 1 })), @"
    height: 1 is not from 60 to 4000 pixels
    where: the axis `rank` has the panels already (hint: choose some of its labels by `order`)
    ");
}

#[test]
fn bytes_are_those_of_this_revision() {
    insta::assert_snapshot!(draw(&boundaries(), json!({ "decided": "positive" })).unwrap().digest(), @"figure 85ec05f14923");
}
