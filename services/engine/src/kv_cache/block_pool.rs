//! The block pool: which sequence holds which blocks of the KV cache. It is accounting only, the same for every
//! device.
//!
//! A block is free, held by one sequence or by several with the same prefix, or cached: held by no sequence, but of
//! known content ([`crate::kv_cache::prefix_cache`]). Cached blocks are evicted, least recently used first, when no
//! free block is left. Blocks are numbers here; a store knows their content. Shared blocks are full, so no sequence
//! writes to a block that another one reads.

use crate::kv_cache::block::BLOCK_SIZE;
use crate::kv_cache::prefix_cache::{BlockKey, PrefixCache, PrefixId};

/// A sequence that holds blocks. It is valid until it is released; numbers are used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SequenceId(u32);

/// The place of one token's key and value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvSlot {
    /// The block's number.
    pub block: usize,
    /// The token's index within the block.
    pub offset: usize,
}

/// A block whose content has to be copied to another, see [`BlockPool::fork`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockCopy {
    /// The block to read.
    pub from: usize,
    /// The block to overwrite.
    pub to: usize,
}

/// The blocks of one sequence, in order of position.
#[derive(Debug, Default)]
pub struct BlockTable {
    blocks: Vec<u32>,
    /// Tokens whose keys and values are in the cache.
    length: usize,
    /// The number of blocks, from the first on, that are in the prefix cache.
    cached: usize,
    /// The content of those blocks.
    prefix: PrefixId,
}

impl BlockTable {
    /// Returns the place of the token at a position.
    #[inline]
    pub fn slot(&self, position: usize) -> KvSlot {
        KvSlot { block: self.blocks[position / BLOCK_SIZE] as usize, offset: position % BLOCK_SIZE }
    }

    /// Returns the number of tokens whose keys and values are in the cache.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Returns the number of tokens that fit its blocks.
    pub fn capacity(&self) -> usize {
        self.blocks.len() * BLOCK_SIZE
    }

    /// Returns how many of its blocks, the first ones, the prefix cache knows.
    pub fn cached(&self) -> usize {
        self.cached
    }

    /// Returns the key of the block after the cached ones, if it holds these tokens, the first `prompt_tokens` of
    /// them a prompt's.
    pub fn next_key(&self, tokens: [u32; BLOCK_SIZE], prompt_tokens: usize) -> BlockKey {
        BlockKey { prefix: self.prefix, tokens, prompt_tokens }
    }
}

/// A fixed number of blocks, and the sequences that hold them.
#[derive(Debug)]
pub struct BlockPool {
    /// The number of sequences that hold each block.
    holders: Vec<u32>,
    /// Last freed, first used: those blocks are in the processor's caches.
    free: Vec<u32>,
    prefix_cache: PrefixCache,
    tables: Vec<Option<BlockTable>>,
}

impl BlockPool {
    /// Makes a pool of `total` free blocks.
    pub fn new(total: usize) -> Self {
        Self {
            holders: vec![0; total],
            free: (0..total as u32).rev().collect(),
            prefix_cache: PrefixCache::default(),
            tables: Vec::new(),
        }
    }

    /// Returns the number of all blocks.
    pub fn total_blocks(&self) -> usize {
        self.holders.len()
    }

    /// Returns the number of blocks without content.
    pub fn free_blocks(&self) -> usize {
        self.free.len()
    }

    /// Returns the number of blocks that no sequence holds and that the prefix cache keeps.
    pub fn cached_blocks(&self) -> usize {
        self.prefix_cache.unused()
    }

    /// Returns the number of blocks that a sequence can get.
    pub fn available_blocks(&self) -> usize {
        self.free_blocks() + self.cached_blocks()
    }

    /// Opens a sequence without blocks. It shares blocks only with sequences of the same RoPE regime; 0 for models
    /// whose keys do not depend on the length of their prompt.
    pub fn open(&mut self, rope_regime: usize) -> SequenceId {
        let index = self.tables.iter().position(Option::is_none).unwrap_or_else(|| {
            self.tables.push(None);
            self.tables.len() - 1
        });
        let prefix = PrefixId::Empty { rope_regime };
        self.tables[index] = Some(BlockTable { prefix, ..BlockTable::default() });
        SequenceId(index as u32)
    }

    /// Opens a sequence with room for `tokens` tokens; `None` when there are too few blocks.
    pub fn allocate(&mut self, tokens: usize) -> Option<SequenceId> {
        let sequence = self.open(0);
        if self.reserve(sequence, tokens) {
            return Some(sequence);
        }
        self.release(sequence);
        None
    }

