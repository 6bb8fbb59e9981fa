//! Models of the Hugging Face hub: `hf://owner/name@commit`. A commit never changes, so its name is as good as a digest;
//! a branch moves, and is refused.
//!
//! What is fetched lies in the hub's own cache (`HF_HOME`, else `~/.cache/huggingface`), where its other tools find it too.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use hf_hub::{
    Cache, Repo, RepoType,
    api::{
        Progress,
        sync::{ApiBuilder, ApiError, ApiRepo},
    },
};
use palinode_engine::{
    context::Context,
    job::InputFiles,
    stage::{ParamProblem, StageError},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How the name of a model on the hub begins.
pub(crate) const SCHEME: &str = "hf://";

/// How the hub is reached.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct HubParams {
    /// Its address; unless given that in `HF_ENDPOINT`, else `https://huggingface.co`.
    endpoint: Option<String>,
    /// The environment variable with a token; unless given `HF_TOKEN`. Else the token that `hf auth login` stored.
    token_env: Option<String>,
    /// The folder of its cache.
    cache: Option<String>,
}

/// Whether `source` names something on the hub.
pub(crate) fn is_remote(source: &str) -> bool {
    source.starts_with(SCHEME)
}

/// What is wrong with the name `source`, if it is one of the hub's.
pub(crate) fn check(field: &str, source: &str) -> Vec<ParamProblem> {
    let Some(name) = source.strip_prefix(SCHEME) else { return Vec::new() };
    let form = "as `hf://facebook/opt-1.3b@COMMIT`, with the 40 hexadecimal digits of a commit";
    let problem = |message: String| vec![ParamProblem::new(field, message).hint(form)];
    let (repo, revision) = name.split_once('@').unwrap_or((name, ""));
    let part = |part: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        !part.is_empty() && part.chars().all(plain) && !part.starts_with('.') && !part.contains("..")
    };
    let parts: Vec<&str> = repo.split('/').collect();
    if parts.len() > 2 || !parts.iter().all(|name| part(name)) {
        return problem(format!("`{source}` names no repository of the hub"));
    }
    let commit = revision.len() == 40 && revision.chars().all(|c| c.is_ascii_digit() || ('a'..='f').contains(&c));
    match revision {
        "" => problem(format!("`{source}` names no commit: what is there may change")),
        _ if !commit => problem(format!("`{revision}` is no commit: a branch or a tag may move")),
        _ => Vec::new(),
    }
}

/// What is used of the hub's word on a repository.
#[derive(Debug, Deserialize)]
struct Info {
    sha: Option<String>,
    siblings: Vec<Sibling>,
}

#[derive(Debug, Deserialize)]
struct Sibling {
    rfilename: String,
    #[serde(default)]
    size: Option<u64>,
}

/// Fetches the files of `name` (`owner/name@commit`) that a loader reads, and makes them the output `port`.
pub(crate) fn fetch(
    ctx: &Context<'_>,
    name: &str,
    hub: &HubParams,
    port: &'static str,
    reads: impl Fn(&str) -> bool,
) -> Result<InputFiles, StageError> {
    let (id, commit) = name.split_once('@').unwrap_or((name, ""));
    let cache = match &hub.cache {
        Some(folder) => Cache::new(ctx.job().folder.join(folder)),
        None => Cache::from_env(),
    };
    let builder = match &hub.cache {
        Some(_) => ApiBuilder::from_cache(cache.clone()),
        None => ApiBuilder::from_env(),
    };
    let kept = cache.repo(Repo::with_revision(id.to_owned(), RepoType::Model, commit.to_owned()));
    let mut builder =
        builder.with_progress(false).with_retries(5).with_user_agent("palinode", env!("CARGO_PKG_VERSION"));
    if let Some(endpoint) = &hub.endpoint {
        builder = builder.with_endpoint(endpoint.trim_end_matches('/').to_owned());
    }
    let token = std::env::var(hub.token_env.as_deref().unwrap_or("HF_TOKEN")).ok();
    if let Some(token) = token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty()) {
        builder = builder.with_token(Some(token));
    }
    let told = |error: ApiError| StageError::failed(told(&error, id, commit, None));
    let repo =
        builder.build().map_err(told)?.repo(Repo::with_revision(id.to_owned(), RepoType::Model, commit.to_owned()));
    let info = info(&repo).map_err(told)?;
    if info.sha.as_deref().is_some_and(|sha| sha != commit) {
        let found = info.sha.unwrap_or_default();
        return Err(StageError::failed(format!("the hub gives {found} of `{id}` where {commit} is wanted")));
    }
    let sizes: BTreeMap<&str, Option<u64>> =
        info.siblings.iter().map(|file| (file.rfilename.as_str(), file.size)).collect();
    let listed: Vec<&str> = sizes.keys().copied().filter(|file| reads(file)).collect();
    let get = |file: &str| get(ctx, &repo, kept.get(file), file, sizes.get(file).copied().flatten(), (id, commit));
    let wanted = wanted(&listed, &get)?;
    ctx.note(format!("{} of {} files of {id} are what a loader reads", wanted.len(), sizes.len()));
    let output = ctx.output(port)?;
    let mut files = BTreeMap::new();
    for file in wanted {
        files.insert(file.clone(), output.refer(&file, &get(&file)?)?);
    }
    Ok(InputFiles::of(files))
}

