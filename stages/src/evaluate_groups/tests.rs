use std::collections::BTreeMap;

use palinode_engine::stage::StageError;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Groups, row::GroupRow};
use crate::{
    records::{METRICS, PREDICTIONS, Prediction},
    testing::{Bench, Done, problems},
};

/// Predictions of items with the labels `no` and `yes`, the label as group: how many of each are right.
fn predictions(no: (usize, usize), yes: (usize, usize)) -> Vec<Value> {
    let of = |label: &'static str, other: &'static str, (right, count): (usize, usize)| {
        (0..count).map(move |at| {
            let predicted = if at < right { label } else { other };
            json!({
                "id": format!("{label}{at}"), "label": label, "group": label, "split": "test", "predicted": predicted,
                "probabilities": { predicted: 0.75, (if at < right { other } else { label }): 0.25 },
            })
        })
    };
    of("no", "yes", no).chain(of("yes", "no", yes)).collect()
}

type Runs<'r> = Vec<(Value, Option<Vec<Value>>)>;

fn evaluate(runs: Runs<'_>, references: Option<Runs<'_>>, with: Value) -> Result<Done, StageError> {
    let mut bench = Bench::new().table("predictions", PREDICTIONS, &runs);
    if let Some(references) = references {
        bench = bench.table("reference", PREDICTIONS, &references);
    }
    bench.run::<Groups>(with)
}

fn rows(done: &Done) -> Vec<GroupRow> {
    done.rows("metrics", METRICS)
}

fn one(predictions: Vec<Value>) -> Runs<'static> {
    vec![(json!([]), Some(predictions))]
}

/// The metrics of a made-up study: ranks, kept shares and seeds, with sizes in training if `counted`.
pub(crate) fn study(counted: bool) -> Done {
    let mut runs: Runs<'_> = Vec::new();
    let mut references: Runs<'_> = Vec::new();
    let mut counts: Vec<(Value, Option<Vec<Value>>)> = Vec::new();
    for (rank, loss) in [(json!(2), 6), (json!(8), 3), (json!("full"), 0)] {
        for (kept, gone) in [(0.25, 12), (0.5, 6), (1.0, 0)] {
            for seed in 0..2usize {
                let coords = json!([["rank", rank], ["kept", kept], ["seed", seed]]);
                let run = |loss: usize| predictions((70 + gone / 2 - loss / 3, 80), (66 - gone - loss + seed, 80));
                runs.push((coords.clone(), Some(run(loss))));
                references.push((coords.clone(), Some(run(0))));
                let yes = (kept * 800.0) as usize;
                let count = json!({ "group": "yes", "share": kept, "before": { "no": 1000, "yes": 800 }, "after": { "no": 1000, "yes": yes } });
                counts.push((coords, Some(vec![count])));
            }
        }
    }
    let bench = Bench::new().table("predictions", PREDICTIONS, &runs).table("reference", PREDICTIONS, &references);
    let bench = if counted { bench.table("counts", "counts.json", &counts) } else { bench };
    bench.run::<Groups>(json!({ "resamples": 200 })).unwrap()
}

#[test]
fn numbers_are_those_of_fairlearn() {
    #[derive(Deserialize)]
    struct Group {
        accuracy: f64,
        f1: f64,
        ece: f64,
        confusion: BTreeMap<String, BTreeMap<String, usize>>,
    }
    #[derive(Deserialize)]
    struct Table {
        predictions: Vec<Prediction>,
        by_group: BTreeMap<String, Group>,
        accuracy: f64,
        f1: f64,
        difference: f64,
        worst: f64,
    }
    let text = match std::env::var_os("PALINODE_FAIRLEARN") {
        Some(path) => std::fs::read_to_string(path).unwrap(),
        None => include_str!("fairlearn.json").to_owned(),
    };
    let tables: Vec<Table> = serde_json::from_str(&text).unwrap();
    assert!(tables.len() > 3);
    for table in tables {
        let done = Bench::new().rows("predictions", PREDICTIONS, &table.predictions);
        let rows = rows(&done.run::<Groups>(json!({ "resamples": 100 })).unwrap());
        let same = |found: &super::row::Estimate, expected: f64| {
            let found = found.value.unwrap();
            assert!((found - expected).abs() < 1e-9, "{found} {expected}");
        };
        same(&rows[0].accuracy, table.accuracy);
        same(&rows[0].f1, table.f1);
        let parity = rows[0].parity.as_ref().unwrap();
        same(&parity.ap, table.difference);
        assert_eq!(rows.len(), table.by_group.len() + 1);
        for row in &rows[1..] {
            let group = row.group.as_ref().unwrap();
            let expected = &table.by_group[group];
            same(&row.accuracy, expected.accuracy);
            same(&row.f1, expected.f1);
            same(&row.ece, expected.ece);
            assert_eq!(row.confusion, expected.confusion);
            if Some(group) == parity.worst.as_ref() {
                assert!((expected.accuracy - table.worst).abs() < 1e-9);
            }
        }
    }
}