    /// Makes room for `tokens` tokens in all. Returns `false`, and takes nothing, when there are too few blocks.
    pub fn reserve(&mut self, sequence: SequenceId, tokens: usize) -> bool {
        let more = tokens.div_ceil(BLOCK_SIZE).saturating_sub(self.expect(sequence).blocks.len());
        if more > self.available_blocks() {
            return false;
        }
        for _ in 0..more {
            let block = self.free.pop().or_else(|| self.prefix_cache.evict()).expect("counted above");
            self.holders[block as usize] = 1;
            self.expect_mut(sequence).blocks.push(block);
        }
        true
    }

    /// Shares the block of this content as the sequence's next one. All blocks of the sequence so far must be full
    /// and in the prefix cache. Returns whether there is such a block.
    pub fn share_prefix(&mut self, sequence: SequenceId, key: &BlockKey) -> bool {
        let Some((block, prefix)) = self.prefix_cache.find(key) else { return false };
        let table = self.expect(sequence);
        debug_assert!(table.length == table.cached * BLOCK_SIZE && table.prefix == key.prefix);
        let index = table.cached;
        self.retain_block(block);
        let table = self.expect_mut(sequence);
        table.length += BLOCK_SIZE;
        (table.cached, table.prefix) = (index + 1, prefix);
        if index == table.blocks.len() {
            table.blocks.push(block);
        } else {
            let reserved = std::mem::replace(&mut table.blocks[index], block);
            self.release_block(reserved);
        }
        true
    }

    /// Adds the sequence's next full block to the prefix cache. If another block holds the same content already, the
    /// sequence uses that one from then on.
    pub fn cache_block(&mut self, sequence: SequenceId, key: BlockKey) {
        let table = self.expect(sequence);
        let index = table.cached;
        debug_assert!(table.length >= (index + 1) * BLOCK_SIZE && table.prefix == key.prefix);
        let own = table.blocks[index];
        let (block, prefix) =
            self.prefix_cache.find(&key).unwrap_or_else(|| (own, self.prefix_cache.insert(own, key)));
        if block != own {
            self.retain_block(block);
            self.release_block(own);
        }
        let table = self.expect_mut(sequence);
        table.blocks[index] = block;
        (table.cached, table.prefix) = (index + 1, prefix);
    }

    /// Gives `to` the content of `from`, whose full blocks must all be in the prefix cache: those are shared. Returns
    /// the copy that a last, partly filled block needs. `to` must have room reserved for all tokens.
    pub fn fork(&mut self, from: SequenceId, to: SequenceId) -> Option<BlockCopy> {
        let parent = self.expect(from);
        let (length, cached, prefix) = (parent.length, parent.cached, parent.prefix);
        debug_assert!(cached == length / BLOCK_SIZE && self.expect(to).capacity() >= length);
        for index in 0..cached {
            let (shared, own) = (self.expect(from).blocks[index], self.expect(to).blocks[index]);
            if shared != own {
                self.retain_block(shared);
                self.expect_mut(to).blocks[index] = shared;
                self.release_block(own);
            }
        }
        let table = self.expect_mut(to);
        (table.length, table.cached, table.prefix) = (length, cached, prefix);
        let rest = self.expect(from).blocks.get(cached).filter(|_| !length.is_multiple_of(BLOCK_SIZE));
        rest.map(|block| BlockCopy { from: *block as usize, to: self.expect(to).blocks[cached] as usize })
    }

    /// Forgets the tokens from `length` on. Their blocks stay reserved.
    pub fn truncate(&mut self, sequence: SequenceId, length: usize) {
        let table = self.expect_mut(sequence);
        debug_assert!(length <= table.length && length >= table.cached * BLOCK_SIZE);
        table.length = length;
    }

    /// Releases all blocks of a sequence. A second release is harmless until the number is used again.
    pub fn release(&mut self, sequence: SequenceId) {
        if let Some(table) = self.tables.get_mut(sequence.0 as usize).and_then(Option::take) {
            // The last first: a block is of no use without those before it, so it must be evicted before them.
            for block in table.blocks.into_iter().rev() {
                self.release_block(block);
            }
        }
    }

    /// Returns the blocks of a sequence; `None` if it is not open.
    pub fn table(&self, sequence: SequenceId) -> Option<&BlockTable> {
        self.tables.get(sequence.0 as usize)?.as_ref()
    }