fn info(repo: &ApiRepo) -> Result<Info, ApiError> {
    let mut response = repo.info_request().query("blobs", "true").call().map_err(Box::new)?;
    Ok(response.body_mut().read_json().map_err(Box::new)?)
}

/// The file in the hub's cache, fetched if it isn't there.
fn get(
    ctx: &Context<'_>,
    repo: &ApiRepo,
    kept: Option<PathBuf>,
    file: &str,
    size: Option<u64>,
    (id, commit): (&str, &str),
) -> Result<PathBuf, StageError> {
    if ctx.is_cancelled() {
        return Err(StageError::Cancelled);
    }
    let told = |error: ApiError| StageError::failed(told(&error, id, commit, Some(file)));
    let path = match kept {
        Some(path) => path,
        None => repo.download_with_progress(file, Told { ctx, done: 0, total: 0 }).map_err(told)?,
    };
    let length = fs::metadata(&path).map_err(StageError::io(&path))?.len();
    match size {
        Some(size) if size != length => Err(StageError::failed(format!(
            "{} has {length} bytes, and the hub says {size}: remove it, so that it is fetched again",
            path.display()
        ))),
        _ => Ok(path),
    }
}

const SINGLE: [&str; 2] = ["model.safetensors", "pytorch_model.bin"];

/// Of the files that a loader might read those that it does: the first form of the weights that is there, whole.
fn wanted(listed: &[&str], get: &dyn Fn(&str) -> Result<PathBuf, StageError>) -> Result<Vec<String>, StageError> {
    let weights =
        |file: &str| file.ends_with(".safetensors") || file.ends_with(".bin") || file.ends_with(".index.json");
    let mut wanted: Vec<String> = listed.iter().filter(|file| !weights(file)).map(|file| (*file).to_owned()).collect();
    for single in SINGLE {
        let index = format!("{single}.index.json");
        if listed.contains(&single) {
            wanted.push(single.to_owned());
            return Ok(wanted);
        }
        if listed.contains(&index.as_str()) {
            wanted.extend(shards(&get(&index)?)?);
            wanted.push(index);
            return Ok(wanted);
        }
    }
    // An adapter's, if that is what it is; the loader says what is missing.
    wanted.extend(listed.iter().filter(|file| **file == "adapter_model.safetensors").map(|file| (*file).to_owned()));
    Ok(wanted)
}

/// The files that an index of weights names.
fn shards(index: &Path) -> Result<Vec<String>, StageError> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let text = fs::read_to_string(index).map_err(StageError::io(index))?;
    let parsed: Index =
        serde_json::from_str(&text).map_err(|error| StageError::failed(format!("{}: {error}", index.display())))?;
    let shards: BTreeSet<String> = parsed.weight_map.into_values().collect();
    match shards.iter().find(|shard| shard.contains('/') || shard.starts_with('.')) {
        Some(odd) => Err(StageError::failed(format!("{}: `{odd}` is no file beside it", index.display()))),
        None => Ok(shards.into_iter().collect()),
    }
}

