//! What a stage kind is: one file in `stages/` that implements [`Kind`], one line in its list.

use std::{borrow::Cow, collections::BTreeMap};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{context::Context, job::Job};

/// A kind of stage: what `uses` names. `Params` is what `with` holds.
pub trait Kind: Send + Sync + 'static {
    /// The fields of `with`; serde defaults become part of the canonical params. Use `#[serde(deny_unknown_fields)]`,
    /// and doc comments on each field: they are what `palinode kinds` shows. Paths have the type [`PathParam`].
    type Params: Serialize + DeserializeOwned + JsonSchema;

    /// The name in `uses`, like `judge.lexicon`.
    const NAME: &'static str;
    /// One sentence for `palinode kinds`.
    const ABOUT: &'static str;
    /// Bumped by hand when the same inputs give other bytes than before.
    const REVISION: u32;
    /// What the kind promises about its bytes.
    const DETERMINISM: Determinism = Determinism::Bitwise;

    /// What an instance with these canonical params promises: less than the kind where it asks a remote service.
    fn determinism_of(_params: &BTreeMap<String, Value>) -> Determinism {
        Self::DETERMINISM
    }

    /// Fields of `Params` that say how the work is done and can't change its bytes (how many prompts go through the
    /// model at once): the job gets them, the key doesn't hold them. `server.timeout` is a field of the field `server`.
    const UNKEYED: &'static [&'static str] = &[];

    /// How a text at a path param begins that is no path, but the name of something that never changes (`hf://`): the key
    /// holds it as it is, and the kind fetches what it names.
    const REMOTE: &'static [&'static str] = &[];

    /// Whether it takes much memory or time, or uses libraries that may abort: then its jobs run in a worker process.
    const HEAVY: bool = false;

    /// What the job spends its time loading and could find loaded already (a base model's digest): a worker that ran
    /// another job with the same is preferred.
    fn loads(_job: &Job) -> Option<String> {
        None
    }

    /// The input ports.
    fn inputs() -> Vec<InputPort>;
    /// The output ports; the first is what a bare stage name means as an input elsewhere.
    fn outputs() -> Vec<OutputPort>;
    /// Named facts beside `REVISION` that can change bytes (the models crate's numerics revision, the device).
    fn numerics() -> BTreeMap<String, Value> {
        BTreeMap::new()
    }
    /// The numerics of an instance with these canonical params.
    fn numerics_of(_params: &BTreeMap<String, Value>) -> BTreeMap<String, Value> {
        Self::numerics()
    }
    /// How many GPUs an instance with these canonical params takes, at least; it gets them though its `resources` don't
    /// say so.
    fn gpus(_params: &BTreeMap<String, Value>) -> usize {
        0
    }
    /// Which files of a folder given as the path param `param` are read; others don't reach the key.
    fn reads(_param: &str, relative: &str) -> bool {
        !relative.split('/').any(|part| part.starts_with('.'))
    }
    /// Checks what the types of `Params` can't say (ranges, fields that exclude each other). All problems at once.
    fn check(_params: &Self::Params) -> Vec<ParamProblem> {
        Vec::new()
    }
    /// Checks params beside the names of the input ports that are linked: what comes by either, or by one of several
    /// optional ports.
    fn check_links(_params: &Self::Params, _linked: &[&str]) -> Vec<ParamProblem> {
        Vec::new()
    }
    /// Does the work: reads `ctx.input(..)`, writes `ctx.output(..)`.
    ///
    /// # Errors
    /// A [`StageError`] whose message says what was wrong with which input and what to do.
    fn run(params: Self::Params, ctx: &Context<'_>) -> Result<(), StageError>;
}

/// What a kind promises about its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Determinism {
    /// The same bytes at any batch size, thread count and machine of one instruction set.
    Bitwise,
    /// The same bytes on one model of device, which is part of the key.
    PerDevice,
    /// What came first stands (remote services).
    Observed,
    /// Nothing: programs of which the kind knows nothing. What came last stands, and a difference is told.
    Unknown,
}

/// The type of what flows through a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are the documentation; each kind says what its files hold")]
pub enum PortType {
    Model,
    Tokenizer,
    Adapter,
    Prompts,
    Completions,
    Verdicts,
    Pairs,
    Statements,
    Lexicon,
    Labels,
    Dataset,
    Predictions,
    Metrics,
    Trajectory,
    Distribution,
    Figure,
    Table,
    File,
    Dir,
    /// Of an input only: whatever is linked to it.
    Any,
}

impl PortType {
    /// Whether a port of this type takes what `given` is.
    pub fn takes(self, given: Self) -> bool {
        self == Self::Any || self == given
    }
}

/// An input port of a kind.
#[derive(Debug, Clone, Serialize)]
pub struct InputPort {
    /// The name under `inputs`.
    pub name: Cow<'static, str>,
    /// What may be linked to it.
    pub accepts: PortType,
    /// May be left out.
    pub optional: bool,
    /// Takes the whole table of a `gather`; one that doesn't takes exactly one result.
    pub gathers: bool,
    /// One line for people.
    pub about: &'static str,
}