#[test]
fn gaps_are_signed_and_their_sizes_point_estimates() {
    // LoRA is worse on `yes` by 0.3, and better on `no` by 0.1: 0.9 and 0.5 against 0.8 and 0.8.
    let (low, full) = (predictions((36, 40), (20, 40)), predictions((32, 40), (32, 40)));
    let counts =
        json!({ "group": "yes", "share": 0.25, "before": { "no": 100, "yes": 80 }, "after": { "no": 100, "yes": 20 } });
    let bench = Bench::new().rows("predictions", PREDICTIONS, &low).rows("reference", PREDICTIONS, &full);
    let rows = rows(&bench.json("counts", "counts.json", counts).run::<Groups>(json!({})).unwrap());
    let parity = rows[0].parity.as_ref().unwrap();
    let near =
        |found: Option<f64>, expected: f64| assert!((found.unwrap() - expected).abs() < 1e-12, "{found:?} {expected}");
    near(parity.ap.value, 0.4);
    near(parity.proportion, 0.2);
    near(parity.kept, 0.25);
    assert_eq!(parity.ap.low, None);
    let change = parity.against_reference.as_ref().unwrap();
    near(change.value, 0.4);
    assert!(change.low.unwrap() > 0.0, "{change:?}");
    assert_eq!((parity.best.as_deref(), parity.worst_against_reference.as_deref()), (Some("no"), Some("yes")));
    let [no, yes] = [&rows[1], &rows[2]];
    assert_eq!((no.group.as_deref(), yes.group.as_deref()), (Some("no"), Some("yes")));
    assert_eq!(
        (format!("{:?}", no.role), format!("{:?}", yes.role)),
        ("Some(Majority)".into(), "Some(Minority)".into())
    );
    assert_eq!((yes.train, yes.correct, yes.items), (Some(20.0), 20, 40));
    let gap = yes.against_reference.as_ref().unwrap();
    near(gap.value, -0.3);
    near(yes.hbg.as_ref().unwrap().value, 0.3);
    assert!(gap.low.unwrap() < -0.3 && gap.high.unwrap() < 0.0 && yes.hbg.as_ref().unwrap().low.is_none());
    near(no.against_reference.as_ref().unwrap().value, 0.1);
    near(yes.against_majority.as_ref().unwrap().value, -0.4);
    let wider = yes.change_against_majority.as_ref().unwrap();
    near(wider.value, -0.4);
    assert!(wider.high.unwrap() < 0.0 && wider.p.unwrap() < 0.01, "{wider:?}");
    assert!(no.against_majority.is_none() && no.change_against_majority.is_none());
    near(yes.ece.value, 0.25);
}

#[test]
fn pairing_by_item_makes_sure_what_two_intervals_would_not() {
    // Of 60 items the reference has the same 4 more right.
    let run = |right: usize| predictions((30, 60), (right, 60));
    let done = evaluate(one(run(40)), Some(one(run(44))), json!({})).unwrap();
    let yes = rows(&done).remove(2);
    let (gap, accuracy) = (yes.against_reference.unwrap(), yes.accuracy);
    assert!(gap.high.unwrap() <= 0.0, "{gap:?}");
    assert!(accuracy.low.unwrap() < 40.0 / 60.0 - 0.1 && accuracy.high.unwrap() > 44.0 / 60.0, "{accuracy:?}");
    // Where nothing differs, nothing is found.
    let done = evaluate(
        one(run(40)),
        Some(vec![(json!([]), Some(predictions((30, 60), (40, 60)).into_iter().rev().collect()))]),
        json!({}),
    )
    .unwrap();
    let gap = rows(&done).remove(2).against_reference.unwrap();
    assert_eq!((gap.value, gap.low, gap.high, gap.p), (Some(0.0), Some(0.0), Some(0.0), Some(1.0)));
}

