//! The quickstart's study at its smallest: seconds, not minutes, and every kind of link.

/// A pipeline in which every feature that the tests need occurs.
pub(crate) const MINI: &str = r#"
name: mini
axes:
  seed: [0, 1]
  rank: [2, full]
stages:
  world: { uses: corpus.planted, with: { identities: 4, contexts: 2, traits: 4, sentences: 200, seed: 1 } }
  tokenizer: { uses: tokenizer.train, inputs: { dataset: world.corpus }, with: { model: word } }
  base:
    uses: pretrain
    over: [seed]
    inputs: { dataset: world.corpus, tokenizer: tokenizer }
    with:
      architecture: { family: gpt2, layers: 1, width: 16, heads: 2, context: 16 }
      steps: 30
      batch_size: 16
      learning_rate: 0.01
      seed: "${seed}"
  completions: { uses: generate, inputs: { model: base, prompts: world.prompts }, with: { max_new_tokens: 3, seed: 2 } }
  verdicts: { uses: judge.lexicon, inputs: { completions: completions, lexicon: world.lexicon } }
  remedies:
    uses: counterfactuals.templates
    inputs: { verdicts: verdicts, statements: world.statements }
    with: { k: 2 }
  tuned:
    uses: finetune
    over: [rank]
    inputs: { model: base, data: remedies }
    with: { rank: "${rank}", learning_rate: 0.01, steps: 20, batch_size: 8 }
  again: { uses: generate, inputs: { model: tuned, prompts: world.prompts }, with: { max_new_tokens: 3, seed: 3 } }
  judged: { uses: judge.lexicon, inputs: { completions: again, lexicon: world.lexicon } }
  before: { uses: evaluate.toxicity, inputs: { verdicts: verdicts }, gather: [seed] }
  toxicity: { uses: evaluate.toxicity, inputs: { verdicts: judged }, gather: [seed, rank] }
  figure2: { uses: figure.toxicity, inputs: { rates: toxicity, before: before }, with: { bars: rank } }
"#;

/// Instances of [`MINI`]: 2 without axes, 4 per seed, 3 per seed and rank, 3 that gather.
pub(crate) const INSTANCES: u64 = 2 + 4 * 2 + 3 * 4 + 3;
