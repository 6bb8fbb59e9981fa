//! What the kinds that compute with models share: loading, the threads they may use, errors, numerics.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use palinode_engine::{
    context::Context,
    job::{InputFiles, Job, JobInput},
    stage::StageError,
};
use palinode_models::{
    CausalLm, Device, ModelError, ModelFiles, NUMERICS_REVISION, Tokenizer, lora::LoraError, peft, train::TrainError,
};
use serde_json::{Value, json};

use crate::device::{self, DEVICE};

/// What can change the bytes of a model's results beside its kind's revision.
pub(crate) fn numerics(params: &BTreeMap<String, Value>) -> BTreeMap<String, Value> {
    BTreeMap::from([("models".to_owned(), json!(NUMERICS_REVISION)), (DEVICE.to_owned(), json!(device::name(params)))])
}

/// A model's files as the models crate wants them.
pub(crate) fn model_files(input: &InputFiles) -> ModelFiles {
    input.files.iter().map(|(name, file)| (name.clone(), file.path.clone())).collect()
}

/// The part of a model's files that are the base's: all of them, unless the model is adapted.
pub(crate) fn base_files(files: &ModelFiles) -> ModelFiles {
    if files.get(peft::CONFIG).is_some() { files.below(peft::BASE) } else { files.clone() }
}

/// The digest of the base at the port `model`: what [`load`] may find loaded.
pub(crate) fn base_digest(job: &Job) -> Option<String> {
    base_digest_at(job, "model")
}

/// The same, at another port.
pub(crate) fn base_digest_at(job: &Job, port: &str) -> Option<String> {
    match job.inputs.get(port)? {
        JobInput::One(files) => Some(digest_of_base(files)),
        JobInput::Table(_) => None,
    }
}

fn digest_of_base(input: &InputFiles) -> String {
    if input.get(peft::CONFIG).is_none() {
        return input.tree().digest().to_string();
    }
    let mut base = input.tree();
    base.0 = std::mem::take(&mut base.0)
        .into_iter()
        .filter_map(|(name, entry)| Some((name.strip_prefix(peft::BASE)?.to_owned(), entry)))
        .collect();
    base.digest().to_string()
}

/// The base that was loaded last, by its digest. A study loads the same few bases again and again, each with another
/// adapter; a base takes seconds to minutes to read, and a clone of it shares its weights.
static LOADED: Mutex<Option<(String, CausalLm)>> = Mutex::new(None);

fn load_base(digest: String, files: &ModelFiles, device: &Device) -> Result<CausalLm, StageError> {
    let loaded = || LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    {
        let mut loaded = loaded();
        match &*loaded {
            Some((known, model)) if *known == digest && model.device() == *device => return Ok(model.clone()),
            // Before the next one is read: two may not fit.
            _ => *loaded = None,
        }
    }
    let model = CausalLm::load(files, device).map_err(failed)?;
    *loaded() = Some((digest, model.clone()));
    Ok(model)
}

/// A token as text, with the space that it begins with: SentencePiece's decoders drop that of a token by itself.
pub(crate) fn told(tokenizer: &Tokenizer, id: u32) -> Result<String, ModelError> {
    match tokenizer.token(id) {
        Some(piece) if piece.contains('▁') => Ok(piece.replace('▁', " ")),
        _ => Ok(tokenizer.decode(&[id], false)?),
    }
}

/// The model at the port `model`, and its tokenizer.
pub(crate) fn load(ctx: &Context<'_>) -> Result<(ModelFiles, CausalLm, Tokenizer), StageError> {
    load_at(ctx, "model")
}

/// The same, at another port.
pub(crate) fn load_at(ctx: &Context<'_>, port: &str) -> Result<(ModelFiles, CausalLm, Tokenizer), StageError> {
    let input = ctx.input(port)?;
    let files = model_files(input);
    let base = base_files(&files);
    let tokenizer = Tokenizer::load(&base).map_err(failed)?;
    let mut model = load_base(digest_of_base(input), &base, &device::open(ctx)?)?;
    if files.get(peft::CONFIG).is_some() {
        peft::load_adapter(&mut model, &files).map_err(failed)?;
    }
    tokenizer.check(model.config().vocab_size).map_err(failed)?;
    Ok((files, model, tokenizer))
}

/// Does `work` on as many threads as the job may use. What comes out doesn't depend on their number.
pub(crate) fn on_cpus<T: Send>(
    ctx: &Context<'_>,
    work: impl FnOnce() -> Result<T, StageError> + Send,
) -> Result<T, StageError> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(ctx.job().cpus.max(1)).build();
    pool.map_err(|error| StageError::failed(format!("no threads to compute on: {error}")))?.install(work)
}

/// An error of the models crate; a stop that was asked for stays one.
pub(crate) fn failed(error: impl Into<Failure>) -> StageError {
    error.into().0
}

/// See [`failed`].
pub(crate) struct Failure(StageError);

impl From<ModelError> for Failure {
    fn from(error: ModelError) -> Self {
        Failure(match error {
            ModelError::Cancelled => StageError::Cancelled,
            error => StageError::failed(error.to_string()),
        })
    }
}

impl From<LoraError> for Failure {
    fn from(error: LoraError) -> Self {
        match error {
            LoraError::Model(error) => error.into(),
            error => Failure(StageError::failed(error.to_string())),
        }
    }
}

impl From<TrainError> for Failure {
    fn from(error: TrainError) -> Self {
        match error {
            TrainError::Cancelled { .. } => Failure(StageError::Cancelled),
            TrainError::Model(error) => error.into(),
            TrainError::Targets(error) => error.into(),
            error => Failure(StageError::failed(error.to_string())),
        }
    }
}
