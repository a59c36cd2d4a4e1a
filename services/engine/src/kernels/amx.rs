//! The matrix unit (AMX) of newer Xeons: products of tiles of bf16, summed in f32.
//!
//! Rust has no stable intrinsics for it, so its few instructions are written here by hand. A tile is 16 rows of
//! 64 bytes. Of activations a tile holds 16 rows × 32 columns; of weights it holds for 16 pairs of columns the pairs of
//! 16 rows, which is how the unit wants its second operand.

use std::arch::asm;
use std::sync::OnceLock;

/// Bytes of a tile.
pub const TILE: usize = 1024;
/// Rows of a tile of activations, and rows of weights in a tile of theirs.
pub const SIDE: usize = 16;
/// Columns of both.
pub const DEPTH: usize = 32;

/// Whether the machine has the unit and the system lets this process use it.
pub fn usable() -> bool {
    static USABLE: OnceLock<bool> = OnceLock::new();
    *USABLE.get_or_init(|| present() && allowed())
}

fn present() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    const OSXSAVE: u32 = 1 << 27;
    const BF16_AND_TILE: u32 = 1 << 22 | 1 << 24;
    if __cpuid(0).eax < 7 || __cpuid(1).ecx & OSXSAVE == 0 {
        return false;
    }
    // The system must keep the tiles' configuration and data when it switches threads.
    const TILE_STATE: u64 = 1 << 17 | 1 << 18;
    // SAFETY: OSXSAVE says that the instruction is there.
    let kept = unsafe { enabled_states() };
    __cpuid_count(7, 0).edx & BF16_AND_TILE == BF16_AND_TILE && kept & TILE_STATE == TILE_STATE
}

#[target_feature(enable = "xsave")]
unsafe fn enabled_states() -> u64 {
    // SAFETY: promised by the caller.
    unsafe { std::arch::x86_64::_xgetbv(0) }
}

/// Linux gives the 8 KiB of tiles only to processes that ask.
#[cfg(target_os = "linux")]
fn allowed() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    // SAFETY: the call takes two numbers and touches no memory of ours.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn allowed() -> bool {
    false
}

/// This thread's tiles, configured while it lives.
pub struct Tiles(());

#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Tiles {
    /// # Safety
    /// [`usable`] has said yes.
    pub unsafe fn configure() -> Self {
        let (mut row_bytes, mut rows) = ([0; 16], [0; 16]);
        row_bytes[..8].fill(64);
        rows[..8].fill(SIDE as u8);
        let config = Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes, rows };
        // SAFETY: the unit is there; the configuration is one of whole tiles. The tiles' content is no Rust value.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const config, options(nostack, readonly)) };
        Self(())
    }

    /// `out[0..32, 0..32] (+)= a · bᵀ`: two tiles of activations' rows met with two of weights' rows, `depth` tiles
    /// deep; each pointer is to consecutive tiles. `stride` is the distance of rows of `out` in bytes.
    ///
    /// # Safety
    /// The pointers are to `depth` tiles each, and `out` to 32 rows of 32 floats at that distance, which nobody else
    /// touches meanwhile; `depth` is not 0.
    #[allow(clippy::too_many_arguments, clippy::unused_self)] // a kernel's operands; the proof of the configuration
    pub unsafe fn product(
        &self,
        a: [*const u8; 2],
        b: [*const u8; 2],
        depth: usize,
        out: *mut f32,
        stride: usize,
        add: bool,
    ) {
        let lower = out.wrapping_byte_add(SIDE * stride);
        // SAFETY: the tiles are configured, as `self` shows, and the memory is there, as the caller promises.
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

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: the tiles are configured. Released, they cost nothing when threads are switched.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;

    #[test]
    fn tiles_are_multiplied_as_written() {
        if !usable() {
            eprintln!("this machine has no matrix unit");
            return;
        }
        let depth = 3;
        let value = |i: usize| bf16::from_f32((i * 37 % 61) as f32 / 8.0 - 3.0);
        // [tile of rows][depth][row][column] and [tile of rows][depth][pair][row][of pair]
        let a: Vec<bf16> = (0..2 * depth * 512).map(value).collect();
        let b: Vec<bf16> = (0..2 * depth * 512).map(|i| value(i + 5)).collect();
        let mut out = vec![1.0f32; 32 * 40];
        let at = |x: &[bf16], tile: usize| x[tile * depth * 512..].as_ptr().cast::<u8>();
        // SAFETY: asked for above; the buffers are of these sizes.
        unsafe {
            let tiles = Tiles::configure();
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
