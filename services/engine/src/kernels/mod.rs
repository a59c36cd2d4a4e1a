//! Products on the machine's widest units: AVX-512 VNNI for steps, the matrix unit (AMX) for chunks.
//!
//! What the machine has is asked at run time: a binary built for less still uses it. Beside everything here is a
//! portable path ([`crate::stored`]), with which tests compare it.

#[cfg(target_arch = "x86_64")]
mod format;
pub mod rounded;
pub mod tiles;

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod gemm;
#[cfg(target_arch = "x86_64")]
mod halves;
#[cfg(target_arch = "x86_64")]
mod interleaved;
#[cfg(target_arch = "x86_64")]
pub mod page;
#[cfg(target_arch = "x86_64")]
mod quantized;
#[cfg(target_arch = "x86_64")]
mod spread;
#[cfg(target_arch = "x86_64")]
mod steps;
#[cfg(target_arch = "x86_64")]
mod wide;

use millm_model::TensorType;

use crate::error::Result;
use crate::matrix::Matrix;
use crate::team::Team;

/// Lays a matrix out for this machine's own kernels; `None` where they do not take it.
#[cfg(target_arch = "x86_64")]
pub fn read(
    team: &Team,
    ty: TensorType,
    bytes: &[u8],
    (rows, columns): (usize, usize),
) -> Result<Option<Box<dyn Matrix>>> {
    if !vectors() {
        return Ok(None);
    }
    match ty {
        TensorType::F16 | TensorType::BF16 => halves::read(team, ty, bytes, (rows, columns)),
        _ => quantized::read(team, ty, bytes, (rows, columns)),
    }
}

#[cfg(not(target_arch = "x86_64"))]
pub fn read(_: &Team, _: TensorType, _: &[u8], _: (usize, usize)) -> Result<Option<Box<dyn Matrix>>> {
    Ok(None)
}

/// Whether the machine has the vectors that [`wide`] is written for.
#[cfg(target_arch = "x86_64")]
pub fn vectors() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vnni")
        && is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
}
