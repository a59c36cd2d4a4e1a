//! Kernels for AVX-512 and AMX: VNNI for quantized decode, the matrix unit for prefill, vectors for attention.
//!
//! The instruction sets are detected at run time ([`crate::sys::cpu`]), so a binary that was built for an older CPU uses
//! them too. Functions take an [`Avx512`] (or an [`Amx`](crate::sys::cpu::Amx)) as the proof that their instructions exist.
//! Inside, functions with `#[target_feature]` call each other safely.
//!
//! Weights are repacked at load: sixteen rows side by side ([`repack`], [`half`]), so that one load gives the same columns
//! of sixteen rows.

/// Compiles functions for the AVX-512 subset whose presence [`Avx512`] proves. The one list of these features beside
/// [`Avx512::detect`].
macro_rules! avx512 {
    ($($function:item)*) => { $(
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
        $function
    )* };
}

mod amx;
mod block_layout;
mod dequantize;
mod gemm_amx;
mod gemv;
mod half;
pub(crate) mod paged_attention;
mod quantized;
mod repack;
mod unpack;

use millm_model::TensorType;

use super::WeightMatrix;
use crate::error::Result;
#[cfg(doc)]
use crate::sys::cpu::Avx512;
use crate::sys::thread_pool::ThreadPool;

/// Repacks a matrix `[rows, columns]`; returns `None` if the pool's kernel set is a smaller one, or if there is no kernel
/// for this type and width.
///
/// # Errors
/// [`crate::Error::OutOfMemory`] if the repacked copy cannot be allocated.
pub fn load(
    pool: &ThreadPool,
    ty: TensorType,
    bytes: &[u8],
    (rows, columns): (usize, usize),
) -> Result<Option<Box<dyn WeightMatrix>>> {
    let Some(avx512) = pool.kernels().avx512() else { return Ok(None) };
    match ty {
        TensorType::F32 => Ok(None),
        TensorType::F16 | TensorType::BF16 => half::load(pool, avx512, ty, bytes, (rows, columns)),
        _ => quantized::load(pool, avx512, ty, bytes, (rows, columns)),
    }
}
