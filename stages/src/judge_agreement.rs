//! `judge.agreement`: two judges on the same completions: how often they agree, and Cohen's kappa with its interval.

use std::collections::BTreeMap;

use palinode_engine::{
    context::Context,
    stage::{InputPort, Kind, OutputPort, ParamProblem, PortType, StageError},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    judging::{self, Intervals, Judged, Left, Sample, beside, check_by, places},
    records::{self, Confusion, Verdict},
    runtime::on_cpus,
};

/// What is told of two judges: none of them is the truth, so the other measures would mean nothing.
const KEPT: [(&str, &str); 2] = [("accuracy", "agreement"), ("kappa", "kappa")];

/// The kind.
pub(crate) struct Agreement;

/// `with` of `judge.agreement`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Params {
    /// What the judge of `verdicts` is called.
    first: String,
    /// What the judge of `other` is called.
    second: String,
    /// What to tell the agreement by, beside all: `group`, `identity`, `template`, or a fact's name.
    by: Vec<String>,
    /// Bootstrap resamples, over prompts.
    resamples: usize,
    /// Level of the intervals.
    confidence: f64,
    /// Seeds the bootstrap.
    seed: u64,
}

impl Default for Params {
    fn default() -> Self {
        Params {
            first: "first judge".to_owned(),
            second: "second judge".to_owned(),
            by: vec!["group".to_owned()],
            resamples: 2000,
            confidence: 0.95,
            seed: 0,
        }
    }
}

impl Kind for Agreement {
    type Params = Params;
    const NAME: &'static str = "judge.agreement";
    const ABOUT: &'static str = "Tells how often two judges agree on the same completions, and Cohen's kappa.";
    const REVISION: u32 = 1;

    fn inputs() -> Vec<InputPort> {
        vec![
            InputPort::table("verdicts", PortType::Verdicts, "one judge's"),
            InputPort::table("other", PortType::Verdicts, "another's, on the same completions"),
        ]
    }

    fn outputs() -> Vec<OutputPort> {
        let about =
            "metrics.jsonl: the 2 x 2 table, agreement and kappa with intervals; fn and fp are the two ways to differ";
        vec![OutputPort::new("metrics", PortType::Metrics, about)]
    }

    fn check(params: &Params) -> Vec<ParamProblem> {
        judging::interval_problems(params.resamples, params.confidence)
    }

    fn run(params: Params, ctx: &Context<'_>) -> Result<(), StageError> {
        let mut rows: Vec<Confusion> = Vec::new();
        let (mut missing, mut alone) = (0, 0);
        let intervals = Intervals { resamples: params.resamples, confidence: params.confidence, seed: params.seed };
        let instances = ctx.table("verdicts");
        for (done, instance) in instances.iter().enumerate() {
            ctx.progress(done, instances.len(), "pair of judges")?;
            let other = beside(ctx, "other", &instance.coords)?.and_then(|row| row.input);
            let (Some(first), Some(second)) = (&instance.input, other) else {
                missing += 1;
                continue;
            };
            let first: Vec<Verdict> = records::rows(first, records::VERDICTS)?;
            let second: Vec<Verdict> = records::rows(&second, records::VERDICTS)?;
            let keys = |verdicts: &'_ [Verdict]| -> Vec<(String, u32)> {
                verdicts.iter().map(|verdict| (verdict.prompt.id.clone(), verdict.sample)).collect()
            };
            let (first_keys, second_keys) = (keys(&first), keys(&second));
            places("verdicts", first_keys.iter().map(|(prompt, sample)| (prompt.as_str(), *sample)))?;
            let second_places =
                places("other verdicts", second_keys.iter().map(|(prompt, sample)| (prompt.as_str(), *sample)))?;
            let (mut judged, mut left) = (Vec::new(), Vec::new());
            for verdict in &first {
                let Some(&at) = second_places.get(&(verdict.prompt.id.as_str(), verdict.sample)) else {
                    alone += 1;
                    continue;
                };
                let other = &second[at];
                if other.text != verdict.text {
                    let message = "the judges' completions differ";
                    let id = &verdict.prompt.id;
                    return Err(StageError::failed(format!(
                        "{message}, first in the prompt `{id}`: link verdicts on the same ones"
                    )));
                }
                let prompt = &verdict.prompt;
                match (verdict.toxic, other.toxic) {
                    (Some(truth), Some(predicted)) => {
                        judged.push(Judged { prompt, truth, predicted, score: None });
                    }
                    (first, second) => {
                        left.push(Left { prompt, unlabelled: first.is_none(), unparsable: second.is_none() })
                    }
                }
            }
            alone += second.len() - judged.len() - left.len();
            if judged.is_empty() {
                let message = "no completion has a verdict of both judges";
                return Err(StageError::failed(format!("{message}: {} and {} verdicts", first.len(), second.len())));
            }
            check_by(&params.by, first.iter().map(|verdict| &verdict.prompt))?;
            let sample =
                Sample { coords: instance.coords.clone(), truth: &params.first, judge: &params.second, judged, left };
            rows.extend(on_cpus(ctx, || Ok(sample.rows(&params.by, intervals)))?);
        }
        for row in &mut rows {
            let kept =
                KEPT.iter().filter_map(|(name, new)| Some(((*new).to_owned(), row.measures.get(*name)?.clone())));
            row.measures = kept.collect::<BTreeMap<_, _>>();
        }
        let whole = || rows.iter().filter(|row| row.by == "all");
        ctx.summary("completions", whole().map(|row| row.n).sum::<u64>());
        ctx.summary("unparsable_by_the_first", whole().map(|row| row.unlabelled).sum::<usize>());
        ctx.summary("unparsable_by_the_second", whole().map(|row| row.unparsable).sum::<usize>());
        ctx.summary("judged_by_one_alone", alone);
        ctx.summary("missing_instances", missing);
        if alone > 0 {
            ctx.warn(format!("{alone} completions were judged by one judge alone; they are in no measure"));
        }
        if let [row] = &whole().collect::<Vec<_>>()[..] {
            for (_, name) in KEPT {
                ctx.summary(name, row.measures.get(name).and_then(|measured| measured.value));
            }
        }
        ctx.output("metrics")?.write_jsonl(records::METRICS, &rows)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{Bench, problems};

