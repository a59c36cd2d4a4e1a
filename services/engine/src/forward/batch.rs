//! A batch: the packed rows of many sequences that one forward pass runs.

use std::ops::Range;

use crate::error::{Error, Result};
use crate::kv_cache::{BlockPool, SequenceId};

/// The selection of added rows that need logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Logits {
    /// No row.
    None,
    /// The last row.
    Last,
    /// Every row.
    All,
}

/// The largest batch that needs no further memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchCapacity {
    /// Rows.
    pub rows: usize,
    /// Rows with logits.
    pub outputs: usize,
}

/// Consecutive rows of one sequence, at consecutive positions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// The sequence.
    pub sequence: SequenceId,
    /// Rows of the batch.
    pub rows: Range<usize>,
    /// Position of the first row in its sequence.
    pub position: usize,
    /// Tokens of the whole prompt that the rows belong to, however it is cut into chunks; 0 for decode rows. Some
    /// models choose their RoPE frequencies by it.
    pub prompt_length: usize,
}

/// Rows of tokens, each at a position of a sequence: decode rows (of generated tokens) and prefill rows (of prompts).
/// Both kinds run in one pass. They differ in rounding, so a token's kind must not depend on when it runs.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    tokens: Vec<u32>,
    positions: Vec<usize>,
    segments: Vec<Segment>,
    outputs: Vec<usize>,
    decode_rows: usize,
}

impl Batch {
    /// Removes all rows.
    pub fn clear(&mut self) {
        self.tokens.clear();
        self.positions.clear();
        self.segments.clear();
        self.outputs.clear();
        self.decode_rows = 0;
    }

    /// Adds the newest token of a sequence, with logits. Decode rows come before all prefill rows.
    pub fn push_decode(&mut self, blocks: &BlockPool, sequence: SequenceId, token: u32) {
        self.push_decode_rows(blocks, sequence, &[token], 1);
    }

    /// Adds several decode rows of a sequence, each computed as if it came alone; the last `outputs` of them have
    /// logits.
    pub fn push_decode_rows(
        &mut self,
        blocks: &BlockPool,
        sequence: SequenceId,
        tokens: &[u32],
        outputs: usize,
    ) {
        assert_eq!(self.decode_rows, self.tokens.len(), "decode rows come first");
        // Each row is the last of its sequence for itself.
        self.push_rows(blocks, sequence, tokens, 0, outputs);
        self.decode_rows += tokens.len();
    }

    /// Adds a prompt, or the rest of it. One call for each sequence.
    pub fn push_prefill(&mut self, blocks: &BlockPool, sequence: SequenceId, tokens: &[u32], logits: Logits) {
        let prompt_length = blocks.length(sequence) + tokens.len();
        self.push_prefill_chunk(blocks, sequence, tokens, prompt_length, logits);
    }

    /// Adds a chunk of a prompt of `prompt_length` tokens: the next tokens of a sequence, after those that the cache
    /// holds. One call for each sequence.
    pub fn push_prefill_chunk(
        &mut self,
        blocks: &BlockPool,
        sequence: SequenceId,
        tokens: &[u32],
        prompt_length: usize,
        logits: Logits,
    ) {
        let outputs = match logits {
            Logits::None => 0,
            Logits::Last => 1,
            Logits::All => tokens.len(),
        };
        self.push_rows(blocks, sequence, tokens, prompt_length, outputs);
    }

    fn push_rows(
        &mut self,
        blocks: &BlockPool,
        sequence: SequenceId,
        tokens: &[u32],
        prompt_length: usize,
        outputs: usize,
    ) {
        let (start, position) = (self.tokens.len(), blocks.length(sequence));
        self.tokens.extend_from_slice(tokens);
        self.positions.extend(position..position + tokens.len());
        let rows = start..self.tokens.len();
        self.outputs.extend(rows.end - outputs.min(tokens.len())..rows.end);
        self.segments.push(Segment { sequence, rows, position, prompt_length });
    }

    /// Returns the token of each row.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Returns the position of each row in its sequence.
    pub fn positions(&self) -> &[usize] {
        &self.positions
    }

    /// Returns the rows by sequence.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Returns the rows with logits, ascending.
    pub fn outputs(&self) -> &[usize] {
        &self.outputs
    }

    /// Returns how many rows, the first ones, are decode rows.
    pub fn decode_rows(&self) -> usize {
        self.decode_rows
    }

    /// Returns whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Checks everything that kernels rely on.
    pub(crate) fn check(&self, blocks: &BlockPool, vocabulary: usize) -> Result<()> {
        if let Some(token) = self.tokens.iter().find(|token| **token as usize >= vocabulary) {
            return Err(Error::Batch(format!("token {token} is outside the vocabulary of {vocabulary}")));
        }
        for (index, segment) in self.segments.iter().enumerate() {
            let Some(table) = blocks.table(segment.sequence) else {
                return Err(Error::Batch(format!("{:?} is not open", segment.sequence)));
            };
            if self.segments[..index].iter().any(|before| before.sequence == segment.sequence) {
                return Err(Error::Batch(format!("{:?} comes twice", segment.sequence)));
            }
            if segment.position != table.length() || segment.position + segment.rows.len() > table.capacity()
            {
                return Err(Error::Batch(format!(
                    "{} rows at position {} do not follow the {} tokens of {:?} within its {}",
                    segment.rows.len(),
                    segment.position,
                    table.length(),
                    segment.sequence,
                    table.capacity(),
                )));
            }
        }
        Ok(())
    }
}
