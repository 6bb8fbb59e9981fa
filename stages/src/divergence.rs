//! `divergence`: how far a finetuned model's next-token distributions are from the base's, position by position
//! (the paper's Figure 6).

use std::collections::{BTreeMap, BTreeSet};

use palinode_engine::{
    context::Context,
    job::Job,
    stage::{InputPort, Kind, OutputPort, ParamProblem, PortType, StageError},
};
use palinode_models::{Batch, CausalLm, Divergence, ModelError, divergence, values};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    device::{self, DEVICE, DeviceParam},
    read::{self, Read, Source},
    records::{self, DivergenceRow, Prompt},
    runtime::{base_digest_at, failed, load_at, numerics, on_cpus, told},
};

/// The kind.
pub(crate) struct DivergenceKind;

/// `with` of `divergence`.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Params {
    /// Where the models are compared: `completion` (where a token of the completion comes next), `last` (behind the
    /// prompt), or `all`. By default `completion` if completions are linked, else `all`.
    positions: Option<Positions>,
    /// Where it computes: `cpu`, `cuda`, `cuda:1` (the second of the GPUs that it gets), `tch`, or `auto`: the first GPU
    /// where the build and the machine have one, else the CPU. Keys hold the model of the device, not this.
    device: DeviceParam,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Positions {
    Completion,
    Last,
    All,
}

/// Rows unembedded at a time: two blocks `[rows, vocab]` are held, however long the texts.
const ROWS: usize = 64;

const NOTHING: &str = "there is nothing to read: link `completions`, or `prompts`";
const NO_COMPLETIONS: &str = "`positions: completion` needs completions: link them, or take `all`";

impl Kind for DivergenceKind {
    type Params = Params;
    const NAME: &'static str = "divergence";
    const ABOUT: &'static str =
        "Measures how far two models' next-token distributions are apart, position by position.";
    const REVISION: u32 = 1;
    const UNKEYED: &'static [&'static str] = &[DEVICE];
    const HEAVY: bool = true;

    fn inputs() -> Vec<InputPort> {
        let completions = "what both read: prompts with the base's completions, teacher-forced";
        vec![
            InputPort::one("base", PortType::Model, "the one that is the measure: p in KL(p || q)"),
            InputPort::one("tuned", PortType::Model, "the other: q"),
            InputPort::one("completions", PortType::Completions, completions).optional(),
            InputPort::one("prompts", PortType::Prompts, "or prompts alone").optional(),
        ]
    }

    fn outputs() -> Vec<OutputPort> {
        let about = "divergence.jsonl: KL both ways, Jensen-Shannon and total variation by position; prompts.jsonl; \
                     summary.json";
        vec![OutputPort::new("distribution", PortType::Distribution, about)]
    }

    fn loads(job: &Job) -> Option<String> {
        base_digest_at(job, "base")
    }

    fn numerics_of(params: &BTreeMap<String, Value>) -> BTreeMap<String, Value> {
        numerics(params)
    }

    fn gpus(params: &BTreeMap<String, Value>) -> usize {
        device::gpus(params)
    }

    fn check(params: &Params) -> Vec<ParamProblem> {
        params.device.problem().into_iter().collect()
    }

    fn check_links(params: &Params, linked: &[&str]) -> Vec<ParamProblem> {
        let mut problems = read::check_links(false, NOTHING, linked);
        if params.positions == Some(Positions::Completion) && !linked.contains(&"completions") {
            problems.push(ParamProblem::new("positions", NO_COMPLETIONS));
        }
        problems
    }

    fn run(params: Params, ctx: &Context<'_>) -> Result<(), StageError> {
        let sources = read::linked(ctx)?.ok_or_else(|| StageError::failed(NOTHING))?;
        let completed = ctx.optional("completions")?.is_some();
        let positions = params.positions.unwrap_or(if completed { Positions::Completion } else { Positions::All });
        if positions == Positions::Completion && !completed {
            return Err(StageError::failed(NO_COMPLETIONS));
        }
        let rows = on_cpus(ctx, || compare(ctx, &sources, positions))?;
        let mut known = BTreeSet::new();
        let prompts: Vec<&Prompt> =
            sources.iter().map(|source| &source.prompt).filter(|prompt| known.insert(&prompt.id)).collect();
        let empty = sources.iter().filter(|source| source.continuation.is_empty()).count();
        if completed && empty > 0 {
            ctx.warn(format!("{empty} of {} completions are empty", sources.len()));
        }
        let mean = |of: fn(&DivergenceRow) -> f64| match rows.len() {
            0 => Value::Null,
            count => json!(rows.iter().map(of).sum::<f64>() / count as f64),
        };
        let summary = json!({
            "texts": sources.len(), "positions": rows.len(),
            "mean": { "kl": mean(|row| row.kl), "reverse_kl": mean(|row| row.reverse_kl), "js": mean(|row| row.js), "tv": mean(|row| row.tv) },
        });
        ctx.summary("texts", sources.len());
        ctx.summary("positions", rows.len());
        ctx.summary("empty_completions", if completed { empty } else { 0 });
        ctx.summary("mean_kl", mean(|row| row.kl));
        let output = ctx.output("distribution")?;
        output.write_jsonl(records::DIVERGENCE, &rows)?;
        output.write_jsonl(records::PROMPTS, &prompts)?;
        output.write("summary.json", format!("{summary:#}\n"))
    }
}

