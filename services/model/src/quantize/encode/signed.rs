//! Scales for Q3_K, Q6_K (`x ~ d * scale * level`, shared `d`) and Q4_0, Q5_0 (`x ~ d * level`, each its own `d`).
//!
//! Levels run from `-n` to `n - 1`. There is one more below zero than above, so both signs of a scale are tried.

use half::f16;

use super::lanes::{Lanes, SuperBlock, half, half_covering};
use super::sweep::Sweep;

/// The ranges of a format, and the candidates to try.
pub(super) struct Range {
    /// `n`: levels are `-n..n`.
    pub levels: f32,
    /// Quantized scales are `-scales..scales`; unused where each block has its own factor.
    pub scales: f32,
    /// The offsets to try: the largest value maps to `n + offset`.
    pub sweep: Sweep,
}

/// One super-block as the format stores it, levels (`+ n`, from 0) in natural order.
pub(super) struct Fit<const L: usize> {
    pub d: f16,
    pub scales: [i8; L],
    pub levels: [u8; 256],
}

/// `L` blocks, each with its own factor.
pub(super) struct Alone<const L: usize> {
    pub d: [f16; L],
    pub levels: [u8; 256],
}

/// Weighted sums over one assignment of levels.
#[derive(Clone, Copy)]
struct Sums<const L: usize> {
    qq: Lanes<L>,
    xq: Lanes<L>,
}

/// Rounds of fitting integers and factor in turn.
const ROUNDS: usize = 4;

#[inline(always)]
pub(super) fn fit<const L: usize, const N: usize>(block: &SuperBlock<L, N>, range: &Range) -> Fit<L> {
    let scale = search(block, range);
    let extreme = scale.0.iter().fold(0.0_f32, |a, &b| if b.abs() > a.abs() { b } else { a });
    // The largest scale gets the lowest integer, since there is one more below zero than above.
    let mut d = half_covering(-extreme / range.scales);
    let mut scales = integers(scale, d, range);
    let mut best = (d, scales);
    let mut least = f32::INFINITY;
    for _ in 0..=ROUNDS {
        let sums = levels(block, (scales * Lanes::splat(d)).inverse(), range.levels);
        let scaled = scales * Lanes::splat(d);
        let error = (block.sum_wxx + scaled * (scaled * sums.qq - Lanes::splat(2.0) * sums.xq)).sum();
        if error >= least {
            break;
        }
        (least, best) = (error, (d, scales));
        let weight = (scales * scales * sums.qq).sum();
        if weight > 0.0 {
            d = half((scales * sums.xq).sum() / weight);
        }
        scales = integers(sums.xq * sums.qq.inverse(), d, range);
    }
    let (d, scales) = best;
    Fit {
        d: f16::from_f32(d),
        scales: std::array::from_fn(|l| scales.0[l] as i8),
        levels: finish(block, (scales * Lanes::splat(d)).inverse(), range.levels),
    }
}

#[inline(always)]
pub(super) fn fit_alone<const L: usize, const N: usize>(block: &SuperBlock<L, N>, range: &Range) -> Alone<L> {
    let scale = search(block, range);
    let stored = Lanes(scale.0.map(half));
    Alone { d: stored.0.map(f16::from_f32), levels: finish(block, stored.inverse(), range.levels) }
}

/// Finds the best real-valued scale of each sub-block alone.
#[inline(always)]
fn search<const L: usize, const N: usize>(block: &SuperBlock<L, N>, range: &Range) -> Lanes<L> {
    let mut extreme = Lanes::ZERO;
    for x in &block.x {
        extreme = Lanes::select(x.abs().greater(extreme.abs()), *x, extreme);
    }
    let step = extreme.inverse();
    let mut best = Lanes::ZERO;
    let mut most = Lanes::ZERO;
    for offset in range.sweep.offsets() {
        for top in [-range.levels - offset, range.levels - 1.0 + offset] {
            let sums = levels(block, step * Lanes::splat(top), range.levels);
            keep_better(&sums, &mut best, &mut most);
        }
    }
    for _ in 0..2 {
        let sums = levels(block, best.inverse(), range.levels);
        keep_better(&sums, &mut best, &mut most);
    }
    best
}

#[inline(always)]
fn keep_better<const L: usize>(sums: &Sums<L>, best: &mut Lanes<L>, most: &mut Lanes<L>) {
    let scale = sums.xq * sums.qq.inverse();
    let explained = scale * sums.xq;
    let better = explained.greater(*most);
    *most = Lanes::select(better, explained, *most);
    *best = Lanes::select(better, scale, *best);
}

/// Returns the sums under `level = round(x * inverse)`.
#[inline(always)]
fn levels<const L: usize, const N: usize>(block: &SuperBlock<L, N>, inverse: Lanes<L>, n: f32) -> Sums<L> {
    let mut sums = Sums { qq: Lanes::ZERO, xq: Lanes::ZERO };
    for (x, w) in block.x.iter().zip(&block.w) {
        let q = (*x * inverse).round_within(-n, n - 1.0);
        let wq = *w * q;
        sums.qq = wq.mul_add(q, sums.qq);
        sums.xq = wq.mul_add(*x, sums.xq);
    }
    sums
}

#[inline(always)]
fn integers<const L: usize>(scale: Lanes<L>, d: f32, range: &Range) -> Lanes<L> {
    (scale * Lanes::splat(d).inverse()).round_within(-range.scales, range.scales - 1.0)
}

#[inline(always)]
fn finish<const L: usize, const N: usize>(block: &SuperBlock<L, N>, inverse: Lanes<L>, n: f32) -> [u8; 256] {
    let mut levels = [0_u8; 256];
    for (j, x) in block.x.iter().enumerate() {
        let q = (*x * inverse).round_within(-n, n - 1.0) + Lanes::splat(n);
        for l in 0..L {
            levels[l * N + j] = q.0[l] as u8;
        }
    }
    levels
}
