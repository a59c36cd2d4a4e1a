//! What one forward pass is given: packed rows of many sequences.

use std::ops::Range;

use crate::cache::KvCache;
use crate::error::{Error, Result};
use crate::pages::SequenceId;

/// Which of the rows added need logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Logits {
    None,
    Last,
    All,
}

/// Consecutive rows of one sequence, at consecutive positions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    pub sequence: SequenceId,
    /// Rows of the batch.
    pub rows: Range<usize>,
    /// Position of the first row in its sequence.
    pub position: usize,
    /// The rows are those of a sequence that is at least so long: a prompt is read as a whole, however it is cut into
    /// chunks. Some models turn keys by it.
    pub reach: usize,
}

/// Rows of tokens, each at a position of a sequence: steps (of tokens that were generated) and chunks (of prompts).
/// Both kinds go through one pass; they differ in rounding, so a token's kind must not depend on when it is run.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    tokens: Vec<u32>,
    positions: Vec<usize>,
    segments: Vec<Segment>,
    outputs: Vec<usize>,
    steps: usize,
}

impl Batch {
    pub fn clear(&mut self) {
        self.tokens.clear();
        self.positions.clear();
        self.segments.clear();
        self.outputs.clear();
        self.steps = 0;
    }

    /// Adds the newest token of a sequence that generates; its logits are wanted. Steps come before all chunks.
    pub fn push_step(&mut self, cache: &KvCache, sequence: SequenceId, token: u32) {
        self.push_steps(cache, sequence, &[token], 1);
    }

    /// Adds several steps of a sequence at once, each computed as if it came alone; the logits of the last `wanted`
    /// are wanted.
    pub fn push_steps(&mut self, cache: &KvCache, sequence: SequenceId, tokens: &[u32], wanted: usize) {
        assert_eq!(self.steps, self.tokens.len(), "steps come first");
        // Each is the end of its sequence for itself.
        self.push_rows(cache, sequence, (tokens, 0), wanted);
        self.steps += tokens.len();
    }

    /// Adds a prompt, or what is left of it. One call for each sequence.
    pub fn push(&mut self, cache: &KvCache, sequence: SequenceId, tokens: &[u32], logits: Logits) {
        self.push_part(cache, sequence, tokens, cache.length(sequence) + tokens.len(), logits);
    }

    /// Adds a chunk of a prompt of `reach` tokens: the next tokens of a sequence, after those the cache already holds. One
    /// call for each sequence.
    pub fn push_part(
        &mut self,
        cache: &KvCache,
        sequence: SequenceId,
        tokens: &[u32],
        reach: usize,
        logits: Logits,
    ) {
        let wanted = match logits {
            Logits::None => 0,
            Logits::Last => 1,
            Logits::All => tokens.len(),
        };
        self.push_rows(cache, sequence, (tokens, reach), wanted);
    }

    fn push_rows(
        &mut self,
        cache: &KvCache,
        sequence: SequenceId,
        (tokens, reach): (&[u32], usize),
        wanted: usize,
    ) {
        let (start, position) = (self.tokens.len(), cache.length(sequence));
        self.tokens.extend_from_slice(tokens);
        self.positions.extend(position..position + tokens.len());
        let rows = start..self.tokens.len();
        self.outputs.extend(rows.end - wanted.min(tokens.len())..rows.end);
        self.segments.push(Segment { sequence, rows, position, reach });
    }

    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Of each row in its sequence.
    pub fn positions(&self) -> &[usize] {
        &self.positions
    }

    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Rows whose logits are wanted, ascending.
    pub fn outputs(&self) -> &[usize] {
        &self.outputs
    }

    /// How many rows, the first ones, are steps.
    pub fn steps(&self) -> usize {
        self.steps
    }

    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Everything kernels rely on.
    pub(crate) fn check(&self, cache: &KvCache, vocabulary: usize) -> Result<()> {
        if let Some(token) = self.tokens.iter().find(|token| **token as usize >= vocabulary) {
            return Err(Error::Batch(format!("token {token} is outside the vocabulary of {vocabulary}")));
        }
        for (index, segment) in self.segments.iter().enumerate() {
            let Some(table) = cache.pages().table(segment.sequence) else {
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
