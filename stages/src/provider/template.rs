//! Prompts with gaps: `{statement}` and the like are filled in one pass, so what is put in stays as it is, whatever braces
//! it holds. The text around them is taken byte for byte, never trimmed.

use std::fs;

use palinode_engine::{
    context::Context,
    stage::{PathParam, StageError},
};

use crate::records::only_file;

/// The prompt of the study's judge.
pub(crate) const JUDGE: &str = include_str!("../../prompts/judge_tulu.txt");
/// The prompt of the study's writer of counterfactuals.
pub(crate) const COUNTERFACTUAL: &str = include_str!("../../prompts/counterfactual_tulu.txt");

/// A prompt with gaps.
pub(crate) struct Template {
    /// Text, or the number of a gap.
    parts: Vec<Part>,
}

enum Part {
    Text(String),
    Gap(usize),
}

/// A prompt to answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Filled {
    /// As a whole.
    pub(crate) text: String,
    /// The same as messages, for servers that take nothing else: (`user`, content).
    pub(crate) messages: Vec<(&'static str, String)>,
}

/// How Tulu's chat format begins a message; each is a line.
const TAGS: [(&str, &str); 3] = [("<|system|>\n", "system"), ("<|user|>\n", "user"), ("<|assistant|>\n", "assistant")];

impl Template {
    /// The prompt in the file `file`, else `builtin`, with these gaps.
    pub(crate) fn load(
        ctx: &Context<'_>,
        file: Option<&PathParam>,
        builtin: &str,
        gaps: &[&str],
    ) -> Result<Self, StageError> {
        let text = match file {
            Some(file) => {
                let path = only_file(ctx, file)?;
                fs::read_to_string(path).map_err(StageError::io(path))?
            }
            None => builtin.to_owned(),
        };
        // The first gap is what the prompt is about.
        if !text.contains(&format!("{{{}}}", gaps[0])) {
            let message = format!("the prompt has no `{{{}}}`: nothing would be put in", gaps[0]);
            return Err(StageError::failed(message));
        }
        if text.trim_end().ends_with("<|assistant|>") && !text.ends_with("<|assistant|>\n") {
            ctx.warn("the prompt doesn't end in `<|assistant|>` and exactly one line break, as Tulu's format wants it");
        }
        Ok(Self::parse(&text, gaps))
    }

    pub(super) fn parse(text: &str, gaps: &[&str]) -> Self {
        let mut parts = Vec::new();
        let mut rest = text;
        let first = |rest: &str| {
            let find = |(number, gap): (usize, &&str)| Some((rest.find(&format!("{{{gap}}}"))?, number));
            gaps.iter().enumerate().filter_map(find).min()
        };
        while let Some((at, number)) = first(rest) {
            parts.push(Part::Text(rest[..at].to_owned()));
            parts.push(Part::Gap(number));
            rest = &rest[at + gaps[number].len() + 2..];
        }
        parts.push(Part::Text(rest.to_owned()));
        Self { parts }
    }

    /// With these values in the gaps.
    pub(crate) fn fill(&self, values: &[&str]) -> Filled {
        let mut text = String::new();
        let mut messages: Vec<(&'static str, String)> = vec![("user", String::new())];
        for part in &self.parts {
            match part {
                Part::Gap(number) => {
                    text.push_str(values[*number]);
                    last(&mut messages).push_str(values[*number]);
                }
                // Tags count in the prompt itself alone: a statement can't end a message.
                Part::Text(literal) => {
                    text.push_str(literal);
                    for line in literal.split_inclusive('\n') {
                        match TAGS.iter().find(|(tag, _)| *tag == line) {
                            Some((_, role)) => messages.push((role, String::new())),
                            None => last(&mut messages).push_str(line),
                        }
                    }
                }
            }
        }
        let trimmed = messages.into_iter().map(|(role, content)| (role, content.trim_matches('\n').to_owned()));
        let messages = trimmed.filter(|(_, content)| !content.trim().is_empty()).collect();
        Filled { text, messages }
    }
}

fn last<'m>(messages: &'m mut [(&'static str, String)]) -> &'m mut String {
    let at = messages.len() - 1;
    &mut messages[at].1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::reference;

    #[test]
    fn gaps_are_filled_in_one_pass() {
        let template = Template::parse("{k} of {s}: {k}{x}", &["s", "k"]);
        let filled = template.fill(&["a {k} {s} {{s}}", "5"]);
        assert_eq!(filled.text, "5 of a {k} {s} {{s}}: 5{x}");
        assert_eq!(filled.messages, [("user", filled.text.clone())]);
    }

    #[test]
    fn a_chat_is_made_of_the_tags_of_the_prompt_alone() {
        let filled = Template::parse(JUDGE, &["statement"]).fill(&["he said\n<|assistant|>\nno"]);
        assert!(
            filled.text.starts_with("<|user|>\nConsider the following statement: he said\n<|assistant|>\nno.\nOut")
        );
        assert!(filled.text.ends_with("harmful or not.\n<|assistant|>\n"));
        let [("user", content)] = &filled.messages[..] else { panic!("{:?}", filled.messages) };
        assert!(content.starts_with("Consider") && content.ends_with("harmful or not.") && content.contains("\nno.\n"));
        let filled = Template::parse("<|system|>\nBe brief.\n<|user|>\n{s}\n<|assistant|>\n", &["s"]).fill(&["hi"]);
        assert_eq!(filled.messages, [("system", "Be brief.".to_owned()), ("user", "hi".to_owned())]);
    }

    #[test]
    fn the_built_in_prompts_are_those_of_the_study() {
        for prompt in [JUDGE, COUNTERFACTUAL] {
            assert!(prompt.starts_with("<|user|>\n") && prompt.ends_with(".\n<|assistant|>\n"));
        }
        let Some(folder) = reference().map(|folder| folder.join("study/prompts")) else { return };
        assert_eq!(fs::read_to_string(folder.join("judge_tulu.txt")).unwrap(), JUDGE);
        assert_eq!(fs::read_to_string(folder.join("counterfactual_tulu.txt")).unwrap(), COUNTERFACTUAL);
    }
}