impl InputPort {
    /// A required port that takes one result.
    pub const fn one(name: &'static str, accepts: PortType, about: &'static str) -> Self {
        Self { name: Cow::Borrowed(name), accepts, optional: false, gathers: false, about }
    }
    /// A required port that takes a table of results, or one.
    pub const fn table(name: &'static str, accepts: PortType, about: &'static str) -> Self {
        Self { name: Cow::Borrowed(name), accepts, optional: false, gathers: true, about }
    }
    /// The same port, but it may be left out.
    pub const fn optional(mut self) -> Self {
        self.optional = true;
        self
    }
}

/// An output port of a kind.
#[derive(Debug, Clone, Serialize)]
pub struct OutputPort {
    /// The name after the dot in `stage.port`.
    pub name: Cow<'static, str>,
    /// What it gives.
    pub gives: PortType,
    /// One line for people: which files it holds.
    pub about: &'static str,
}

impl OutputPort {
    /// An output port.
    pub const fn new(name: &'static str, gives: PortType, about: &'static str) -> Self {
        Self { name: Cow::Borrowed(name), gives, about }
    }
}

/// A path in `with`: a file or folder outside the cache, an input by its content. At run time [`Context::files`] gives
/// the files behind it. In canonical params it holds the param's own name, so a path never reaches a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PathParam(pub String);

/// The JSON Schema `format` by which the engine knows a [`PathParam`].
pub const PATH_FORMAT: &str = "palinode-path";

impl JsonSchema for PathParam {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Path".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "format": PATH_FORMAT })
    }
}

/// Something wrong with a field of `with`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParamProblem {
    /// Field path within `with`: `["panels", "0", "rate"]`.
    pub path: Vec<String>,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

impl ParamProblem {
    /// A problem with no one field.
    pub fn of_all(message: impl Into<String>) -> Self {
        Self { path: Vec::new(), message: message.into(), hint: None }
    }

    /// A problem with the top-level field `field`.
    pub fn new(field: &str, message: impl Into<String>) -> Self {
        Self { path: vec![field.to_owned()], message: message.into(), hint: None }
    }
    /// Adds a hint.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Why a stage failed.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// The stage's input or params don't allow a result; the message is for the researcher.
    #[error("{0}")]
    Failed(String),
    /// A file could not be read or written.
    #[error("{}: {}", path.display(), palinode_cache::reason(source))]
    Io {
        /// The file.
        path: std::path::PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The run was cancelled.
    #[error("cancelled")]
    Cancelled,
}

impl StageError {
    /// A failure with a message.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::Failed(message.into())
    }
    /// Wraps an I/O error with its path; for `map_err`.
    pub fn io(path: impl Into<std::path::PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}

impl From<palinode_cache::CacheError> for StageError {
    fn from(error: palinode_cache::CacheError) -> Self {
        Self::Failed(error.to_string())
    }
}

/// An object-safe [`Kind`]; implemented for every `Kind`.
pub trait StageKind: Send + Sync {
    /// See [`Kind::NAME`].
    fn name(&self) -> &'static str;
    /// See [`Kind::ABOUT`].
    fn about(&self) -> &'static str;
    /// See [`Kind::REVISION`].
    fn revision(&self) -> u32;
    /// See [`Kind::DETERMINISM`].
    fn determinism(&self) -> Determinism;
    /// See [`Kind::determinism_of`].
    fn determinism_of(&self, _params: &BTreeMap<String, Value>) -> Determinism {
        self.determinism()
    }
    /// See [`Kind::UNKEYED`].
    fn unkeyed(&self) -> &'static [&'static str] {
        &[]
    }
    /// See [`Kind::REMOTE`].
    fn remote(&self) -> &'static [&'static str] {
        &[]
    }
    /// See [`Kind::HEAVY`].
    fn heavy(&self) -> bool {
        false
    }
    /// See [`Kind::loads`].
    fn loads(&self, _job: &Job) -> Option<String> {
        None
    }
    /// See [`Kind::inputs`].
    fn inputs(&self) -> Vec<InputPort>;
    /// Whether it has inputs of any name and type beside those of [`StageKind::inputs`].
    fn open_inputs(&self) -> bool {
        false
    }
    /// See [`Kind::outputs`]; for a kind whose `with` says what its outputs are, those that it always has.
    fn outputs(&self) -> Vec<OutputPort>;
    /// The output ports of an instance. `param` gives the fields of its `with`, as they stand in the file or canonical:
    /// links are checked before templates are filled in, so outputs can't depend on these.
    fn outputs_of<'p>(&self, _param: &dyn Fn(&str) -> Option<&'p Value>) -> Vec<OutputPort> {
        self.outputs()
    }
    /// See [`Kind::numerics`].
    fn numerics(&self) -> BTreeMap<String, Value>;
    /// The numerics of an instance with these canonical params.
    fn numerics_of(&self, _params: &BTreeMap<String, Value>) -> BTreeMap<String, Value> {
        self.numerics()
    }
    /// See [`Kind::gpus`].
    fn gpus(&self, _params: &BTreeMap<String, Value>) -> usize {
        0
    }
    /// See [`Kind::reads`].
    fn reads(&self, param: &str, relative: &str) -> bool;
    /// JSON Schema of `with`.
    fn schema(&self) -> Value;
    /// Decodes `with`, fills in defaults and gives it back in one canonical form.
    ///
    /// # Errors
    /// What doesn't decode or fails [`Kind::check`].
    fn canonical(&self, with: &Value) -> Result<BTreeMap<String, Value>, Vec<ParamProblem>>;
    /// The same beside the names of the input ports that are linked.
    ///
    /// # Errors
    /// As [`canonical`](Self::canonical), and what fails [`Kind::check_links`].
    fn canonical_beside(&self, with: &Value, _linked: &[&str]) -> Result<BTreeMap<String, Value>, Vec<ParamProblem>> {
        self.canonical(with)
    }
    /// Runs the job in `ctx`.
    ///
    /// # Errors
    /// See [`Kind::run`].
    fn run(&self, ctx: &Context<'_>) -> Result<(), StageError>;
}

