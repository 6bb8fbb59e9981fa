//! Answers of a model at the input port `model`.

use palinode_engine::{context::Context, stage::StageError};
use palinode_models::{
    CausalLm, GenerateOptions, ModelError, Prompt, Sampling, Tokenizer,
    choice::{Choice, score_choices},
    generate::end_of_text,
};

use super::{Ask, Generation, Reply, Said, YesNo, spellings};
use crate::{
    random,
    records::Finish,
    runtime::{base_files, failed, load, on_cpus},
};

/// See [`super::ask`].
pub(super) fn ask(ctx: &Context<'_>, asks: &[Ask], how: &Generation) -> Result<Vec<Vec<Reply>>, StageError> {
    on_cpus(ctx, || answer(ctx, asks, how))
}

fn answer(ctx: &Context<'_>, asks: &[Ask], how: &Generation) -> Result<Vec<Vec<Reply>>, StageError> {
    let (files, model, tokenizer) = load(ctx)?;
    let starts: Vec<Prompt> =
        asks.iter().map(|ask| start(ask, &tokenizer)).collect::<Result<_, _>>().map_err(failed)?;
    let context = model.config().context;
    // The last place of the context is for what is said.
    let fits = |start: &Prompt| !start.ids.is_empty() && start.ids.len() < context;
    let (mut fitting, mut replies) = (Vec::new(), Vec::new());
    for (at, start) in starts.iter().enumerate() {
        replies.push(Vec::new());
        if fits(start) {
            fitting.push(at);
        } else {
            let why = format!("the prompt has {} tokens, and the model's context is {context}", start.ids.len());
            replies[at] = vec![Reply::Refused(why); how.samples];
        }
    }
    let said: Vec<Prompt> = fitting.iter().map(|&at| starts[at].clone()).collect();
    if how.max_new_tokens > 0 {
        let options = GenerateOptions {
            max_new_tokens: how.max_new_tokens,
            samples: how.samples,
            eos: end_of_text(&base_files(&files), model.config(), &tokenizer).map_err(failed)?,
            sampling: Sampling { temperature: how.temperature, top_p: how.top_p, ..Sampling::greedy() },
            seed: how.seed,
            batch_size: how.batch_size,
            ..GenerateOptions::default()
        };
        let progress = |done: usize, total: usize| ctx.progress(done, total, "answer").is_ok();
        for made in palinode_models::generate(&model, &tokenizer, &said, &options, progress).map_err(failed)? {
            let finish = match made.finish {
                palinode_models::Finish::Eos => Finish::Eos,
                palinode_models::Finish::Stop => Finish::Stop,
                palinode_models::Finish::Length => Finish::Length,
            };
            replies[fitting[made.prompt]].push(Reply::Said(Said { text: made.text, finish, scores: None }));
        }
    } else {
        let nothing = Said { text: String::new(), finish: Finish::Length, scores: None };
        fitting.iter().for_each(|&at| replies[at] = vec![Reply::Said(nothing.clone()); how.samples]);
    }
    if how.scores {
        let texts: Vec<&str> = fitting.iter().map(|&at| asks[at].prompt.text.as_str()).collect();
        let all = scores(ctx, &model, &tokenizer, &texts, how.batch_size)?;
        for (at, scores) in fitting.into_iter().zip(all) {
            let said = replies[at].iter_mut().filter_map(|reply| match reply {
                Reply::Said(said) => Some(said),
                Reply::Refused(_) => None,
            });
            said.for_each(|said| said.scores = scores);
        }
    }
    Ok(replies)
}

fn start(ask: &Ask, tokenizer: &Tokenizer) -> Result<Prompt, ModelError> {
    let mut start = Prompt::text(&ask.prompt.text, tokenizer)?;
    once(&mut start.ids, tokenizer);
    start.key = random::key(&[&ask.key]);
    Ok(start)
}

/// A prompt that spells out the token that begins a text gets another one from the tokenizer.
fn once(ids: &mut Vec<u32>, tokenizer: &Tokenizer) {
    if let Some(bos) = tokenizer.special().bos
        && ids.starts_with(&[bos, bos])
    {
        ids.remove(0);
    }
}