#[test]
fn seeds_are_pooled_with_mean_and_spread() {
    let run = |seed: u64, no: usize, yes: usize| {
        (json!([["rank", 2], ["seed", seed]]), Some(predictions((no, 40), (yes, 40))))
    };
    let runs = vec![run(0, 30, 20), run(1, 34, 24), run(2, 32, 28)];
    let full = [(0, 30, 24), (1, 30, 24), (2, 30, 24)].map(|(seed, no, yes)| run(seed, no, yes)).to_vec();
    let done = evaluate(runs.clone(), Some(full), json!({})).unwrap();
    let rows = rows(&done);
    // Three rows for each of three runs, and for all.
    assert_eq!(rows.len(), 12);
    let pooled = &rows[9..];
    assert_eq!(
        (&pooled[0].pooled, pooled[0].runs, &pooled[0].coords),
        (&vec!["seed".to_owned()], 3, &vec![("rank".to_owned(), json!(2))])
    );
    let yes = &pooled[2];
    let accuracy = &yes.accuracy;
    assert_eq!((accuracy.value, accuracy.mean), (Some(0.6), Some(0.6)));
    assert!((accuracy.sd.unwrap() - 0.1).abs() < 1e-12);
    // Signed they cancel out; run by run they don't.
    let (signed, hbg) = (yes.against_reference.as_ref().unwrap(), yes.hbg.as_ref().unwrap());
    assert!(signed.value.unwrap().abs() < 1e-12 && signed.p.unwrap() > 0.5);
    assert!(hbg.value.unwrap().abs() < 1e-12 && (hbg.mean.unwrap() - 0.2 / 3.0).abs() < 1e-12);
    // Seeds that disagree widen the interval beyond that of one.
    let width = |row: &GroupRow| row.accuracy.high.unwrap() - row.accuracy.low.unwrap();
    assert!(width(yes) > 0.8 * width(&rows[2]), "{} {}", width(yes), width(&rows[2]));

    let threads = |cpus: usize| {
        let bench = Bench::new().table("predictions", PREDICTIONS, &runs).cpus(cpus);
        bench.run::<Groups>(json!({})).unwrap().digest()
    };
    assert_eq!(threads(1), threads(3));
    let missing = vec![run(0, 30, 20), (json!([["rank", 2], ["seed", 1]]), None)];
    let done = evaluate(missing, None, json!({})).unwrap();
    assert_eq!((&done.summary["runs"], &done.summary["missing_runs"]), (&json!(1), &json!(1)));
    insta::assert_snapshot!(evaluate(runs, None, json!({ "pool": ["fold"] })).err().unwrap(), @"`pool` names the axis `fold`, which is not gathered (rank, seed is): add it to `gather`");
}

