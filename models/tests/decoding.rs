//! Decoding: agreement with transformers' greedy and beam search, stop texts, log-probabilities, forced choice, and
//! the edges of the context.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use palinode_models::choice::Choice;
use palinode_models::config::ConfigError;
use palinode_models::model::values;
use palinode_models::sampling::log_probabilities;
use palinode_models::tokenizer::{train_byte_bpe, train_word_level};
use palinode_models::{
    Batch, Beams, CausalLm, Completion, EarlyStopping, Finish, GenerateOptions, Layout, ModelConfig, ModelError,
    ModelFiles, Prompt, Sampling, Tokenizer, generate, score_choices,
};
use serde_json::Value;

const LAYOUTS: [Layout; 2] = [Layout::Packed, Layout::Padded];

fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(path)
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn rows(value: &Value) -> Vec<Vec<u32>> {
    serde_json::from_value(value.clone()).unwrap()
}

/// The prompts of a fixture: its rows without padding.
fn prompts(generation: &Value) -> Vec<Prompt> {
    let real = |(ids, mask): (Vec<u32>, Vec<u32>)| {
        Prompt::new(ids.into_iter().zip(mask).filter(|&(_, real)| real == 1).map(|(id, _)| id).collect())
    };
    rows(&generation["input_ids"]).into_iter().zip(rows(&generation["attention_mask"])).map(real).collect()
}

fn go(model: &CausalLm, tokenizer: &Tokenizer, prompts: &[Prompt], options: &GenerateOptions) -> Vec<Completion> {
    generate(model, tokenizer, prompts, options, |_, _| true).unwrap()
}

/// Compares with a run of transformers, which fills rows up behind their ends; `scores` only beam search has.
fn agrees(found: &[Completion], run: &Value, eos: Option<u32>, what: &str) {
    let sequences = rows(&run["sequences"]);
    assert_eq!(found.len(), sequences.len(), "{what}");
    for (at, (found, mut expected)) in found.iter().zip(sequences).enumerate() {
        if let Some(end) = expected.iter().position(|&id| Some(id) == eos) {
            expected.truncate(end + 1);
        }
        assert_eq!(found.tokens, expected, "{what}, row {at}");
        assert_eq!(found.finish == Finish::Eos, found.tokens.last().copied() == eos && eos.is_some(), "{what}");
        if let Some(score) = run["scores"][at].as_f64() {
            assert!((found.score.unwrap() - score).abs() < 1e-4, "{what}, row {at}: {:?} for {score}", found.score);
        }
    }
}

fn beam_options(eos: Option<u32>, max_new_tokens: usize, layout: Layout) -> GenerateOptions {
    GenerateOptions {
        max_new_tokens,
        samples: 4,
        eos: eos.into_iter().collect(),
        beams: Some(Beams::new(4)),
        layout: Some(layout),
        ..GenerateOptions::default()
    }
}

#[test]
fn beam_tokens_are_those_of_transformers() {
    for name in ["gpt2", "llama", "llama_gqa", "llama_tied"] {
        let model =
            CausalLm::load(&ModelFiles::folder(fixture("models").join(name)).unwrap(), &Device::flex()).unwrap();
        let folder = if name.starts_with("llama") { "llama" } else { name };
        let tokenizer = Tokenizer::load(&ModelFiles::folder(fixture("models").join(folder)).unwrap()).unwrap();
        let prompts = prompts(&json(&fixture(&format!("expected/{name}/generation.json"))));
        let expected = json(&fixture(&format!("expected/{name}/beam.json")));
        for run in ["beam4", "beam4_eos"] {
            let eos: Option<u32> = serde_json::from_value(expected[run]["eos"].clone()).unwrap();
            for layout in LAYOUTS {
                let found = go(&model, &tokenizer, &prompts, &beam_options(eos, 20, layout));
                agrees(&found, &expected[run], eos, &format!("{name} {run} {layout:?}"));
            }
        }
    }
}

