//! Scales and minimums for Q2_K, Q4_K and Q5_K: `x ~ d * scale * level - dmin * minimum`.
//!
//! First a search over several assignments of levels finds each sub-block's best scale and minimum by weighted least
//! squares. Then the sub-blocks share one `d` and one `dmin`: the small integers and the two factors are fitted in turn,
//! each exactly for the others, and the best state is kept.

use half::f16;

use super::lanes::{Lanes, SuperBlock, half, half_covering};
use super::sweep::Sweep;

/// The ranges of a format, and the candidates to try.
pub(super) struct Range {
    /// The highest level; levels start at 0.
    pub levels: f32,
    /// The highest quantized scale and minimum.
    pub scales: f32,
    /// The offsets to try: the range of values is spread over `levels + offset` steps.
    pub sweep: Sweep,
}

/// One super-block as the format stores it, levels in natural order.
pub(super) struct Fit<const L: usize> {
    pub d: f16,
    pub dmin: f16,
    pub scales: [u8; L],
    pub mins: [u8; L],
    pub levels: [u8; 256],
}

/// Weighted sums over one assignment of levels.
#[derive(Clone, Copy)]
struct Sums<const L: usize> {
    q: Lanes<L>,
    qq: Lanes<L>,
    xq: Lanes<L>,
}

/// `d`, `dmin` and the integers, as floats while they are fitted.
#[derive(Clone, Copy)]
struct State<const L: usize> {
    d: f32,
    dmin: f32,
    scales: Lanes<L>,
    mins: Lanes<L>,
}

/// Rounds of fitting integers and factors in turn. Later ones rarely change anything.
const ROUNDS: usize = 4;

#[inline(always)]
pub(super) fn fit<const L: usize, const N: usize>(block: &SuperBlock<L, N>, range: &Range) -> Fit<L> {
    let (scale, min) = search(block, range);
    let mut state = share(scale, min, range);
    let mut best = state;
    let mut least = f32::INFINITY;
    for _ in 0..=ROUNDS {
        let sums = assign(block, state.d_scales(), state.d_mins(), range.levels);
        let error = error(block, &sums, state.d_scales(), state.d_mins()).sum();
        if error >= least {
            break;
        }
        (least, best) = (error, state);
        state = refit(block, &sums, state, range);
    }
    finish(block, best, range)
}

/// Finds the best real-valued scale and minimum (a non-negative number that is subtracted) of each sub-block alone.
#[inline(always)]
fn search<const L: usize, const N: usize>(block: &SuperBlock<L, N>, range: &Range) -> (Lanes<L>, Lanes<L>) {
    let (mut low, mut high) = (Lanes::ZERO, block.x[0]);
    for x in &block.x {
        low = low.min(*x);
        high = high.max(*x);
    }
    let span = (high - low).max(Lanes::ZERO);
    let step = span.inverse();
    // A scale of 0: the best for a sub-block of one negative value.
    let flat = (-block.sum_wx * block.sum_w.inverse()).max(Lanes::ZERO);
    let mut best = (Lanes::ZERO, flat);
    let mut most = flat * flat * block.sum_w;
    for offset in range.sweep.offsets() {
        let sums = levels(block, step * Lanes::splat(range.levels + offset), -low, range.levels);
        keep_better(block, &sums, &mut best, &mut most);
    }
    for _ in 0..2 {
        let sums = assign(block, best.0, best.1, range.levels);
        keep_better(block, &sums, &mut best, &mut most);
    }
    best
}

/// Solves for scale and minimum under one assignment, and keeps them where they explain more than `most`.
#[inline(always)]
fn keep_better<const L: usize, const N: usize>(
    block: &SuperBlock<L, N>,
    sums: &Sums<L>,
    best: &mut (Lanes<L>, Lanes<L>),
    most: &mut Lanes<L>,
) {
    let (scale, min) = line(block, sums);
    let explained = block.sum_wxx - error(block, sums, scale, min);
    let better: [bool; L] = std::array::from_fn(|l| explained.0[l] > most.0[l] && scale.0[l] > 0.0);
    *most = Lanes::select(better, explained, *most);
    best.0 = Lanes::select(better, scale, best.0);
    best.1 = Lanes::select(better, min, best.1);
}

/// Returns the least-squares scale and (subtracted) minimum under one assignment.
#[inline(always)]
fn line<const L: usize, const N: usize>(block: &SuperBlock<L, N>, sums: &Sums<L>) -> (Lanes<L>, Lanes<L>) {
    let product = block.sum_w * sums.qq;
    let determinant = product - sums.q * sums.q;
    let inverse = determinant.inverse();
    let scale = (block.sum_w * sums.xq - block.sum_wx * sums.q) * inverse;
    let min = (sums.q * sums.xq - sums.qq * block.sum_wx) * inverse;
    // A minimum below zero cannot be stored, and where all levels are equal there is no slope: the line then goes through
    // the origin.
    let origin = sums.xq * sums.qq.inverse();
    let flat = (product * Lanes::splat(1e-5)).greater(determinant);
    let below = Lanes::ZERO.greater(min);
    let scale = Lanes::select(flat, origin, Lanes::select(below, origin, scale));
    (scale, Lanes::select(flat, Lanes::ZERO, min.max(Lanes::ZERO)))
}

