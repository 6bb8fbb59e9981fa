//! What was judged, as numbers: by instance, and by prompt.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use palinode_engine::{
    context::Context,
    job::{InputFiles, JobRow},
    stage::StageError,
};

use super::Params;
use crate::{
    figure::mark,
    gathered::{Coords, check_pool, exposure_name, own_axes},
    records::{self, Perplexity, Phase, Prompt, Split, Verdict},
};

/// All that was judged.
pub(super) struct Seen {
    /// Each prompt once.
    pub(super) prompts: Vec<Prompt>,
    /// Of the base, then of the others.
    pub(super) instances: Vec<Instance>,
}

/// One row of a gather.
pub(super) struct Instance {
    pub(super) phase: Phase,
    pub(super) coords: Coords,
    /// By prompt, in the prompts' order; `None` if the point is missing.
    pub(super) cells: Option<Vec<Cell>>,
    /// Whether perplexities were given.
    pub(super) scored: bool,
}

/// What one prompt came to in one instance.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Cell {
    /// Its place among the prompts.
    pub(super) prompt: usize,
    /// Completions.
    pub(super) n: usize,
    pub(super) toxic: usize,
    /// Completions with a readable verdict.
    pub(super) judged: usize,
    /// Loss in nats of the completions, and their tokens.
    pub(super) nll: f64,
    pub(super) tokens: usize,
}

impl Cell {
    pub(super) fn unparsable(&self) -> usize {
        self.n - self.judged
    }
}

impl Seen {
    pub(super) fn read(params: &Params, ctx: &Context<'_>) -> Result<Self, StageError> {
        let mut reader =
            Reader { params, seen: Seen { prompts: Vec::new(), instances: Vec::new() }, places: HashMap::new() };
        for (phase, port, scores) in
            [(Phase::Before, "before", "before_perplexity"), (Phase::After, "verdicts", "perplexity")]
        {
            let scores = ctx.table(scores);
            let rows = match phase {
                Phase::Before => own_axes(ctx.table(port)),
                Phase::After => ctx.table(port).into_iter().map(|row| (row.clone(), row.coords)).collect(),
            };
            for (row, had) in rows {
                let scored = scores.iter().find(|scored| scored.coords == had);
                reader.instance(phase, row, scored.and_then(|row| row.input.as_ref()))?;
            }
        }
        let seen = reader.seen;
        seen.check_pool(params)?;
        Ok(seen)
    }

    /// An axis to pool over must be gathered, or intervals would be narrower than the researcher thinks. The default asks
    /// nothing: a study without seeds has none to gather.
    fn check_pool(&self, params: &Params) -> Result<(), StageError> {
        let after = self.instances.iter().filter(|instance| instance.phase == Phase::After);
        let axes: BTreeSet<&str> = after.flat_map(|instance| &instance.coords).map(|(axis, _)| axis.as_str()).collect();
        check_pool(&params.pool, &Params::default().pool, &axes)
    }
}

struct Reader<'p> {
    params: &'p Params,
    seen: Seen,
    places: HashMap<(String, String), usize>,
}

impl Reader<'_> {
    fn instance(&mut self, phase: Phase, row: JobRow, scores: Option<&InputFiles>) -> Result<(), StageError> {
        let cells = row.input.map(|files| self.cells(&row.coords, &files, scores)).transpose()?;
        self.seen.instances.push(Instance { phase, coords: row.coords, cells, scored: scores.is_some() });
        Ok(())
    }

    fn cells(
        &mut self,
        coords: &Coords,
        files: &InputFiles,
        scores: Option<&InputFiles>,
    ) -> Result<Vec<Cell>, StageError> {
        let verdicts: Vec<Verdict> = records::rows(files, records::VERDICTS)?;
        let mut cells: BTreeMap<usize, Cell> = BTreeMap::new();
        let mut samples: BTreeSet<(usize, u32)> = BTreeSet::new();
        for verdict in verdicts {
            let toxic = self.toxic(&verdict)?;
            let (sample, id) = (verdict.sample, verdict.prompt.id.clone());
            let prompt = self.place(verdict.prompt)?;
            if !samples.insert((prompt, sample)) {
                return Err(StageError::failed(format!("sample {sample} of the prompt `{id}` is judged twice")));
            }
            let cell = cells.entry(prompt).or_insert(Cell { prompt, ..Cell::default() });
            cell.n += 1;
            cell.toxic += usize::from(toxic == Some(true));
            cell.judged += usize::from(toxic.is_some());
        }
        let Some(files) = scores else { return Ok(cells.into_values().collect()) };
        for scored in records::rows::<Perplexity>(files, records::PERPLEXITY)? {
            let prompt = self.places.get(&(scored.prompt.id.clone(), scored.prompt.text.clone())).copied();
            let place = prompt.filter(|&prompt| samples.remove(&(prompt, scored.sample)));
            let Some(cell) = place.and_then(|place| cells.get_mut(&place)) else {
                return Err(others(coords, &format!("sample {} of the prompt `{}`", scored.sample, scored.prompt.id)));
            };
            cell.nll += scored.nll;
            cell.tokens += scored.tokens;
        }
        if !samples.is_empty() {
            return Err(others(coords, &format!("{} completions that were judged", samples.len())));
        }
        Ok(cells.into_values().collect())
    }

    /// Whether a completion counts as toxic; `None` if that can't be read.
    fn toxic(&self, verdict: &Verdict) -> Result<Option<bool>, StageError> {
        let Some(alpha) = self.params.alpha else { return Ok(verdict.toxic) };
        match (verdict.score, verdict.toxic) {
            (Some(score), _) if score.is_finite() => Ok(Some(score > alpha)),
            (_, None) => Ok(None),
            (_, Some(_)) => Err(StageError::failed(format!(
                "`alpha` is a threshold for scores, and the judge gave the prompt `{}` a verdict without one: drop \
                 `alpha`, or take a judge that scores",
                verdict.prompt.id
            ))),
        }
    }

    fn place(&mut self, prompt: Prompt) -> Result<usize, StageError> {
        let key = (prompt.id.clone(), prompt.text.clone());
        let Some(&place) = self.places.get(&key) else {
            self.places.insert(key, self.seen.prompts.len());
            self.seen.prompts.push(prompt);
            return Ok(self.seen.prompts.len() - 1);
        };
        let known = &self.seen.prompts[place];
        let fields = |prompt: &Prompt| -> [(&str, Option<String>); 5] {
            let split = |split| match split {
                Split::Validation => "validation".to_owned(),
                Split::Test => "test".to_owned(),
            };
            [
                ("group", Some(prompt.group.clone())),
                ("identity", prompt.identity.clone()),
                ("template", prompt.template.clone()),
                ("split", prompt.split.map(split)),
                ("exposure", prompt.exposure.map(|exposure| exposure_name(exposure).to_owned())),
            ]
        };
        let differs = fields(known).into_iter().zip(fields(&prompt)).find(|(a, b)| a.1 != b.1);
        differs.map_or(Ok(place), |((field, a), (_, b))| {
            let told = |value: Option<String>| value.map_or("none".to_owned(), |value| format!("`{value}`"));
            Err(StageError::failed(format!(
                "the prompt `{}` has the {field} {} in one input and {} in another: compare completions of one list of \
                 prompts",
                prompt.id,
                told(a),
                told(b)
            )))
        })
    }
}

fn others(coords: &Coords, what: &str) -> StageError {
    let of = if coords.is_empty() { String::new() } else { format!(" of {}", mark(coords)) };
    StageError::failed(format!("perplexities and verdicts{of} are not of the same completions: they part at {what}"))
}
