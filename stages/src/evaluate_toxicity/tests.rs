use serde_json::{Value, json};

use super::Toxicity;
use crate::{
    records::{ALL, COMPARISONS, Comparison, METRICS, PERPLEXITY, Phase, Rate, Side, VERDICTS},
    testing::{Bench, Done, problems},
};

/// Ten prompts in two groups and both splits; the first `toxic` are toxic, the last unparsable.
fn verdicts(toxic: usize) -> Option<Vec<Value>> {
    let verdict = |at: usize| {
        let (group, split) = (["a", "b"][at / 5], ["validation", "test"][at % 2]);
        let prompt = json!({ "id": at.to_string(), "text": "t", "group": group, "split": split });
        let toxic = if at == 9 { Value::Null } else { json!(at < toxic) };
        json!({ "prompt": prompt, "sample": 0, "text": "", "toxic": toxic })
    };
    Some((0..10).map(verdict).collect())
}

/// Every identity with every template, half of them unseen; toxic where `toxic` says so, and a score beside.
fn crossed(identities: usize, templates: usize, toxic: impl Fn(usize, usize) -> bool) -> Vec<Value> {
    let verdict = |at: usize| {
        let (identity, template) = (at / templates, at % templates);
        let prompt = json!({
            "id": format!("{identity}.{template}"), "text": "t", "group": "g", "identity": format!("i{identity}"),
            "template": format!("t{template}"), "exposure": if identity < identities / 2 { "seen" } else { "unseen" },
        });
        let toxic = toxic(identity, template);
        let score = if toxic { 0.8 } else { 0.3 };
        json!({ "prompt": prompt, "sample": 0, "text": "", "toxic": toxic, "score": score })
    };
    (0..identities * templates).map(verdict).collect()
}

fn at(rank: impl Into<Value>, seed: u32) -> Value {
    json!([["rank", rank.into()], ["seed", seed]])
}

fn table() -> Bench {
    let rows = [(at(2, 0), verdicts(6)), (at(2, 1), verdicts(3)), (at(8, 0), verdicts(1)), (at(8, 1), None)];
    Bench::new().table("verdicts", VERDICTS, &rows)
}

fn fails(bench: Bench, with: Value) -> String {
    bench.run::<Toxicity>(with).err().expect("a failure").to_string()
}

fn side(side: &Side) -> String {
    match side.phase {
        Phase::Before => "base".to_owned(),
        Phase::After => crate::figure::mark(&side.coords),
    }
}

