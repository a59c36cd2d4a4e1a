//! Activations as tiles of bf16 for the matrix unit (AMX).
//!
//! A tile is 16 rows × 32 columns; a row of tiles is contiguous: `[m / 16, columns / 32, 16, 32]`. One bf16 keeps 8 bits of
//! a value. The split form adds a second bf16, the rounding error of the first, and so keeps 16 bits: enough for f16 and
//! bf16 weights, whose products should be as exact as in f32.

use crate::sys::pod::resized;
use crate::sys::thread_pool::ThreadPool;

/// Rows of a tile.
const ROWS: usize = 16;
/// Columns of a tile.
const COLUMNS: usize = 32;

const CELLS: usize = ROWS * COLUMNS;

/// A tile, row by row, aligned to cache lines for tile loads.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Tile([u16; CELLS]);

/// One bf16 of each value. Its memory is reused by the next product.
#[derive(Default)]
pub struct Tiles {
    tiles: Vec<Tile>,
}

/// Activations as one or two bf16 each.
#[derive(Default)]
pub struct SplitTiles {
    /// The values, rounded to bf16.
    pub high: Tiles,
    /// The rounding errors of `high`, where they were requested.
    pub low: Tiles,
}

impl Tiles {
    /// Returns a pointer to row `index` of the tiles, whose rows are `depth` tiles long.
    pub fn row(&self, index: usize, depth: usize) -> *const u8 {
        self.tiles[index * depth..(index + 1) * depth].as_ptr().cast()
    }

    fn resized(&mut self, tiles: usize) -> &mut [Tile] {
        resized(&mut self.tiles, tiles, Tile([0; CELLS]))
    }
}

impl SplitTiles {
    /// Replaces the tiles by those of `input`, `[m, columns]`, where `columns` is a multiple of 32; fills `low` only if
    /// `split`. The last tiles are padded with rows of zeros.
    pub fn convert(&mut self, pool: &ThreadPool, input: &[f32], columns: usize, split: bool) {
        let depth = columns / COLUMNS;
        let rows = (input.len() / columns).div_ceil(ROWS);
        fill(pool, self.high.resized(rows * depth), input, columns, |x| x);
        if split {
            fill(pool, self.low.resized(rows * depth), input, columns, |x| x - from_bf16(to_bf16(x)));
        }
    }
}

/// Fills tiles with `value(x)` of each input x, rounded to bf16.
fn fill(
    pool: &ThreadPool,
    tiles: &mut [Tile],
    input: &[f32],
    columns: usize,
    value: impl Fn(f32) -> f32 + Sync,
) {
    let depth = columns / COLUMNS;
    pool.rows(tiles, depth, |index, tiles| {
        let row = |r: usize| input.chunks_exact(columns).nth(index * ROWS + r);
        for r in 0..ROWS {
            let Some(x) = row(r) else {
                for tile in &mut *tiles {
                    tile.0[r * COLUMNS..(r + 1) * COLUMNS].fill(0);
                }
                continue;
            };
            for (tile, x) in tiles.iter_mut().zip(x.as_chunks::<COLUMNS>().0) {
                for (cell, x) in tile.0[r * COLUMNS..(r + 1) * COLUMNS].iter_mut().zip(x) {
                    *cell = to_bf16(value(*x));
                }
            }
        }
    });
}

/// Rounds to the nearest bf16, ties to even. A NaN that arithmetic produced stays a NaN.
#[inline]
fn to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    (bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16) as u16
}

#[inline]
fn from_bf16(x: u16) -> f32 {
    f32::from_bits(u32::from(x) << 16)
}