    fn verdicts(text: &str, words: &str) -> Vec<Value> {
        let verdict = |(at, word): (usize, char)| {
            let toxic = match word {
                'y' => json!(true),
                'n' => json!(false),
                _ => Value::Null,
            };
            let prompt = json!({ "id": at.to_string(), "text": "p", "group": if at < 6 { "a" } else { "b" } });
            json!({ "prompt": prompt, "sample": 0, "text": text, "toxic": toxic })
        };
        words.chars().enumerate().map(verdict).collect()
    }

    fn bench(first: &str, second: &str) -> Bench {
        let bench = Bench::new().rows("verdicts", records::VERDICTS, &verdicts("t", first));
        bench.rows("other", records::VERDICTS, &verdicts("t", second))
    }

    #[test]
    fn two_judges_make_a_table() {
        let done = bench("yyyynnnnnn?n", "yyynynnnnnn?y").run::<Agreement>(json!({ "resamples": 200 })).unwrap();
        let rows: Vec<Confusion> = done.rows("metrics", records::METRICS);
        // scikit-learn: cohen_kappa_score of the first ten.
        assert!((rows[0].measures["kappa"].value.unwrap() - 0.583_333_333_333_333_3).abs() < 1e-12, "{:?}", rows[0]);
        assert_eq!(rows[0].measures["agreement"].value, Some(0.8));
        assert_eq!((rows[0].tp, rows[0].missed, rows[0].fp, rows[0].tn), (3, 1, 1, 5));
        assert_eq!(rows.iter().map(|row| row.value.as_str()).collect::<Vec<_>>(), ["all", "a", "b"]);
        insta::assert_snapshot!(json!(done.summary), @r#"{"agreement":0.8,"completions":10,"judged_by_one_alone":1,"kappa":0.5833333333333334,"missing_instances":0,"unparsable_by_the_first":1,"unparsable_by_the_second":1}"#);
        insta::assert_snapshot!(done.digest(), @"metrics 3f18395c1bde");
    }

    #[test]
    fn what_does_not_fit_is_told() {
        let run = |bench: Bench| bench.run::<Agreement>(json!({ "resamples": 100 })).err().unwrap().to_string();
        insta::assert_snapshot!(run(bench("??", "yn")), @"no completion has a verdict of both judges: 2 and 2 verdicts");
        let other = Bench::new().rows("verdicts", records::VERDICTS, &verdicts("t", "yn"));
        insta::assert_snapshot!(run(other.rows("other", records::VERDICTS, &verdicts("u", "yn"))), @"the judges' completions differ, first in the prompt `0`: link verdicts on the same ones");
        insta::assert_snapshot!(problems::<Agreement>(json!({ "confidence": 1 })), @"confidence: give a number between 0 and 1 (hint: 95% is 0.95)");
    }
}