/// All language models that the reference's manifest names, as far as there is a family for them.
#[test]
fn every_reference_model_decodes_as_in_transformers() {
    let Some(root) = std::env::var_os("PALINODE_REFERENCE").map(|root| PathBuf::from(root).join("fixtures")) else {
        return;
    };
    let manifest = json(&root.join("manifest.json"));
    let mut compared = 0;
    for (name, entry) in manifest["models"].as_object().unwrap() {
        // Variants in half precision have outputs of their own, and no decoded ones.
        if entry["task"] != "lm" || !entry["source"].is_null() {
            continue;
        }
        let model = match CausalLm::load(&ModelFiles::folder(root.join("models").join(name)).unwrap(), &Device::flex())
        {
            Err(ModelError::Config(ConfigError::ModelType(_))) => continue,
            model => model.unwrap_or_else(|error| panic!("{name}: {error}")),
        };
        let kind = entry["tokenizer"].as_str().unwrap();
        let tokenizer = Tokenizer::load(&ModelFiles::folder(root.join("tokenizers").join(kind)).unwrap()).unwrap();
        let expected = root.join("expected").join(entry["same_as"].as_str().unwrap_or(name)).join("expected.json");
        let generation = &json(&expected)["generation"];
        let prompts = prompts(generation);
        let most = generation["max_new_tokens"].as_u64().unwrap() as usize;
        for run in ["greedy", "greedy_eos", "beam4", "beam4_eos"] {
            let eos: Option<u32> = generation[run]["eos_token_id"].as_u64().map(|id| id as u32);
            for layout in LAYOUTS {
                let mut options = beam_options(eos, most, layout);
                if run.starts_with("greedy") {
                    options = GenerateOptions { beams: None, samples: 1, ..options };
                }
                let found = go(&model, &tokenizer, &prompts, &options);
                agrees(&found, &generation[run], eos, &format!("{name} {run} {layout:?}"));
            }
        }
        compared += 1;
    }
    assert!(compared >= 6, "only {compared} models were compared");
}

const VOCAB: usize = 300;

fn words() -> Tokenizer {
    let words: Vec<String> = (0..VOCAB).map(|word| format!("w{word:03}")).collect();
    Tokenizer::from_bytes(&train_word_level(&words, VOCAB).unwrap()).unwrap()
}

/// Models whose next token is not always the same.
fn models(context: usize) -> [CausalLm; 2] {
    let gpt2 = ModelConfig::gpt2(VOCAB, context, 48, 2, 4);
    let llama = ModelConfig { kv_heads: 2, ..ModelConfig::llama(VOCAB, context, 48, 2, 4, 96) };
    [gpt2, llama].map(|config| {
        let config = ModelConfig { initializer_range: 0.15, ..config };
        CausalLm::random(config, 7, &Device::flex()).unwrap()
    })
}

fn ragged(count: u32, longest: u32) -> Vec<Prompt> {
    let ids = |at: u32| (0..1 + at * 7 % longest).map(|token| 4 + (at * 131 + token * 97) % 290).collect();
    (0..count).map(|at| Prompt::new(ids(at))).collect()
}

#[test]
fn beams_do_not_depend_on_the_batch() {
    let tokenizer = words();
    for model in models(24) {
        let prompts = ragged(9, 12);
        let run = |prompts: &[Prompt], batch_size| {
            let beams = Beams { beams: 3, length_penalty: 0.7, early_stopping: EarlyStopping::Heuristic };
            let eos = (0..VOCAB as u32).filter(|id| id % 11 == 0).collect();
            let options = GenerateOptions {
                max_new_tokens: 9,
                beams: Some(beams),
                samples: 2,
                eos,
                batch_size,
                logprobs: true,
                ..GenerateOptions::default()
            };
            go(&model, &tokenizer, prompts, &options)
        };
        let alone = run(&prompts, 1);
        assert!(alone.iter().any(|one| one.finish == Finish::Eos));
        assert_eq!(run(&prompts, 100), alone);
        let reversed: Vec<Prompt> = prompts.iter().rev().cloned().collect();
        let mut found = run(&reversed, 8);
        found.iter_mut().for_each(|one| one.prompt = prompts.len() - 1 - one.prompt);
        found.sort_by_key(|one| (one.prompt, one.sample));
        assert_eq!(found, alone);
        for one in &alone {
            let sum: f64 = one.logprobs.as_ref().unwrap().iter().sum();
            let score = sum / (one.tokens.len() as f64).powf(0.7);
            assert!((one.score.unwrap() - score).abs() < 1e-9, "the score is the penalised sum");
        }
    }
}