    /// Returns the number of a sequence's tokens that are in the cache; 0 if it is not open.
    pub fn length(&self, sequence: SequenceId) -> usize {
        self.table(sequence).map_or(0, BlockTable::length)
    }

    /// Notes that `tokens` more tokens are in the cache.
    pub fn advance(&mut self, sequence: SequenceId, tokens: usize) {
        let table = self.expect_mut(sequence);
        table.length += tokens;
        debug_assert!(table.length <= table.capacity());
    }

    fn retain_block(&mut self, block: u32) {
        self.holders[block as usize] += 1;
        self.prefix_cache.retain(block);
    }

    fn release_block(&mut self, block: u32) {
        let holders = &mut self.holders[block as usize];
        *holders -= 1;
        if *holders == 0 && !self.prefix_cache.release(block) {
            self.free.push(block);
        }
    }

    fn expect(&self, sequence: SequenceId) -> &BlockTable {
        self.table(sequence).expect("an open sequence")
    }

    fn expect_mut(&mut self, sequence: SequenceId) -> &mut BlockTable {
        self.tables[sequence.0 as usize].as_mut().expect("an open sequence")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Operation {
        Open,
        /// Room for more tokens, which are then computed. Their values come from a small range, so that contents
        /// meet.
        Grow(usize, Vec<u32>),
        CacheBlock(usize),
        SharePrefix(usize, u32),
        Fork(usize, usize),
        Truncate(usize, usize),
        Release(usize),
    }

    fn operations() -> impl Strategy<Value = Vec<Operation>> {
        use Operation::{CacheBlock, Fork, Grow, Open, Release, SharePrefix, Truncate};
        let one = prop_oneof![
            3 => Just(Open),
            6 => (0usize..6, proptest::collection::vec(0u32..2, 0..4)).prop_map(|(i, t)| Grow(i, t)),
            6 => (0usize..6).prop_map(CacheBlock),
            4 => (0usize..6, 0u32..2).prop_map(|(i, t)| SharePrefix(i, t)),
            2 => (0usize..6, 0usize..6).prop_map(|(a, b)| Fork(a, b)),
            2 => (0usize..6, 0usize..40).prop_map(|(i, n)| Truncate(i, n)),
            3 => (0usize..6).prop_map(Release),
        ];
        proptest::collection::vec(one, 0..120)
    }

    /// The invariants after each operation.
    fn check(pool: &BlockPool, open: &[SequenceId]) -> Result<(), TestCaseError> {
        let mut holders = vec![0; pool.total_blocks()];
        for sequence in open {
            let table = pool.table(*sequence).unwrap();
            prop_assert!(table.length <= table.capacity() && table.cached <= table.length / BLOCK_SIZE);
            for block in &table.blocks {
                holders[*block as usize] += 1;
            }
            // A block that may still be written has one holder.
            for block in &table.blocks[table.cached..] {
                prop_assert_eq!(pool.holders[*block as usize], 1);
            }
        }
        prop_assert_eq!(&holders, &pool.holders);
        let held = holders.iter().filter(|holders| **holders > 0).count();
        prop_assert_eq!(pool.free_blocks() + pool.cached_blocks() + held, pool.total_blocks());
        let mut unheld: Vec<u32> =
            pool.free.iter().copied().chain(pool.prefix_cache.unused_blocks()).collect();
        unheld.sort_unstable();
        unheld.dedup();
        prop_assert_eq!(unheld.len(), pool.available_blocks());
        prop_assert!(unheld.iter().all(|block| pool.holders[*block as usize] == 0));
        Ok(())
    }

    proptest! {
        #[test]
        fn each_block_is_free_or_cached_or_held(operations in operations()) {
            let mut pool = BlockPool::new(12);
            let mut open: Vec<SequenceId> = Vec::new();
            for operation in operations {
                let table = |pool: &BlockPool, index: usize| -> (usize, usize) {
                    let table = pool.table(open[index]).unwrap();
                    (table.length, table.cached)
                };
                match operation {
                    Operation::Open if open.len() < 6 => open.push(pool.open(0)),
                    Operation::Grow(index, tokens) if index < open.len() => {
                        let (length, _) = table(&pool, index);
                        let more = tokens.iter().map(|n| 7 + 30 * *n as usize).sum::<usize>();
                        let wanted = (length + more).div_ceil(BLOCK_SIZE);
                        let has = pool.table(open[index]).unwrap().blocks.len();
                        let fits = wanted.saturating_sub(has) <= pool.available_blocks();
                        prop_assert_eq!(pool.reserve(open[index], length + more), fits);
                        if fits {
                            pool.advance(open[index], more);
                        }
                    }
                    Operation::CacheBlock(index) if index < open.len() => {
                        let (length, cached) = table(&pool, index);
                        if cached < length / BLOCK_SIZE {
                            let tokens = [cached as u32 % 2; BLOCK_SIZE];
                            let key = pool.table(open[index]).unwrap().next_key(tokens, BLOCK_SIZE);
                            pool.cache_block(open[index], key);
                        }
                    }
                    Operation::SharePrefix(index, token) if index < open.len() => {
                        let (length, cached) = table(&pool, index);
                        if length == cached * BLOCK_SIZE {
                            let tokens = [token; BLOCK_SIZE];
                            let key = pool.table(open[index]).unwrap().next_key(tokens, BLOCK_SIZE);
                            let found = pool.prefix_cache.find(&key).is_some();
                            prop_assert_eq!(pool.share_prefix(open[index], &key), found);
                        }
                    }
                    Operation::Fork(from, to) if from < open.len() && to < open.len() && from != to => {
                        let (length, cached) = table(&pool, from);
                        let fresh = table(&pool, to) == (0, 0);
                        if fresh && cached == length / BLOCK_SIZE && pool.reserve(open[to], length) {
                            let copy = pool.fork(open[from], open[to]);
                            prop_assert_eq!(copy.is_some(), length % BLOCK_SIZE > 0);
                            prop_assert_eq!(table(&pool, to), (length, cached));
                        }
                    }
                    Operation::Truncate(index, less) if index < open.len() => {
                        let (length, cached) = table(&pool, index);
                        pool.truncate(open[index], length.saturating_sub(less).max(cached * BLOCK_SIZE));
                    }
                    Operation::Release(index) if index < open.len() => {
                        pool.release(open.swap_remove(index));
                    }
                    _ => {}
                }
                check(&pool, &open)?;
            }
            for sequence in open.drain(..) {
                pool.release(sequence);
            }
            check(&pool, &open)?;
            prop_assert_eq!(pool.available_blocks(), pool.total_blocks());
        }
    }

    /// A sequence of full blocks, block `n` filled with `n`, all in the prefix cache.
    fn filled(pool: &mut BlockPool, count: usize) -> SequenceId {
        let sequence = pool.open(0);
        assert!(pool.reserve(sequence, count * BLOCK_SIZE));
        pool.advance(sequence, count * BLOCK_SIZE);
        for n in 0..count {
            let key = pool.table(sequence).unwrap().next_key([n as u32; BLOCK_SIZE], BLOCK_SIZE);
            pool.cache_block(sequence, key);
        }
        sequence
    }

    /// Returns the number of blocks of such a sequence that a new one can share.
    fn shareable(pool: &mut BlockPool, most: usize) -> usize {
        let sequence = pool.open(0);
        let shared = (0..most)
            .take_while(|n| {
                let key = pool.table(sequence).unwrap().next_key([*n as u32; BLOCK_SIZE], BLOCK_SIZE);
                pool.share_prefix(sequence, &key)
            })
            .count();
        pool.release(sequence);
        shared
    }

    #[test]
    fn the_last_block_of_the_least_recently_used_prefix_is_evicted_first() {
        let mut pool = BlockPool::new(4);
        let sequence = filled(&mut pool, 3);
        pool.release(sequence);
        assert_eq!((pool.free_blocks(), pool.cached_blocks()), (1, 3));
        assert_eq!(shareable(&mut pool, 3), 3);
        let other = pool.open(0);
        assert!(pool.reserve(other, 2 * BLOCK_SIZE));
        assert_eq!(shareable(&mut pool, 3), 2);
        assert!(!pool.reserve(other, 5 * BLOCK_SIZE));
        assert!(pool.reserve(other, 4 * BLOCK_SIZE));
        assert_eq!(shareable(&mut pool, 3), 0);
    }

    #[test]
    fn prompt_tokens_and_generated_tokens_are_not_the_same() {
        let mut pool = BlockPool::new(4);
        let sequence = filled(&mut pool, 1);
        let other = pool.open(0);
        for (prompt_tokens, found) in [(BLOCK_SIZE - 1, false), (BLOCK_SIZE, true)] {
            let key = pool.table(other).unwrap().next_key([0; BLOCK_SIZE], prompt_tokens);
            assert_eq!(pool.share_prefix(other, &key), found);
        }
        assert_eq!(pool.holders[pool.table(sequence).unwrap().blocks[0] as usize], 2);
    }
}
