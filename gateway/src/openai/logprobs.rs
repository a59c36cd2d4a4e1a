//! Log probabilities in the two formats of OpenAI, written straight from what the runtime sent.

use millm_proto::runtime::v1::TokenLogprob;
use serde::{Serialize, Serializer, ser::SerializeMap as _};

/// What stands for "never": JSON has no infinity.
const NEVER: f32 = -9999.0;

fn number(logprob: f32) -> f32 {
    if logprob.is_nan() { NEVER } else { logprob.max(NEVER) }
}

/// A list that is made as it is written.
struct List<F>(F);

impl<I: IntoIterator<Item: Serialize>, F: Fn() -> I> Serialize for List<F> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0())
    }
}

#[derive(Serialize)]
struct Candidate<'a> {
    token: &'a str,
    logprob: f32,
    bytes: &'a [u8],
}

impl<'a> Candidate<'a> {
    fn of(token: &'a TokenLogprob) -> Self {
        let logprob = number(token.logprob.unwrap_or(NEVER));
        Self { token: &token.text, logprob, bytes: &token.raw }
    }
}

#[derive(Serialize)]
struct Entry<'a, T> {
    #[serde(flatten)]
    chosen: Candidate<'a>,
    top_logprobs: T,
}

/// Chat: a choice's `logprobs`, with those of the `top` most likely tokens.
#[derive(Clone, Copy)]
pub struct Chat<'a> {
    pub tokens: &'a [TokenLogprob],
    pub top: usize,
}

impl Serialize for Chat<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { tokens, top } = *self;
        let entries = move || {
            tokens.iter().map(move |token| Entry {
                chosen: Candidate::of(token),
                top_logprobs: List(move || token.top.iter().take(top).map(Candidate::of)),
            })
        };
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("content", &List(entries))?;
        map.serialize_entry("refusal", &())?;
        map.end()
    }
}

/// Plain completions: four lists of the same length, of the prompt's tokens and the answer's. Offsets count characters
/// of the choice's text.
#[derive(Clone, Copy)]
pub struct Plain<'a> {
    pub prompt: &'a [TokenLogprob],
    pub answer: &'a [TokenLogprob],
    pub top: usize,
    /// Where the first token begins.
    pub start: usize,
}

impl<'a> Plain<'a> {
    fn tokens(&self) -> impl Iterator<Item = &'a TokenLogprob> + use<'a> {
        self.prompt.iter().chain(self.answer)
    }

    /// Where the token after these begins.
    pub fn end(&self) -> usize {
        self.tokens().fold(self.start, |at, token| at + length(token))
    }
}

fn length(token: &TokenLogprob) -> usize {
    token.text.chars().count()
}

impl Serialize for Plain<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { top, start, .. } = *self;
        let top_of = |token| Top { token, top };
        let offsets = || {
            self.tokens().scan(start, |at, token| {
                let own = *at;
                *at += length(token);
                Some(own)
            })
        };
        let mut map = serializer.serialize_map(Some(4))?;
        map.serialize_entry("tokens", &List(|| self.tokens().map(|token| &token.text)))?;
        map.serialize_entry(
            "token_logprobs",
            &List(|| self.tokens().map(|token| token.logprob.map(number))),
        )?;
        map.serialize_entry("top_logprobs", &List(|| self.tokens().map(top_of)))?;
        map.serialize_entry("text_offset", &List(offsets))?;
        map.end()
    }
}

/// The most likely tokens by their text, and the chosen one. The first token of all has none.
struct Top<'a> {
    token: &'a TokenLogprob,
    top: usize,
}

impl Serialize for Top<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.token.logprob.is_none() {
            return serializer.serialize_none();
        }
        let candidates = &self.token.top[..self.top.min(self.token.top.len())];
        let mut map = serializer.serialize_map(None)?;
        for (n, candidate) in candidates.iter().chain([self.token]).enumerate() {
            // Different tokens may read the same: the likelier comes first and stays.
            if candidates.iter().take(n).all(|before| before.text != candidate.text) {
                map.serialize_entry(&candidate.text, &candidate.logprob.map(number))?;
            }
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn token(text: &str, logprob: Option<f32>, top: &[(&str, f32)]) -> TokenLogprob {
        let top = top.iter().map(|&(text, logprob)| token(text, Some(logprob), &[])).collect();
        TokenLogprob { text: text.into(), raw: text.as_bytes().to_vec(), logprob, top, token_id: 1 }
    }

    fn written(value: &impl Serialize) -> serde_json::Value {
        serde_json::from_str(&serde_json::to_string(value).unwrap()).unwrap()
    }

    #[test]
    fn the_chat_format() {
        let tokens = [token("é", Some(-0.1), &[("é", -0.1), ("e", f32::NEG_INFINITY), ("x", -3.0)])];
        assert_eq!(
            written(&Chat { tokens: &tokens, top: 2 }),
            json!({"content": [{"token": "é", "logprob": -0.1, "bytes": [195, 169], "top_logprobs": [
                {"token": "é", "logprob": -0.1, "bytes": [195, 169]},
                {"token": "e", "logprob": -9999.0, "bytes": [101]}]}], "refusal": null})
        );
    }

    #[test]
    fn the_plain_format() {
        let prompt = [token("é", None, &[])];
        let answer = [
            token(" b", Some(-2.5), &[("c", -0.5)]),
            token("a", Some(-3.0), &[("a", -0.5), ("a", -1.0), ("a", -2.0)]),
        ];
        let plain = Plain { prompt: &prompt, answer: &answer, top: 2, start: 7 };
        assert_eq!(plain.end(), 11);
        assert_eq!(
            written(&plain),
            json!({"tokens": ["é", " b", "a"], "token_logprobs": [null, -2.5, -3.0],
                "top_logprobs": [null, {"c": -0.5, " b": -2.5}, {"a": -0.5}], "text_offset": [7, 8, 10]})
        );
    }
}
