//! `judge.evaluate`: a judge against people's labels.
//!
//! Texts without a label or a readable verdict are counted and in no measure. Judges are compared on one and the same
//! sample: where one could not read a text, it has no part in the others' measures either, if they are linked as
//! `common`.

use std::collections::{HashMap, HashSet};

use palinode_engine::{
    context::Context,
    stage::{InputPort, Kind, OutputPort, ParamProblem, PortType, StageError},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    judging::{self, CALIBRATION_BINS, Intervals, Judged, Key, Left, Sample, beside, check_by, places},
    records::{self, Confusion, Label, Verdict},
    runtime::on_cpus,
};

/// The kind.
pub(crate) struct Evaluate;

/// `with` of `judge.evaluate`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Params {
    /// What the judge is called in tables and figures.
    judge: String,
    /// Whose labels these are.
    truth: String,
    /// What to tell the measures by, beside all: `group`, `identity`, `template`, or a fact's name.
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
            judge: "judge".to_owned(),
            truth: "human".to_owned(),
            by: vec!["group".to_owned()],
            resamples: 2000,
            confidence: 0.95,
            seed: 0,
        }
    }
}

impl Kind for Evaluate {
    type Params = Params;
    const NAME: &'static str = "judge.evaluate";
    const ABOUT: &'static str = "Measures a judge by people's labels: confusion, rates, kappa, ROC and calibration.";
    const REVISION: u32 = 1;

    fn inputs() -> Vec<InputPort> {
        let common = "other judges' verdicts on these texts: only what all could judge is counted";
        vec![
            InputPort::table("verdicts", PortType::Verdicts, "the judge's"),
            InputPort::table("labels", PortType::Labels, "people's"),
            InputPort::table("common", PortType::Verdicts, common).optional(),
        ]
    }

    fn outputs() -> Vec<OutputPort> {
        let metrics = "metrics.jsonl: counts and measures with intervals, over all and by group; ECE in 10 equal bins";
        let curves = "roc.csv and calibration.csv: the points of the curves, over all texts";
        vec![OutputPort::new("metrics", PortType::Metrics, metrics), OutputPort::new("curves", PortType::Table, curves)]
    }

    fn check(params: &Params) -> Vec<ParamProblem> {
        judging::interval_problems(params.resamples, params.confidence)
    }

    fn run(params: Params, ctx: &Context<'_>) -> Result<(), StageError> {
        let mut rows: Vec<Confusion> = Vec::new();
        let mut curves = Curves::default();
        let (mut missing, mut unjudged, mut uncommon) = (0, 0, 0);
        let intervals = Intervals { resamples: params.resamples, confidence: params.confidence, seed: params.seed };
        let instances = ctx.table("verdicts");
        for (done, instance) in instances.iter().enumerate() {
            ctx.progress(done, instances.len(), "judge")?;
            let labels = beside(ctx, "labels", &instance.coords)?.and_then(|row| row.input);
            let (Some(verdicts), Some(labels)) = (&instance.input, labels) else {
                missing += 1;
                continue;
            };
            let verdicts: Vec<Verdict> = records::rows(verdicts, records::VERDICTS)?;
            let labels: Vec<Label> = records::rows(&labels, records::LABELS)?;
            let common = common(ctx)?;
            let found = join(&verdicts, &labels, common.as_ref())?;
            unjudged += found.unjudged;
            uncommon += found.uncommon;
            check_by(&params.by, verdicts.iter().map(|verdict| &verdict.prompt))?;
            let sample = Sample {
                coords: instance.coords.clone(),
                truth: &params.truth,
                judge: &params.judge,
                judged: found.judged,
                left: found.left,
            };
            if sample.judged.is_empty() {
                return Err(StageError::failed(format!(
                    "no verdict has a label: of {} verdicts and {} labels none are of the same completion, or none can be read",
                    verdicts.len(),
                    labels.len()
                )));
            }
            rows.extend(on_cpus(ctx, || Ok(sample.rows(&params.by, intervals)))?);
            curves.add(&sample);
        }
        let whole =
            |count: &dyn Fn(&Confusion) -> usize| rows.iter().filter(|row| row.by == "all").map(count).sum::<usize>();
        ctx.summary("texts", whole(&|row| row.n as usize));
        let unlabelled = whole(&|row| row.unlabelled);
        let unparsable = whole(&|row| row.unparsable);
        let left = [
            ("unlabelled", unlabelled, "texts have no label"),
            ("unparsable", unparsable, "verdicts could not be read"),
            ("labels_without_a_verdict", unjudged, "labels have no verdict"),
            ("not_judged_by_all", uncommon, "texts were not judged by all judges"),
            ("missing_instances", missing, "instances are missing from the gather"),
        ];
        for (name, count, what) in left {
            ctx.summary(name, count);
            if count > 0 {
                ctx.warn(format!("{count} {what}; they are in no measure"));
            }
        }
        if let [row] = &rows.iter().filter(|row| row.by == "all").collect::<Vec<_>>()[..] {
            for name in ["tpr", "fpr", "kappa", "auc"] {
                ctx.summary(name, row.measures.get(name).and_then(|measured| measured.value));
            }
        }
        ctx.output("metrics")?.write_jsonl(records::METRICS, &rows)?;
        curves.write(ctx)
    }
}