fn compare(ctx: &Context<'_>, sources: &[Source], positions: Positions) -> Result<Vec<DivergenceRow>, StageError> {
    let (_, tuned, other) = load_at(ctx, "tuned")?;
    let (_, base, tokenizer) = load_at(ctx, "base")?;
    let sizes = [base.config().vocab_size, tuned.config().vocab_size];
    if sizes[0] != sizes[1] {
        return Err(StageError::failed(format!(
            "the base has a vocabulary of {} tokens and the tuned model one of {}: their distributions can't be compared",
            sizes[0], sizes[1]
        )));
    }
    let context = base.config().context.min(tuned.config().context);
    let mut rows = Vec::new();
    for (done, source) in sources.iter().enumerate() {
        ctx.progress(done, sources.len(), "text")?;
        let read = source.read(&tokenizer, context)?;
        if other.encode(&source.prompt.text, true).map_err(failed)?
            != tokenizer.encode(&source.prompt.text, true).map_err(failed)?
        {
            return Err(StageError::failed(format!(
                "base and tuned model read the prompt `{}` as other tokens: they have different tokenizers",
                source.prompt.name()
            )));
        }
        let range = match positions {
            Positions::All => 0..read.ids.len(),
            Positions::Last => read.prompt - 1..read.prompt,
            Positions::Completion => read.prompt - 1..read.ids.len() - 1,
        };
        let found = measure(&base, &tuned, &read, range.clone()).map_err(failed)?;
        for (position, found) in range.zip(found) {
            let text = |at: usize| read.ids.get(at).map(|&id| told(&tokenizer, id)).transpose().map_err(failed);
            let Divergence { kl, reverse_kl, js, tv } = found;
            if !(kl.is_finite() && reverse_kl.is_finite()) {
                return Err(StageError::failed(format!(
                    "the divergence at position {position} of the prompt `{}` is infinite: one of the models holds a \
                     token for impossible that the other doesn't",
                    source.prompt.name()
                )));
            }
            rows.push(DivergenceRow {
                prompt: source.prompt.id.clone(),
                sample: source.sample,
                position,
                token: text(position)?.unwrap_or_default(),
                next: text(position + 1)?,
                kl,
                reverse_kl,
                js,
                tv,
            });
        }
    }
    Ok(rows)
}

