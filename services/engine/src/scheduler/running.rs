//! A sequence in the running batch, with its KV blocks.

use crate::kv_cache::{BLOCK_SIZE, BlockKey, BlockPool, SequenceId};
use crate::scheduler::sequence::{NextRows, Sequence};

/// A sequence and the name of its blocks in the pool.
pub(crate) struct Running {
    pub id: SequenceId,
    pub sequence: Sequence,
}

impl Running {
    /// Returns how many of its tokens are in the KV cache.
    pub fn computed(&self, blocks: &BlockPool) -> usize {
        blocks.length(self.id)
    }

    /// Returns the rows to run next.
    pub fn next_rows(&self, blocks: &BlockPool) -> NextRows {
        self.sequence.next_rows(self.computed(blocks))
    }

    /// Returns whether the rows to run next are the prompt's.
    pub fn is_prefilling(&self, blocks: &BlockPool) -> bool {
        matches!(self.next_rows(blocks), NextRows::Prefill(_))
    }

    /// Returns the key of the block that it needs next, if it may share that block.
    pub fn shareable_key(&self, blocks: &BlockPool) -> Option<BlockKey> {
        let table = blocks.table(self.id)?;
        let start = table.cached() * BLOCK_SIZE;
        let block = self.sequence.shareable_block(start).filter(|_| start == table.length());
        let (tokens, prompt_tokens) = block?;
        Some(table.next_key(tokens, prompt_tokens))
    }

    /// Returns the key that the block it is computing will have.
    pub fn computing_key(&self, blocks: &BlockPool) -> Option<BlockKey> {
        let table = blocks.table(self.id)?;
        let (tokens, prompt_tokens) = self.sequence.block(table.cached() * BLOCK_SIZE)?;
        Some(table.next_key(tokens, prompt_tokens))
    }

    /// Adds its full blocks up to token `until` to the prefix cache.
    pub fn cache_full_blocks(&self, blocks: &mut BlockPool, until: usize) {
        while let Some(table) = blocks.table(self.id) {
            let start = table.cached() * BLOCK_SIZE;
            let full = start + BLOCK_SIZE <= table.length().min(until);
            let Some((tokens, prompt_tokens)) = self.sequence.block(start).filter(|_| full) else { return };
            let key = table.next_key(tokens, prompt_tokens);
            blocks.cache_block(self.id, key);
        }
    }
}
