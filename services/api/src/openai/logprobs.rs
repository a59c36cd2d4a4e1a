//! Log probabilities in OpenAI's two formats, written directly from the Runtime's messages. An answer has up to
//! millions of them, and a copy would double its memory.

use std::collections::BTreeMap;

use millm_proto::runtime::v1::TokenLogprob;
use serde::{Deserialize, Serialize, Serializer, ser::SerializeMap as _};
use utoipa::ToSchema;

/// The log probability that stands for a probability of 0, because JSON has no infinity.
const LOWEST: f32 = -9999.0;

fn finite(logprob: f32) -> f32 {
    if logprob.is_nan() { LOWEST } else { logprob.max(LOWEST) }
}

/// The log probabilities of a chat's choice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = ChatLogprobs)]
pub struct ChatLogprobsSchema {
    /// One entry for each token.
    pub content: Vec<TokenLogprobSchema>,
    /// Always null: miLLM does not detect refusals.
    pub refusal: Option<Vec<TokenLogprobSchema>>,
}

/// A token with its log probability, and those of the most likely tokens at its position.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = TokenLogprob)]
pub struct TokenLogprobSchema {
    /// The token's text. Parts of characters are U+FFFD.
    pub token: String,
    /// The natural logarithm of its probability; -9999 for a probability of 0.
    pub logprob: f32,
    /// The bytes of the token's text.
    pub bytes: Vec<u8>,
    /// The most likely tokens, as many as `top_logprobs`, the most likely first.
    pub top_logprobs: Vec<TopLogprobSchema>,
}

/// A candidate for a position.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = TopLogprob)]
pub struct TopLogprobSchema {
    /// The token's text. Parts of characters are U+FFFD.
    pub token: String,
    /// The natural logarithm of its probability; -9999 for a probability of 0.
    pub logprob: f32,
    /// The bytes of the token's text.
    pub bytes: Vec<u8>,
}

/// The log probabilities of a completion's choice: four lists of the same length.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = CompletionLogprobs)]
pub struct CompletionLogprobsSchema {
    /// The tokens' texts.
    pub tokens: Vec<String>,
    /// The natural logarithms of their probabilities; null for the first token of a prompt.
    pub token_logprobs: Vec<Option<f32>>,
    /// The most likely tokens and the chosen one, by text; null for the first token of a prompt.
    pub top_logprobs: Vec<Option<BTreeMap<String, Option<f32>>>>,
    /// The beginning of each token, in characters of the choice's text.
    pub text_offset: Vec<usize>,
}

/// A list whose items are computed while it is written.
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
        let logprob = finite(token.logprob.unwrap_or(LOWEST));
        Self { token: &token.text, logprob, bytes: &token.raw }
    }
}

#[derive(Serialize)]
struct Entry<'a, T> {
    #[serde(flatten)]
    chosen: Candidate<'a>,
    top_logprobs: T,
}

/// The `logprobs` of a chat's choice.
#[derive(Debug, Clone, Copy)]
pub struct ChatLogprobs<'a> {
    /// The answer's tokens.
    pub tokens: &'a [TokenLogprob],
    /// The number of the most likely tokens that are shown.
    pub top: usize,
}

impl Serialize for ChatLogprobs<'_> {
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

/// The `logprobs` of a completion's choice: four lists of the same length, of the prompt's tokens and the answer's.
#[derive(Debug, Clone, Copy)]
pub struct CompletionLogprobs<'a> {
    /// The prompt's tokens if they are shown, otherwise none.
    pub prompt: &'a [TokenLogprob],
    /// The answer's tokens.
    pub answer: &'a [TokenLogprob],
    /// The number of the most likely tokens that are shown.
    pub top: usize,
    /// The beginning of the first token, in characters of the choice's text.
    pub start: usize,
}

impl<'a> CompletionLogprobs<'a> {
    fn tokens(&self) -> impl Iterator<Item = &'a TokenLogprob> + use<'a> {
        self.prompt.iter().chain(self.answer)
    }

    /// Returns the beginning of the next token after these, in characters of the choice's text.
    pub fn end(&self) -> usize {
        self.tokens().fold(self.start, |at, token| at + length(token))
    }
}

fn length(token: &TokenLogprob) -> usize {
    token.text.chars().count()
}

impl Serialize for CompletionLogprobs<'_> {
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
            &List(|| self.tokens().map(|token| token.logprob.map(finite))),
        )?;
        map.serialize_entry("top_logprobs", &List(|| self.tokens().map(top_of)))?;
        map.serialize_entry("text_offset", &List(offsets))?;
        map.end()
    }
}

/// The most likely tokens and the chosen one, by their text. The first token of a prompt has none.
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
            // Different tokens may have the same text. The more likely one comes first and is kept.
            if candidates.iter().take(n).all(|before| before.text != candidate.text) {
                map.serialize_entry(&candidate.text, &candidate.logprob.map(finite))?;
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

    #[test]
    fn what_is_written_is_what_the_schema_says() {
        let tokens = [token("a", None, &[]), token("b", Some(-1.0), &[("c", -0.5)])];
        let chat = written(&ChatLogprobs { tokens: &tokens[1..], top: 1 });
        let read: ChatLogprobsSchema = serde_json::from_value(chat.clone()).unwrap();
        assert_eq!(serde_json::to_value(read).unwrap(), chat);
        let plain = written(&CompletionLogprobs { prompt: &tokens, answer: &[], top: 1, start: 0 });
        let read: CompletionLogprobsSchema = serde_json::from_value(plain.clone()).unwrap();
        let again = serde_json::to_value(read).unwrap();
        assert_eq!(again, plain);
    }

    fn written(value: &impl Serialize) -> serde_json::Value {
        serde_json::from_str(&serde_json::to_string(value).unwrap()).unwrap()
    }

    #[test]
    fn the_chat_format() {
        let tokens = [token("é", Some(-0.1), &[("é", -0.1), ("e", f32::NEG_INFINITY), ("x", -3.0)])];
        assert_eq!(
            written(&ChatLogprobs { tokens: &tokens, top: 2 }),
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
        let plain = CompletionLogprobs { prompt: &prompt, answer: &answer, top: 2, start: 7 };
        assert_eq!(plain.end(), 11);
        assert_eq!(
            written(&plain),
            json!({"tokens": ["é", " b", "a"], "token_logprobs": [null, -2.5, -3.0],
                "top_logprobs": [null, {"c": -0.5, " b": -2.5}, {"a": -0.5}], "text_offset": [7, 8, 10]})
        );
    }
}
