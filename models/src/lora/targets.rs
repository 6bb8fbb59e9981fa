//! Which modules an adapter changes, matched as PEFT matches them (`peft/tuners/tuners_utils.py`, 0.21:
//! `check_target_module_exists`; `peft/utils/other.py`: `get_pattern_key`, `_set_trainable`).

use std::collections::{BTreeMap, BTreeSet};

use fancy_regex::Regex;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{LoraConfig, LoraError};
use crate::parameterized::Parameterized;

/// Which linear layers are adapted: a list of names, a regular expression, or `all-linear`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Targets {
    /// Layers whose path is one of these names or ends in `.` and one of them.
    Names(Vec<String>),
    /// Layers whose whole path this regular expression matches.
    Pattern(String),
    /// `all-linear`: every one but the unembedding.
    AllLinear,
}

/// Modules, by names or by a regular expression.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Modules {
    /// Those whose path is one of these names or ends in `.` and one of them.
    Names(Vec<String>),
    /// Those whose whole path this regular expression matches.
    Pattern(String),
}

/// Blocks by number, where `targets` is a list of names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerFilter {
    /// Their numbers.
    pub indexes: Vec<usize>,
    /// What the list of blocks may be called (`h`, `layers`); empty for any name.
    pub called: Vec<String>,
}

/// What to do with names and patterns that mean nothing in a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unmatched {
    /// An error: somebody mistyped.
    Refuse,
    /// Nothing, as PEFT does: files list names for several families.
    Ignore,
}

/// What a config comes to for one model.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// By path of the adapted layer.
    pub(crate) adapters: BTreeMap<String, AdapterShape>,
    /// Parameters that learn as a whole.
    pub(crate) saved: BTreeSet<String>,
    /// Whether embedding and unembedding were one and no longer are.
    pub(crate) parts_tied: bool,
}

/// What one layer's adapter looks like.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct AdapterShape {
    /// Number of the layer among all linear layers.
    pub(crate) layer: usize,
    pub(crate) rank: usize,
    pub(crate) scale: f64,
}

pub(crate) const UNEMBEDDING: &str = "lm_head";
/// What `all-linear` leaves out: unembedding and classifiers' heads.
const HEADS: [&str; 3] = [UNEMBEDDING, "score", "classifier"];
const ALL_LINEAR: &str = "all-linear";

impl Plan {
    pub(crate) fn new(
        model: &impl Parameterized,
        config: &LoraConfig,
        unmatched: Unmatched,
    ) -> Result<Self, LoraError> {
        config.check()?;
        let modules = modules(model);
        let saved_modules = saved_modules(&modules, config, unmatched)?;
        let mut paths = linear_paths(model);
        let tied = model.tied_embedding();
        if tied.is_some() {
            // It has no weights of its own before it is adapted.
            paths.push(UNEMBEDDING.to_owned());
        }
        let chosen = choose(&paths, config, unmatched)?;
        let ranks = patterns("rank_pattern", &config.rank_pattern, &chosen, unmatched)?;
        let alphas = patterns("alpha_pattern", &config.alpha_pattern, &chosen, unmatched)?;
        let mut adapters = BTreeMap::new();
        for (layer, path) in paths.iter().enumerate().filter(|(_, path)| chosen.contains(*path)) {
            let rank = first_match(&ranks, path)?.unwrap_or(config.rank);
            let alpha = first_match(&alphas, path)?.unwrap_or(config.alpha);
            adapters.insert(path.clone(), AdapterShape { layer, rank, scale: config.scale_of(rank, alpha) });
        }
        let within =
            |name: &str, module: &String| name.strip_prefix(module.as_str()).is_some_and(|rest| rest.starts_with('.'));
        let is_saved = |name: &String| saved_modules.iter().any(|module| within(name, module));
        let mut names: BTreeSet<String> = parameter_names(model);
        let parts_tied = tied.is_some_and(|embedding| {
            adapters.contains_key(UNEMBEDDING) || saved_modules.contains(UNEMBEDDING) || is_saved(&embedding)
        });
        if parts_tied {
            names.insert(format!("{UNEMBEDDING}.weight"));
        }
        names.retain(is_saved);
        Ok(Plan { adapters, saved: names, parts_tied })
    }
}

