//! Large memory: aligned for vectors, in huge pages where the system gives them (reading through 4 KiB pages costs a
//! quarter of the memory's speed), and without zeroing what is written over anyway.

use std::alloc::{Layout, alloc, dealloc};
use std::ptr::NonNull;

use crate::error::{Error, Result};

/// What vectors and cache lines want.
const LINE: usize = 64;
/// A huge page.
const HUGE: usize = 2 << 20;

/// Bytes of its own that may be shared between threads as plain bytes are.
pub struct Region {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: owned bytes, reached as `&self` for reading and `&mut self` for writing only.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// `bytes` bytes that `fill` writes, all of them: it is given the start.
    ///
    /// # Safety
    /// `fill` must write each byte.
    pub unsafe fn filled(what: &'static str, bytes: usize, fill: impl FnOnce(*mut u8)) -> Result<Self> {
        let out_of_memory = || Error::OutOfMemory { what, bytes };
        let align = if bytes >= 2 * HUGE { HUGE } else { LINE };
        let layout = Layout::from_size_align(bytes.max(LINE), align).map_err(|_| out_of_memory())?;
        // SAFETY: the layout is not of size 0.
        let start = NonNull::new(unsafe { alloc(layout) }).ok_or_else(out_of_memory)?;
        let region = Self { start, layout };
        if align == HUGE {
            want_huge_pages(start, bytes);
        }
        fill(start.as_ptr());
        Ok(region)
    }

    pub fn start(&self) -> *const u8 {
        self.start.as_ptr()
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}

/// Advice: where the system does not take it, things are as they were.
fn want_huge_pages(start: NonNull<u8>, bytes: usize) {
    #[cfg(target_os = "linux")]
    // SAFETY: whole pages of memory of ours; the advice changes no content.
    unsafe {
        libc::madvise(start.as_ptr().cast(), bytes / HUGE * HUGE, libc::MADV_HUGEPAGE);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (start, bytes);
}