/// What went wrong with a file, or with the list of them, and what may help.
fn told(error: &ApiError, id: &str, commit: &str, file: Option<&str>) -> String {
    let status = match error {
        ApiError::RequestError(error) => match &**error {
            ureq::Error::StatusCode(status) => Some(*status),
            _ => None,
        },
        ApiError::TooManyRetries(error) => return told(error, id, commit, file),
        _ => None,
    };
    let login = "a token in `HF_TOKEN`, or `hf auth login`";
    let what = file.map_or_else(|| format!("`{id}`"), |file| format!("`{file}` of `{id}`"));
    match status {
        Some(401) => format!("the hub wants to know who asks for {what}: it isn't there, or not for all; give {login}"),
        Some(403) => format!(
            "the hub gives {what} only to who accepted its terms: do so at https://huggingface.co/{id}, then give {login}"
        ),
        Some(404) => format!("the hub has no {what} at the commit {commit}: check name and commit"),
        Some(status) => format!("the hub answers {status} when asked for {what}: try again later"),
        None => format!("can't get {what} from the hub: {error}; what was fetched so far is kept"),
    }
}

/// Tells how far a file is.
struct Told<'c, 'a> {
    ctx: &'c Context<'a>,
    done: usize,
    total: usize,
}

impl Progress for Told<'_, '_> {
    fn init(&mut self, size: usize, _: &str) {
        (self.done, self.total) = (0, size);
    }
    fn update(&mut self, size: usize) {
        const MIB: usize = 1 << 20;
        let before = self.done / MIB;
        self.done += size;
        if self.done / MIB > before {
            let _ = self.ctx.progress(self.done / MIB, self.total / MIB, "MiB");
        }
    }
    fn finish(&mut self) {}
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use serde_json::{Value, json};

    use super::*;
    use crate::{
        model::Model,
        testing::{Bench, Done, Server, problems},
    };

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    fn fixture(model: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/fixtures/models").join(model)
    }

    /// A hub with one repository, `o/n`, which holds a model of the models crate and more.
    fn hub(model: PathBuf) -> Server {
        Server::new(move |_, head, _| {
            let path = head.split(' ').nth(1).unwrap_or_default();
            let file = |name: &str| match name {
                "README.md" | "pytorch_model.bin" | "model.fp16.safetensors" => Ok(b"of no use".to_vec()),
                name => fs::read(model.join(name)),
            };
            if path == format!("/api/models/o/n/revision/{COMMIT}?blobs=true") {
                let names =
                    fs::read_dir(&model).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
                let more =
                    ["README.md", "pytorch_model.bin", "model.fp16.safetensors", "onnx/config.json"].map(str::to_owned);
                let sibling =
                    |name: String| json!({ "rfilename": name, "size": file(&name).map_or(0, |bytes| bytes.len()) });
                let siblings: Vec<Value> = names.chain(more).map(sibling).collect();
                return (200, vec![], json!({ "sha": COMMIT, "siblings": siblings }).to_string().into_bytes());
            }
            if path.starts_with("/api/models/gated/") {
                return (403, vec![], Vec::new());
            }
            if path.starts_with("/api/models/private/") {
                assert!(!head.contains("authorization"), "no token was given: {head}");
                return (401, vec![], Vec::new());
            }
            let name = path.strip_prefix(&format!("/o/n/resolve/{COMMIT}/"));
            let Some(Ok(bytes)) = name.map(file) else { return (404, vec![], Vec::new()) };
            let range = head
                .lines()
                .find_map(|line| line.to_lowercase().strip_prefix("range: bytes=").map(str::to_owned))
                .unwrap();
            let (from, to) = range.split_once('-').unwrap();
            let (from, size) = (from.parse::<usize>().unwrap(), bytes.len());
            let to = to.parse::<usize>().map_or(size, |to| (to + 1).min(size));
            let headers = vec![
                ("ETag", format!("\"{}\"", name.unwrap())),
                ("X-Repo-Commit", COMMIT.to_owned()),
                ("Content-Range", format!("bytes {from}-{}/{size}", to.max(1) - 1)),
            ];
            (206, headers, bytes[from..to].to_vec())
        })
    }

    fn take(repo: &str, endpoint: &str, cache: &Path) -> Result<Done, StageError> {
        let hub = json!({ "endpoint": endpoint, "cache": cache, "token_env": "PALINODE_NO_SUCH_TOKEN" });
        Bench::new().run::<Model>(json!({ "source": format!("hf://{repo}@{COMMIT}"), "hub": hub }))
    }

