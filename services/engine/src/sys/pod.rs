//! Plain-old-data types, and fallible allocation of their memory: zeroed, or copied from a file.
//!
//! The trait is written by hand because `bytemuck::Pod` cannot be implemented here for candle's block types.
//! Allocation failures are errors, where `vec!` would abort the process.

use candle_core::quantized::k_quants::{
    BlockQ2K, BlockQ3K, BlockQ4_0, BlockQ4_1, BlockQ4K, BlockQ5_0, BlockQ5_1, BlockQ5K, BlockQ6K, BlockQ8_0,
    BlockQ8_1, BlockQ8K,
};
use half::{bf16, f16};

use crate::error::{Error, Result};

/// A plain-old-data type.
///
/// # Safety
/// Every pattern of bytes must be a valid value, the type must have no padding, and dropping it must do nothing.
pub unsafe trait Pod: Send + Sync + 'static {}

macro_rules! pod {
    ($($name:ty),*) => { $(
        // SAFETY: the type consists of numbers only, without padding (`repr(C)` for the blocks).
        unsafe impl Pod for $name {}
    )* };
}

pod!(f32, f16, bf16, BlockQ4_0, BlockQ4_1, BlockQ5_0, BlockQ5_1, BlockQ8_0, BlockQ8_1);
pod!(BlockQ2K, BlockQ3K, BlockQ4K, BlockQ5K, BlockQ6K, BlockQ8K);

/// Returns `length` zeros. The operating system backs the memory page by page as it is first written.
///
/// # Errors
/// [`Error::OutOfMemory`], which names `what`, if the allocation fails.
#[allow(clippy::same_length_and_capacity)] // allocated just above with exactly this length
pub fn zeroed<T: Pod>(what: &'static str, length: usize) -> Result<Vec<T>> {
    let bytes = length.saturating_mul(size_of::<T>());
    let out_of_memory = || Error::OutOfMemory { what, bytes };
    if bytes == 0 {
        return Ok(Vec::new());
    }
    let layout = std::alloc::Layout::array::<T>(length).map_err(|_| out_of_memory())?;
    // SAFETY: the size of the layout is not 0.
    let start = unsafe { std::alloc::alloc_zeroed(layout) }.cast::<T>();
    if start.is_null() {
        return Err(out_of_memory());
    }
    // SAFETY: the global allocator returned memory with the layout of `length` values; zero bytes are a value of T.
    Ok(unsafe { Vec::from_raw_parts(start, length, length) })
}

/// Returns a copy of the values in `bytes` (little-endian, of any alignment).
///
/// # Errors
/// [`Error::OutOfMemory`], which names `what`, if the allocation fails.
///
/// # Panics
/// If the length of `bytes` is not a multiple of the size of `T`.
pub fn copied<T: Pod>(what: &'static str, bytes: &[u8]) -> Result<Vec<T>> {
    assert!(bytes.len().is_multiple_of(size_of::<T>()), "whole values");
    let length = bytes.len() / size_of::<T>();
    let mut values: Vec<T> = Vec::new();
    values.try_reserve_exact(length).map_err(|_| Error::OutOfMemory { what, bytes: bytes.len() })?;
    // SAFETY: `length` values were reserved, the source has as many bytes, and every pattern of bytes is a value.
    unsafe {
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), values.as_mut_ptr().cast::<u8>(), bytes.len());
        values.set_len(length);
    }
    Ok(values)
}

/// Returns the first `length` values of a buffer that is kept between forward passes; a shorter buffer grows, with
/// `filler` as the new values.
///
/// # Panics
/// If the buffer cannot grow. Kernels call this deep within a forward pass, where no `Result` leads out: the panic's
/// payload is an [`Error::OutOfMemory`], which [`crate::error::from_panic`] returns to the code that catches the panic.
pub fn resized<T: Clone>(buffer: &mut Vec<T>, length: usize, filler: T) -> &mut [T] {
    let more = length.saturating_sub(buffer.len());
    if more > 0 {
        if buffer.try_reserve_exact(more).is_err() {
            let bytes = length.saturating_mul(size_of::<T>());
            std::panic::resume_unwind(Box::new(Error::OutOfMemory { what: "activations", bytes }));
        }
        buffer.resize(length, filler);
    }
    &mut buffer[..length]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::from_panic;

    #[test]
    fn copies_from_unaligned_bytes() {
        let bytes: Vec<u8> =
            [9u8].into_iter().chain([1.5f32, -2.0].iter().flat_map(|x| x.to_le_bytes())).collect();
        assert_eq!(copied::<f32>("test", &bytes[1..]).unwrap(), [1.5, -2.0]);
        assert!(copied::<f32>("test", &[]).unwrap().is_empty());
    }

    #[test]
    fn refuses_lengths_beyond_memory() {
        assert_eq!(zeroed::<f32>("test", 5).unwrap(), [0.0; 5]);
        assert!(matches!(zeroed::<f32>("test", usize::MAX / 8), Err(Error::OutOfMemory { .. })));
    }

    #[test]
    fn a_buffer_that_cannot_grow_is_unchanged_and_raises_out_of_memory() {
        let mut buffer = vec![1.0f32];
        assert_eq!(resized(&mut buffer, 2, 0.0), [1.0, 0.0]);
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            resized(&mut buffer, usize::MAX / 8, 0.0);
        }));
        assert!(matches!(from_panic(panic.unwrap_err()), Error::OutOfMemory { .. }));
        assert_eq!(resized(&mut buffer, 1, 0.0), [1.0]);
    }
}
