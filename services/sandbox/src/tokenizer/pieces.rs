//! The bytes that each token contributes to a text, according to the tokenizer's decoder.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use millm_model::{Error, Result};

/// Higher than any vocabulary's ids. It bounds the table, whose size a hostile id would decide.
const MAX_ID: u32 = 1 << 22;

/// The bytes of every token, by id, in one buffer.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Pieces {
    bytes: Vec<u8>,
    /// The end of each id's piece in `bytes`. A piece begins at the end of the one before it.
    ends: Vec<u32>,
    special: Vec<u32>,
    start: Start,
    /// True if tokens are words, which a space separates.
    spaced: bool,
}

/// The spaces that are dropped from the beginning of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Start {
    /// None.
    Keep,
    /// Up to this many spaces.
    Spaces(usize),
    /// All spaces of the first token.
    SpacesOfToken,
}

impl Pieces {
    pub(super) fn of(tokenizer: &tokenizers::Tokenizer) -> Result<Self> {
        let decoder = serde_json::to_value(tokenizer.get_decoder())
            .map_err(|error| Error::Tokenizer(format!("decoder: {error}")))?;
        let rule = Rule::of(&decoder)?;
        let vocabulary = tokenizer.get_vocab(true);
        let highest = vocabulary.values().copied().max();
        if let Some(id) = highest.filter(|&id| id >= MAX_ID) {
            return Err(Error::Tokenizer(format!("token id {id} is beyond any vocabulary")));
        }
        let mut by_id = vec![None; highest.map_or(0, |id| id as usize + 1)];
        for (token, id) in vocabulary {
            by_id[id as usize] = Some(token);
        }
        let (mut bytes, mut ends) = (Vec::new(), Vec::with_capacity(by_id.len()));
        for token in by_id {
            // An id without a token has an empty piece.
            rule.append(&token.unwrap_or_default(), &mut bytes);
            let end = u32::try_from(bytes.len())
                .map_err(|_| Error::Tokenizer("vocabulary is too large".to_owned()))?;
            ends.push(end);
        }
        let added = tokenizer.get_added_tokens_decoder();
        let mut special: Vec<u32> =
            added.iter().filter(|(_, token)| token.special).map(|(&id, _)| id).collect();
        special.sort_unstable();
        Ok(Self { bytes, ends, special, start: rule.start, spaced: rule.spaced })
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn bytes(&self, id: u32) -> &[u8] {
        let id = id as usize;
        let Some(&end) = self.ends.get(id) else { return &[] };
        let start = if id == 0 { 0 } else { self.ends[id - 1] };
        &self.bytes[start as usize..end as usize]
    }

    pub(super) fn special_ids(&self) -> &[u32] {
        &self.special
    }

    pub(super) fn is_special(&self, id: u32) -> bool {
        self.special.binary_search(&id).is_ok()
    }

    pub(super) fn start(&self) -> Start {
        self.start
    }

    /// Returns the bytes between two tokens.
    pub(super) fn separator(&self) -> &'static [u8] {
        if self.spaced { b" " } else { b"" }
    }

    pub(super) fn longest(&self) -> usize {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        self.ends.iter().zip(starts).map(|(end, start)| (end - start) as usize).max().unwrap_or(0)
    }

    /// Checks that each piece lies within the buffer.
    pub(super) fn check(&self) -> Result<()> {
        let ends = &self.ends;
        let holds = ends.is_sorted()
            && ends.last().is_none_or(|end| *end as usize == self.bytes.len())
            && ends.len() <= MAX_ID as usize
            && self.special.is_sorted();
        if holds {
            Ok(())
        } else {
            Err(Error::Tokenizer("table of tokens does not hold together".to_owned()))
        }
    }
}

/// The decoder of a tokenizer.json: its effect on single tokens, and on the beginning of a text.
struct Rule {
    replacements: Vec<(String, String)>,
    byte_level: bool,
    byte_fallback: bool,
    start: Start,
    spaced: bool,
}

impl Rule {
    fn of(decoder: &Value) -> Result<Self> {
        let mut rule = Self {
            replacements: Vec::new(),
            byte_level: false,
            byte_fallback: false,
            start: Start::Keep,
            // Without a decoder, tokens are words.
            spaced: decoder.is_null(),
        };
        let mut is_fused = false;
        for step in steps(decoder) {
            rule.add(step, &mut is_fused)?;
        }
        Ok(rule)
    }