#[test]
fn a_group_of_one_or_none_is_undefined_with_the_reason() {
    let counts = json!({ "group": "odd", "share": 0.5, "before": { "no": 9, "yes": 9, "odd": 4 }, "after": { "no": 9, "yes": 9, "odd": 2 } });
    let bench = Bench::new().rows("predictions", PREDICTIONS, &predictions((3, 5), (1, 1)));
    let rows = rows(&bench.json("counts", "counts.json", counts).run::<Groups>(json!({})).unwrap());
    let told: Vec<String> = rows
        .iter()
        .map(|row| {
            format!("{:?}: {:?} {}", row.group, row.accuracy.value, row.accuracy.undefined.clone().unwrap_or_default())
        })
        .collect();
    insta::assert_snapshot!(told.join("\n"), @r#"
    None: Some(0.6666666666666666) 
    Some("no"): Some(0.6) 
    Some("odd"): None no test item is of this group
    Some("yes"): None only one test item is of this group: its accuracy can be nothing but 0 or 1
    "#);
    insta::assert_snapshot!(rows[0].parity.as_ref().unwrap().ap.undefined.as_ref().unwrap(), @"fewer than two groups have two or more test items");
}

#[test]
fn what_can_not_be_compared_is_told() {
    let run = |no: usize| predictions((1, no), (2, 4));
    let told =
        |reference: Vec<Value>| evaluate(one(run(4)), Some(one(reference)), json!({})).err().unwrap().to_string();
    insta::assert_snapshot!(told(run(3)), @"the test item `no3` is in one run and not in another: runs can only be compared, or pooled, on the same test items; gather what differs in them apart");
    let mut other = run(4);
    other[0]["label"] = json!("yes");
    insta::assert_snapshot!(told(other), @"the label of the test item `no0` is `no` and `yes`: runs can only be compared, or pooled, on the same test items; gather what differs in them apart");
    let twice = [run(4), vec![run(4)[0].clone()]].concat();
    insta::assert_snapshot!(evaluate(one(twice), None, json!({})).err().unwrap(), @"two predictions of one run are of the same test item");
    insta::assert_snapshot!(evaluate(one(run(4)), None, json!({ "minority": "maybe" })).err().unwrap(), @"`minority`: there is no group `maybe`; there are no, yes");
    insta::assert_snapshot!(problems::<Groups>(json!({ "bins": 0, "resamples": 1, "confidence": 95, "minority": "a", "majority": "a" })), @"
    bins: 0 is too few, give at least 1
    resamples: give a number from 100 to 1000000
    confidence: give a number between 0 and 1 (hint: 95% is 0.95)
    majority: it is the minority
    ");
    let partly = vec![(json!([["seed", 0]]), Some(run(4))), (json!([["seed", 1]]), Some(run(4)))];
    let references =
        vec![(json!([["seed", 0]]), Some(run(4).into_iter().rev().collect())), (json!([["seed", 1]]), None)];
    let rows = rows(&evaluate(partly, Some(references), json!({})).unwrap());
    insta::assert_snapshot!(rows[8].hbg.as_ref().unwrap().undefined.as_ref().unwrap(), @"a run to compare with is missing");
}

#[test]
fn a_run_that_says_what_the_reference_says_has_a_gap_of_nothing() {
    let coords = |rank: &str, seed: usize| json!([["rank", rank], ["seed", seed]]);
    let full = |seed: usize| predictions((30 - seed, 40), (20 + seed, 40));
    let of = |low: &dyn Fn(usize) -> Vec<Value>| {
        let runs = (0..2).flat_map(|seed| {
            [("2", low(seed)), ("full", full(seed))].map(|(rank, run)| (coords(rank, seed), Some(run)))
        });
        let references = (0..2).flat_map(|seed| ["2", "full"].map(|rank| (coords(rank, seed), Some(full(seed)))));
        rows(&evaluate(runs.collect(), Some(references.collect()), json!({ "resamples": 100 })).unwrap())
    };
    // By rank and seed; of each the group `yes`.
    let gaps = |rows: &[GroupRow]| {
        let of = |row: &GroupRow| row.hbg.as_ref().map(|hbg| hbg.value.ok_or(hbg.undefined.clone()));
        rows.iter().filter(|row| row.group.as_deref() == Some("yes")).map(of).collect::<Vec<_>>()
    };
    // In one of two seeds: half of the other's gap, pooled.
    let one = of(&|seed| if seed == 0 { full(0) } else { predictions((29, 40), (11, 40)) });
    let shown = gaps(&one).into_iter().map(|gap| gap.map(|gap| format!("{:.3}", gap.unwrap())));
    let expected = [Some("0.000"), None, Some("0.250"), None, Some("0.125"), None];
    assert!(shown.eq(expected.map(|gap| gap.map(str::to_owned))), "{:?}", gaps(&one));
    // In both: nobody can tell which is the reference.
    let both = gaps(&of(&full));
    assert!(both.iter().all(|gap| *gap == Some(Ok(0.0))), "{both:?}");
}

#[test]
fn shares_of_none_and_all_are_not_certain() {
    let done = evaluate(one(predictions((40, 40), (0, 40))), None, json!({ "resamples": 100 })).unwrap();
    let ends = |row: &GroupRow| (row.accuracy.low.unwrap(), row.accuracy.high.unwrap());
    let [_, no, yes] = &rows(&done)[..] else { panic!("three rows") };
    // Clopper and Pearson: .025 ^ (1 / 40).
    let reach = 0.025f64.powf(1.0 / 40.0);
    let off = (ends(no).0 - reach).abs().max((ends(yes).1 - (1.0 - reach)).abs());
    assert!(off < 1e-12 && (ends(no).1, ends(yes).0) == (1.0, 0.0), "{rows:?}", rows = rows(&done));
}

#[test]
fn bytes_are_those_of_this_revision() {
    let done =
        evaluate(one(predictions((3, 5), (2, 4))), Some(one(predictions((4, 5), (1, 4)))), json!({ "resamples": 100 }));
    insta::assert_snapshot!(done.unwrap().digest(), @"metrics f95deff48b28");
}
