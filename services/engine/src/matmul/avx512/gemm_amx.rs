//! Panels of weights multiplied with tiles of activations on the matrix unit: the kernel of prefill.
//!
//! A product is summed over the columns in one order however many rows there are, so a prompt's values are the same, bit
//! for bit, alone and beside others.

use std::ops::Range;

use super::amx::{TILE, TILE_ROWS, TileRegisters};
use crate::matmul::activations::bf16_tiles::Tiles;
use crate::sys::thread_pool::Cells;

/// The maximum number of columns of a panel: with [`PANEL_ROWS`] rows it stays in the second-level cache.
pub const PANEL_COLUMNS: usize = 2048;
/// The maximum number of weight rows of a panel.
pub const PANEL_ROWS: usize = 128;

/// Rows and columns of a block of sums: two tiles by two.
const BLOCK: usize = 2 * TILE_ROWS;
/// Tiles along the columns at a time: two rows of them stay in the first-level cache beside the sums of a panel.
const DEPTH: usize = 8;

/// Activations in tiles, restricted to some of their columns.
#[derive(Clone, Copy)]
pub struct TileColumns<'a> {
    pub tiles: &'a Tiles,
    /// The number of rows.
    pub m: usize,
    /// The number of tiles in a whole row.
    pub row_tiles: usize,
    /// The index of the first tile in a row that takes part.
    pub first: usize,
}

impl TileColumns<'_> {
    /// Returns the tiles of the rows `i ..` and `i + 16 ..`; past the end the last row of tiles is repeated.
    fn pair(&self, i: usize) -> [*const u8; 2] {
        let last = (self.m - 1) / TILE_ROWS;
        [i / TILE_ROWS, (i / TILE_ROWS + 1).min(last)]
            .map(|index| self.tiles.row(index, self.row_tiles).wrapping_add(self.first * TILE))
    }
}

/// Activations, and the tiles of each row group of the weights that they are multiplied with.
pub struct Pass<'a, W> {
    pub x: TileColumns<'a>,
    pub weights: W,
}

/// Computes `out[.., 16 g ..] (+)= Σ x · wᵀ` over the passes, for the row groups g in `groups`, `depth` tiles deep. `add`
/// keeps what `out` holds.
///
/// # Safety
/// No other thread may access these columns of `out` meanwhile.
///
/// # Panics
/// If the groups are more than a panel, or if activations or weights are shorter than `depth` tiles.
pub unsafe fn gemm<'w, W: Fn(usize) -> &'w [u8]>(
    registers: &TileRegisters,
    passes: &[Pass<'_, W>],
    groups: Range<usize>,
    depth: usize,
    out: &Cells<'_>,
    add: bool,
) {
    assert!(groups.len() * TILE_ROWS <= PANEL_ROWS, "a panel");
    for Pass { x, weights } in passes {
        assert!(x.first + depth <= x.row_tiles, "tiles of the activations");
        assert!(groups.clone().all(|group| weights(group).len() >= depth * TILE), "tiles of the weights");
    }
    let m = passes[0].x.m;
    let columns = groups.start * TILE_ROWS..out.width().min(groups.end * TILE_ROWS);
    let mut sums = Sums([[0.0; BLOCK * BLOCK]; PANEL_ROWS / BLOCK]);
    for i in (0..m).step_by(BLOCK) {
        let rows = i..m.min(i + BLOCK);
        // SAFETY: the caller guarantees exclusive access to these columns.
        let cells = |row: usize| unsafe { out.part(row, columns.clone()) };
        if add {
            rows.clone().for_each(|row| sums.read(row - i, cells(row)));
        }
        for start in (0..depth).step_by(DEPTH) {
            let taken = DEPTH.min(depth - start);
            for (number, pass) in passes.iter().enumerate() {
                let at = |tiles: *const u8| tiles.wrapping_add(start * TILE);
                let a = pass.x.pair(i).map(at);
                for (group, sums) in groups.clone().step_by(2).zip(&mut sums.0) {
                    let b = [group, (group + 1).min(groups.end - 1)]
                        .map(|group| at((pass.weights)(group).as_ptr()));
                    let add = add || start > 0 || number > 0;
                    let stride = BLOCK * size_of::<f32>();
                    // SAFETY: all operands have `start + taken` tiles, as was asserted; `sums` is a block.
                    unsafe { registers.product(a, b, taken, sums.as_mut_ptr(), stride, add) };
                }
            }
        }
        rows.for_each(|row| sums.write(row - i, cells(row)));
    }
}

/// The sums of two rows of tiles with a panel, as blocks of 32 × 32.
#[repr(align(64))]
struct Sums([[f32; BLOCK * BLOCK]; PANEL_ROWS / BLOCK]);

impl Sums {
    /// Reads a row of the sums from `cells`.
    fn read(&mut self, row: usize, cells: &[f32]) {
        for (block, cells) in self.0.iter_mut().zip(cells.chunks(BLOCK)) {
            block[row * BLOCK..][..cells.len()].copy_from_slice(cells);
        }
    }

    /// Writes a row of the sums to `cells`.
    fn write(&self, row: usize, cells: &mut [f32]) {
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
