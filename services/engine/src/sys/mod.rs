//! CPU and operating system: threads, memory, instruction sets. Nothing here knows what a model is.

pub(crate) mod bandwidth;
pub(crate) mod cpu;
pub(crate) mod huge_pages;
pub(crate) mod pod;
pub(crate) mod simd;
pub(crate) mod thread_pool;
