use serde_json::{Value, json};

use super::*;
use crate::{
    figure::inside,
    records,
    testing::{Bench, Done, problems},
};

fn row(judge: &str, by: &str, value: &str, counts: [u64; 4]) -> Value {
    let measured = |value: f64| json!({ "value": value, "low": value - 0.01, "high": value + 0.01 });
    json!({
        "coords": [], "truth": "human", "judge": judge, "by": by, "value": value, "n": counts.iter().sum::<u64>(),
        "prompts": 9, "unlabelled": 2, "unparsable": 1, "tp": counts[0], "fn": counts[1], "fp": counts[2], "tn": counts[3],
        "measures": {
            "accuracy": measured(0.8), "tpr": measured(0.76), "fpr": { "value": null, "low": null, "high": null, "undefined": "no" },
            "precision": measured(0.9), "f1": measured(0.7), "kappa": measured(0.55), "auc": measured(0.9),
        },
        "confidence": 0.95,
    })
}

fn one() -> Vec<Value> {
    vec![
        row("word list <&>\u{202e}", "all", "all", [15_733, 4_887, 150, 4_013]),
        row("word list <&>\u{202e}", "identity", "שלום $\\alpha$ 🖕", [3, 1, 0, 0]),
        row("word list <&>\u{202e}", "identity", "gay", [30, 1, 0, 20]),
    ]
}

fn drawn(bench: Bench, with: Value) -> Done {
    let done = bench.run::<ConfusionFigure>(with).unwrap();
    inside(&done.text("figure", "figure.svg"));
    done
}

#[test]
fn one_matrix_is_as_wide_as_a_column() {
    let done = drawn(Bench::new().rows("metrics", records::METRICS, &one()), json!({ "title": "Word list" }));
    let svg = done.text("figure", "figure.svg");
    let width = svg.split("viewBox=\"0 0 ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
    assert!((300.0..=335.0).contains(&width.parse::<f64>().unwrap()), "{width}");
    for said in [">15733<", ">76.3%<", "&lt;&amp;&gt;\u{fffd}", "data-mark=\"word list &lt;&amp;&gt;\u{fffd}\""] {
        assert!(svg.contains(said), "{said}: {svg}");
    }
    insta::assert_snapshot!(done.text("figure", "figure.csv").replace('\u{202e}', "[RLO]"), @r"
    panel,coordinates,truth,judge,by,value,n,tp,fn,fp,tn,unlabelled,unparsable,accuracy,accuracy_low,accuracy_high,auc,auc_low,auc_high,f1,f1_low,f1_high,fpr,fpr_low,fpr_high,kappa,kappa_low,kappa_high,precision,precision_low,precision_high,tpr,tpr_low,tpr_high
    word list <&>[RLO],,human,word list <&>[RLO],all,all,24783,15733,4887,150,4013,2,1,0.8,0.79,0.81,0.9,0.89,0.91,0.7,0.69,0.71,,,,0.55,0.54,0.56,0.9,0.89,0.91,0.76,0.75,0.77
    ");
    insta::assert_snapshot!(json!(done.summary), @r#"{"matrices":1,"missing":0}"#);
    insta::assert_snapshot!(done.digest(), @"figure 22f2088b5ac6");
}

#[test]
fn matrices_stand_side_by_side() {
    let at = |rank: u32| json!([["rank", rank]]);
    let metrics = |judge: &str| vec![row(judge, "all", "all", [4, 3, 2, 1])];
    let table = [(at(2), Some(metrics("a"))), (at(8), Some(metrics("a"))), (at(16), None)];
    let bench = Bench::new().table("metrics", records::METRICS, &table);
    let done = drawn(bench.rows("beside", records::METRICS, &metrics("b")), json!({}));
    let csv = done.text("figure", "figure.csv");
    let panels: Vec<&str> = csv.lines().skip(1).map(|line| &line[..line.find(",human").unwrap()]).collect();
    insta::assert_snapshot!(panels.join("\n"), @r#"
    "a, rank 2",rank=2
    "a, rank 8",rank=8
    b,
    "#);
    assert_eq!(done.summary["missing"], json!(1));
    let done = drawn(Bench::new().rows("metrics", records::METRICS, &one()), json!({ "by": "identity", "width": 320 }));
    assert_eq!(done.summary["matrices"], json!(2));
}

#[test]
fn what_is_not_there_is_told() {
    let run = |with: Value| {
        let bench = Bench::new().rows("metrics", records::METRICS, &one());
        bench.run::<ConfusionFigure>(with).err().unwrap().to_string()
    };
    insta::assert_snapshot!(run(json!({ "by": "group" })), @"no matrix is told by `group`; there are: all, identity");
    insta::assert_snapshot!(run(json!({ "by": "identity", "values": ["lesbian"] })), @r"`values` names `lesbian`, which `identity` has not; it has: שלום $\alpha$ 🖕, gay");
    let none = Bench::new().rows::<Value>("metrics", records::METRICS, &[]);
    insta::assert_snapshot!(none.run::<ConfusionFigure>(json!({})).err().unwrap(), @"the input `metrics` holds no matrix, so there is nothing to draw");
    insta::assert_snapshot!(problems::<ConfusionFigure>(json!({ "width": 10 })), @"width: 10 is not from 300 to 8000 pixels");
}