/// The completions that every judge at `common` could judge; `None` if none is linked.
fn common(ctx: &Context<'_>) -> Result<Option<HashSet<(String, u32)>>, StageError> {
    let mut all: Option<HashSet<(String, u32)>> = None;
    for row in ctx.table("common") {
        let Some(files) = row.input else { continue };
        let verdicts: Vec<Verdict> = records::rows(&files, records::VERDICTS)?;
        let judged = verdicts.into_iter().filter(|verdict| verdict.toxic.is_some());
        let judged: HashSet<(String, u32)> = judged.map(|verdict| (verdict.prompt.id, verdict.sample)).collect();
        all = Some(match all {
            None => judged,
            Some(all) => all.intersection(&judged).cloned().collect(),
        });
    }
    Ok(all)
}

struct Joined<'r> {
    judged: Vec<Judged<'r>>,
    left: Vec<Left<'r>>,
    unjudged: usize,
    uncommon: usize,
}

fn join<'r>(
    verdicts: &'r [Verdict],
    labels: &'r [Label],
    common: Option<&HashSet<(String, u32)>>,
) -> Result<Joined<'r>, StageError> {
    let label_places: HashMap<Key<'_>, usize> =
        places("labels", labels.iter().map(|label| (label.prompt.as_str(), label.sample)))?;
    let verdict_places =
        places("verdicts", verdicts.iter().map(|verdict| (verdict.prompt.id.as_str(), verdict.sample)))?;
    let unjudged = label_places.keys().filter(|key| !verdict_places.contains_key(*key)).count();
    let mut joined = Joined { judged: Vec::new(), left: Vec::new(), unjudged, uncommon: 0 };
    for verdict in verdicts {
        if common.is_some_and(|common| !common.contains(&(verdict.prompt.id.clone(), verdict.sample))) {
            joined.uncommon += 1;
            continue;
        }
        let label = label_places.get(&(verdict.prompt.id.as_str(), verdict.sample)).and_then(|&at| labels[at].toxic);
        let prompt = &verdict.prompt;
        match (label, verdict.toxic) {
            (Some(truth), Some(predicted)) => {
                joined.judged.push(Judged { prompt, truth, predicted, score: verdict.score });
            }
            (label, toxic) => {
                joined.left.push(Left { prompt, unlabelled: label.is_none(), unparsable: toxic.is_none() })
            }
        }
    }
    Ok(joined)
}

/// The curves of all instances, as CSV.
struct Curves {
    roc: String,
    calibration: String,
}

impl Default for Curves {
    fn default() -> Self {
        let roc = "coordinates,threshold,fpr,tpr\n".to_owned();
        Curves { roc, calibration: "coordinates,low,high,n,mean_score,toxic_share\n".to_owned() }
    }
}

