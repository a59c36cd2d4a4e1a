//! Detokenization: token ids to text, one at a time, without splitting characters.

use std::sync::Arc;

use millm_model::Result;
use serde::{Deserialize, Serialize};

use super::pieces::{Pieces, Start};

/// Turns token ids into text. It is plain data that a sandboxed tokenizer hands to the server, so decoding runs no
/// program by a stranger. Cheap to clone, shared between threads.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Detokenizer {
    pieces: Arc<Pieces>,
}

impl Detokenizer {
    pub(super) fn new(pieces: Pieces) -> Self {
        Self { pieces: Arc::new(pieces) }
    }

    /// Checks the table, which came from another process.
    ///
    /// # Errors
    /// [`Error::Tokenizer`](millm_model::Error::Tokenizer) if the table is inconsistent.
    pub fn check(&self) -> Result<()> {
        self.pieces.check()
    }

    /// Returns the text of all tokens. Bytes that are not UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        let mut decoder = TextDecoder::new(Arc::clone(&self.pieces), skip_special);
        let mut text: String = ids.iter().map(|&id| decoder.push(id)).collect();
        text.push_str(&decoder.flush());
        text
    }

    /// Returns an incremental decoder that skips special tokens.
    pub fn decoder(&self) -> TextDecoder {
        TextDecoder::new(Arc::clone(&self.pieces), true)
    }

    /// Returns the bytes of a token within a text, or none for an unknown id. They may be a part of a character.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        self.pieces.bytes(id)
    }

    /// Returns the length of the longest token's text, in bytes.
    pub fn longest_token(&self) -> usize {
        self.pieces.longest()
    }

    /// Returns one more than the highest id. The model's own vocabulary may be larger.
    pub fn vocab_size(&self) -> usize {
        self.pieces.len()
    }

    /// Returns the ids of tokens that are no text (chat markers, padding), in ascending order.
    pub fn special_ids(&self) -> &[u32] {
        self.pieces.special_ids()
    }
}

/// An incremental detokenizer. The texts of all pushes and of the flush together equal the text of decoding all ids at
/// once.
#[derive(Debug, Clone)]
pub struct TextDecoder {
    pieces: Arc<Pieces>,
    skip_special: bool,
    /// The bytes of an incomplete character: three at most.
    pending: Vec<u8>,
    /// The spaces that are still dropped from the beginning.
    start: Start,
    is_first: bool,
}

impl TextDecoder {
    pub(super) fn new(pieces: Arc<Pieces>, skip_special: bool) -> Self {
        let start = pieces.start();
        Self { pieces, skip_special, pending: Vec::new(), start, is_first: true }
    }

    /// Returns the characters that this token completes. The text is empty while a character is incomplete, and for
    /// special tokens.
    pub fn push(&mut self, id: u32) -> String {
        if self.skip_special && self.pieces.is_special(id) {
            return String::new();
        }
        let pieces = Arc::clone(&self.pieces);
        if (id as usize) < pieces.len() && !std::mem::replace(&mut self.is_first, false) {
            self.pending.extend(pieces.separator());
        }
        self.append(pieces.bytes(id));
        self.take_whole()
    }

    /// Returns an incomplete character as U+FFFD, and resets the decoder.
    pub fn flush(&mut self) -> String {
        let rest = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        self.start = self.pieces.start();
        self.is_first = true;
        rest
    }

    fn append(&mut self, piece: &[u8]) {
        match self.start {
            Start::Keep => self.pending.extend(piece),
            Start::Spaces(most) => {
                let dropped = piece.iter().take(most).take_while(|&&byte| byte == b' ').count();
                let left = most - dropped;
                let goes_on = left > 0 && dropped == piece.len();
                self.start = if goes_on { Start::Spaces(left) } else { Start::Keep };
                self.pending.extend(&piece[dropped..]);
            }
            Start::SpacesOfToken => {
                self.start = Start::Keep;
                self.pending.extend(piece.iter().filter(|&&byte| byte != b' '));
            }
        }
    }

    /// Takes all but an incomplete last character. Bytes that cannot become a character are U+FFFD.
    fn take_whole(&mut self) -> String {
        let unfinished = match self.pending.utf8_chunks().last() {
            // An invalid end is incomplete if more bytes could make it valid.
            Some(last) if !last.invalid().is_empty() && is_prefix(last.invalid()) => last.invalid().len(),
            _ => 0,
        };
        let whole = self.pending.len() - unfinished;
        let text = String::from_utf8_lossy(&self.pending[..whole]).into_owned();
        self.pending.drain(..whole);
        text
    }
}

/// Returns whether these bytes begin a character.
fn is_prefix(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}
