//! Arithmetic on f32 slices that the compiler vectorizes: fixed numbers of lanes, no branches in the loops.

use crate::sys::cpu::Avx2;

/// Independent partial sums: the compiler may not reorder float additions by itself.
const LANES: usize = 16;

/// True if the build's target has fused multiply-add. Without the instruction, `mul_add` is a slow library call.
const FUSED: bool = cfg!(any(target_feature = "fma", target_arch = "aarch64"));

/// Returns `a * b + c`, fused if the build's target has the instruction.
#[inline]
pub fn fma(a: f32, b: f32, c: f32) -> f32 {
    multiply_add::<FUSED>(a, b, c)
}

#[inline(always)]
#[allow(clippy::inline_always)] // must be compiled with the instruction set of its caller
fn multiply_add<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

/// Returns the dot product of two slices of the same length.
#[inline]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    sum_of_products::<FUSED>(a, b)
}

/// As [`dot`], compiled for AVX2 and FMA whatever the build's target is.
pub fn dot_avx2(_: Avx2, a: &[f32], b: &[f32]) -> f32 {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2,fma")]
        fn compiled(a: &[f32], b: &[f32]) -> f32 {
            sum_of_products::<true>(a, b)
        }
        // SAFETY: the argument proves that this CPU has AVX2 and FMA.
        unsafe { compiled(a, b) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        dot(a, b)
    }
}

#[inline(always)]
#[allow(clippy::inline_always)] // must be compiled with the instruction set of its caller
fn sum_of_products<const FUSED: bool>(a: &[f32], b: &[f32]) -> f32 {
    debug_assert_eq!(a.len(), b.len());
    let mut sums = [[0.0f32; LANES]; 4];
    let (a_blocks, a_rest) = a.as_chunks::<{ 4 * LANES }>();
    let (b_blocks, b_rest) = b.as_chunks::<{ 4 * LANES }>();
    for (x, y) in a_blocks.iter().zip(b_blocks) {
        for (block, sums) in sums.iter_mut().enumerate() {
            for lane in 0..LANES {
                sums[lane] =
                    multiply_add::<FUSED>(x[block * LANES + lane], y[block * LANES + lane], sums[lane]);
            }
        }
    }
    let mut total = 0.0;
    let [first, second, third, fourth] = sums;
    for (((a, b), c), d) in first.iter().zip(second).zip(third).zip(fourth) {
        total += (a + b) + (c + d);
    }
    a_rest.iter().zip(b_rest).fold(total, |sum, (x, y)| multiply_add::<FUSED>(*x, *y, sum))
}

/// Adds `x` to `out`, element by element.
#[inline]
pub fn add(out: &mut [f32], x: &[f32]) {
    for (out, x) in out.iter_mut().zip(x) {
        *out += x;
    }
}

/// Returns the largest value, or -∞ if there is none. NaN is ignored.
#[inline]
pub fn max(values: &[f32]) -> f32 {
    let mut most = [f32::NEG_INFINITY; LANES];
    let (blocks, rest) = values.as_chunks::<LANES>();
    for block in blocks {
        for lane in 0..LANES {
            most[lane] = if block[lane] > most[lane] { block[lane] } else { most[lane] };
        }
    }
    most.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max)
}

/// Returns e^x within 2 units in the last place for x in [-87, 88]. Values beyond are clamped to that range.
#[inline]
pub fn exp(x: f32) -> f32 {
    // Cody-Waite reduction by ln 2 in two parts and the polynomial of Cephes' expf.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Adding 1.5 * 2^23 leaves the nearest integer in the low bits.
    const SHIFT: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let shifted = fma(x, std::f32::consts::LOG2_E, SHIFT);
    let n = shifted - SHIFT;
    let r = fma(-n, LN2_LOW, fma(-n, LN2_HIGH, x));
    let mut p = 1.987_569_1e-4;
    for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_66, 0.5] {
        p = fma(p, r, coefficient);
    }
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    fma(p * r, r, r + 1.0) * power
}