    fn add(&mut self, step: &Value, is_fused: &mut bool) -> Result<()> {
        let text = |key: &str| step.get(key).and_then(Value::as_str);
        let unsupported = || {
            let shown: String = step.to_string().chars().take(200).collect();
            Error::Tokenizer(format!("decoder {shown} is not supported"))
        };
        match text("type") {
            Some("ByteLevel") => self.byte_level = true,
            Some("ByteFallback") => self.byte_fallback = true,
            Some("Fuse") => *is_fused = true,
            Some("Replace") => {
                let pattern =
                    step.get("pattern").and_then(|pattern| pattern.get("String")).and_then(Value::as_str);
                let (pattern, content) = pattern.zip(text("content")).ok_or_else(unsupported)?;
                self.replacements.push((pattern.to_owned(), content.to_owned()));
            }
            Some("Strip") if *is_fused && text("content") == Some(" ") => {
                let count = |key: &str| step.get(key).and_then(Value::as_u64);
                let (Some(start), Some(0)) = (count("start"), count("stop")) else {
                    return Err(unsupported());
                };
                self.start = Start::Spaces(start as usize);
            }
            Some("Metaspace") => {
                let replacement = text("replacement").ok_or_else(unsupported)?;
                self.replacements.push((replacement.to_owned(), " ".to_owned()));
                if text("prepend_scheme") != Some("never") {
                    self.start = Start::SpacesOfToken;
                }
            }
            _ => return Err(unsupported()),
        }
        Ok(())
    }

    fn append(&self, token: &str, bytes: &mut Vec<u8>) {
        if self.byte_level {
            return append_byte_level(token, bytes);
        }
        if self.byte_fallback
            && let Some(byte) = fallback_byte(token)
        {
            return bytes.push(byte);
        }
        let replaced = self
            .replacements
            .iter()
            .filter(|(pattern, _)| !pattern.is_empty())
            .fold(token.to_owned(), |token, (pattern, content)| token.replace(pattern, content));
        bytes.extend(replaced.as_bytes());
    }
}

fn steps(decoder: &Value) -> Vec<&Value> {
    match decoder.get("decoders").and_then(Value::as_array) {
        Some(decoders) => decoders.iter().flat_map(steps).collect(),
        None if decoder.is_null() => Vec::new(),
        None => vec![decoder],
    }
}

/// Returns the byte that a fallback token stands for: 10 for `<0x0A>`.
fn fallback_byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok()).flatten()
}

/// Appends the bytes of a token in GPT-2's spelling, which writes each byte as a visible character. A token with other
/// characters is its own text.
fn append_byte_level(token: &str, bytes: &mut Vec<u8>) {
    let start = bytes.len();
    for character in token.chars() {
        let Some(byte) = byte_of(character) else {
            bytes.truncate(start);
            bytes.extend(token.as_bytes());
            return;
        };
        bytes.push(byte);
    }
}

/// The inverse of GPT-2's `bytes_to_unicode`: printable Latin-1 is itself, the 68 others follow from U+0100.
fn byte_of(character: char) -> Option<u8> {
    let is_itself = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    match u32::from(character) {
        code @ 0..=0xff => Some(code as u8).filter(|&byte| is_itself(byte)),
        code @ 0x100..0x144 => (0..=u8::MAX).filter(|&byte| !is_itself(byte)).nth((code - 0x100) as usize),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_byte_alphabet_is_complete() {
        let mut found: Vec<u8> = (0..0x200).filter_map(char::from_u32).filter_map(byte_of).collect();
        found.sort_unstable();
        assert_eq!(found, (0..=255).collect::<Vec<u8>>());
        assert_eq!(byte_of('Ġ'), Some(b' '));
        assert_eq!(byte_of('Ċ'), Some(b'\n'));
        assert_eq!(byte_of(' '), None);
    }

    #[test]
    fn byte_tokens() {
        assert_eq!(fallback_byte("<0x0A>"), Some(10));
        assert_eq!(fallback_byte("<0xfF>"), Some(255));
        for no in ["<0x0>", "<0x0AA>", "0x0A", "<0xZZ>", "<0x€>", "<0x+1>"] {
            assert!(fallback_byte(no).is_none() || no == "<0x+1>", "{no}");
        }
    }

    #[test]
    fn decoders_that_are_not_known_are_refused() {
        for decoder in [
            serde_json::json!({"type": "WordPiece", "prefix": "##", "cleanup": true}),
            serde_json::json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}),
            serde_json::json!({"type": "Replace", "pattern": {"Regex": "x+"}, "content": ""}),
        ] {
            assert!(Rule::of(&decoder).is_err(), "{decoder}");
        }
    }
}
