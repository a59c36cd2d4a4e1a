//! Log probabilities in the two formats of OpenAI.

use millm_proto::runtime::v1::TokenLogprob;
use serde_json::{Map, Value, json};

/// What stands for "never": JSON has no infinity.
const NEVER: f32 = -9999.0;

fn number(logprob: Option<f32>) -> Value {
    logprob.map_or(Value::Null, |logprob| {
        let logprob = if logprob.is_nan() { NEVER } else { logprob.max(NEVER) };
        // By way of text: 0.1 as f32 is no 0.10000000149011612.
        logprob.to_string().parse::<f64>().map_or(Value::Null, Value::from)
    })
}

/// Chat: `content` of a choice's `logprobs`.
pub fn chat(tokens: &[TokenLogprob], top: usize) -> Vec<Value> {
    let entry = |token: &TokenLogprob| {
        let logprob = number(Some(token.logprob.unwrap_or(NEVER)));
        json!({"token": token.text, "logprob": logprob, "bytes": token.raw})
    };
    tokens
        .iter()
        .map(|token| {
            let mut value = entry(token);
            value["top_logprobs"] = token.top.iter().take(top).map(entry).collect();
            value
        })
        .collect()
}

/// Plain completions: four lists of the same length. Offsets count characters of the choice's text.
#[derive(Debug, Default)]
pub struct Plain {
    tokens: Vec<Value>,
    token_logprobs: Vec<Value>,
    top_logprobs: Vec<Value>,
    text_offset: Vec<usize>,
    offset: usize,
}

impl Plain {
    pub fn starting_at(offset: usize) -> Self {
        Self { offset, ..Self::default() }
    }

    /// Where the next token begins.
    pub fn offset(&self) -> usize {
        self.offset
    }

    pub fn add(&mut self, tokens: &[TokenLogprob], top: usize) {
        for token in tokens {
            self.tokens.push(Value::from(token.text.as_str()));
            self.token_logprobs.push(number(token.logprob));
            self.top_logprobs.push(top_of(token, top));
            self.text_offset.push(self.offset);
            self.offset += token.text.chars().count();
        }
    }

    pub fn into_value(self) -> Value {
        json!({
            "tokens": self.tokens,
            "token_logprobs": self.token_logprobs,
            "top_logprobs": self.top_logprobs,
            "text_offset": self.text_offset,
        })
    }
}

/// The most likely tokens by their text, and the chosen one. The first token of all has none.
fn top_of(token: &TokenLogprob, top: usize) -> Value {
    if token.logprob.is_none() {
        return Value::Null;
    }
    let mut map = Map::new();
    for candidate in token.top.iter().take(top) {
        // Different tokens may read the same: the likelier comes first and stays.
        map.entry(candidate.text.as_str()).or_insert_with(|| number(candidate.logprob));
    }
    map.entry(token.text.as_str()).or_insert_with(|| number(token.logprob));
    Value::Object(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(text: &str, logprob: Option<f32>, top: &[(&str, f32)]) -> TokenLogprob {
        let top = top.iter().map(|&(text, logprob)| token(text, Some(logprob), &[])).collect();
        TokenLogprob { text: text.into(), raw: text.as_bytes().to_vec(), logprob, top, token_id: 1 }
    }

    #[test]
    fn the_chat_format() {
        let tokens = [token("é", Some(-0.1), &[("é", -0.1), ("e", f32::NEG_INFINITY), ("x", -3.0)])];
        assert_eq!(
            Value::from(chat(&tokens, 2)),
            json!([{"token": "é", "logprob": -0.1, "bytes": [195, 169], "top_logprobs": [
                {"token": "é", "logprob": -0.1, "bytes": [195, 169]},
                {"token": "e", "logprob": -9999.0, "bytes": [101]}]}])
        );
    }

    #[test]
    fn the_plain_format() {
        let mut plain = Plain::default();
        plain.add(&[token("é", None, &[]), token(" b", Some(-2.5), &[("c", -0.5)])], 1);
        assert_eq!(plain.offset(), 3);
        assert_eq!(
            plain.into_value(),
            json!({"tokens": ["é", " b"], "token_logprobs": [null, -2.5],
                "top_logprobs": [null, {"c": -0.5, " b": -2.5}], "text_offset": [0, 1]})
        );
    }
}
