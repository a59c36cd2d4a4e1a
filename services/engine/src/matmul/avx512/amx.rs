//! The matrix unit (AMX) of newer Xeons: products of tiles of bf16, summed in f32.
//!
//! Rust has no stable intrinsics for AMX, so its few instructions are inline assembly. A tile is 16 rows of 64 bytes. A
//! tile of activations is 16 rows × 32 columns. A tile of weights is 16 pairs of columns × 16 weight rows × 2 columns, as
//! TDPBF16PS takes its second operand.

use std::arch::asm;
use std::marker::PhantomData;

use crate::sys::cpu::Amx;

/// Bytes of a tile.
pub const TILE: usize = 1024;
/// Rows of activations, or of weights, in a tile.
pub const TILE_ROWS: usize = 16;
/// Columns of activations, or of weights, in a tile.
pub const TILE_COLUMNS: usize = 32;

/// The tile registers of this thread, which are configured while the value lives. It cannot go to another thread.
pub struct TileRegisters(PhantomData<*const ()>);

#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl TileRegisters {
    /// Configures the eight registers as whole tiles.
    pub fn configure(_: Amx) -> Self {
        let (mut row_bytes, mut rows) = ([0; 16], [0; 16]);
        row_bytes[..8].fill(64);
        rows[..8].fill(TILE_ROWS as u8);
        let config = Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes, rows };
        // SAFETY: the argument proves that this process may use AMX, and the configuration is valid. The content of tile
        // registers is no Rust value.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const config, options(nostack, readonly)) };
        Self(PhantomData)
    }

    /// Computes `out[0..32, 0..32] (+)= a · bᵀ`, for two tiles of rows of activations and two of rows of weights that are
    /// `depth` tiles deep. `stride` is the distance of the rows of `out` in bytes; `add` keeps what `out` holds.
    ///
    /// # Safety
    /// Each pointer of `a` and `b` must point to `depth` consecutive tiles, and `out` to 32 rows of 32 floats at the
    /// distance `stride` that nothing else accesses meanwhile. `depth` must not be 0.
    #[allow(clippy::too_many_arguments, clippy::unused_self)] // a kernel's operands; `self` proves the configuration
    pub unsafe fn product(
        &self,
        a: [*const u8; 2],
        b: [*const u8; 2],
        depth: usize,
        out: *mut f32,
        stride: usize,
        add: bool,
    ) {
        let lower = out.wrapping_byte_add(TILE_ROWS * stride);
        // SAFETY: `self` shows that the registers are configured; the caller guarantees the memory.
        unsafe {
            if add {
                asm!(
                    "tileloadd tmm0, [{upper} + {stride}*1]",
                    "tileloadd tmm1, [{upper} + {stride}*1 + 64]",
                    "tileloadd tmm2, [{lower} + {stride}*1]",
                    "tileloadd tmm3, [{lower} + {stride}*1 + 64]",
                    upper = in(reg) out, lower = in(reg) lower, stride = in(reg) stride,
                    options(nostack, readonly),
                );
            } else {
                asm!(
                    "tilezero tmm0",
                    "tilezero tmm1",
                    "tilezero tmm2",
                    "tilezero tmm3",
                    options(nostack, nomem)
                );
            }
            asm!(
                "2:",
                "tileloadd tmm4, [{a0} + {row}*1]",
                "tileloadd tmm6, [{b0} + {row}*1]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{b1} + {row}*1]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{a1} + {row}*1]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {a0}, 1024",
                "add {a1}, 1024",
                "add {b0}, 1024",
                "add {b1}, 1024",
                "dec {depth}",
                "jnz 2b",
                a0 = inout(reg) a[0] => _, a1 = inout(reg) a[1] => _,
                b0 = inout(reg) b[0] => _, b1 = inout(reg) b[1] => _,
                depth = inout(reg) depth => _, row = in(reg) 64usize,
                options(nostack, readonly),
            );
            asm!(
                "tilestored [{upper} + {stride}*1], tmm0",
                "tilestored [{upper} + {stride}*1 + 64], tmm1",
                "tilestored [{lower} + {stride}*1], tmm2",
                "tilestored [{lower} + {stride}*1 + 64], tmm3",
                upper = in(reg) out, lower = in(reg) lower, stride = in(reg) stride,
                options(nostack),
            );
        }
    }
}

impl Drop for TileRegisters {
    fn drop(&mut self) {
        // SAFETY: the registers are configured. Once released, they cost nothing in a context switch.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;

    #[test]
    fn products_of_tiles_match_sums_over_their_cells() {
        // Only a CPU with AMX can execute this; prefill on every other kernel set is tested in `matmul::load`.
        let Some(amx) = Amx::detect() else {
            eprintln!("this CPU has no AMX");
            return;
        };
        let depth = 3;
        let value = |i: usize| bf16::from_f32((i * 37 % 61) as f32 / 8.0 - 3.0);
        // [tile of rows][depth][row][column] and [tile of rows][depth][pair][row][of pair]
        let a: Vec<bf16> = (0..2 * depth * 512).map(value).collect();
        let b: Vec<bf16> = (0..2 * depth * 512).map(|i| value(i + 5)).collect();
        let mut out = vec![1.0f32; 32 * 40];
        let at = |x: &[bf16], tile: usize| x[tile * depth * 512..].as_ptr().cast::<u8>();
        let tiles = TileRegisters::configure(amx);
        // SAFETY: the buffers have these sizes.
        unsafe {
            let (a, b) = ([at(&a, 0), at(&a, 1)], [at(&b, 0), at(&b, 1)]);
            tiles.product(a, b, depth, out.as_mut_ptr(), 160, false);
            tiles.product(a, b, depth, out.as_mut_ptr(), 160, true);
        }
        for (i, row) in out.chunks_exact(40).enumerate() {
            for (j, got) in row.iter().enumerate() {
                let sum: f32 = (0..depth * 32)
                    .map(|k| {
                        let (d, c) = (k / 32, k % 32);
                        let x = a[((i / 16) * depth + d) * 512 + (i % 16) * 32 + c];
                        let y = b[((j / 16 % 2) * depth + d) * 512 + (c / 2) * 32 + (j % 16) * 2 + c % 2];
                        x.to_f32() * y.to_f32()
                    })
                    .sum();
                let expected = if j < 32 { 2.0 * sum } else { 1.0 };
                assert!(
                    (got - expected).abs() <= 1e-3 * expected.abs().max(1.0),
                    "[{i}, {j}]: {got}, not {expected}"
                );
            }
        }
    }
}
