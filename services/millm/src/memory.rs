//! The allocator of the whole program, and the one thing asked of it beside memory.

use millm_runtime::Budgeted;

#[global_allocator]
static ALLOCATOR: Budgeted<mimalloc::MiMalloc> = Budgeted(mimalloc::MiMalloc);

// SAFETY: as mimalloc.h declares it, in the library that the crate links; it may be called at any time.
unsafe extern "C" {
    safe fn mi_collect(force: bool);
}

/// Returns freed memory to the system now. Of itself mimalloc keeps much of it, and a model that was unloaded
/// would still count as used.
pub fn give_back() {
    mi_collect(true);
}
