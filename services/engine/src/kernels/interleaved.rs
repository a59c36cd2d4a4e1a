//! A quantized matrix with sixteen rows side by side: word i of the same block of sixteen rows lies together, then the
//! next word. It takes the room that the file takes, and every kernel reads it from front to back.

use std::marker::PhantomData;

use super::format::Layout;
use super::steps::Group;
use super::wide::ROWS;
use crate::error::Result;
use crate::region::Region;
use crate::team::{Start, Team};

/// Words of the longest block.
const MOST_WORDS: usize = 52;

pub struct Interleaved<F> {
    region: Region,
    pub rows: usize,
    pub columns: usize,
    format: PhantomData<F>,
}

impl<F: Layout> Interleaved<F> {
    /// Blocks in a row.
    pub fn blocks(&self) -> usize {
        self.columns / F::COLUMNS
    }

    /// Bytes of the words of sixteen rows, then of their lone scales; whole lines.
    fn sizes(columns: usize) -> (usize, usize) {
        let blocks = columns / F::COLUMNS;
        let lone = if F::LONE.is_some() { blocks * F::LONE_BYTES * ROWS } else { 0 };
        (blocks * F::WORDS * 4 * ROWS, lone.next_multiple_of(64))
    }

    /// Lays out rows as a file has them; those that fill up the last sixteen are of scale 0.
    pub fn new(team: &Team, bytes: &[u8], rows: usize, columns: usize) -> Result<Self> {
        let blocks = columns / F::COLUMNS;
        assert!(
            columns.is_multiple_of(F::COLUMNS) && bytes.len() == rows * blocks * F::BYTES,
            "whole blocks"
        );
        let (words, lone) = Self::sizes(columns);
        let groups = rows.div_ceil(ROWS);
        let fill = |start: *mut u8| {
            let start = Start(start);
            team.run(groups, team.grain(groups), |_, range| {
                for group in range {
                    let start = start.at(group * (words + lone));
                    // SAFETY: each group is one call's, and the region has room for all of them.
                    let room = unsafe {
                        start.write_bytes(0, words + lone);
                        std::slice::from_raw_parts_mut(start, words + lone)
                    };
                    let first = group * ROWS;
                    for row in first..rows.min(first + ROWS) {
                        let row_bytes = &bytes[row * blocks * F::BYTES..(row + 1) * blocks * F::BYTES];
                        Self::lay(row_bytes, row - first, room.split_at_mut(words));
                    }
                }
            });
        };
        // SAFETY: every group is filled.
        let region = unsafe { Region::filled("weights", groups * (words + lone), fill) }?;
        Ok(Self { region, rows, columns, format: PhantomData })
    }

    /// Lays one row into its lane.
    fn lay(row: &[u8], lane: usize, (words, lone): (&mut [u8], &mut [u8])) {
        let (words, _) = words.as_chunks_mut::<{ 4 * ROWS }>();
        for (index, block) in row.chunks_exact(F::BYTES).enumerate() {
            let mut own = [0u32; MOST_WORDS];
            let body = match F::LONE {
                Some(at) => {
                    let place = (index * ROWS + lane) * F::LONE_BYTES;
                    lone[place..place + F::LONE_BYTES].copy_from_slice(&block[at..at + F::LONE_BYTES]);
                    if at == 0 { &block[F::LONE_BYTES..] } else { &block[..at] }
                }
                None => block,
            };
            for (own, word) in own.iter_mut().zip(body.as_chunks::<4>().0) {
                *own = u32::from_le_bytes(*word);
            }
            F::arrange(&mut own[..F::WORDS]);
            for (word, own) in words[index * F::WORDS..].iter_mut().zip(&own[..F::WORDS]) {
                word[4 * lane..4 * lane + 4].copy_from_slice(&own.to_le_bytes());
            }
        }
    }

    /// Writes a row as the file had it.
    pub fn row(&self, row: usize, out: &mut [u8]) {
        assert!(row < self.rows && out.len() == self.blocks() * F::BYTES, "a row of the matrix");
        let (words, lone) = Self::sizes(self.columns);
        let start = row / ROWS * (words + lone);
        // SAFETY: the region holds whole groups, and this is one of them.
        let group = unsafe { std::slice::from_raw_parts(self.region.start().add(start), words + lone) };
        let (words, lone) = group.split_at(words);
        let (words, _) = words.as_chunks::<{ 4 * ROWS }>();
        let lane = row % ROWS;
        for (index, block) in out.chunks_exact_mut(F::BYTES).enumerate() {
            let mut own = [0u32; MOST_WORDS];
            for (own, word) in own[..F::WORDS].iter_mut().zip(&words[index * F::WORDS..]) {
                let bytes = word.as_chunks::<4>().0[lane];
                *own = u32::from_le_bytes(bytes);
            }
            F::restore(&mut own[..F::WORDS]);
            let body = match F::LONE {
                Some(at) => {
                    let place = (index * ROWS + lane) * F::LONE_BYTES;
                    block[at..at + F::LONE_BYTES].copy_from_slice(&lone[place..place + F::LONE_BYTES]);
                    if at == 0 { &mut block[F::LONE_BYTES..] } else { &mut block[..at] }
                }
                None => block,
            };
            for (own, word) in own.iter().zip(body.as_chunks_mut::<4>().0) {
                *word = own.to_le_bytes();
            }
        }
    }

    /// Sixteen rows; the last of them may be of scale 0.
    pub fn group(&self, index: usize) -> Group {
        assert!(index < self.rows.div_ceil(ROWS), "a group of the matrix");
        let (words, lone) = Self::sizes(self.columns);
        // SAFETY: within the region by the assertion.
        let blocks = unsafe { self.region.start().add(index * (words + lone)) };
        Group { blocks, lone: blocks.wrapping_add(words), count: self.blocks() }
    }

    /// Of the rows themselves, as in the file.
    pub fn bytes(&self) -> usize {
        self.rows * self.blocks() * F::BYTES
    }
}