    #[test]
    fn what_a_loader_reads_is_fetched_once_and_is_the_same_as_a_folder() {
        for model in ["llama", "llama_sharded"] {
            let whole = tempfile::tempdir().unwrap();
            for folder in [fixture("llama"), fixture(model)] {
                let names = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name());
                // Of the first only what the second may lack.
                for name in names.filter(|name| *folder == fixture(model) || name.to_string_lossy().contains("token")) {
                    fs::write(whole.path().join(&name), fs::read(folder.join(&name)).unwrap()).unwrap();
                }
            }
            let (server, cache) = (hub(whole.path().to_owned()), tempfile::tempdir().unwrap());
            let cache = cache.path().join("hub");
            let done = take("o/n", &server.url, &cache).unwrap();
            let folder = Bench::new().folder("source", whole.path(), &|name| {
                use palinode_engine::stage::Kind as _;
                Model::reads("source", name)
            });
            let folder = folder.run::<Model>(json!({ "source": "source" })).unwrap();
            assert_eq!(done.outputs["model"].digest, folder.outputs["model"].digest, "{model}");
            assert_eq!(done.summary, folder.summary);
            let place = done.outputs["model"].get("config.json").unwrap();
            assert!(place.starts_with(cache.join("models--o--n/blobs").canonicalize().unwrap()), "{place:?}");
            let asked = server.requests.lock().unwrap().join("\n");
            assert!(!asked.contains("README") && !asked.contains("pytorch") && !asked.contains("fp16"), "{asked}");
            let before = server.count();
            take("o/n", &server.url, &cache).unwrap();
            assert_eq!(server.count(), before + 1, "only the list is asked for again");
            // A file that was cut off in the cache.
            fs::write(place, "{").unwrap();
            let error = take("o/n", &server.url, &cache).err().unwrap().to_string();
            assert!(error.contains("config.json has 1 bytes, and the hub says "), "{error}");
        }
    }

    #[test]
    fn a_hub_that_gives_nothing_is_told_with_what_may_help() {
        let (server, cache) = (hub(fixture("llama")), tempfile::tempdir().unwrap());
        let error = |repo: &str, endpoint: &str| take(repo, endpoint, cache.path()).err().unwrap();
        insta::assert_snapshot!(error("o/missing", &server.url), @"the hub has no `o/missing` at the commit 0123456789abcdef0123456789abcdef01234567: check name and commit");
        insta::assert_snapshot!(error("gated/n", &server.url), @"the hub gives `gated/n` only to who accepted its terms: do so at https://huggingface.co/gated/n, then give a token in `HF_TOKEN`, or `hf auth login`");
        insta::assert_snapshot!(error("private/n", &server.url), @"the hub wants to know who asks for `private/n`: it isn't there, or not for all; give a token in `HF_TOKEN`, or `hf auth login`");
        insta::assert_snapshot!(error("o/n", "http://127.0.0.1:1"), @"can't get `o/n` from the hub: request error: io: Connection refused (os error 111); what was fetched so far is kept");
    }

    #[test]
    fn only_a_commit_says_what_a_model_is() {
        let told = |source: &str| problems::<Model>(json!({ "source": source }));
        insta::assert_snapshot!(told("hf://facebook/opt-1.3b"), @"source: `hf://facebook/opt-1.3b` names no commit: what is there may change (hint: as `hf://facebook/opt-1.3b@COMMIT`, with the 40 hexadecimal digits of a commit)");
        insta::assert_snapshot!(told("hf://facebook/opt-1.3b@main"), @"source: `main` is no commit: a branch or a tag may move (hint: as `hf://facebook/opt-1.3b@COMMIT`, with the 40 hexadecimal digits of a commit)");
        insta::assert_snapshot!(told(&format!("hf://a/b/c@{COMMIT}")), @"source: `hf://a/b/c@0123456789abcdef0123456789abcdef01234567` names no repository of the hub (hint: as `hf://facebook/opt-1.3b@COMMIT`, with the 40 hexadecimal digits of a commit)");
        insta::assert_snapshot!(told(&format!("hf://../x@{COMMIT}")), @"source: `hf://../x@0123456789abcdef0123456789abcdef01234567` names no repository of the hub (hint: as `hf://facebook/opt-1.3b@COMMIT`, with the 40 hexadecimal digits of a commit)");
        assert_eq!(check("source", &format!("hf://gpt2@{COMMIT}")), []);
        assert_eq!(check("source", "weights/hf"), []);
    }
}
