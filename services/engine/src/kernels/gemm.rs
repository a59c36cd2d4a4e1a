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

/// Some columns of all rows of activations, in tiles.
pub struct Activations<'a> {
    pub piece: &'a Piece,
    /// Rows.
    pub m: usize,
    /// Tiles that a whole row is long.
    pub depth: usize,
    /// Those of them that are met.
    pub taken: Range<usize>,
}

impl Activations<'_> {
    /// The tiles of the pair of rows of tiles that begins with row `i`; at the end the last one stands twice.
    fn pair(&self, i: usize) -> [*const u8; 2] {
        let last = (self.m - 1) / SIDE;
        [i / SIDE, (i / SIDE + 1).min(last)]
            .map(|index| self.piece.row(index, self.depth).wrapping_add(self.taken.start * TILE))
    }
}

/// `out[.., 16 g ..] (+)= x · wᵀ` for the groups of sixteen rows of weights in `groups`, whose tiles `weights` points to.
///
/// # Safety
/// `weights` points to as many tiles as are taken, for each group, and nobody else touches these columns of `out`.
pub unsafe fn product(
    tiles: &Tiles,
    x: &Activations<'_>,
    groups: Range<usize>,
    weights: impl Fn(usize) -> *const u8,
    out: &Cells<'_>,
    add: bool,
) {
    let stride = out.width() * size_of::<f32>();
    let mut edge = [0.0f32; BLOCK * BLOCK];
    for i in (0..x.m).step_by(BLOCK) {
        let a = x.pair(i);
        for group in groups.clone().step_by(2) {
            let b = [weights(group), weights((group + 1).min(groups.end - 1))];
            let j = group * SIDE;
            let wide = BLOCK.min(out.width() - j).min((groups.end - group) * SIDE);
            let tall = BLOCK.min(x.m - i);
            // SAFETY: promised by the caller; a block that reaches over the end goes through memory of its own.
            unsafe {
                if (tall, wide) == (BLOCK, BLOCK) {
                    let corner = out.part(i, j..j + wide).as_mut_ptr();
                    tiles.product(a, b, x.taken.len(), corner, stride, add);
                    continue;
                }
                let cells = |row: usize| out.part(i + row, j..j + wide);
                if add {
                    (0..tall).for_each(|row| edge[row * BLOCK..][..wide].copy_from_slice(cells(row)));
                }
                tiles.product(a, b, x.taken.len(), edge.as_mut_ptr(), BLOCK * size_of::<f32>(), add);
                (0..tall).for_each(|row| cells(row).copy_from_slice(&edge[row * BLOCK..][..wide]));
            }
        }
    }
}
