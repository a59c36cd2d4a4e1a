//! What the machine gives at most: benches hold the engine against it.

use std::ops::Range;
use std::time::{Duration, Instant};

use crate::error::Result;
use crate::region::Region;
use crate::team::Team;

/// More than caches hold.
const BYTES: usize = 1 << 30;
const PASSES: usize = 5;
/// Bytes that a thread takes at a time.
const PIECE: usize = 1 << 20;

/// Bytes per second that `threads` threads read from memory, the best of a few passes.
pub fn bandwidth(threads: usize) -> Result<f64> {
    let team = Team::new(threads)?;
    // SAFETY: every byte is written.
    let memory =
        unsafe { Region::filled("the measure of memory", BYTES, |start| start.write_bytes(1, BYTES)) }?;
    // SAFETY: the region has so many bytes, all written.
    let bytes = unsafe { std::slice::from_raw_parts(memory.start(), BYTES) };
    let pass = || {
        let begin = Instant::now();
        team.run(BYTES / PIECE, 8, |_, pieces: Range<usize>| {
            std::hint::black_box(sum(&bytes[pieces.start * PIECE..pieces.end * PIECE]));
        });
        begin.elapsed()
    };
    let best = (0..PASSES).map(|_| pass()).min().unwrap_or(Duration::MAX);
    Ok(BYTES as f64 / best.as_secs_f64())
}

/// For what comes a page later, as the kernels do: machines do not ask for it in time by themselves.
fn ask_ahead(bytes: &[u8; 256]) {
    #[cfg(target_arch = "x86_64")]
    for line in 0..4 {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: asking for memory touches none, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(bytes.as_ptr().wrapping_add(4096 + 64 * line).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = bytes;
}

/// Of all words, in lanes of their own so that nothing but memory is waited for.
fn sum(bytes: &[u8]) -> u64 {
    let mut lanes = [0u64; 32];
    for words in bytes.as_chunks::<256>().0 {
        ask_ahead(words);
        for (lane, word) in lanes.iter_mut().zip(words.as_chunks::<8>().0) {
            *lane = lane.wrapping_add(u64::from_ne_bytes(*word));
        }
    }
    lanes.into_iter().fold(0, u64::wrapping_add)
}
