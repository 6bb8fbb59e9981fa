//! What ends a continuation.

use super::{Finish, GenerateOptions, Prompt};
use crate::error::Result;
use crate::tokenizer::Tokenizer;

/// Looks for the end of one prompt's continuations.
pub(super) struct Ending<'a> {
    pub(super) tokenizer: &'a Tokenizer,
    pub(super) options: &'a GenerateOptions,
    /// Bytes of the longest stop text.
    longest_stop: usize,
}

/// Bytes that one more token may change before its own: a character that was not whole, a space that is trimmed.
const SLACK: usize = 8;

impl<'a> Ending<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer, options: &'a GenerateOptions) -> Self {
        let longest_stop = options.stop.iter().map(String::len).max().unwrap_or(0);
        Ending { tokenizer, options, longest_stop }
    }

    /// Text and reason, if the last of `tokens` ended the continuation, of which there may be `budget`.
    pub(super) fn reached(&self, prompt: &Prompt, tokens: &[u32], budget: usize) -> Result<Option<(String, Finish)>> {
        let eos = tokens.last().is_some_and(|last| self.options.eos.contains(last));
        let full = tokens.len() >= budget;
        if !eos && !full && !self.may_stop(tokens)? {
            return Ok(None);
        }
        // An end-of-text id need not be a special token of the tokenizer; it is never text.
        let texted = &tokens[..tokens.len() - usize::from(eos)];
        let mut text = self.tokenizer.decode_continuation(&prompt.ids, texted)?;
        let stops = self.options.stop.iter().filter(|stop| !stop.is_empty());
        if let Some(at) = stops.filter_map(|stop| text.find(stop.as_str())).min() {
            text.truncate(at);
            return Ok(Some((text, Finish::Stop)));
        }
        Ok(match (eos, full) {
            (true, _) => Some((text, Finish::Eos)),
            (false, true) => Some((text, Finish::Length)),
            (false, false) => None,
        })
    }

    /// Whether a stop text may have come up with the last token. Decodes only the last tokens, as many as hold the
    /// longest stop text: to decode all of them after each one would take the square of their number.
    fn may_stop(&self, tokens: &[u32]) -> Result<bool> {
        if self.longest_stop == 0 {
            return Ok(false);
        }
        let wanted = self.longest_stop + SLACK;
        let before_last = tokens.len().saturating_sub(1);
        let mut count = wanted;
        loop {
            let start = before_last.saturating_sub(count);
            // Some tokens have no text: look further back then.
            if start > 0 && self.tokenizer.decode(&tokens[start..before_last], true)?.len() < wanted {
                count *= 2;
                continue;
            }
            let text = self.tokenizer.decode(&tokens[start..], true)?;
            // Decoding may trim the space that a text begins with.
            let found =
                |stop: &&String| text.contains(stop.as_str()) || start == 0 && text.starts_with(stop.trim_start());
            return Ok(self.options.stop.iter().filter(|stop| !stop.is_empty()).any(|stop| found(&stop)));
        }
    }
}
