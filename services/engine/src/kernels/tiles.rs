//! Activations as tiles of bf16 for the matrix unit: 16 rows × 32 columns each, those of a row of tiles together.
//!
//! One piece holds a value to 8 bits; a second holds what the first cut off, 16 bits in all, for weights that are
//! exact themselves.

use crate::plain::room;
use crate::team::Team;

/// Rows and columns of a tile.
pub const ROWS: usize = 16;
pub const COLUMNS: usize = 32;

const CELLS: usize = ROWS * COLUMNS;

/// The cells of a tile, aligned as loads want them.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Tile([u16; CELLS]);

/// One piece of each activation; kept between products for its memory.
#[derive(Default)]
pub struct Piece {
    tiles: Vec<Tile>,
}

/// Activations in one or two pieces.
#[derive(Default)]
pub struct Tiled {
    pub high: Piece,
    pub low: Piece,
}

impl Piece {
    /// The first tile of a row of tiles that is `depth` tiles long.
    pub fn row(&self, index: usize, depth: usize) -> *const u8 {
        self.tiles[index * depth..(index + 1) * depth].as_ptr().cast()
    }

    fn room(&mut self, tiles: usize) -> &mut [Tile] {
        room(&mut self.tiles, tiles, Tile([0; CELLS]))
    }
}

impl Tiled {
    /// Takes `[m, columns]`, columns a multiple of 32; rows that fill up the last tile are zeros.
    pub fn take(&mut self, team: &Team, input: &[f32], columns: usize, two: bool) {
        let depth = columns / COLUMNS;
        let rows = (input.len() / columns).div_ceil(ROWS);
        fill(team, self.high.room(rows * depth), input, columns, |x| x);
        if two {
            fill(team, self.low.room(rows * depth), input, columns, |x| x - widened(narrowed(x)));
        }
    }
}

fn fill(team: &Team, tiles: &mut [Tile], input: &[f32], columns: usize, piece: impl Fn(f32) -> f32 + Sync) {
    let depth = columns / COLUMNS;
    team.rows(tiles, depth, |index, tiles| {
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
                    *cell = narrowed(piece(*x));
                }
            }
        }
    });
}

/// To the nearest bf16, ties to even; NaN stays NaN as long as it is one of arithmetic's.
#[inline]
fn narrowed(x: f32) -> u16 {
    let bits = x.to_bits();
    (bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16) as u16
}

#[inline]
fn widened(x: u16) -> f32 {
    f32::from_bits(u32::from(x) << 16)
}