/// The layers that are meant, by PEFT's `check_target_module_exists`.
fn choose(paths: &[String], config: &LoraConfig, unmatched: Unmatched) -> Result<BTreeSet<String>, LoraError> {
    let unknown = |name: &str| LoraError::UnknownTarget { name: name.to_owned(), candidates: last_names(paths) };
    match &config.targets {
        Targets::Names(names) if names.is_empty() => return Err(LoraError::State("LoRA has no target".into())),
        Targets::Names(names) => {
            let missing = |name: &&String| !paths.iter().any(|path| is_called(path, name));
            let mut missing = names.iter().filter(missing);
            match missing.next() {
                Some(name) if unmatched == Unmatched::Refuse || missing.count() + 1 == names.len() => {
                    return Err(unknown(name));
                }
                _ => {}
            }
        }
        Targets::Pattern(_) if config.layers.is_some() => {
            let message = "layers_to_transform chooses among names; with a regular expression say it there";
            return Err(LoraError::State(message.into()));
        }
        Targets::AllLinear if config.layers.is_some() => {
            return Err(LoraError::State("layers_to_transform can't be used with all-linear".into()));
        }
        Targets::Pattern(_) | Targets::AllLinear => {}
    }
    let targets = Matcher::targets(&config.targets)?;
    let exclude = config.exclude.as_ref().map(Matcher::modules).transpose()?;
    let saved = config
        .modules_to_save
        .iter()
        .map(|name| regex("modules_to_save", name, &format!(r"^(?:|.*\.){name}(?:$|\..*)")));
    let saved: Vec<Regex> = saved.collect::<Result<_, _>>()?;
    let layers = config.layers.as_ref().map(LayerMatcher::new).transpose()?;
    let mut chosen = BTreeSet::new();
    for path in paths {
        let excluded = exclude.as_ref().is_some_and(|exclude| exclude.matches(path));
        if excluded || saved.iter().any(|saved| matches(saved, path)) || !targets.matches(path) {
            continue;
        }
        // A layer that is named in full is meant whatever its number.
        let in_full = matches!(&config.targets, Targets::Names(names) if names.contains(path));
        if in_full || layers.as_ref().is_none_or(|layers| layers.matches(path)) {
            chosen.insert(path.clone());
        }
    }
    if chosen.is_empty() {
        return Err(match &config.targets {
            Targets::Pattern(pattern) => {
                LoraError::UnmatchedTargets { pattern: pattern.clone(), example: example_of(paths) }
            }
            _ => LoraError::State(format!(
                "LoRA has no target: what is left out (exclude_modules, layers_to_transform, modules_to_save) leaves \
                 none of {}",
                last_names(paths).join(", ")
            )),
        });
    }
    Ok(chosen)
}

/// A path to learn from: that of an attention's layer says most.
fn example_of(paths: &[String]) -> String {
    paths.iter().find(|path| path.contains("attn")).or(paths.first()).cloned().unwrap_or_default()
}

enum Matcher {
    Names(Vec<String>),
    Pattern(Regex),
    All,
}

impl Matcher {
    fn targets(targets: &Targets) -> Result<Self, LoraError> {
        Ok(match targets {
            Targets::Names(names) => Matcher::Names(names.clone()),
            Targets::Pattern(pattern) => Matcher::Pattern(whole("target_modules", pattern)?),
            Targets::AllLinear => Matcher::All,
        })
    }

    fn modules(modules: &Modules) -> Result<Self, LoraError> {
        Ok(match modules {
            Modules::Names(names) => Matcher::Names(names.clone()),
            Modules::Pattern(pattern) => Matcher::Pattern(whole("exclude_modules", pattern)?),
        })
    }

    fn matches(&self, path: &str) -> bool {
        match self {
            Matcher::Names(names) => names.iter().any(|name| is_called(path, name)),
            Matcher::Pattern(pattern) => matches(pattern, path),
            Matcher::All => !HEADS.contains(&path),
        }
    }
}

struct LayerMatcher {
    indexes: Vec<usize>,
    places: Vec<Regex>,
}

impl LayerMatcher {
    fn new(filter: &LayerFilter) -> Result<Self, LoraError> {
        let place = |name: &String| regex("layers_pattern", name, &format!(r"^(?:|.*?\.){name}\.(\d+)\."));
        let places = match filter.called.is_empty() {
            true => vec![regex("layers_pattern", "", r"^.*?\.[^.]*\.(\d+)\.")?],
            false => filter.called.iter().map(place).collect::<Result<_, _>>()?,
        };
        Ok(LayerMatcher { indexes: filter.indexes.clone(), places })
    }

    fn matches(&self, path: &str) -> bool {
        let captured = self.places.iter().find_map(|place| place.captures(path).ok().flatten());
        let index = captured.and_then(|captured| captured.get(1)?.as_str().parse::<usize>().ok());
        index.is_some_and(|index| self.indexes.contains(&index))
    }
}

type Patterns<T> = Vec<(Regex, T)>;

