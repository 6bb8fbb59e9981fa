//! The kind `command`: any program, with declared inputs and outputs, in a folder of its own and a sandbox in which
//! undeclared reads fail. `docs/command.md` tells it to users.

mod guard;
mod layout;
mod log;
mod messages;
mod outputs;
mod params;
mod process;
mod sandbox;
#[cfg(test)]
mod tests;
mod tools;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use palinode_cache::hash_file;
use schemars::schema_for;
use serde_json::{Value, json};

use self::{
    guard::Guard,
    layout::Layout,
    messages::Scene,
    outputs::Declared,
    params::{Params, Sandbox},
    process::{Ended, Launch},
    sandbox::{Enforced, Offline, Rules},
    tools::{Tool, Tools},
};
use crate::{
    context::Context,
    job::{Job, JobInput},
    stage::{Determinism, InputPort, OutputPort, ParamProblem, StageError, StageKind},
};

/// Where programs of the system are.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a command needs to know of the machine and its user.
#[derive(Debug, Clone, Default)]
pub struct Host {
    /// Where tools are looked for.
    pub path: OsString,
    /// The user's own folder, which no tool brings along.
    pub home: Option<PathBuf>,
    /// Where versions of tools are kept from run to run, if its folder is there.
    pub tools_index: Option<PathBuf>,
    /// As if the kernel had no Landlock.
    pub without_landlock: bool,
}

/// The kind.
pub struct Command {
    tools: Tools,
    without_landlock: bool,
    layout: Layout,
    guard: Guard,
    offline: Arc<Offline>,
    /// That something isn't enforced was said: once is enough for a run.
    told: AtomicBool,
}

impl Command {
    /// Commands on this machine.
    pub fn new(host: Host) -> Self {
        Self {
            tools: Tools::new(host.path, host.home, host.tools_index),
            without_landlock: host.without_landlock,
            layout: Layout::default(),
            guard: Guard::default(),
            offline: Arc::default(),
            told: AtomicBool::new(false),
        }
    }

    fn tools(&self, params: &Params) -> Result<Vec<Arc<Tool>>, StageError> {
        let find = |name: &String| {
            let gone = || StageError::failed(format!("its tool `{name}` is not there any more"));
            self.tools.find(name).ok_or_else(gone)
        };
        params.tools.iter().map(find).collect()
    }

    /// What stands in the way of the command's rules, if anything does, is said once.
    fn tell(&self, enforced: Option<Enforced>, params: &Params, ctx: &Context<'_>) {
        let Some(enforced) = enforced else { return };
        let missing = match (enforced.files, enforced.network || params.network) {
            (true, true) => return,
            (false, true) => {
                "this system can't keep commands from files that they don't declare (no Landlock); their inputs are read again afterwards instead"
            }
            (true, false) => "this system can't keep commands from the network",
            (false, false) => {
                "this system can keep commands neither from the network nor from files that they don't declare (no Landlock); their inputs are read again afterwards instead"
            }
        };
        if !self.told.swap(true, Ordering::Relaxed) {
            ctx.warn(missing);
        }
    }
}

impl StageKind for Command {
    fn name(&self) -> &'static str {
        "command"
    }
    fn about(&self) -> &'static str {
        "Any program, with declared inputs and outputs, in a sandbox in which undeclared reads fail."
    }
    fn revision(&self) -> u32 {
        1
    }
    fn determinism(&self) -> Determinism {
        Determinism::Unknown
    }
    fn inputs(&self) -> Vec<InputPort> {
        Vec::new()
    }
    fn open_inputs(&self) -> bool {
        true
    }
    fn outputs(&self) -> Vec<OutputPort> {
        Vec::new()
    }
    fn outputs_of<'p>(&self, param: &dyn Fn(&str) -> Option<&'p Value>) -> Vec<OutputPort> {
        let read = param("outputs").and_then(|value| outputs::read(value).ok()).unwrap_or_default();
        let port =
            |(name, output): (String, Declared)| OutputPort { name: name.into(), gives: output.gives, about: "" };
        read.into_iter().map(port).collect()
    }
    fn numerics(&self) -> BTreeMap<String, Value> {
        // Programs differ from one instruction set to another.
        [("arch".to_owned(), json!(std::env::consts::ARCH))].into()
    }
    fn numerics_of(&self, params: &BTreeMap<String, Value>) -> BTreeMap<String, Value> {
        let mut numerics = self.numerics();
        let names = params.get("tools").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        for name in names {
            let version = self.tools.find(name).map(|tool| self.tools.version(&tool));
            numerics.insert(format!("tool {name}"), json!(version));
        }
        numerics
    }
    fn reads(&self, _: &str, _: &str) -> bool {
        true
    }
    fn schema(&self) -> Value {
        schema_for!(Params).to_value()
    }
    fn canonical(&self, with: &Value) -> Result<BTreeMap<String, Value>, Vec<ParamProblem>> {
        let params = Params::read(with)?;
        let missing = params.tools.iter().filter(|tool| self.tools.find(tool).is_none());
        let problem = |tool: &String| {
            let message = if tool.starts_with('/') {
                format!("there is no program `{tool}`")
            } else {
                format!("there is no program `{tool}` on PATH")
            };
            ParamProblem::new("tools", message).hint("install it, or give its absolute path")
        };
        let problems: Vec<_> = missing.map(problem).collect();
        if problems.is_empty() { Ok(params.canonical()) } else { Err(problems) }
    }
    fn run(&self, ctx: &Context<'_>) -> Result<(), StageError> {
        let job = ctx.job();
        let params = Params::read(&job.params).map_err(|problems| {
            let said = problems.first().map(|problem| format!("with.{}: {}", problem.path.join("."), problem.message));
            StageError::failed(said.unwrap_or_default())
        })?;
        let tools = self.tools(&params)?;
        let work = self.layout.make(job, &params.workdir)?;
        let done = self.perform(&params, &tools, &work, ctx);
        if done.is_err() {
            // What it left is kept for a look.
            let out = job.scratch.join("out");
            let _ = fs::create_dir_all(&out).and_then(|()| fs::rename(job.scratch.join("work"), out.join("work")));
        }
        done
    }
}