/// Returns the hyperbolic tangent, within 3·10⁻⁷.
#[inline]
pub fn tanh(x: f32) -> f32 {
    1.0 - 2.0 / (1.0 + exp(2.0 * x))
}

/// Returns `x / (1 + e^-x)` (SiLU).
#[inline]
pub fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// Returns `x / (1 + e^(-alpha x))` (Swish).
#[inline]
pub fn swish(x: f32, alpha: f32) -> f32 {
    x / (1.0 + exp(-alpha * x))
}

/// Returns the exact GELU: `x * (1 + erf(x / sqrt 2)) / 2`.
#[inline]
pub fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + candle_core::cpu::erf::erf_f32(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// Returns the tanh approximation of GELU (Hendrycks and Gimpel, 2016).
#[inline]
pub fn gelu_tanh(x: f32) -> f32 {
    // (1 + tanh z) / 2 = 1 / (1 + e^-2z)
    let z = 0.797_884_6 * fma(0.044_715 * x * x, x, x);
    x / (1.0 + exp(-2.0 * z))
}

/// Returns ln Σ e^x over all values.
pub fn log_sum_exp(values: &[f32]) -> f32 {
    let most = max(values);
    let mut sums = [0.0f64; LANES];
    let (blocks, rest) = values.as_chunks::<LANES>();
    for block in blocks {
        for lane in 0..LANES {
            sums[lane] += f64::from(exp(block[lane] - most));
        }
    }
    let total: f64 = sums.iter().sum::<f64>() + rest.iter().map(|x| f64::from(exp(x - most))).sum::<f64>();
    most + total.ln() as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(got: f32, expected: f64, tolerance: f64) {
        let error = (f64::from(got) - expected).abs() / expected.abs().max(1e-6);
        assert!(error <= tolerance, "{got} is not {expected}");
    }

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        for step in -8700..=8800 {
            let x = step as f32 / 100.0;
            let (got, expected) = (exp(x), f64::from(x).exp());
            assert!(
                ((f64::from(got) - expected) / expected).abs() < 2.5e-7,
                "exp({x}) = {got}, not {expected}"
            );
        }
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(f32::NEG_INFINITY) < 1e-37);
        assert!(exp(1000.0).is_finite());
    }

    #[test]
    fn dot_takes_any_length() {
        for length in [0, 1, 15, 63, 64, 65, 200] {
            let a: Vec<f32> = (0..length).map(|i| i as f32 * 0.25).collect();
            let b: Vec<f32> = (0..length).map(|i| 1.0 - i as f32 * 0.01).collect();
            let expected: f64 = a.iter().zip(&b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            close(dot(&a, &b), expected, 1e-5);
            if let Some(avx2) = Avx2::detect() {
                close(dot_avx2(avx2, &a, &b), expected, 1e-5);
            }
        }
    }

    #[test]
    fn activations_have_known_values() {
        for step in -1000..=1000 {
            let x = step as f32 / 50.0;
            assert!((tanh(x) - x.tanh()).abs() < 3e-7, "tanh({x}) = {}", tanh(x));
        }
        close(silu(1.0), 0.731_058_578_630_0, 1e-6);
        close(silu(-20.0), -4.122_307_244_9e-8, 1e-5);
        close(swish(1.0, 1.702), 0.845_795_765_93, 1e-6);
        close(gelu(1.0), 0.841_344_746_068_5, 1e-6);
        close(gelu_tanh(1.0), 0.841_191_990_60, 1e-6);
        close(gelu_tanh(-1.0), -0.158_808_009_39, 1e-5);
    }

    #[test]
    fn largest_and_log_sum_exp() {
        let values: Vec<f32> = (0..100).map(|i| i as f32).collect();
        close(log_sum_exp(&values), 99.458_675_145, 1e-6);
        close(max(&values), 99.0, 0.0);
    }
}
