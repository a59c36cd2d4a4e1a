//! The prefix cache: full blocks by their tokens and by everything before them, so that a sequence that begins like
//! an earlier one shares its blocks instead of computing them again.
//!
//! Lookups compare the tokens themselves, never a hash of them alone. Two blocks are the same only when their rows
//! were computed the same way: prefill rows and decode rows differ in rounding, and an answer must not depend on what
//! other requests asked before.

use std::collections::{BTreeMap, HashMap};

use crate::kv_cache::block::BLOCK_SIZE;

/// Names the content of all blocks of a sequence up to one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PrefixId {
    /// No block yet. Sequences whose keys are rotated by different RoPE frequencies
    /// ([`millm_model::ModelSpec::rope_regime`]) share nothing.
    Empty {
        /// The regime of the sequence's prompt.
        rope_regime: usize,
    },
    /// Everything up to and including a block.
    Block(u64),
}

impl Default for PrefixId {
    fn default() -> Self {
        Self::Empty { rope_regime: 0 }
    }
}

/// The content of a full block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlockKey {
    /// Everything before the block.
    pub prefix: PrefixId,
    /// The block's tokens.
    pub tokens: [u32; BLOCK_SIZE],
    /// The number of tokens, from the first on, that belong to a prompt. The others were generated.
    pub prompt_tokens: usize,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    block: u32,
    id: PrefixId,
}

/// Blocks of known content, and the order in which unused ones are evicted.
#[derive(Debug, Default)]
pub(crate) struct PrefixCache {
    by_key: HashMap<BlockKey, Entry>,
    by_block: HashMap<u32, BlockKey>,
    /// Blocks that no sequence holds, by the time of their release.
    unused: BTreeMap<u64, u32>,
    /// Block to its time of release.
    released: HashMap<u32, u64>,
    last_id: u64,
    last_release: u64,
}

impl PrefixCache {
    /// Returns the number of blocks that no sequence holds.
    pub fn unused(&self) -> usize {
        self.unused.len()
    }

    /// Returns the block of this content, and the name of the prefix that ends with it.
    pub fn find(&self, key: &BlockKey) -> Option<(u32, PrefixId)> {
        self.by_key.get(key).map(|entry| (entry.block, entry.id))
    }

    /// Adds a block. Neither `key` nor `block` may be in the cache yet.
    pub fn insert(&mut self, block: u32, key: BlockKey) -> PrefixId {
        self.last_id += 1;
        let id = PrefixId::Block(self.last_id);
        self.by_key.insert(key, Entry { block, id });
        self.by_block.insert(block, key);
        id
    }

    /// Notes that a sequence holds the block again.
    pub fn retain(&mut self, block: u32) {
        if let Some(time) = self.released.remove(&block) {
            self.unused.remove(&time);
        }
    }

    /// Notes that no sequence holds the block any more. Returns whether the cache keeps it.
    pub fn release(&mut self, block: u32) -> bool {
        if !self.by_block.contains_key(&block) {
            return false;
        }
        self.last_release += 1;
        self.unused.insert(self.last_release, block);
        self.released.insert(block, self.last_release);
        true
    }

    /// Forgets the unused block that was released first, and returns it.
    pub fn evict(&mut self) -> Option<u32> {
        let (_, block) = self.unused.pop_first()?;
        self.released.remove(&block);
        if let Some(key) = self.by_block.remove(&block) {
            self.by_key.remove(&key);
        }
        Some(block)
    }

    #[cfg(test)]
    pub fn unused_blocks(&self) -> impl Iterator<Item = u32> + '_ {
        self.unused.values().copied()
    }
}