impl Command {
    fn perform(&self, params: &Params, tools: &[Arc<Tool>], work: &Path, ctx: &Context<'_>) -> Result<(), StageError> {
        let job = ctx.job();
        let out = job.scratch.join("out");
        fs::create_dir_all(&out).map_err(StageError::io(&out))?;
        if !job.gpus.is_empty() {
            sandbox::make_gpu_devices();
        }
        let grants: Vec<_> = tools.iter().flat_map(|tool| tool.grants.iter().cloned()).collect();
        let grants = (!tools.is_empty()).then_some(grants.as_slice());
        let rules = Rules::new(&job.scratch, grants, params.network, !job.gpus.is_empty());
        let rules = Arc::new(rules);
        let strict = params.sandbox == Sandbox::Strict;
        let launch = Launch {
            argv: params.argv(),
            env: env(params, tools, job),
            cwd: work.to_owned(),
            rules: (strict && !self.without_landlock).then(|| rules.clone()),
            offline: self.offline.clone(),
        };
        let Ended { status, enforced, lines } = launch.run(&self.guard, ctx)?;
        let enforced = match enforced {
            None if strict => Some(Enforced { files: false, network: false }),
            enforced => enforced,
        };
        self.tell(enforced, params, ctx);
        let confined = enforced.is_some_and(|enforced| enforced.files);
        if let Some(how) = messages::ended(status) {
            let home = &job.folder;
            let scene =
                Scene { rules: &rules, tools: &self.tools, scratch: &job.scratch, work, home, inputs: &job.inputs };
            if confined && !job.gpus.is_empty() && messages::is_cuda_kept_out(lines.tail()) {
                return Err(StageError::failed(format!("{how}: {}", messages::CUDA)));
            }
            let kept = if confined { scene.kept(lines.tail()) } else { None };
            return Err(StageError::failed(match kept {
                Some(kept) => format!("{how}: {}", scene.advice(&kept)),
                None => how,
            }));
        }
        if !confined {
            unchanged(job)?;
        }
        outputs::collect(&params.outputs, &job.scratch, work, &out)
    }
}

/// The few variables that every command has, and its own.
fn env(params: &Params, tools: &[Arc<Tool>], job: &Job) -> Vec<(String, String)> {
    let text = |path: &Path| path.display().to_string();
    let mut path: Vec<String> = tools.iter().filter_map(|tool| tool.program.parent()).map(text).collect();
    path.dedup();
    path.push(PATH.to_owned());
    let gpus: Vec<_> = job.gpus.iter().map(usize::to_string).collect();
    let base = [
        ("PATH", path.join(":")),
        ("HOME", text(&job.scratch.join("work"))),
        ("LANG", "C.UTF-8".to_owned()),
        ("TMPDIR", text(&job.scratch.join("tmp"))),
        ("PALINODE_IN", text(&job.scratch.join("in"))),
        ("CUDA_VISIBLE_DEVICES", gpus.join(",")),
    ];
    let base = base.into_iter().map(|(name, value)| (name.to_owned(), value));
    base.chain(params.env.iter().map(|(name, value)| (name.clone(), value.text()))).collect()
}

/// Without a sandbox a command may have written to what it was to read, and put the times back.
fn unchanged(job: &Job) -> Result<(), StageError> {
    for (port, input) in &job.inputs {
        let sets = match input {
            JobInput::One(files) => vec![files],
            JobInput::Table(rows) => rows.iter().filter_map(|row| row.input.as_ref()).collect(),
        };
        for (name, file) in sets.into_iter().flat_map(|files| &files.files) {
            let now = hash_file(&file.path).map_err(|error| StageError::failed(error.to_string()))?;
            if now != file.entry {
                return Err(StageError::failed(format!(
                    "`{name}` of its input `{port}` changed while it ran ({}); nothing was recorded, run again",
                    file.path.display()
                )));
            }
        }
    }
    Ok(())
}
