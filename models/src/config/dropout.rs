//! Rates of dropout, as `config.json` names them. They say how a model was meant to be trained, and nothing of how it
//! computes: only a training run that asks for them drops anything.

use serde_json::{Value, json};

use super::{ConfigError, Family, ModelConfig, keys::Keys};

/// Probabilities with which activations are dropped while training.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct DropoutRates {
    /// Of the embeddings (GPT-2's `embd_pdrop`, BERT's `hidden_dropout_prob`; OPT and Llama have none there).
    pub embedding: f64,
    /// Of what attention and MLP add to the stream (`resid_pdrop`, `dropout`, `hidden_dropout_prob`; Llama has none).
    pub hidden: f64,
    /// Of attention weights (`attn_pdrop`, `attention_dropout`, `attention_probs_dropout_prob`).
    pub attention: f64,
    /// Of what BERT's classifier reads (`classifier_dropout`, by default the hidden one).
    pub head: f64,
}

impl DropoutRates {
    /// One rate wherever transformers' model of the family has a place for it.
    pub fn of(family: Family, rate: f64) -> Self {
        let at = |is: bool| if is { rate } else { 0.0 };
        DropoutRates {
            embedding: at(matches!(family, Family::Gpt2 | Family::Bert)),
            hidden: at(family != Family::Llama),
            attention: rate,
            head: at(family == Family::Bert),
        }
    }

    /// What transformers takes where a file says nothing.
    pub fn usual(family: Family) -> Self {
        DropoutRates::of(family, if family == Family::Llama { 0.0 } else { 0.1 })
    }

    /// The keys of embedding, hidden and attention.
    fn keys(family: Family) -> [Option<&'static str>; 3] {
        match family {
            Family::Gpt2 => [Some("embd_pdrop"), Some("resid_pdrop"), Some("attn_pdrop")],
            Family::Opt => [None, Some("dropout"), Some("attention_dropout")],
            Family::Llama => [None, None, Some("attention_dropout")],
            // One for both.
            Family::Bert => [None, Some("hidden_dropout_prob"), Some("attention_probs_dropout_prob")],
        }
    }

    pub(super) fn read(keys: Keys<'_>, family: Family) -> Result<Self, ConfigError> {
        let usual = DropoutRates::usual(family);
        let rate = |key: Option<&'static str>, usual: f64| key.map_or(Ok(usual), |key| keys.rate(key, usual));
        let [embedding, hidden, attention] = DropoutRates::keys(family);
        let mut rates = DropoutRates {
            embedding: rate(embedding, usual.embedding)?,
            hidden: rate(hidden, usual.hidden)?,
            attention: rate(attention, usual.attention)?,
            head: 0.0,
        };
        if family == Family::Bert {
            rates.embedding = rates.hidden;
            rates.head = keys.rate("classifier_dropout", rates.hidden)?;
        }
        Ok(rates)
    }

    pub(super) fn render(config: &ModelConfig, value: &mut Value) {
        let DropoutRates { embedding, hidden, attention, head } = config.dropout;
        for (key, rate) in DropoutRates::keys(config.family).into_iter().zip([embedding, hidden, attention]) {
            if let Some(key) = key {
                value[key] = json!(rate);
            }
        }
        if config.family == Family::Bert && head != hidden {
            value["classifier_dropout"] = json!(head);
        }
    }

    /// The first that is no probability below 1.
    pub(crate) fn wrong(self) -> Option<f64> {
        let DropoutRates { embedding, hidden, attention, head } = self;
        [embedding, hidden, attention, head].into_iter().find(|rate| !(0.0..1.0).contains(rate))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_as_they_are_written_and_have_the_usual_defaults() {
        let parse = |value: &Value| ModelConfig::parse(&value.to_string()).unwrap();
        for (shape, family) in [
            (ModelConfig::gpt2(9, 8, 4, 1, 2), Family::Gpt2),
            (ModelConfig::opt(9, 8, 4, 1, 2, 8), Family::Opt),
            (ModelConfig::llama(9, 8, 4, 1, 2, 8), Family::Llama),
            (ModelConfig::bert(9, 8, 4, 1, 2, 8), Family::Bert),
        ] {
            assert_eq!(shape.dropout, DropoutRates::default());
            let rates = DropoutRates { attention: 0.25, ..DropoutRates::of(family, 0.5) };
            let rates = DropoutRates { head: if family == Family::Bert { 0.125 } else { 0.0 }, ..rates };
            let config = ModelConfig { dropout: rates, ..shape };
            let mut value: Value = serde_json::from_str(&config.render()).unwrap();
            assert_eq!(parse(&value), config);
            let keys = value.as_object_mut().unwrap();
            keys.retain(|key, _| !key.contains("drop"));
            assert_eq!(parse(&value).dropout, DropoutRates::usual(family));
        }
        let error = ModelConfig::parse(r#"{"model_type": "gpt2", "resid_pdrop": 1.0}"#).unwrap_err();
        insta::assert_snapshot!(error, @"config.json: `resid_pdrop` is 1.0, expected a probability below 1");
    }
}