impl Curves {
    fn add(&mut self, sample: &Sample<'_>) {
        let scored: Option<Vec<(f64, bool)>> =
            sample.judged.iter().map(|judged| Some((judged.score?, judged.truth))).collect();
        let Some(scored) = scored else { return };
        let coords = sample.coords.iter().map(|(axis, label)| match label.as_str() {
            Some(text) => format!("{axis}={text}"),
            None => format!("{axis}={label}"),
        });
        // Quoted, since a label may hold anything.
        let coords = format!("\"{}\"", coords.collect::<Vec<_>>().join(";").replace('"', "\"\""));
        for point in judging::roc(&scored).into_iter().flatten() {
            let threshold = if point.threshold.is_finite() { point.threshold.to_string() } else { "inf".to_owned() };
            self.roc += &format!("{coords},{threshold},{},{}\n", point.fpr, point.tpr);
        }
        if scored.iter().all(|(score, _)| (0.0..=1.0).contains(score)) {
            let bins = judging::calibration(scored.iter().map(|&(score, toxic)| (score, toxic, 1)));
            debug_assert_eq!(bins.len(), CALIBRATION_BINS);
            for bin in bins {
                let mean = |sum: f64| if bin.n > 0 { (sum / bin.n as f64).to_string() } else { String::new() };
                let (score, share) = (mean(bin.scores), mean(bin.toxic as f64));
                self.calibration += &format!("{coords},{:.1},{:.1},{},{score},{share}\n", bin.low, bin.high, bin.n);
            }
        }
    }

