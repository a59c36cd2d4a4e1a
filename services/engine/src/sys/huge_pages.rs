//! Large blocks of memory for weights: aligned for vectors, in huge pages where the system gives them, not zeroed.
//!
//! Huge pages matter: reading weights through 4 KiB pages costs a quarter of the memory bandwidth.

use std::alloc::{Layout, alloc, dealloc};
use std::ptr::NonNull;

use crate::error::{Error, Result};

/// The alignment of small blocks, in bytes: a cache line and an AVX-512 vector.
const LINE: usize = 64;
/// The size of a huge page in bytes.
const HUGE: usize = 2 << 20;

/// An owned, immutable block of bytes, aligned to 64 bytes at least.
pub struct HugePages {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the block owns its bytes, and they are only read after construction.
unsafe impl Send for HugePages {}
// SAFETY: as above.
unsafe impl Sync for HugePages {}

impl HugePages {
    /// Allocates `bytes` bytes and has `fill` write them; `fill` receives the start of the block. `what` names the
    /// contents in errors.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] if the allocation fails.
    ///
    /// # Safety
    /// `fill` must write every byte, and none outside of the block.
    pub unsafe fn filled(what: &'static str, bytes: usize, fill: impl FnOnce(*mut u8)) -> Result<Self> {
        let out_of_memory = || Error::OutOfMemory { what, bytes };
        let align = if bytes >= 2 * HUGE { HUGE } else { LINE };
        let layout = Layout::from_size_align(bytes.max(LINE), align).map_err(|_| out_of_memory())?;
        // SAFETY: the size of the layout is not 0.
        let start = NonNull::new(unsafe { alloc(layout) }).ok_or_else(out_of_memory)?;
        let block = Self { start, layout };
        if align == HUGE {
            advise_huge_pages(start, bytes);
        }
        if bytes < LINE {
            // SAFETY: the layout has LINE bytes. `fill` writes the first of them, this the rest.
            unsafe { start.as_ptr().add(bytes).write_bytes(0, LINE - bytes) };
        }
        fill(start.as_ptr());
        Ok(block)
    }

    /// Returns all bytes of the block.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the block has this size, and `filled` has initialized all of it.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.layout.size()) }
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        // SAFETY: the memory was allocated with this layout.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}

/// Asks the kernel for huge pages. This is advice: where the system does not take it, nothing changes.
fn advise_huge_pages(start: NonNull<u8>, bytes: usize) {
    #[cfg(target_os = "linux")]
    // SAFETY: the range is whole pages of this allocation, and the advice changes no content.
    unsafe {
        libc::madvise(start.as_ptr().cast(), bytes / HUGE * HUGE, libc::MADV_HUGEPAGE);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (start, bytes);
}