/// Lifts a [`Kind`] (a type) to a [`StageKind`] (a value): `Of::<Generate>::NEW`.
pub struct Of<K>(std::marker::PhantomData<fn() -> K>);

impl<K> Of<K> {
    /// The value.
    pub const NEW: Self = Self(std::marker::PhantomData);
}

impl<K: Kind> StageKind for Of<K> {
    fn name(&self) -> &'static str {
        K::NAME
    }
    fn about(&self) -> &'static str {
        K::ABOUT
    }
    fn revision(&self) -> u32 {
        K::REVISION
    }
    fn determinism(&self) -> Determinism {
        K::DETERMINISM
    }
    fn determinism_of(&self, params: &BTreeMap<String, Value>) -> Determinism {
        K::determinism_of(params)
    }
    fn unkeyed(&self) -> &'static [&'static str] {
        K::UNKEYED
    }
    fn remote(&self) -> &'static [&'static str] {
        K::REMOTE
    }
    fn heavy(&self) -> bool {
        K::HEAVY
    }
    fn loads(&self, job: &Job) -> Option<String> {
        K::loads(job)
    }
    fn inputs(&self) -> Vec<InputPort> {
        K::inputs()
    }
    fn outputs(&self) -> Vec<OutputPort> {
        K::outputs()
    }
    fn numerics(&self) -> BTreeMap<String, Value> {
        K::numerics()
    }
    fn numerics_of(&self, params: &BTreeMap<String, Value>) -> BTreeMap<String, Value> {
        K::numerics_of(params)
    }
    fn gpus(&self, params: &BTreeMap<String, Value>) -> usize {
        K::gpus(params)
    }
    fn reads(&self, param: &str, relative: &str) -> bool {
        K::reads(param, relative)
    }
    fn schema(&self) -> Value {
        schemars::schema_for!(K::Params).to_value()
    }
    fn canonical(&self, with: &Value) -> Result<BTreeMap<String, Value>, Vec<ParamProblem>> {
        let params: K::Params = decode(with)?;
        sound(&params, K::check(&params))
    }
    fn canonical_beside(&self, with: &Value, linked: &[&str]) -> Result<BTreeMap<String, Value>, Vec<ParamProblem>> {
        let params: K::Params = decode(with)?;
        let mut problems = K::check(&params);
        problems.extend(K::check_links(&params, linked));
        sound(&params, problems)
    }
    fn run(&self, ctx: &Context<'_>) -> Result<(), StageError> {
        let params = decode(&ctx.job().params).map_err(|problems| {
            let problem = &problems[0];
            StageError::Failed(format!("with.{}: {}", problem.path.join("."), problem.message))
        })?;
        K::run(params, ctx)
    }
}

/// The fields of `params`, if there are no problems with them.
fn sound<P: Serialize>(params: &P, problems: Vec<ParamProblem>) -> Result<BTreeMap<String, Value>, Vec<ParamProblem>> {
    if !problems.is_empty() {
        return Err(problems);
    }
    match serde_json::to_value(params) {
        Ok(Value::Object(fields)) => Ok(fields.into_iter().collect()),
        Ok(_) => Ok(BTreeMap::new()),
        Err(error) => Err(vec![ParamProblem { path: vec![], message: error.to_string(), hint: None }]),
    }
}

pub(crate) fn decode<P: DeserializeOwned>(with: &Value) -> Result<P, Vec<ParamProblem>> {
    let with = if with.is_null() { &Value::Object(serde_json::Map::new()) } else { with };
    // Where something is wrong is only asked where something is: to keep track of it costs as much as decoding.
    P::deserialize(with).or_else(|_| serde_path_to_error::deserialize(with)).map_err(|error| {
        let path = error.path().iter().map(ToString::to_string).filter(|part| part != "?").collect();
        vec![ParamProblem { path, message: error.into_inner().to_string(), hint: None }]
    })
}