/// How probable "yes" and "no" are behind each prompt, after one reading; none where the tokenizer can't tell them apart.
fn scores(
    ctx: &Context<'_>,
    model: &CausalLm,
    tokenizer: &Tokenizer,
    prompts: &[&str],
    batch_size: usize,
) -> Result<Vec<Option<YesNo>>, StageError> {
    let words = [spellings("yes"), spellings("no")].concat();
    let mut choices = Vec::new();
    let mut sides = Vec::with_capacity(prompts.len());
    for prompt in prompts {
        let mut choice = Choice::text(prompt, &words, tokenizer).map_err(failed)?;
        once(&mut choice.prompt, tokenizer);
        let (options, is_yes) = distinct(&choice.options);
        let longest = options.iter().map(Vec::len).max().unwrap_or(0);
        let fits = choice.prompt.len() + longest <= model.config().context + 1;
        let both = is_yes.contains(&true) && is_yes.contains(&false);
        if fits && both {
            sides.push(Some(is_yes));
            choices.push(Choice { options, ..choice });
        } else {
            sides.push(None);
        }
    }
    let progress = |done: usize, total: usize| ctx.progress(done, total, "score").is_ok();
    let mut scored = score_choices(model, &choices, batch_size, progress).map_err(failed)?.into_iter();
    let mut sum = |is_yes: Vec<bool>| {
        let logprobs = scored.next()?.logprobs;
        let of = |side: bool| {
            let side = logprobs.iter().zip(&is_yes).filter(move |(_, yes)| **yes == side);
            side.map(|(&logprob, _)| libm::exp(logprob)).sum::<f64>()
        };
        Some(YesNo { yes: of(true), no: of(false) })
    };
    Ok(sides.into_iter().map(|sides| sides.and_then(&mut sum)).collect())
}

/// Of the spellings (those of "yes" first), the tokens that stand for just one of both words, and whether it is "yes".
/// Where one begins with another of the same word, its probability is in that of the other.
fn distinct(options: &[Vec<u32>]) -> (Vec<Vec<u32>>, Vec<bool>) {
    let (yes, no) = options.split_at(options.len() / 2);
    let mut kept: (Vec<Vec<u32>>, Vec<bool>) = Default::default();
    for (own, other, is_yes) in [(yes, no, true), (no, yes, false)] {
        let mut own: Vec<&Vec<u32>> = own.iter().filter(|ids| !ids.is_empty() && !other.contains(ids)).collect();
        own.sort_by_key(|ids| ids.len());
        let mut sums: Vec<Vec<u32>> = Vec::new();
        for ids in own {
            if !sums.iter().any(|shorter| ids.starts_with(shorter)) {
                sums.push(ids.clone());
            }
        }
        kept.1.extend(vec![is_yes; sums.len()]);
        kept.0.extend(sums);
    }
    kept
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use palinode_models::ModelFiles;

    use super::*;
    use crate::provider::{
        Filled,
        template::{JUDGE, Template},
    };

    #[test]
    fn the_token_that_begins_a_text_comes_once_and_tags_are_text() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/fixtures/models/llama");
        let tokenizer = Tokenizer::load(&ModelFiles::folder(&folder).unwrap()).unwrap();
        let bos = tokenizer.special().bos.unwrap();
        let spelled = tokenizer.token(bos).unwrap();
        let template = Template::parse(JUDGE, &["statement"]);
        let ids = |text: String| {
            let prompt = Filled { messages: Vec::new(), text };
            start(&Ask { key: "a".into(), prompt }, &tokenizer).unwrap().ids
        };
        let plain = ids(template.fill(&["hi"]).text);
        assert_eq!(plain.iter().filter(|&&id| id == bos).count(), 1);
        assert_eq!(tokenizer.decode(&plain, true).unwrap().trim_start(), template.fill(&["hi"]).text);
        // A prompt file that spells it out.
        let doubled = ids(format!("{spelled}{}", template.fill(&["hi"]).text));
        assert_eq!(doubled.iter().filter(|&&id| id == bos).count(), 1);
    }

    #[test]
    fn spellings_that_say_both_or_nothing_are_left_out() {
        // Yes: 1, 2, and 2 3 (in 2); 7 stands for both; of "no" 4, and one that has no token.
        let yes: [&[u32]; 4] = [&[1], &[7], &[2, 3], &[2]];
        let no: [&[u32]; 4] = [&[7], &[4], &[], &[4, 5]];
        let options: Vec<Vec<u32>> = yes.iter().chain(&no).map(|ids| ids.to_vec()).collect();
        assert_eq!(distinct(&options), (vec![vec![1], vec![2], vec![4]], vec![true, true, false]));
    }
}