/// One beam is greedy; more beams find nothing less probable, where all have one length.
#[test]
fn beams_find_at_least_what_greedy_finds() {
    let tokenizer = words();
    for model in models(24) {
        let prompts = ragged(6, 9);
        let logprob = |one: &Completion| one.logprobs.as_ref().unwrap().iter().sum::<f64>();
        let options = GenerateOptions { max_new_tokens: 6, logprobs: true, ..GenerateOptions::default() };
        let greedy = go(&model, &tokenizer, &prompts, &options);
        let with = |beams| GenerateOptions { beams: Some(Beams::new(beams)), ..options.clone() };
        let (one, many) = (go(&model, &tokenizer, &prompts, &with(1)), go(&model, &tokenizer, &prompts, &with(300)));
        for ((greedy, one), many) in greedy.iter().zip(&one).zip(&many) {
            assert_eq!(one.tokens, greedy.tokens);
            assert!(logprob(many) >= logprob(greedy) - 1e-9);
        }
    }
}

#[test]
fn early_stopping_takes_the_first_that_are_finished() {
    let tokenizer = words();
    let [model, _] = models(64);
    let prompts = ragged(8, 9);
    let run = |early_stopping, length_penalty| {
        let beams = Beams { beams: 3, length_penalty, early_stopping };
        let eos = (0..VOCAB as u32).filter(|id| id % 9 == 0).collect();
        let options = GenerateOptions { max_new_tokens: 30, beams: Some(beams), eos, ..GenerateOptions::default() };
        go(&model, &tokenizer, &prompts, &options)
    };
    let total = |found: &[Completion]| found.iter().map(|one| one.tokens.len()).sum::<usize>();
    let best = |found: &[Completion]| found.iter().map(|one| one.score.unwrap()).sum::<f64>();
    let [at_once, heuristic, never] =
        [EarlyStopping::AtOnce, EarlyStopping::Heuristic, EarlyStopping::Never].map(|early| run(early, 1.5));
    assert!(best(&at_once) <= best(&heuristic) && best(&heuristic) <= best(&never));
    assert!(best(&at_once) < best(&never), "going on finds better ones here");
    assert!(
        total(&run(EarlyStopping::Never, 3.0)) > total(&run(EarlyStopping::Never, -3.0)),
        "longer ones rank higher"
    );
}

/// Each layout against the other, greedy and drawn, with rows that end at different times.
#[test]
fn layouts_say_the_same() {
    let tokenizer = words();
    for model in models(64) {
        let prompts = ragged(21, 17);
        for temperature in [0.0, 1.0] {
            let run = |layout| {
                let options = GenerateOptions {
                    max_new_tokens: 12,
                    samples: if temperature > 0.0 { 3 } else { 1 },
                    eos: (0..VOCAB as u32).filter(|id| id % 8 == 0).collect(),
                    sampling: Sampling { temperature, top_k: Some(20), ..Sampling::greedy() },
                    batch_size: 10,
                    layout: Some(layout),
                    ..GenerateOptions::default()
                };
                go(&model, &tokenizer, &prompts, &options)
            };
            assert_eq!(run(Layout::Packed), run(Layout::Padded));
        }
    }
}

/// Cached logits against the whole pass, row by row, in both layouts and with rows that come, go and are copied.
#[test]
fn cached_rows_agree_with_the_whole_pass() {
    for model in models(64) {
        let whole = |ids: &[u32]| {
            let all = values(model.forward(&Batch::single(ids).unwrap()).unwrap());
            all[all.len() - VOCAB..].to_vec()
        };
        for layout in LAYOUTS {
            let mut cache = model.cache_in(layout, 50);
            let mut texts: Vec<Vec<u32>> = ragged(7, 13).into_iter().map(|prompt| prompt.ids).collect();
            let mut input = texts.clone();
            for step in 0..6u32 {
                let logits = values(model.decode(&input, &mut cache).unwrap());
                assert_eq!(cache.rows(), texts.len());
                for (row, logits) in logits.chunks(VOCAB).enumerate() {
                    assert_eq!(cache.len(row), texts[row].len());
                    for (a, b) in logits.iter().zip(whole(&texts[row])) {
                        assert!((a - b).abs() < 1e-4, "{layout:?}, step {step}, row {row}: {a} for {b}");
                    }
                }
                let keep: Vec<usize> = match step {
                    1 => vec![5, 1, 1, 2],
                    3 => vec![2],
                    _ => (0..texts.len()).rev().collect(),
                };
                cache.keep(&keep);
                texts = keep.iter().map(|&row| texts[row].clone()).collect();
                // One token for some rows and more for others.
                input = (0..texts.len() as u32)
                    .map(|row| (0..1 + (row + step) % 3).map(|at| 4 + row * 31 + at).collect())
                    .collect();
                texts.iter_mut().zip(&input).for_each(|(text, more)| text.extend(more));
            }
        }
        let mut cache = model.cache(3);
        let error = model.decode(&[[5, 6, 7, 8]], &mut cache).unwrap_err();
        assert_eq!(error.to_string(), "4 tokens do not fit the model's context of 3");
        assert!(matches!(model.decode(&[[300]], &mut cache), Err(ModelError::TokenId { id: 300, vocab: VOCAB })));
        assert!(matches!(model.decode::<[u32; 1]>(&[], &mut cache), Err(ModelError::EmptyBatch)));
    }
}