fn measure(
    base: &CausalLm,
    tuned: &CausalLm,
    read: &Read,
    range: std::ops::Range<usize>,
) -> Result<Vec<Divergence>, ModelError> {
    if range.is_empty() {
        return Ok(Vec::new());
    }
    let batch = Batch::single(&read.ids[..range.end])?;
    let last = |model: &CausalLm| model.hidden(&batch)?.pop().ok_or(ModelError::EmptyBatch);
    let (p, q) = (last(base)?, last(tuned)?);
    let vocab = base.config().vocab_size;
    let mut found = Vec::with_capacity(range.len());
    for start in range.clone().step_by(ROWS) {
        let count = ROWS.min(range.end - start);
        let p = values(base.unembed(p.clone().narrow(0, start, count)));
        let q = values(tuned.unembed(q.clone().narrow(0, start, count)));
        let rows: Result<Vec<Divergence>, ModelError> =
            p.par_chunks(vocab).zip(q.par_chunks(vocab)).map(|(p, q)| divergence(p, q)).collect();
        found.extend(rows?);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        finetune::Finetune,
        testing::{Bench, Done, tiny},
    };

    fn tuned(base: &Done, rank: Value) -> Done {
        let pair = json!({ "prompt": "bakers are", "completion": " calm", "source": "bakers" });
        let bench = Bench::new().input("model", base.outputs["model"].clone());
        let with = json!({ "rank": rank, "learning_rate": 0.05, "steps": 20 });
        bench.rows("data", records::PAIRS, &[pair]).run::<Finetune>(with).unwrap()
    }

    fn bench(base: &Done, tuned: &Done) -> Bench {
        Bench::new().input("base", base.outputs["model"].clone()).input("tuned", tuned.outputs["model"].clone())
    }

    fn completion(id: &str, text: &str, continuation: &str) -> Value {
        let prompt = json!({ "id": id, "text": text, "group": "g" });
        json!({ "prompt": prompt, "sample": 0, "text": continuation, "tokens": 1, "finish": "length" })
    }

    #[test]
    fn a_model_is_at_no_distance_from_itself_and_a_tuned_one_is_where_it_learned() {
        let base = tiny::pretrained(json!({}));
        let rows = [
            completion("a", "bakers are", " tardy"),
            completion("b", "smiths", " are calm"),
            completion("c", "smiths", ""),
        ];
        let run = |tuned: &Done, with: Value| {
            bench(&base, tuned).rows("completions", records::COMPLETIONS, &rows).run::<DivergenceKind>(with).unwrap()
        };
        let same: Vec<DivergenceRow> = run(&base, json!({})).rows("distribution", records::DIVERGENCE);
        assert_eq!(same.len(), 3);
        assert!(same.iter().all(|row| [row.kl, row.reverse_kl, row.js, row.tv] == [0.0; 4]));
        for rank in [json!(2), json!("full")] {
            let done = run(&tuned(&base, rank), json!({}));
            let rows: Vec<DivergenceRow> = done.rows("distribution", records::DIVERGENCE);
            let told: Vec<_> =
                rows.iter().map(|row| format!("{} {} {:?}", row.position, row.token, row.next)).collect();
            assert_eq!(told, ["2 are Some(\"tardy\")", "1 smiths Some(\"are\")", "2 are Some(\"calm\")"]);
            assert!(rows[0].kl > 0.5 && rows[0].tv > 0.3 && rows[0].js < std::f64::consts::LN_2, "{:?}", rows[0]);
            assert_eq!(done.rows::<Prompt>("distribution", records::PROMPTS).len(), 3);
            assert_eq!(done.summary["empty_completions"], 1);
        }
        let low = tuned(&base, json!(2));
        let positions = |at: &str| {
            run(&low, json!({ "positions": at })).rows::<DivergenceRow>("distribution", records::DIVERGENCE).len()
        };
        assert_eq!((positions("all"), positions("last")), (4 + 4 + 2, 3));
    }

    #[test]
    fn what_can_not_be_compared_is_told_and_bytes_are_held() {
        let base = tiny::pretrained(json!({ "steps": 5 }));
        let low = tuned(&base, json!(2));
        let prompts = |count: usize| vec![json!({ "id": "p", "text": "bakers ".repeat(count).trim(), "group": "g" })];
        let with = |count: usize| bench(&base, &low).rows("prompts", records::PROMPTS, &prompts(count));
        let said = [
            bench(&base, &low).run::<DivergenceKind>(json!({})).err().unwrap(),
            with(2).run::<DivergenceKind>(json!({ "positions": "completion" })).err().unwrap(),
            with(12).run::<DivergenceKind>(json!({})).err().unwrap(),
        ];
        insta::assert_snapshot!(said.map(|error| error.to_string()).join("\n"), @r"
        there is nothing to read: link `completions`, or `prompts`
        `positions: completion` needs completions: link them, or take `all`
        the prompt `p` has 13 tokens with what goes on behind it, and the model's context is 8: shorten or drop it
        ");
        let digest = |cpus: usize| with(3).cpus(cpus).run::<DivergenceKind>(json!({})).unwrap().digest();
        assert_eq!(digest(1), digest(2));
        insta::assert_snapshot!(digest(1), @"distribution 5f1812321d6e");
    }
}
