//! Types that are nothing but their bytes, and the two ways their memory comes to be: zeroed, or copied from a
//! file. Both refuse what does not fit instead of aborting.

use candle_core::quantized::k_quants::{
    BlockQ2K, BlockQ3K, BlockQ4_0, BlockQ4_1, BlockQ4K, BlockQ5_0, BlockQ5_1, BlockQ5K, BlockQ6K, BlockQ8_0,
    BlockQ8_1, BlockQ8K,
};
use half::{bf16, f16};

use crate::error::{Error, Result};
use crate::mxfp4::BlockMxfp4;

/// A type for which every pattern of bytes is a value.
///
/// # Safety
/// That must be so, and the type must need no drop.
pub unsafe trait Plain: Send + Sync + 'static {}

macro_rules! plain {
    ($($name:ty),*) => { $(
        // SAFETY: made of integers and half floats only, laid out by `repr(C)` without padding.
        unsafe impl Plain for $name {}
    )* };
}

plain!(f32, f16, bf16, BlockQ4_0, BlockQ4_1, BlockQ5_0, BlockQ5_1, BlockQ8_0, BlockQ8_1);
plain!(BlockQ2K, BlockQ3K, BlockQ4K, BlockQ5K, BlockQ6K, BlockQ8K, BlockMxfp4);

/// `length` zeros. The operating system gives the memory page by page as it is first written.
#[allow(clippy::same_length_and_capacity)] // allocated just above with exactly this length
pub fn zeroed<T: Plain>(what: &'static str, length: usize) -> Result<Vec<T>> {
    let bytes = length.saturating_mul(size_of::<T>());
    let out_of_memory = || Error::OutOfMemory { what, bytes };
    if bytes == 0 {
        return Ok(Vec::new());
    }
    let layout = std::alloc::Layout::array::<T>(length).map_err(|_| out_of_memory())?;
    // SAFETY: the layout is not of size 0.
    let start = unsafe { std::alloc::alloc_zeroed(layout) }.cast::<T>();
    if start.is_null() {
        return Err(out_of_memory());
    }
    // SAFETY: allocated with the layout of `length` T by the global allocator; zero bytes are values of T.
    Ok(unsafe { Vec::from_raw_parts(start, length, length) })
}

/// The values that `bytes` (little-endian, of any alignment) hold; the length must be a multiple of T's size.
pub fn copied<T: Plain>(what: &'static str, bytes: &[u8]) -> Result<Vec<T>> {
    assert!(bytes.len().is_multiple_of(size_of::<T>()), "whole values");
    let length = bytes.len() / size_of::<T>();
    let mut values: Vec<T> = Vec::new();
    values.try_reserve_exact(length).map_err(|_| Error::OutOfMemory { what, bytes: bytes.len() })?;
    // SAFETY: room for `length` values was reserved, the source holds as many bytes, every pattern is a value.
    unsafe {
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), values.as_mut_ptr().cast::<u8>(), bytes.len());
        values.set_len(length);
    }
    Ok(values)
}

/// The first `length` values of a buffer that is kept between passes, made longer if need be.
///
/// Kernels call it deep within a pass, where no result leads out: memory that is lacking unwinds with the error, which
/// [`crate::error::of_panic`] gives back to who catches it. An abort would end the process.
pub fn room<T: Clone>(buffer: &mut Vec<T>, length: usize, filler: T) -> &mut [T] {
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
    use crate::error::of_panic;

    #[test]
    fn copies_from_unaligned_bytes() {
        let bytes: Vec<u8> =
            [9u8].into_iter().chain([1.5f32, -2.0].iter().flat_map(|x| x.to_le_bytes())).collect();
        assert_eq!(copied::<f32>("test", &bytes[1..]).unwrap(), [1.5, -2.0]);
        assert!(copied::<f32>("test", &[]).unwrap().is_empty());
    }

    #[test]
    fn refuses_what_does_not_fit() {
        assert_eq!(zeroed::<f32>("test", 5).unwrap(), [0.0; 5]);
        assert!(matches!(zeroed::<f32>("test", usize::MAX / 8), Err(Error::OutOfMemory { .. })));
    }

    #[test]
    fn a_buffer_that_cannot_grow_stays_as_it_was_and_says_so() {
        let mut buffer = vec![1.0f32];
        assert_eq!(room(&mut buffer, 2, 0.0), [1.0, 0.0]);
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            room(&mut buffer, usize::MAX / 8, 0.0);
        }));
        assert!(matches!(of_panic(panic.unwrap_err()), Error::OutOfMemory { .. }));
        assert_eq!(room(&mut buffer, 1, 0.0), [1.0]);
    }
}
