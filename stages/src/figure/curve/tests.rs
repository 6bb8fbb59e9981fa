use serde_json::{Value, json};

use super::CurveFigure;
use crate::{
    records::METRICS,
    testing::{Bench, Done, problems},
};

/// A run that falls and wavers; evaluated every so many steps, if at all.
fn curve(steps: usize, start: f64, every: Option<usize>) -> Vec<Value> {
    let point = |step: usize| {
        let at = step as f64;
        let loss = start / (1.0 + at / 30.0) + 0.15 * ((at * 7.3).sin() + (at * 1.7).cos()) + 0.6;
        let mut point =
            json!({ "step": step, "loss": loss, "learning_rate": 1e-3, "gradient_norm": 0.5, "tokens": 640 });
        if every.is_some_and(|every| step.is_multiple_of(every)) {
            point["validation_loss"] = json!(loss * 0.9 + 0.002 * at);
        }
        point
    };
    (1..=steps).map(point).collect()
}

fn bench() -> Bench {
    let row = |rank: Value, start, every| (json!([["rank", rank], ["seed", 0]]), Some(curve(300, start, every)));
    let missing = (json!([["rank", 64], ["seed", 0]]), None);
    let rows = [row(json!(2), 5.0, Some(50)), row(json!(32), 4.0, Some(50)), row(json!("full"), 3.0, None), missing];
    Bench::new().table("curves", METRICS, &rows)
}

fn png_of(done: &Done) -> Vec<u8> {
    std::fs::read(done.outputs["figure"].get("figure.png").unwrap()).unwrap()
}

#[test]
fn each_run_is_a_line() {
    let done = bench().run::<CurveFigure>(json!({ "title": "Loss by rank" })).unwrap();
    let svg = done.text("figure", "figure.svg");
    crate::figure::inside(&svg);
    assert_eq!(svg.matches("<polyline").count(), 3 + 2);
    assert_eq!(svg.matches("<circle").count(), 2 * 6);
    assert_eq!(svg.matches("data-mark=\"rank=full,seed=0\"").count(), 1);
    assert!(svg.contains("Each point of a line is the mean of up to 2 steps. Missing results, left out: 1."), "{svg}");
    assert_eq!((&done.summary["curves"], &done.summary["dropped"]), (&json!(3), &json!(1)));
    let csv = done.text("figure", "figure.csv");
    assert_eq!(csv.lines().count(), 1 + 3 * 300);
    insta::assert_snapshot!(csv.lines().take(2).collect::<Vec<_>>().join("\n"), @r#"
    curve,step,loss,validation_loss,learning_rate,gradient_norm
    "rank=2,seed=0",1,5.54694849636931,,0.001,0.5
    "#);
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let run = || bench().run::<CurveFigure>(json!({ "points": 50, "height": 200 })).unwrap();
    let (one, two) = (run(), run());
    assert_eq!(png_of(&one), png_of(&two));
    insta::assert_snapshot!(one.digest(), @"figure f94e8ec8503a");
}

#[test]
fn a_single_run_of_one_step_can_be_drawn() {
    let done = Bench::new().rows("curves", METRICS, &curve(1, 2.0, Some(1))).run::<CurveFigure>(json!({})).unwrap();
    crate::figure::inside(&done.text("figure", "figure.svg"));
}

#[test]
fn what_can_not_be_drawn_is_said() {
    let fails = |rows: &[Value]| {
        let bench = Bench::new().rows("curves", METRICS, rows);
        bench.run::<CurveFigure>(json!({})).err().expect("a failure").to_string()
    };
    let twice = [curve(2, 1.0, None), curve(2, 1.0, None)].concat();
    let none: Vec<(Value, Option<Vec<Value>>)> = vec![(json!([["seed", 1]]), None)];
    let nothing = Bench::new().table("curves", METRICS, &none).run::<CurveFigure>(json!({})).err().unwrap();
    insta::assert_snapshot!([fails(&[]), fails(&twice), nothing.to_string()].join("\n"), @r"
    the curve of run is none: its steps don't ascend
    the curve of run is none: its steps don't ascend
    the input `curves` holds no run, so there is nothing to draw
    ");
    let wrong = json!({ "points": 0, "width": 20 });
    insta::assert_snapshot!(problems::<CurveFigure>(wrong), @r"
    width: 20 is not from 200 to 8000 pixels
    points: 0 is too few, give at least 1
    ");
}
