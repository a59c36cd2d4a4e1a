//! Measures the memory bandwidth of the machine, which limits decode speed. Benches compare the engine with it.

use std::ops::Range;
use std::time::{Duration, Instant};

use crate::error::Result;
use crate::sys::huge_pages::HugePages;
use crate::sys::thread_pool::ThreadPool;

/// Bytes read in one pass: more than caches hold.
const BYTES: usize = 1 << 30;
const PASSES: usize = 5;
/// Bytes in one work item.
const PIECE: usize = 1 << 20;

/// Returns the bytes per second that `threads` threads read from memory, the best of five passes over 1 GiB.
///
/// # Errors
/// [`crate::Error::OutOfMemory`] if 1 GiB cannot be allocated, [`crate::Error::Thread`] if a thread cannot be started.
pub fn bandwidth(threads: usize) -> Result<f64> {
    let pool = ThreadPool::new(threads)?;
    // SAFETY: every byte is written.
    let memory = unsafe {
        HugePages::filled("the bandwidth measurement", BYTES, |start| start.write_bytes(1, BYTES))
    }?;
    let bytes = memory.bytes();
    let pass = || {
        let begin = Instant::now();
        pool.run(BYTES / PIECE, 8, |_, pieces: Range<usize>| {
            std::hint::black_box(sum(&bytes[pieces.start * PIECE..pieces.end * PIECE]));
        });
        begin.elapsed()
    };
    let best = (0..PASSES).map(|_| pass()).min().unwrap_or(Duration::MAX);
    Ok(BYTES as f64 / best.as_secs_f64())
}

/// Prefetches the bytes one page (4 KiB) ahead, as the kernels do: hardware prefetchers stop at page boundaries.
fn prefetch_ahead(bytes: &[u8; 256]) {
    #[cfg(target_arch = "x86_64")]
    for line in 0..4 {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch is a hint that faults at no address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(bytes.as_ptr().wrapping_add(4096 + 64 * line).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = bytes;
}

/// Returns the wrapping sum of all 64-bit words, in 32 independent lanes so that only memory limits the speed.
fn sum(bytes: &[u8]) -> u64 {
    let mut lanes = [0u64; 32];
    for words in bytes.as_chunks::<256>().0 {
        prefetch_ahead(words);
        for (lane, word) in lanes.iter_mut().zip(words.as_chunks::<8>().0) {
            *lane = lane.wrapping_add(u64::from_ne_bytes(*word));
        }
    }
    lanes.into_iter().fold(0, u64::wrapping_add)
}
