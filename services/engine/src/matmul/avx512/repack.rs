//! Quantized matrices with sixteen rows side by side.
//!
//! A row group is the blocks of sixteen rows: `[blocks, words of a block, 16 rows]` of 32-bit words, then the separate
//! scales `[blocks, 16 rows]`. It takes the memory that the file takes, and every kernel reads it from front to back.

use std::marker::PhantomData;

use super::block_layout::{BlockLayout, LINE, ROWS};
use crate::error::Result;
use crate::sys::cpu::{Amx, Avx512};
use crate::sys::huge_pages::HugePages;
use crate::sys::thread_pool::{SharedPtr, ThreadPool};

/// Words of the longest block (Q6_K).
const MAX_WORDS: usize = 52;

/// A repacked matrix of layout `L`.
pub struct RepackedMatrix<L> {
    memory: HugePages,
    pub rows: usize,
    pub columns: usize,
    pub avx512: Avx512,
    pub amx: Option<Amx>,
    layout: PhantomData<L>,
}

/// Sixteen rows of weights. The rows past the end of the matrix have scale 0.
#[derive(Clone, Copy)]
pub struct RowGroup<'a> {
    /// `[blocks, words of a block]` lines of [`LINE`] bytes.
    pub words: &'a [u8],
    /// `[blocks, 16]` scales, and padding; empty if the layout has no separate scales.
    pub scales: &'a [u8],
    /// Blocks in a row.
    pub blocks: usize,
    /// The proof for the kernels that read the group.
    pub avx512: Avx512,
}

impl RowGroup<'_> {
    /// Panics if the group does not have the size that its number of blocks has in layout `L`. Kernels call this once, and
    /// read without further checks.
    pub fn check<L: BlockLayout>(&self) {
        let (words, scales) = sizes::<L>(self.blocks);
        assert!(self.words.len() == words && self.scales.len() == scales, "a row group of this layout");
    }

    /// Returns pointers to the words and the separate scales of a block.
    pub fn block<L: BlockLayout>(&self, block: usize) -> (*const u8, *const u8) {
        let words = self.words.as_ptr().wrapping_add(block * L::WORDS * LINE);
        (words, self.scales.as_ptr().wrapping_add(block * L::SCALE_BYTES * ROWS))
    }
}

/// Returns the bytes of a row group: of its words, and of its separate scales in whole lines.
fn sizes<L: BlockLayout>(blocks: usize) -> (usize, usize) {
    let scales = if L::SEPARATE_SCALE.is_some() { blocks * L::SCALE_BYTES * ROWS } else { 0 };
    (blocks * L::WORDS * LINE, scales.next_multiple_of(LINE))
}

impl<L: BlockLayout> RepackedMatrix<L> {
    /// Repacks a matrix `[rows, columns]`; `bytes` are its blocks as in the file.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`] if the copy cannot be allocated.
    pub fn new(
        pool: &ThreadPool,
        avx512: Avx512,
        bytes: &[u8],
        (rows, columns): (usize, usize),
    ) -> Result<Self> {
        let blocks = columns / L::COLUMNS;
        let row_bytes = blocks * L::BYTES;
        assert!(columns.is_multiple_of(L::COLUMNS) && bytes.len() == rows * row_bytes, "whole blocks");
        let (words, scales) = sizes::<L>(blocks);
        let size = words + scales;
        let groups = rows.div_ceil(ROWS);
        let fill = |start: *mut u8| {
            let start = SharedPtr(start);
            pool.run(groups, pool.grain(groups), |_, range| {
                for index in range {
                    let start = start.at(index * size);
                    // SAFETY: the memory has room for all groups, and `run` gives each group to one call only.
                    let group = unsafe {
                        start.write_bytes(0, size);
                        std::slice::from_raw_parts_mut(start, size)
                    };
                    let first = index * ROWS;
                    for row in first..rows.min(first + ROWS) {
                        let row_bytes = &bytes[row * row_bytes..(row + 1) * row_bytes];
                        Self::pack(row_bytes, row - first, group.split_at_mut(words));
                    }
                }
            });
        };
        // SAFETY: `fill` writes every group, and the groups are all of the memory.
        let memory = unsafe { HugePages::filled("weights", groups * size, fill) }?;
        Ok(Self { memory, rows, columns, avx512, amx: pool.kernels().amx(), layout: PhantomData })
    }

    /// Writes a row's blocks into one lane of a group.
    fn pack(row: &[u8], lane: usize, (words, scales): (&mut [u8], &mut [u8])) {
        let (words, _) = words.as_chunks_mut::<LINE>();
        for (index, block) in row.chunks_exact(L::BYTES).enumerate() {
            let mut own = [0u32; MAX_WORDS];
            let body = match L::SEPARATE_SCALE {
                Some(at) => {
                    let place = (index * ROWS + lane) * L::SCALE_BYTES;
                    scales[place..place + L::SCALE_BYTES].copy_from_slice(&block[at..at + L::SCALE_BYTES]);
                    if at == 0 { &block[L::SCALE_BYTES..] } else { &block[..at] }
                }
                None => block,
            };
            for (own, word) in own.iter_mut().zip(body.as_chunks::<4>().0) {
                *own = u32::from_le_bytes(*word);
            }
            L::arrange(&mut own[..L::WORDS]);
            for (word, own) in words[index * L::WORDS..].iter_mut().zip(&own[..L::WORDS]) {
                word[4 * lane..4 * lane + 4].copy_from_slice(&own.to_le_bytes());
            }
        }
    }

    /// Writes the blocks of a row as they are in the file.
    pub fn row(&self, row: usize, out: &mut [u8]) {
        assert!(row < self.rows && out.len() == self.blocks() * L::BYTES, "a row of the matrix");
        let RowGroup { words, scales, .. } = self.group(row / ROWS);
        let (words, _) = words.as_chunks::<LINE>();
        let lane = row % ROWS;
        for (index, block) in out.chunks_exact_mut(L::BYTES).enumerate() {
            let mut own = [0u32; MAX_WORDS];
            for (own, word) in own[..L::WORDS].iter_mut().zip(&words[index * L::WORDS..]) {
                let bytes = word.as_chunks::<4>().0[lane];
                *own = u32::from_le_bytes(bytes);
            }
            L::restore(&mut own[..L::WORDS]);
            let body = match L::SEPARATE_SCALE {
                Some(at) => {
                    let place = (index * ROWS + lane) * L::SCALE_BYTES;
                    block[at..at + L::SCALE_BYTES].copy_from_slice(&scales[place..place + L::SCALE_BYTES]);
                    if at == 0 { &mut block[L::SCALE_BYTES..] } else { &mut block[..at] }
                }
                None => block,
            };
            for (own, word) in own.iter().zip(body.as_chunks_mut::<4>().0) {
                *word = own.to_le_bytes();
            }
        }
    }

    /// Returns the number of blocks in a row.
    pub fn blocks(&self) -> usize {
        self.columns / L::COLUMNS
    }

    /// Returns the rows `16 index ..` of the matrix.
    pub fn group(&self, index: usize) -> RowGroup<'_> {
        assert!(index < self.rows.div_ceil(ROWS), "a group of the matrix");
        let (words, scales) = sizes::<L>(self.blocks());
        let group = &self.memory.bytes()[index * (words + scales)..][..words + scales];
        let (words, scales) = group.split_at(words);
        RowGroup { words, scales, blocks: self.blocks(), avx512: self.avx512 }
    }

    /// Returns the bytes of the matrix in the file.
    pub fn bytes(&self) -> usize {
        self.rows * self.blocks() * L::BYTES
    }
}