/// Returns the weighted squared error of each sub-block.
#[inline(always)]
fn error<const L: usize, const N: usize>(
    block: &SuperBlock<L, N>,
    sums: &Sums<L>,
    scale: Lanes<L>,
    min: Lanes<L>,
) -> Lanes<L> {
    let two = Lanes::splat(2.0);
    let levels = scale * (scale * sums.qq - two * (min * sums.q + sums.xq));
    block.sum_wxx + levels + min * (min * block.sum_w + two * block.sum_wx)
}

/// Returns the sums under the nearest levels for these scales and minimums.
#[inline(always)]
fn assign<const L: usize, const N: usize>(
    block: &SuperBlock<L, N>,
    scale: Lanes<L>,
    min: Lanes<L>,
    top: f32,
) -> Sums<L> {
    levels(block, scale.inverse(), min, top)
}

/// Returns the sums under `level = round((x + min) * inverse)`.
#[inline(always)]
fn levels<const L: usize, const N: usize>(
    block: &SuperBlock<L, N>,
    inverse: Lanes<L>,
    min: Lanes<L>,
    top: f32,
) -> Sums<L> {
    let mut sums = Sums { q: Lanes::ZERO, qq: Lanes::ZERO, xq: Lanes::ZERO };
    let shift = min * inverse;
    for (x, w) in block.x.iter().zip(&block.w) {
        let q = x.mul_add(inverse, shift).round_within(0.0, top);
        let wq = *w * q;
        sums.q = sums.q + wq;
        sums.qq = wq.mul_add(q, sums.qq);
        sums.xq = wq.mul_add(*x, sums.xq);
    }
    sums
}

/// Returns the first shared state: the largest scale and minimum get the highest integer.
#[inline(always)]
fn share<const L: usize>(scale: Lanes<L>, min: Lanes<L>, range: &Range) -> State<L> {
    let d = half_covering(scale.top() / range.scales);
    let dmin = half_covering(min.top() / range.scales);
    State {
        d,
        dmin,
        scales: (scale * Lanes::splat(d).inverse()).round_within(0.0, range.scales),
        mins: (min * Lanes::splat(dmin).inverse()).round_within(0.0, range.scales),
    }
}

/// Returns better factors for the current levels and integers, with better integers for those factors.
#[inline(always)]
fn refit<const L: usize, const N: usize>(
    block: &SuperBlock<L, N>,
    sums: &Sums<L>,
    state: State<L>,
    range: &Range,
) -> State<L> {
    let (s, m) = (state.scales, state.mins);
    let (ss, sm, mm) = ((s * s * sums.qq).sum(), (s * m * sums.q).sum(), (m * m * block.sum_w).sum());
    let (sx, mx) = ((s * sums.xq).sum(), (m * block.sum_wx).sum());
    // minimize ss d^2 - 2 sm d dmin + mm dmin^2 - 2 sx d + 2 mx dmin
    let determinant = ss * mm - sm * sm;
    let (d, dmin) = if determinant > 0.0 {
        ((sx * mm - sm * mx) / determinant, (sm * sx - ss * mx) / determinant)
    } else if ss > 0.0 {
        (sx / ss, 0.0)
    } else {
        (0.0, state.dmin)
    };
    let (d, dmin) = if d > 0.0 && dmin >= 0.0 { (half(d), half(dmin)) } else { (state.d, state.dmin) };

    let by_d = Lanes::splat(d).inverse();
    let by_dmin = Lanes::splat(dmin).inverse();
    let inverse_w = block.sum_w.inverse();
    // The optimum for these levels without sharing. Its floor and ceiling are tried, each with its best minimum.
    let ideal = line(block, sums).0 * by_d;
    let mut next = State { d, dmin, scales: state.scales, mins: state.mins };
    let mut least = error(block, sums, next.d_scales(), next.d_mins());
    for nudge in [-0.5, 0.5] {
        let scales = (ideal + Lanes::splat(nudge)).round_within(0.0, range.scales);
        let wanted = (scales * Lanes::splat(d) * sums.q - block.sum_wx) * inverse_w * by_dmin;
        let mins = wanted.round_within(0.0, range.scales);
        let error = error(block, sums, scales * Lanes::splat(d), mins * Lanes::splat(dmin));
        let better = least.greater(error);
        least = Lanes::select(better, error, least);
        next.scales = Lanes::select(better, scales, next.scales);
        next.mins = Lanes::select(better, mins, next.mins);
    }
    next
}

impl<const L: usize> State<L> {
    #[inline(always)]
    fn d_scales(&self) -> Lanes<L> {
        self.scales * Lanes::splat(self.d)
    }

    #[inline(always)]
    fn d_mins(&self) -> Lanes<L> {
        self.mins * Lanes::splat(self.dmin)
    }
}

#[inline(always)]
fn finish<const L: usize, const N: usize>(
    block: &SuperBlock<L, N>,
    state: State<L>,
    range: &Range,
) -> Fit<L> {
    let inverse = state.d_scales().inverse();
    let shift = state.d_mins() * inverse;
    let mut levels = [0_u8; 256];
    for (j, x) in block.x.iter().enumerate() {
        let q = x.mul_add(inverse, shift).round_within(0.0, range.levels);
        for l in 0..L {
            levels[l * N + j] = q.0[l] as u8;
        }
    }
    Fit {
        d: f16::from_f32(state.d),
        dmin: f16::from_f32(state.dmin),
        scales: std::array::from_fn(|l| state.scales.0[l] as u8),
        mins: std::array::from_fn(|l| state.mins.0[l] as u8),
        levels,
    }
}