/// The compiled patterns; one that matches none of the adapted layers is an error, or left out.
fn patterns<T: Copy>(
    key: &'static str,
    given: &[(String, T)],
    chosen: &BTreeSet<String>,
    unmatched: Unmatched,
) -> Result<Patterns<T>, LoraError> {
    let mut compiled = Vec::with_capacity(given.len());
    for (pattern, value) in given {
        let one = regex(key, pattern, &format!(r"^(?:.*\.)?(?:{pattern})$"))?;
        if !chosen.iter().any(|path| matches(&one, path)) && unmatched == Unmatched::Refuse {
            let example = chosen.first().cloned().unwrap_or_default();
            return Err(LoraError::UnmatchedPattern { key, pattern: pattern.clone(), example });
        }
        compiled.push((one, *value));
    }
    Ok(compiled)
}

fn first_match<T: Copy>(patterns: &Patterns<T>, path: &str) -> Result<Option<T>, LoraError> {
    Ok(patterns.iter().find(|(pattern, _)| matches(pattern, path)).map(|&(_, value)| value))
}

fn whole(key: &'static str, pattern: &str) -> Result<Regex, LoraError> {
    regex(key, pattern, &format!("^(?:{pattern})$"))
}

fn regex(key: &'static str, given: &str, pattern: &str) -> Result<Regex, LoraError> {
    let failed =
        |error: fancy_regex::Error| LoraError::Pattern { key, pattern: given.to_owned(), reason: error.to_string() };
    Regex::new(pattern).map_err(failed)
}

/// An expression that takes too many steps back matches nothing.
fn matches(pattern: &Regex, path: &str) -> bool {
    pattern.is_match(path).unwrap_or(false)
}

/// The modules whose path ends in one of the names, dot or no dot: so PEFT finds those that are saved whole.
fn saved_modules(
    modules: &BTreeSet<String>,
    config: &LoraConfig,
    unmatched: Unmatched,
) -> Result<BTreeSet<String>, LoraError> {
    let mut saved = BTreeSet::new();
    for name in &config.modules_to_save {
        let before = saved.len();
        saved.extend(modules.iter().filter(|module| module.ends_with(name.as_str())).cloned());
        if saved.len() == before && unmatched == Unmatched::Refuse {
            let candidates = last_names(&modules.iter().cloned().collect::<Vec<_>>());
            return Err(LoraError::UnknownModule { name: name.clone(), candidates });
        }
    }
    Ok(saved)
}

/// All modules by path, a tied unembedding among them.
fn modules(model: &impl Parameterized) -> BTreeSet<String> {
    let mut modules = BTreeSet::from([UNEMBEDDING.to_owned()]);
    for name in parameter_names(model) {
        let mut path = name.as_str();
        while let Some((module, _)) = path.rsplit_once('.') {
            modules.insert(module.to_owned());
            path = module;
        }
    }
    modules
}

/// All linear layers by path, in the model's order.
fn linear_paths(model: &impl Parameterized) -> Vec<String> {
    let mut paths = Vec::new();
    model.clone().each_linear(|path, _| paths.push(path.to_owned()));
    paths
}

fn parameter_names(model: &impl Parameterized) -> BTreeSet<String> {
    let names = model.parameters().into_iter().map(|parameter| parameter.name);
    names.filter(|name| !super::is_adapter(name)).collect()
}

/// Paths by the last of their names, each once.
pub(crate) fn last_names(paths: &[String]) -> Vec<String> {
    let mut names: Vec<String> = paths.iter().map(|path| path.rsplit('.').next().unwrap_or(path).to_owned()).collect();
    names.sort();
    names.dedup();
    names
}

fn is_called(path: &str, name: &str) -> bool {
    path.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

impl Targets {
    /// The paths of all layers that are meant; an error for a name that means none.
    pub fn resolve(&self, model: &impl Parameterized) -> Result<Vec<String>, LoraError> {
        let mut paths = linear_paths(model);
        let config = LoraConfig { targets: self.clone(), ..LoraConfig::paper_text(1) };
        let chosen = choose(&paths, &config, Unmatched::Refuse)?;
        paths.retain(|path| chosen.contains(path));
        Ok(paths)
    }
}

impl Serialize for Targets {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Targets::Names(names) => names.serialize(serializer),
            Targets::Pattern(pattern) => serializer.serialize_str(pattern),
            Targets::AllLinear => serializer.serialize_str(ALL_LINEAR),
        }
    }
}

impl<'de> Deserialize<'de> for Targets {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let modules = Modules::deserialize(deserializer)
            .map_err(|_| de::Error::custom("expected a list of names, a regular expression, or \"all-linear\""))?;
        Ok(match modules {
            Modules::Names(names) => Targets::Names(names),
            Modules::Pattern(pattern) if pattern.to_lowercase() == ALL_LINEAR => Targets::AllLinear,
            Modules::Pattern(pattern) => Targets::Pattern(pattern),
        })
    }
}