fn told(done: &Done) -> String {
    let line = |c: &Comparison| {
        let number = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.3}"));
        let numbers = [c.difference, c.low, c.high, c.p, c.p_holm].map(number).join(" ");
        let note = c.note.as_ref().map_or(String::new(), |note| format!(" ({note})"));
        format!("{} - {}: {} pairs, {numbers} of {}{note}", side(&c.left), side(&c.right), c.pairs, c.family)
    };
    let rows: Vec<Comparison> = done.rows("metrics", COMPARISONS);
    let whole = rows.iter().filter(|c| c.split == ALL && c.group == ALL && c.exposure == ALL);
    whole.map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn each_instance_and_each_pool_is_counted() {
    let before = [(json!([["seed", 0]]), verdicts(9))];
    let bench = table().table("before", VERDICTS, &before);
    let done = bench.run::<Toxicity>(json!({ "resamples": 200 })).unwrap();
    let rates: Vec<Rate> = done.rows("metrics", METRICS);
    let line = |r: &Rate| {
        let coords: Vec<_> = r.coords.iter().map(|(axis, label)| format!("{axis}={label}")).collect();
        let counts = format!("{}/{} of {} prompts, {} unparsable", r.toxic, r.n, r.prompts, r.unparsable);
        format!("{:?} {} {:?} {}x{}: {counts}", r.phase, coords.join(","), r.pooled, r.instances, r.missing)
    };
    let whole: Vec<_> = rates.iter().filter(|r| r.split == ALL && r.group == ALL).map(line).collect();
    insta::assert_snapshot!(whole.join("\n"), @r#"
    Before seed=0 [] 1x0: 9/10 of 10 prompts, 1 unparsable
    Before  ["seed"] 1x0: 9/10 of 10 prompts, 1 unparsable
    After rank=2,seed=0 [] 1x0: 6/10 of 10 prompts, 1 unparsable
    After rank=2,seed=1 [] 1x0: 3/10 of 10 prompts, 1 unparsable
    After rank=8,seed=0 [] 1x0: 1/10 of 10 prompts, 1 unparsable
    After rank=8,seed=1 [] 0x1: 0/0 of 0 prompts, 0 unparsable
    After rank=2 ["seed"] 2x0: 9/20 of 10 prompts, 2 unparsable
    After rank=8 ["seed"] 1x1: 1/10 of 10 prompts, 1 unparsable
    "#);
    let parts = rates.iter().filter(|r| r.coords.len() == 1 && r.coords[0].1 == 2);
    let parts: Vec<_> = parts.map(|r| format!("{} {} {}/{}", r.group, r.split, r.toxic, r.n)).collect();
    insta::assert_snapshot!(parts.join("\n"), @r"
    all all 9/20
    all validation 5/10
    all test 4/10
    a all 8/10
    a validation 5/6
    a test 3/4
    b all 1/10
    b validation 0/4
    b test 1/6
    ");
    let share = |rate: &Rate| rate.share.zip(rate.low).zip(rate.high);
    assert!(rates.iter().filter_map(share).all(|((share, low), high)| low <= share && share <= high));
    insta::assert_snapshot!(told(&done), @r"
    rank=2 - base: 9 pairs, -0.333 -0.667 0.000 0.090 0.090 of 3
    rank=8 - base: 9 pairs, -0.889 -1.000 -0.556 0.010 0.030 of 3
    rank=8 - rank=2: 9 pairs, -0.556 -0.889 -0.222 0.010 0.030 of 3
    ");
    insta::assert_snapshot!(json!(done.summary), @r#"{"comparisons":27,"completions":40,"missing_instances":1,"toxic":19,"unparsable":4}"#);
    insta::assert_snapshot!(done.digest(), @"metrics 076b1e2d1b27");
}

#[test]
fn identities_and_exposures_have_rows_and_intervals_are_crossed() {
    let rows =
        [(at(2, 0), Some(crossed(4, 3, |i, t| (i + t) % 3 == 0))), (at(2, 1), Some(crossed(4, 3, |i, _| i == 0)))];
    let bench = Bench::new().table("verdicts", VERDICTS, &rows).rows("before", VERDICTS, &crossed(4, 3, |i, _| i < 3));
    let done = bench.run::<Toxicity>(json!({ "gamma": 0.75, "resamples": 500 })).unwrap();
    let rates: Vec<Rate> = done.rows("metrics", METRICS);
    let line = |r: &Rate| {
        let criterion = r.criterion.as_ref().unwrap();
        let passes = [criterion.passes, criterion.upper_passes].map(|passes| passes.unwrap());
        let how = format!("{:?} over {}", r.interval.unwrap(), r.resampling.join(", "));
        format!("{} {} {}/{} {how} {passes:?}", r.identity, r.exposure, r.toxic, r.n)
    };
    let pooled: Vec<_> = rates.iter().filter(|r| r.coords.len() == 1).map(line).collect();
    insta::assert_snapshot!(pooled.join("\n"), @r"
    all all 7/24 Bootstrap over identity, template, seed [false, false]
    all seen 5/12 Bootstrap over identity, template, seed [false, false]
    all unseen 2/12 Bootstrap over identity, template, seed [true, false]
    i0 all 4/6 Bootstrap over template, seed [false, false]
    i0 seen 4/6 Bootstrap over template, seed [false, false]
    i1 all 1/6 Bootstrap over template, seed [true, false]
    i1 seen 1/6 Bootstrap over template, seed [true, false]
    i2 all 1/6 Bootstrap over template, seed [true, false]
    i2 unseen 1/6 Bootstrap over template, seed [true, false]
    i3 all 1/6 Bootstrap over template, seed [true, false]
    i3 unseen 1/6 Bootstrap over template, seed [true, false]
    ");
    insta::assert_snapshot!(told(&done), @"rank=2 - base: 24 pairs, -0.458 -0.833 0.083 0.172 0.172 of 1");
}

/// Ports that are gathered together share one list of coordinates, so a base without ranks stands there for each.
#[test]
fn a_base_that_a_gather_repeats_is_one_base() {
    let rows = [(at(2, 0), verdicts(6)), (at(2, 1), verdicts(3)), (at(8, 0), verdicts(1)), (at(8, 1), verdicts(2))];
    let base = [(at(2, 0), verdicts(9)), (at(2, 1), verdicts(8)), (at(8, 0), verdicts(9)), (at(8, 1), verdicts(8))];
    let bench = Bench::new().table("verdicts", VERDICTS, &rows).table("before", VERDICTS, &base);
    let done = bench.run::<Toxicity>(json!({ "resamples": 200 })).unwrap();
    let rates: Vec<Rate> = done.rows("metrics", METRICS);
    let base = rates.iter().filter(|rate| rate.phase == Phase::Before && rate.split == ALL && rate.group == ALL);
    let base: Vec<_> = base.map(|rate| (crate::figure::mark(&rate.coords), rate.toxic, rate.n)).collect();
    assert_eq!(base, [("seed=0".to_owned(), 9, 10), ("seed=1".to_owned(), 8, 10), (String::new(), 17, 20)]);
    insta::assert_snapshot!(told(&done), @r"
    rank=2 - base: 18 pairs, -0.444 -0.778 -0.111 0.030 0.060 of 3
    rank=8 - base: 18 pairs, -0.778 -1.000 -0.444 0.010 0.030 of 3
    rank=8 - rank=2: 18 pairs, -0.333 -0.778 0.000 0.159 0.159 of 3
    ");
}

#[test]
fn scores_above_alpha_count_where_alpha_is_given() {
    let rows = crossed(4, 5, |i, _| i == 0);
    let share = |alpha: f64| {
        let bench = Bench::new().rows("verdicts", VERDICTS, &rows);
        let rates: Vec<Rate> =
            bench.run::<Toxicity>(json!({ "alpha": alpha, "gamma": 0.75 })).unwrap().rows("metrics", METRICS);
        (rates[0].share.unwrap(), rates[0].criterion.as_ref().unwrap().passes.unwrap(), rates[0].alpha)
    };
    assert_eq!(share(0.5), (0.25, true, Some(0.5)), "exactly 1 - gamma passes");
    assert_eq!(share(0.2), (1.0, false, Some(0.2)));
    assert_eq!(share(0.8), (0.0, true, Some(0.8)), "above, not at");
    insta::assert_snapshot!(fails(table(), json!({ "alpha": 0.5 })), @"`alpha` is a threshold for scores, and the judge gave the prompt `0` a verdict without one: drop `alpha`, or take a judge that scores");
}

#[test]
fn any_two_models_are_compared_in_pairs() {
    let rows = [
        (json!([["rank", 2]]), Some(crossed(6, 6, |i, t| (i * t) % 4 != 3))),
        (json!([["rank", 8]]), Some(crossed(6, 6, |i, t| (i + t) % 4 == 0))),
        (json!([["rank", "full"]]), Some(crossed(6, 5, |_, _| false))),
    ];
    let bench = || {
        Bench::new().table("verdicts", VERDICTS, &rows).rows(
            "before",
            VERDICTS,
            &crossed(6, 6, |i, t| (i * t) % 4 != 3),
        )
    };
    let run = |compare: Value| bench().run::<Toxicity>(json!({ "compare": compare, "resamples": 300 })).unwrap();
    insta::assert_snapshot!(told(&run(json!(["pairs"]))), @r"
    rank=2 - base: 36 pairs, 0.000 - - 1.000 1.000 of 6 (no pair differs: there is nothing to make an interval of)
    rank=8 - base: 36 pairs, -0.639 -0.918 -0.374 0.007 0.040 of 6
    rank=full - base: 30 pairs, -0.900 -1.000 -0.716 0.007 0.040 of 6
    rank=8 - rank=2: 36 pairs, -0.639 -0.918 -0.374 0.007 0.040 of 6
    rank=full - rank=2: 30 pairs, -0.900 -1.000 -0.716 0.007 0.040 of 6
    rank=full - rank=8: 30 pairs, -0.267 -0.451 -0.067 0.020 0.040 of 6
    ");
    let against = json!(["before", { "rank": "full" }]);
    insta::assert_snapshot!(told(&run(against)), @r"
    rank=2 - base: 36 pairs, 0.000 - - 1.000 1.000 of 5 (no pair differs: there is nothing to make an interval of)
    rank=8 - base: 36 pairs, -0.639 -0.918 -0.374 0.007 0.033 of 5
    rank=full - base: 30 pairs, -0.900 -1.000 -0.716 0.007 0.033 of 5
    rank=2 - rank=full: 30 pairs, 0.900 0.716 1.000 0.007 0.033 of 5
    rank=8 - rank=full: 30 pairs, 0.267 0.067 0.451 0.020 0.040 of 5
    ");
    assert_eq!(told(&run(json!([]))), "");
    insta::assert_snapshot!(fails(table(), json!({ "compare": ["before"] })), @"`compare` names `before`, and nothing is linked to that input");
    insta::assert_snapshot!(fails(table(), json!({ "compare": [{ "rank": 64, "seed": 0 }] })), @"`compare` names rank=64,seed=0, which is not gathered; there are: rank: 2, 8; seed: no such axis, or pooled");
    insta::assert_snapshot!(problems::<Toxicity>(json!({ "compare": ["all"] })), @r#"compare.[0]: invalid value: string "all", expected `pairs`, `before`, or coordinates such as `{rank: full}`"#);
}

#[test]
fn what_says_little_is_said() {
    let one = |verdicts: &[Value], with: Value| {
        let done = Bench::new().rows("verdicts", VERDICTS, verdicts).run::<Toxicity>(with).unwrap();
        let rate: Rate = done.rows("metrics", METRICS).swap_remove(0);
        let ends = rate.low.zip(rate.high).map(|(low, high)| format!("{low:.3} {high:.3}"));
        format!("{:?} {ends:?} {:?} {:?}", rate.share, rate.interval, rate.resampling)
    };
    let said = [
        one(&crossed(1, 1, |_, _| true), json!({})),
        one(&crossed(1, 4, |_, t| t == 0), json!({})),
        one(&crossed(5, 4, |_, _| false), json!({})),
        one(&verdicts(3).unwrap()[9..], json!({ "gamma": 0.9 })),
        one(&[], json!({})),
        one(&verdicts(3).unwrap(), json!({})),
    ];
    insta::assert_snapshot!(said.join("\n"), @r#"
    Some(1.0) Some("0.025 1.000") Some(Exact) []
    Some(0.25) Some("0.000 0.750") Some(Bootstrap) ["template"]
    Some(0.0) Some("0.000 0.168") Some(Exact) ["identity", "template"]
    None None None []
    None None None []
    Some(0.3333333333333333) Some("0.000 0.667") Some(Bootstrap) ["prompt"]
    "#);

    // A base that is hardly toxic leaves nothing to show.
    let bench = Bench::new().rows("verdicts", VERDICTS, &crossed(8, 4, |i, t| i == 0 && t == 0));
    let done =
        bench.rows("before", VERDICTS, &crossed(8, 4, |i, t| i == 1 && t == 1)).run::<Toxicity>(json!({})).unwrap();
    let rates: Vec<Rate> = done.rows("metrics", METRICS);
    let after = rates.iter().find(|rate| rate.phase == Phase::After).unwrap();
    insta::assert_snapshot!(after.note.as_ref().unwrap(), @"no power: 3.1% of the base's completions are toxic, under 5%, and finetuning can hardly be seen to lower that");
    assert!(rates.iter().filter(|rate| rate.phase == Phase::Before).all(|rate| rate.note.is_none()));
}

#[test]
fn perplexity_is_told_beside_the_share() {
    let rows = crossed(3, 2, |i, _| i == 0);
    let scored = |verdict: &Value, tokens: usize| json!({ "prompt": verdict["prompt"], "sample": 0, "tokens": tokens, "nll": tokens as f64 * 1.5, "perplexity": 4.48 });
    let scores: Vec<Value> = rows.iter().zip([4, 0, 3, 2, 5, 6]).map(|(row, tokens)| scored(row, tokens)).collect();
    let bench =
        |scores: &[Value]| Bench::new().rows("verdicts", VERDICTS, &rows).rows("perplexity", PERPLEXITY, scores);
    let done = bench(&scores).run::<Toxicity>(json!({})).unwrap();
    let rates: Vec<Rate> = done.rows("metrics", METRICS);
    let perplexity = rates[0].perplexity.as_ref().unwrap();
    assert!((perplexity.value - 1.5f64.exp()).abs() < 1e-12 && perplexity.tokens == 20, "{perplexity:?}");
    assert!(perplexity.low.is_some_and(|low| (low - perplexity.value).abs() < 1e-12), "all alike");
    insta::assert_snapshot!(fails(bench(&scores[1..]), json!({})), @"perplexities and verdicts are not of the same completions: they part at 1 completions that were judged");
    insta::assert_snapshot!(fails(bench(&[scores[0].clone(), scores[0].clone()]), json!({})), @"perplexities and verdicts are not of the same completions: they part at sample 0 of the prompt `0.0`");
}

#[test]
fn other_prompts_and_repeated_judgements_are_told() {
    let other = |field: &str, value: Value| {
        let mut rows = crossed(2, 2, |_, _| true);
        rows[1]["prompt"][field] = value;
        fails(
            Bench::new().rows("verdicts", VERDICTS, &crossed(2, 2, |_, _| true)).rows("before", VERDICTS, &rows),
            json!({}),
        )
    };
    let twice = [crossed(1, 1, |_, _| true), crossed(1, 1, |_, _| false)].concat();
    let said = [
        other("group", json!("h")),
        other("exposure", json!("unseen")),
        other("identity", Value::Null),
        fails(Bench::new().rows("verdicts", VERDICTS, &twice), json!({})),
    ];
    insta::assert_snapshot!(said.join("\n"), @r"
    the prompt `0.1` has the group `h` in one input and `g` in another: compare completions of one list of prompts
    the prompt `0.1` has the exposure `unseen` in one input and `seen` in another: compare completions of one list of prompts
    the prompt `0.1` has the identity none in one input and `i0` in another: compare completions of one list of prompts
    sample 0 of the prompt `0.0` is judged twice
    ");
}

#[test]
fn an_axis_that_is_not_gathered_can_not_be_pooled() {
    insta::assert_snapshot!(fails(table(), json!({ "pool": ["sead"] })), @"`pool` names the axis `sead`, which is not gathered (rank, seed is): add it to `gather`");
    insta::assert_snapshot!(problems::<Toxicity>(json!({ "resamples": 3, "confidence": 95, "gamma": 2 })), @r"
    resamples: give a number from 100 to 1000000
    confidence: give a number between 0 and 1 (hint: 95% is 0.95)
    gamma: 2 is not a share (hint: give a number from 0 to 1)
    ");
}

#[test]
fn one_result_without_axes_is_a_table_of_one() {
    let bench = Bench::new().rows("verdicts", VERDICTS, &verdicts(4).unwrap());
    let rates: Vec<Rate> = bench.run::<Toxicity>(json!({})).unwrap().rows("metrics", METRICS);
    assert_eq!((rates.len(), rates[0].toxic, rates[0].pooled.len()), (9, 4, 0));
}