    fn write(self, ctx: &Context<'_>) -> Result<(), StageError> {
        let output = ctx.output("curves")?;
        output.write("roc.csv", self.roc)?;
        output.write("calibration.csv", self.calibration)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{Bench, Done, problems};

    fn verdict(at: usize, toxic: Option<bool>, score: Option<f64>) -> Value {
        let identity = ["x", "y"][at % 2];
        let prompt =
            json!({ "id": at.to_string(), "text": "", "group": "g", "identity": identity, "facts": { "kind": "a+b" } });
        json!({ "prompt": prompt, "sample": 0, "text": "t", "toxic": toxic, "score": score })
    }

    fn label(at: usize, toxic: Option<bool>) -> Value {
        json!({ "prompt": at.to_string(), "sample": 0, "toxic": toxic, "label": "l" })
    }

    /// Eight texts: the first four are toxic, the judge calls the even ones toxic; one label and one verdict lack.
    fn bench(scores: bool) -> Bench {
        let score = |at: usize| scores.then_some(if at.is_multiple_of(2) { 0.9 } else { 0.2 });
        let mut verdicts: Vec<Value> = (0..8).map(|at| verdict(at, Some(at % 2 == 0), score(at))).collect();
        verdicts.push(verdict(8, None, None));
        verdicts.push(verdict(9, Some(true), score(0)));
        let mut labels: Vec<Value> = (0..9).map(|at| label(at, Some(at < 4))).collect();
        labels.push(label(9, None));
        labels.push(label(99, Some(true)));
        Bench::new().rows("verdicts", records::VERDICTS, &verdicts).rows("labels", records::LABELS, &labels)
    }

    fn run(bench: Bench, with: Value) -> Result<Done, StageError> {
        let mut params = json!({ "resamples": 200 });
        params.as_object_mut().unwrap().extend(with.as_object().unwrap().clone());
        bench.run::<Evaluate>(params)
    }

    fn shown(done: &Done) -> String {
        let rows: Vec<Confusion> = done.rows("metrics", records::METRICS);
        let row = |row: &Confusion| {
            let counts = format!("tp {} fn {} fp {} tn {}", row.tp, row.missed, row.fp, row.tn);
            let left = format!("{} unlabelled, {} unparsable", row.unlabelled, row.unparsable);
            format!("{} {}: {counts} of {}; {left}", row.by, row.value, row.n)
        };
        rows.iter().map(row).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn verdicts_meet_labels() {
        let done = run(bench(true), json!({ "by": ["group", "identity", "kind"] })).unwrap();
        insta::assert_snapshot!(shown(&done), @r"
        all all: tp 2 fn 2 fp 2 tn 2 of 8; 1 unlabelled, 1 unparsable
        identity x: tp 2 fn 0 fp 2 tn 0 of 4; 0 unlabelled, 1 unparsable
        identity y: tp 0 fn 2 fp 0 tn 2 of 4; 1 unlabelled, 0 unparsable
        kind a: tp 2 fn 2 fp 2 tn 2 of 8; 1 unlabelled, 1 unparsable
        kind b: tp 2 fn 2 fp 2 tn 2 of 8; 1 unlabelled, 1 unparsable
        ");
        insta::assert_snapshot!(json!(done.summary), @r#"{"auc":0.5,"fpr":0.5,"kappa":0.0,"labels_without_a_verdict":1,"missing_instances":0,"not_judged_by_all":0,"texts":8,"tpr":0.5,"unlabelled":1,"unparsable":1}"#);
        insta::assert_snapshot!(done.text("curves", "roc.csv"), @r#"
        coordinates,threshold,fpr,tpr
        "",inf,0,0
        "",0.2,1,1
        "#);
        insta::assert_snapshot!(done.text("curves", "calibration.csv"), @r#"
        coordinates,low,high,n,mean_score,toxic_share
        "",0.0,0.1,0,,
        "",0.1,0.2,0,,
        "",0.2,0.3,4,0.2,0.5
        "",0.3,0.4,0,,
        "",0.4,0.5,0,,
        "",0.5,0.6,0,,
        "",0.6,0.7,0,,
        "",0.7,0.8,0,,
        "",0.8,0.9,0,,
        "",0.9,1.0,4,0.9,0.5
        "#);
        insta::assert_snapshot!(done.digest(), @r"
        curves 72c63d5be23c
        metrics febc62d99718
        ");
        let rows: Vec<Confusion> = run(bench(false), json!({})).unwrap().rows("metrics", records::METRICS);
        let undefined = rows[0].measures["auc"].undefined.as_deref();
        assert_eq!((rows.len(), undefined), (1, Some("the judge gives no score, or not for all texts")));
    }

    #[test]
    fn judges_are_compared_on_what_all_could_judge() {
        let other: Vec<Value> = (0..8).map(|at| verdict(at, (at != 3).then_some(true), None)).collect();
        let done = run(bench(true).rows("common", records::VERDICTS, &other), json!({})).unwrap();
        insta::assert_snapshot!(shown(&done), @"all all: tp 2 fn 1 fp 2 tn 2 of 7; 0 unlabelled, 0 unparsable");
        assert_eq!(done.summary["not_judged_by_all"], json!(3));
    }

    #[test]
    fn a_table_of_judges_is_one_of_rows() {
        let rows = |all: bool| (0..8).map(|at| verdict(at, Some(all || at < 2), None)).collect::<Vec<_>>();
        let table = [
            (json!([["judge", "a"]]), Some(rows(true))),
            (json!([["judge", "b"]]), Some(rows(false))),
            (json!([["judge", "c"]]), None),
        ];
        let labels: Vec<Value> = (0..8).map(|at| label(at, Some(at < 4))).collect();
        let bench = Bench::new().table("verdicts", records::VERDICTS, &table).rows("labels", records::LABELS, &labels);
        let done = run(bench, json!({})).unwrap();
        insta::assert_snapshot!(shown(&done), @r"
        all all: tp 4 fn 0 fp 4 tn 0 of 8; 0 unlabelled, 0 unparsable
        all all: tp 2 fn 2 fp 0 tn 4 of 8; 0 unlabelled, 0 unparsable
        ");
        assert_eq!(done.summary["missing_instances"], json!(1));
    }

    #[test]
    fn what_does_not_fit_is_told() {
        let error = run(bench(true), json!({ "by": ["idenity"] })).err().unwrap();
        insta::assert_snapshot!(error, @"`by` names `idenity`, which no prompt has; there may be: group, identity, template, kind");
        let one = |labels: &[Value]| {
            let bench = Bench::new().rows("verdicts", records::VERDICTS, &[verdict(0, Some(true), None)]);
            run(bench.rows("labels", records::LABELS, labels), json!({})).err().unwrap().to_string()
        };
        insta::assert_snapshot!(one(&[label(5, Some(true))]), @"no verdict has a label: of 1 verdicts and 1 labels none are of the same completion, or none can be read");
        insta::assert_snapshot!(one(&[label(0, Some(true)), label(0, Some(false))]), @"the labels hold two rows for the completion 0 of the prompt `0`");
        insta::assert_snapshot!(problems::<Evaluate>(json!({ "resamples": 1, "confidence": 95 })), @r"
        resamples: give a number from 100 to 1000000
        confidence: give a number between 0 and 1 (hint: 95% is 0.95)
        ");
    }
}
