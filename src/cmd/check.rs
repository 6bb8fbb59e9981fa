//! `palinode check`: every problem of a pipeline and what is probably not meant; nothing is planned or run.

use std::collections::HashSet;

use palinode_engine::{
    lint::{Checked, Finding, Lint, check as examine},
    problem::Problem,
};
use serde_json::{Value, json};

use crate::{
    cli::{Check, Format},
    diagnostics::Drawn,
    exit::Exit,
    output::{Failure, out, say},
};

/// A pipeline as the file has it, and with each of its profiles.
struct Whole {
    base: Checked,
    /// The profiles that were looked at too, by name.
    profiles: Vec<(String, Checked)>,
}

pub(crate) fn check(args: &Check) -> Result<Exit, Failure> {
    for name in args.allow.iter().chain(args.deny.iter().filter(|name| *name != "warnings")) {
        if !Lint::NAMES.contains(&name.as_str()) {
            let hint = format!("lints are {}; `--deny warnings` means all of them", Lint::NAMES.join(", "));
            return Err(Failure::usage(format!("there is no lint `{name}`")).hint(hint));
        }
    }
    let (registry, mut overrides) = (super::registry_of(&args.pipeline), super::overrides(&args.pipeline)?);
    let base = examine(&args.pipeline.file, &registry, &overrides);
    let mut profiles = Vec::new();
    // A profile that nobody has asked for yet should not break on the day that somebody does.
    if overrides.profiles.is_empty() {
        for name in &base.profiles {
            overrides.profiles = vec![name.clone()];
            profiles.push((name.clone(), examine(&args.pipeline.file, &registry, &overrides)));
        }
    }
    let whole = Whole { base, profiles };
    let findings = whole.findings(&args.allow);
    let problems = whole.problems();
    let denied = |finding: &&Finding| args.deny.iter().any(|name| name == "warnings" || name == finding.lint.name());
    let denied = findings.iter().copied().filter(denied).count();
    match args.format {
        Format::Json => {
            out(&format!("{:#}\n", whole.json(&problems, &findings)))?;
        }
        Format::Text => {
            for (profile, checked, problem) in &problems {
                let mut drawn = Drawn::problem(&checked.problems, problem);
                if let Some(profile) = profile {
                    drawn.message = format!("with --profile {profile}: {}", drawn.message);
                }
                say(&drawn.render());
            }
            for finding in &findings {
                say(&Drawn::finding(&whole.base, finding).render());
            }
            let count = counts(problems.len(), findings.len());
            let file = args.pipeline.file.display();
            match &whole.base.graph {
                Some(graph) if problems.is_empty() => {
                    let instances = graph.order.len();
                    let plural = if instances == 1 { "" } else { "s" };
                    out(&format!("{file}: {instances} instance{plural}; {count}\n"))?;
                }
                _ => say(&format!("error: {count} in {file}\n")),
            }
            if denied > 0 && problems.is_empty() {
                say(&format!("error: {denied} of the warnings are denied by --deny\n"));
            }
        }
    }
    Ok(if problems.is_empty() && denied == 0 { Exit::Done } else { Exit::Usage })
}

impl Whole {
    /// All problems, each with the profile that it takes to see it.
    fn problems(&self) -> Vec<(Option<&str>, &Checked, &Problem)> {
        let base = &self.base.problems;
        let seen: HashSet<_> = base.problems.iter().map(|problem| (&problem.span, &problem.mistake)).collect();
        let mut all: Vec<_> = base.problems.iter().map(|problem| (None, &self.base, problem)).collect();
        for (name, checked) in &self.profiles {
            let new = checked.problems.problems.iter().filter(|p| !seen.contains(&(&p.span, &p.mistake)));
            all.extend(new.map(|problem| (Some(name.as_str()), checked, problem)));
        }
        all
    }

    /// The lints that hold with and without any profile: what only a profile uses is used.
    fn findings(&self, allowed: &[String]) -> Vec<&Finding> {
        let everywhere = |finding: &&Finding| {
            let sound = self.profiles.iter().filter(|(_, checked)| checked.problems.problems.is_empty());
            sound.into_iter().all(|(_, checked)| checked.findings.contains(finding))
        };
        let allowed = |finding: &&Finding| !allowed.iter().any(|name| name == finding.lint.name());
        self.base.findings.iter().filter(allowed).filter(everywhere).collect()
    }

    fn json(&self, problems: &[(Option<&str>, &Checked, &Problem)], findings: &[&Finding]) -> Value {
        let problem = |(profile, checked, problem): &(Option<&str>, &Checked, &Problem)| {
            let file = checked.problems.file_of(problem).map_or(&checked.problems.file, |file| &file.path);
            json!({
                "severity": "error", "lint": null, "message": problem.mistake.to_string(), "hint": problem.hint(),
                "file": file, "line": problem.line, "column": problem.column, "option": problem.option,
                "profile": profile,
            })
        };
        let finding = |finding: &&Finding| {
            let file = self.base.files.get(finding.file).map(|file| &file.path);
            json!({
                "severity": "warning", "lint": finding.lint.name(), "message": finding.lint.to_string(),
                "hint": finding.lint.hint(), "file": file, "line": finding.line, "column": finding.column,
                "option": null, "profile": null,
            })
        };
        let all: Vec<_> = problems.iter().map(problem).chain(findings.iter().map(finding)).collect();
        json!({
            "file": self.base.problems.file, "errors": problems.len(), "warnings": findings.len(),
            "instances": self.base.graph.as_ref().map(|graph| graph.order.len()), "findings": all,
        })
    }
}

fn counts(problems: usize, warnings: usize) -> String {
    let count = |count: usize, what: &str| match count {
        0 => format!("no {what}s"),
        1 => format!("1 {what}"),
        n => format!("{n} {what}s"),
    };
    match (problems, warnings) {
        (0, 0) => "no problems".to_owned(),
        (0, _) => count(warnings, "warning"),
        (_, 0) => count(problems, "problem"),
        _ => format!("{}, {}", count(problems, "problem"), count(warnings, "warning")),
    }
}
