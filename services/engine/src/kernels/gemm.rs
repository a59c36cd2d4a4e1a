//! Panels of weights met with tiles of activations on the matrix unit: the heart of prefill.
//!
//! A product is summed over the columns in one order however many rows there are, so that a prompt's values are the
//! same to the bit alone and beside others.

use std::ops::Range;

use super::amx::{SIDE, TILE, Tiles};
use super::tiles::Piece;
use crate::team::Cells;

/// Columns at a time: a panel of weights this wide and [`PANEL`] rows tall stays in the second-level cache.
pub const COLUMNS: usize = 2048;
/// Rows of a panel.
pub const PANEL: usize = 128;

/// A block of sums: two tiles by two.
const BLOCK: usize = 2 * SIDE;
/// Tiles at a time: two rows of them stay in the first-level cache beside the sums of a panel.
const DEEP: usize = 8;

/// Some columns of all rows of activations, in tiles.
#[derive(Clone, Copy)]
pub struct Activations<'a> {
    pub piece: &'a Piece,
    /// Rows.
    pub m: usize,
    /// Tiles that a whole row is long.
    pub depth: usize,
    /// The first of those that are met.
    pub from: usize,
}

impl Activations<'_> {
    /// The tiles of the pair of rows of tiles that begins with row `i`; at the end the last one stands twice.
    fn pair(&self, i: usize) -> [*const u8; 2] {
        let last = (self.m - 1) / SIDE;
        [i / SIDE, (i / SIDE + 1).min(last)]
            .map(|index| self.piece.row(index, self.depth).wrapping_add(self.from * TILE))
    }
}

/// Activations with the weights that they meet: the tiles of each group of sixteen rows.
pub struct Pass<'a, W> {
    pub x: Activations<'a>,
    pub weights: W,
}

/// `out[.., 16 g ..] (+)= Σ x · wᵀ` over the passes, for the groups of sixteen rows of weights in `groups`, `taken`
/// tiles deep.
///
/// # Safety
/// The weights of each pass point to as many tiles as are taken, for each group, and nobody else touches these columns
/// of `out`.
pub unsafe fn product<W: Fn(usize) -> *const u8>(
    tiles: &Tiles,
    passes: &[Pass<'_, W>],
    groups: Range<usize>,
    taken: usize,
    out: &Cells<'_>,
    add: bool,
) {
    assert!(groups.len() * SIDE <= PANEL, "a panel");
    let m = passes[0].x.m;
    let columns = groups.start * SIDE..out.width().min(groups.end * SIDE);
    let mut sums = Sums([[0.0; BLOCK * BLOCK]; PANEL / BLOCK]);
    for i in (0..m).step_by(BLOCK) {
        let rows = i..m.min(i + BLOCK);
        // SAFETY: these columns are this call's alone.
        let cells = |row: usize| unsafe { out.part(row, columns.clone()) };
        if add {
            rows.clone().for_each(|row| sums.take(row - i, cells(row)));
        }
        for start in (0..taken).step_by(DEEP) {
            let depth = DEEP.min(taken - start);
            for (number, pass) in passes.iter().enumerate() {
                let at = |tiles: *const u8| tiles.wrapping_add(start * TILE);
                let a = pass.x.pair(i).map(at);
                for (group, sums) in groups.clone().step_by(2).zip(&mut sums.0) {
                    let b = [group, (group + 1).min(groups.end - 1)].map(|group| at((pass.weights)(group)));
                    let add = add || start > 0 || number > 0;
                    // SAFETY: `depth` more tiles are there, by the caller's promise.
                    unsafe { tiles.product(a, b, depth, sums.as_mut_ptr(), BLOCK * size_of::<f32>(), add) };
                }
            }
        }
        rows.for_each(|row| sums.give(row - i, cells(row)));
    }
}

/// Of two rows of tiles with a panel.
#[repr(align(64))]
struct Sums([[f32; BLOCK * BLOCK]; PANEL / BLOCK]);

impl Sums {
    fn take(&mut self, row: usize, cells: &[f32]) {
        for (block, cells) in self.0.iter_mut().zip(cells.chunks(BLOCK)) {
            block[row * BLOCK..][..cells.len()].copy_from_slice(cells);
        }
    }

    fn give(&self, row: usize, cells: &mut [f32]) {
        let (whole, rest) = cells.as_chunks_mut::<BLOCK>();
        let mut blocks = self.0.iter().map(|block| &block[row * BLOCK..][..BLOCK]);
        for (cells, sums) in whole.iter_mut().zip(&mut blocks) {
            cells.copy_from_slice(sums);
        }
        if let Some(sums) = blocks.next() {
            rest.copy_from_slice(&sums[..rest.len()]);
        }
    }
}