#[test]
fn logprobs_are_those_of_the_model_itself() {
    let tokenizer = words();
    for model in models(64) {
        let prompts = ragged(5, 11);
        let options = GenerateOptions {
            max_new_tokens: 5,
            samples: 2,
            sampling: Sampling {
                temperature: 0.5,
                top_p: Some(0.8),
                repetition_penalty: Some(1.3),
                ..Sampling::greedy()
            },
            logprobs: true,
            ..GenerateOptions::default()
        };
        for one in go(&model, &tokenizer, &prompts, &options) {
            let text = [&prompts[one.prompt].ids[..], &one.tokens].concat();
            let logits = values(model.forward(&Batch::single(&text).unwrap()).unwrap());
            let told = one.logprobs.unwrap();
            assert_eq!(told.len(), one.tokens.len());
            for (at, told) in told.iter().enumerate() {
                let place = prompts[one.prompt].ids.len() + at;
                let expected = log_probabilities(&logits[(place - 1) * VOCAB..place * VOCAB])[text[place] as usize];
                assert!((told - expected).abs() < 1e-4, "{told} for {expected}");
            }
        }
    }
}

/// A stop text ends a continuation wherever it comes up, even where it begins and ends within tokens.
#[test]
fn stop_texts_may_span_tokens() {
    let texts = ["the cat sat on the mat", "a dog saw the cat on a mat", "na\u{ef}ve \u{2603} snow"];
    let tokenizer = Tokenizer::from_bytes(&train_byte_bpe(&texts, VOCAB).unwrap()).unwrap();
    let vocab = tokenizer.vocab_size();
    let config = ModelConfig { initializer_range: 0.15, ..ModelConfig::gpt2(vocab, 64, 48, 2, 4) };
    let model = CausalLm::random(config, 1, &Device::flex()).unwrap();
    let prompts: Vec<Prompt> = texts.iter().map(|text| Prompt::text(text, &tokenizer).unwrap()).collect();
    let sampling = Sampling { temperature: 1.0, ..Sampling::greedy() };
    let options = GenerateOptions { max_new_tokens: 40, samples: 4, sampling, seed: 3, ..GenerateOptions::default() };
    let open = go(&model, &tokenizer, &prompts, &options);
    let mut spanned = 0;
    for open in &open {
        // Any two or three characters somewhere in the text.
        for start in [0, 3, open.text.chars().count() / 2] {
            let stop: String = open.text.chars().skip(start).take(3).collect();
            if stop.is_empty() || stop.contains('\u{fffd}') {
                continue;
            }
            let options = GenerateOptions { stop: vec!["never there".into(), stop.clone()], ..options.clone() };
            let found = &go(&model, &tokenizer, &prompts[open.prompt..=open.prompt], &options)[open.sample];
            let at = open.text.find(&stop).unwrap();
            assert_eq!((found.text.as_str(), found.finish), (&open.text[..at], Finish::Stop), "{stop:?}");
            assert_eq!(found.tokens, open.tokens[..found.tokens.len()]);
            let fewer = &found.tokens[..found.tokens.len() - 1];
            let before = tokenizer.decode_continuation(&prompts[open.prompt].ids, fewer).unwrap();
            assert!(!before.contains(&stop), "it ends with the token that completes {stop:?}");
            spanned += usize::from(before.len() > at && !before.ends_with('\u{fffd}'));
        }
    }
    assert!(spanned > 5, "{spanned} stop texts were longer than the token that ended them");
}

#[test]
fn the_context_is_never_passed() {
    let tokenizer = words();
    for model in models(16) {
        for layout in LAYOUTS {
            for beams in [None, Some(Beams::new(3))] {
                let options = GenerateOptions { layout: Some(layout), beams, ..GenerateOptions::default() };
                let go = |lengths: &[usize], options: &GenerateOptions| {
                    let prompts: Vec<Prompt> =
                        lengths.iter().map(|&length| Prompt::new((5..5 + length as u32).collect())).collect();
                    generate(&model, &tokenizer, &prompts, options, |_, _| true)
                };
                let found = go(&[16, 15, 1], &options).unwrap();
                let facts: Vec<_> = found.iter().map(|one| (one.tokens.len(), one.finish, one.context_full)).collect();
                assert_eq!(facts, [(0, Finish::Length, true), (1, Finish::Length, true), (15, Finish::Length, true)]);
                assert_eq!(found[0].text, "");
                let fits = go(&[4], &GenerateOptions { max_new_tokens: 12, ..options.clone() }).unwrap();
                assert_eq!((fits[0].tokens.len(), fits[0].context_full), (12, false));
                let none = go(&[4], &GenerateOptions { max_new_tokens: 0, ..options.clone() }).unwrap();
                assert_eq!((none[0].tokens.len(), none[0].context_full), (0, false));
                let told = |lengths: &[usize]| go(lengths, &options).unwrap_err().to_string();
                assert_eq!(told(&[3, 17]), "prompt 1 has 17 tokens, and the model's context is 16: shorten it");
                assert_eq!(
                    told(&[0]),
                    "prompt 0 has no token to continue, and the tokenizer has none that begins a text"
                );
                assert!(go(&[], &options).unwrap().is_empty());
            }
        }
    }
}

#[test]
fn a_thousand_prompts_and_one() {
    let tokenizer = words();
    let [model, _] = models(32);
    let prompts = ragged(1000, 20);
    let options = GenerateOptions { max_new_tokens: 5, batch_size: 1000, logprobs: true, ..GenerateOptions::default() };
    let mut calls = Vec::new();
    let all = generate(&model, &tokenizer, &prompts, &options, |done, total| {
        calls.push((done, total));
        true
    });
    let all = all.unwrap();
    assert_eq!(all.len(), 1000);
    assert_eq!(calls.last(), Some(&(1000, 1000)));
    assert!(calls.windows(2).all(|pair| pair[0].0 <= pair[1].0));
    for at in [0, 13, 999] {
        let alone = go(&model, &tokenizer, &prompts[at..=at], &options);
        assert_eq!(alone, [Completion { prompt: 0, ..all[at].clone() }]);
    }
}

#[test]
fn options_that_contradict_are_told() {
    let tokenizer = words();
    let [model, _] = models(16);
    let told = |options: GenerateOptions| {
        generate(&model, &tokenizer, &ragged(1, 3), &options, |_, _| true).unwrap_err().to_string()
    };
    let plain = GenerateOptions::default;
    let warm = Sampling { temperature: 1.0, ..Sampling::greedy() };
    let beams = Some(Beams::new(2));
    assert_eq!(
        told(GenerateOptions { beams, samples: 3, ..plain() }),
        "2 beams can't give 3 continuations of a prompt"
    );
    assert_eq!(
        told(GenerateOptions { beams, sampling: warm, ..plain() }),
        "beam search takes the most probable continuations; it doesn't draw"
    );
    assert_eq!(
        told(GenerateOptions { sampling: Sampling { min_p: Some(1.5), ..warm }, ..plain() }),
        "the min-p is 1.5, expected a number from 0 to 1"
    );
    assert_eq!(
        told(GenerateOptions { sampling: Sampling { temperature: f64::NAN, ..warm }, ..plain() }),
        "the temperature is NaN, expected 0 (greedy) or a positive number"
    );
}

fn options() -> Vec<Vec<u32>> {
    vec![vec![17], vec![18], vec![17, 40, 41], vec![200, 3], vec![18, 9]]
}

/// Forced choice against a whole pass for each option.
#[test]
fn choices_are_scored_as_by_whole_passes() {
    for model in models(64) {
        let choices: Vec<Choice> =
            ragged(9, 14).into_iter().map(|prompt| Choice { prompt: prompt.ids, options: options() }).collect();
        let found = score_choices(&model, &choices, 4, |_, _| true).unwrap();
        for (choice, found) in choices.iter().zip(&found) {
            let logprob = |option: &Vec<u32>| {
                let text = [&choice.prompt[..], option].concat();
                let logits = values(model.forward(&Batch::single(&text).unwrap()).unwrap());
                let token = |at: usize| log_probabilities(&logits[(at - 1) * VOCAB..at * VOCAB])[text[at] as usize];
                (choice.prompt.len()..text.len()).map(token).sum::<f64>()
            };
            let expected: Vec<f64> = choice.options.iter().map(logprob).collect();
            let total: f64 = expected.iter().map(|logprob| logprob.exp()).sum();
            for ((found, probability), expected) in found.logprobs.iter().zip(&found.probabilities).zip(&expected) {
                assert!((found - expected).abs() < 1e-4, "{found} for {expected}");
                assert!((probability - expected.exp() / total).abs() < 1e-4);
            }
            assert!((found.probabilities.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        }
        for batch_size in [1, 2, 100] {
            assert_eq!(score_choices(&model, &choices, batch_size, |_, _| true).unwrap(), found, "{batch_size}");
        }
        let reversed: Vec<Choice> = choices.iter().rev().cloned().collect();
        let mut again = score_choices(&model, &reversed, 4, |_, _| true).unwrap();
        again.reverse();
        assert_eq!(again, found);
        assert!(matches!(score_choices(&model, &choices, 2, |_, _| false), Err(ModelError::Cancelled)));
    }
}

#[test]
fn choices_of_text_keep_what_prompt_and_option_share() {
    let texts = ["the cat sat on the mat", "is it toxic? yes", "is it toxic? no", "answer: yes or no"];
    let tokenizer = Tokenizer::from_bytes(&train_byte_bpe(&texts, 290).unwrap()).unwrap();
    let choice = Choice::text("is it toxic?", &[" yes", " no", " nowhere near"], &tokenizer).unwrap();
    for (option, text) in choice.options.iter().zip([" yes", " no", " nowhere near"]) {
        let all = [&choice.prompt[..], option].concat();
        assert_eq!(all, tokenizer.encode(&format!("is it toxic?{text}"), true).unwrap());
    }
    // Without the space before the option, `ye` joins the prompt's last letters, and moves to the options.
    let joined = Choice::text("is it toxic? y", &["es", "o"], &tokenizer).unwrap();
    assert!(joined.options.iter().all(|option| !option.is_empty()));
    assert_eq!(tokenizer.decode(&[&joined.prompt[..], &joined.options[0]].concat(), true).unwrap(), "is it toxic? yes");
}

#[test]
fn choices_that_can_not_be_scored_are_told() {
    let [model, _] = models(16);
    let told = |prompt: usize, options: Vec<Vec<u32>>| {
        let prompt = (5..5 + prompt as u32).collect();
        score_choices(&model, &[Choice { prompt, options }], 4, |_, _| true).map(drop).unwrap_err().to_string()
    };
    assert_eq!(told(3, vec![]), "choice 0: there is no option to choose");
    assert_eq!(told(3, vec![vec![4], vec![]]), "choice 0: option 1 has no token of its own");
    assert_eq!(told(3, vec![vec![4, 5], vec![4, 5]]), "choice 0: options 0 and 1 are the same tokens");
    assert_eq!(
        told(0, vec![vec![4]]),
        "prompt 0 has no token to continue, and the tokenizer has none that begins a text"
    );
    assert_eq!(told(17, vec![vec![4]]), "prompt 0 has 17 tokens, and the model's context is 16: shorten it");
    assert_eq!(
        told(16, vec![vec![4], vec![4, 5]]),
        "choice 0: prompt and option 1 have 18 tokens, of which the model would read 17, and its context is 16: \
         shorten the prompt"
    );
    assert_eq!(told(3, vec![vec![300]]), "token id 300 is outside the vocabulary of 300");
    let full = [Choice { prompt: (5..21).collect(), options: vec![vec![4], vec![5]] }];
    assert_eq!(score_choices(&model, &full, 4, |_, _| true).unwrap()[0].probabilities.len(), 2);
}
