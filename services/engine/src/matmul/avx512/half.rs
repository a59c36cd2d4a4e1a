//! Weight matrices of f16 and bf16, sixteen rows side by side.
//!
//! bf16 lies in memory as the matrix unit takes it: pairs of columns of sixteen rows. f16 lies column by column. Decode
//! computes in f32. Prefill on the matrix unit keeps what f32 would keep to 1e-5: activations are split into two bf16 each,
//! and so are f16 weights, of which two bf16 hold all bits.

#[allow(clippy::wildcard_imports)] // intrinsics
use std::arch::x86_64::*;
use std::marker::PhantomData;
use std::ops::Range;

use half::{bf16, f16};
use millm_model::TensorType;

use super::amx::{TILE, TILE_COLUMNS, TileRegisters};
use super::block_layout::{LINE, ROWS};
use super::dequantize::{bf16_pair, store_line};
use super::gemm_amx::{self, PANEL_COLUMNS, Pass, TileColumns, gemm};
use super::gemv::MAX_ROWS;
use super::unpack::prefetch_ahead;
use crate::error::Result;
use crate::matmul::activations::{ActivationFormat, Activations};
use crate::matmul::{Phase, WeightMatrix};
use crate::sys::cpu::{Amx, Avx512};
use crate::sys::huge_pages::HugePages;
use crate::sys::thread_pool::{Arena, Cells, SharedPtr, ThreadPool};

/// Repacks a matrix `[rows, columns]` of f16 or bf16; returns `None` for other types, and if `columns` is no multiple of 32.
///
/// # Errors
/// [`crate::Error::OutOfMemory`] if the repacked copy cannot be allocated.
pub fn load(
    pool: &ThreadPool,
    avx512: Avx512,
    ty: TensorType,
    bytes: &[u8],
    (rows, columns): (usize, usize),
) -> Result<Option<Box<dyn WeightMatrix>>> {
    if !columns.is_multiple_of(TILE_COLUMNS) {
        return Ok(None);
    }
    Ok(match ty {
        TensorType::F16 => Some(Box::new(HalfMatrix::<F16>::new(pool, avx512, bytes, (rows, columns))?)),
        TensorType::BF16 => Some(Box::new(HalfMatrix::<Bf16>::new(pool, avx512, bytes, (rows, columns))?)),
        _ => None,
    })
}

/// A float type of two bytes. A group is `columns` columns of sixteen rows: `columns / 2` lines.
trait HalfType: Send + Sync + 'static {
    /// Weight rows of a prefill panel.
    const PANEL_ROWS: usize;
    /// True if a group already consists of bf16 tiles, without a second bf16 for each value.
    const IS_TILES: bool;

    /// Returns the position of a value in its group, counted in values.
    fn position(column: usize, lane: usize) -> usize;

    /// Returns the value of these bits.
    fn to_f32(bits: u16) -> f32;

    /// Returns columns `2 index` and `2 index + 1` of sixteen rows.
    ///
    /// # Safety
    /// The CPU must have what [`Avx512`] proves.
    unsafe fn two_columns(line: &[u8; LINE]) -> [__m512; 2];
}

struct F16;
struct Bf16;

impl HalfType for F16 {
    const PANEL_ROWS: usize = gemm_amx::PANEL_ROWS / 2;
    const IS_TILES: bool = false;

    fn position(column: usize, lane: usize) -> usize {
        column * ROWS + lane
    }

    fn to_f32(bits: u16) -> f32 {
        f16::from_bits(bits).to_f32()
    }

    avx512! {
        #[inline]
        unsafe fn two_columns(line: &[u8; LINE]) -> [__m512; 2] {
            let line = line.as_ptr();
            // SAFETY: a line holds 64 bytes.
            let (even, odd) = unsafe { (_mm256_loadu_si256(line.cast()), _mm256_loadu_si256(line.add(32).cast())) };
            [_mm512_cvtph_ps(even), _mm512_cvtph_ps(odd)]
        }
    }
}

impl HalfType for Bf16 {
    const PANEL_ROWS: usize = gemm_amx::PANEL_ROWS;
    const IS_TILES: bool = true;

    fn position(column: usize, lane: usize) -> usize {
        column / 2 * 2 * ROWS + lane * 2 + column % 2
    }

    fn to_f32(bits: u16) -> f32 {
        bf16::from_bits(bits).to_f32()
    }

    avx512! {
        #[inline]
        unsafe fn two_columns(line: &[u8; LINE]) -> [__m512; 2] {
            // SAFETY: a line holds 64 bytes.
            let both = unsafe { _mm512_loadu_si512(line.as_ptr().cast()) };
            let top = _mm512_set1_epi32(0xffff_0000_u32 as i32);
            let (even, odd) = (_mm512_slli_epi32::<16>(both), _mm512_and_si512(both, top));
            [_mm512_castsi512_ps(even), _mm512_castsi512_ps(odd)]
        }
    }
}

avx512! {
    /// Returns the products `[M, 16]` of `M` rows of activations, `x`, with a group. Even and odd columns are summed apart,
    /// each in order, whatever `M` is.
    ///
    /// # Panics
    /// If `x` is not `[M, columns]`.
    fn gemv<H: HalfType, const M: usize>(group: &[u8], x: &[f32]) -> [[f32; ROWS]; M] {
        let (lines, _) = group.as_chunks::<LINE>();
        let columns = 2 * lines.len();
        assert!(x.len() == M * columns, "rows of as many columns");
        let x = x.as_ptr();
        let mut even_sums = [_mm512_setzero_ps(); M];
        let mut odd_sums = [_mm512_setzero_ps(); M];
        for (index, line) in lines.iter().enumerate() {
            prefetch_ahead(line.as_ptr(), 1);
            // SAFETY: this function's features are those that `two_columns` needs.
            let [even, odd] = unsafe { H::two_columns(line) };
            for i in 0..M {
                // SAFETY: `x` has this row and these columns, as was asserted.
                let (even_x, odd_x) = unsafe {
                    let x = x.add(i * columns + 2 * index);
                    (*x, *x.add(1))
                };
                even_sums[i] = _mm512_fmadd_ps(even, _mm512_set1_ps(even_x), even_sums[i]);
                odd_sums[i] = _mm512_fmadd_ps(odd, _mm512_set1_ps(odd_x), odd_sums[i]);
            }
        }
        let mut out = [[0.0; ROWS]; M];
        for i in 0..M {
            // SAFETY: the array holds sixteen floats.
            unsafe { _mm512_storeu_ps(out[i].as_mut_ptr(), _mm512_add_ps(even_sums[i], odd_sums[i])) };
        }
        out
    }

    /// Writes weights as two bf16 each: `high` are the rounded values, `low` the rounding errors.
    fn split_tiles<H: HalfType>(group: &[u8], high: &mut [u8], low: &mut [u8]) {
        let lines = group.as_chunks::<LINE>().0.iter();
        let out = high.as_chunks_mut::<LINE>().0.iter_mut().zip(low.as_chunks_mut::<LINE>().0);
        for (line, (high, low)) in lines.zip(out) {
            // SAFETY: this function's features are those that `two_columns` needs.
            let [even, odd] = unsafe { H::two_columns(line) };
            store_line(high, bf16_pair(even, odd));
            store_line(low, bf16_pair(rounding_error(even), rounding_error(odd)));
        }
    }

    /// Returns what rounding to bf16, as [`bf16_pair`] does it, takes from a value.
    #[inline]
    fn rounding_error(x: __m512) -> __m512 {
        let rounded = _mm512_add_epi32(_mm512_castps_si512(x), _mm512_set1_epi32(0x8000));
        let top = _mm512_and_si512(rounded, _mm512_set1_epi32(0xffff_0000_u32 as i32));
        _mm512_sub_ps(x, _mm512_castsi512_ps(top))
    }
}

/// A matrix of groups of sixteen rows. The rows past its end are zeros.
struct HalfMatrix<H> {
    memory: HugePages,
    rows: usize,
    columns: usize,
    avx512: Avx512,
    amx: Option<Amx>,
    half: PhantomData<H>,
}

/// Returns the bytes of a group.
fn group_bytes(columns: usize) -> usize {
    columns * ROWS * 2
}

impl<H: HalfType> HalfMatrix<H> {
    fn new(pool: &ThreadPool, avx512: Avx512, bytes: &[u8], (rows, columns): (usize, usize)) -> Result<Self> {
        assert!(bytes.len() == rows * columns * 2, "whole rows");
        let (groups, size) = (rows.div_ceil(ROWS), group_bytes(columns));
        let fill = |start: *mut u8| {
            let start = SharedPtr(start);
            pool.run(groups, pool.grain(groups), |_, range| {
                for index in range {
                    let start = start.at(index * size);
                    // SAFETY: the memory has room for all groups, and `run` gives each group to one call only.
                    let group = unsafe {
                        start.write_bytes(0, size);
                        std::slice::from_raw_parts_mut(start, size)
                    };
                    let (group, _) = group.as_chunks_mut::<2>();
                    let first = index * ROWS;
                    for row in first..rows.min(first + ROWS) {
                        let values = bytes[row * columns * 2..(row + 1) * columns * 2].as_chunks::<2>().0;
                        for (column, value) in values.iter().enumerate() {
                            group[H::position(column, row - first)] = *value;
                        }
                    }
                }
            });
        };
        // SAFETY: `fill` writes every group, and the groups are all of the memory.
        let memory = unsafe { HugePages::filled("weights", groups * size, fill) }?;
        Ok(Self { memory, rows, columns, avx512, amx: pool.kernels().amx(), half: PhantomData })
    }

    /// Returns the rows `16 index ..`.
    fn group(&self, index: usize) -> &[u8] {
        assert!(index < self.rows.div_ceil(ROWS), "a group of the matrix");
        let size = group_bytes(self.columns);
        &self.memory.bytes()[index * size..(index + 1) * size]
    }

    /// Writes the products of `M` rows of activations, from `first` on, with a group; returns `M`.
    ///
    /// # Safety
    /// No other thread may access these columns of `out` meanwhile.
    unsafe fn gemv<const M: usize>(
        &self,
        input: &Activations<'_>,
        first: usize,
        group: usize,
        out: &Cells<'_>,
    ) -> usize {
        let (columns, _proof) = (self.columns, self.avx512);
        let x = &input.f32[first * columns..(first + M) * columns];
        // SAFETY: the proof says that this CPU has the instructions.
        let products = unsafe { gemv::<H, M>(self.group(group), x) };
        let columns = group * ROWS..out.width().min((group + 1) * ROWS);
        for (i, products) in products.iter().enumerate() {
            // SAFETY: the caller guarantees exclusive access.
            let cells = unsafe { out.part(first + i, columns.clone()) };
            cells.copy_from_slice(&products[..cells.len()]);
        }
        M
    }

    /// Multiplies the weight rows `rows` on the matrix unit.
    fn matmul_by_tiles(
        &self,
        amx: Amx,
        arena: &mut Arena,
        input: &Activations<'_>,
        rows: Range<usize>,
        out: &Cells<'_>,
    ) {
        let groups = rows.start / ROWS..rows.end.div_ceil(ROWS);
        let width = PANEL_COLUMNS.min(self.columns);
        let registers = TileRegisters::configure(amx);
        for start in (0..self.columns).step_by(width) {
            let columns = start..self.columns.min(start + width);
            let depth = columns.len() / TILE_COLUMNS;
            let (high, low) = self.panel(arena, groups.clone(), columns.clone());
            let (row_tiles, first) = (self.columns / TILE_COLUMNS, columns.start / TILE_COLUMNS);
            let x = |tiles| TileColumns { tiles, m: input.m, row_tiles, first };
            let (x_high, x_low) = (x(&input.tiles().high), x(&input.tiles().low));
            // The product of the two rounding errors is too small to count.
            let passes = [
                Pass { x: x_high, weights: tiles_of(&high, groups.start) },
                Pass { x: x_low, weights: tiles_of(&high, groups.start) },
                Pass { x: x_high, weights: tiles_of(&low, groups.start) },
            ];
            let passes = if H::IS_TILES { &passes[..2] } else { &passes[..] };
            // SAFETY: the caller has exclusive access to these columns of `out`.
            unsafe { gemm(&registers, passes, groups.clone(), depth, out, start > 0) };
        }
    }

    /// Returns the tiles of some columns of each group, and those of their rounding errors. A type that is stored as tiles has
    /// no rounding errors: the second panel then is the first once more.
    fn panel<'a>(
        &'a self,
        arena: &'a mut Arena,
        groups: Range<usize>,
        columns: Range<usize>,
    ) -> (Panel<'a>, Panel<'a>) {
        let size = columns.len() / TILE_COLUMNS * TILE;
        // A tile is as long as 32 columns of sixteen rows.
        let stored = |group| &self.group(group)[columns.start / TILE_COLUMNS * TILE..][..size];
        if H::IS_TILES {
            let tiles: Panel<'a> = groups.map(stored).collect();
            return (tiles.clone(), tiles);
        }
        let panel = arena.bytes(groups.len() * 2 * size);
        for (group, tiles) in groups.zip(panel.chunks_exact_mut(2 * size)) {
            let (high, low) = tiles.split_at_mut(size);
            // SAFETY: `self.avx512` proves that this CPU has the instructions.
            unsafe { split_tiles::<H>(stored(group), high, low) };
        }
        panel.chunks_exact(2 * size).map(|tiles| tiles.split_at(size)).unzip()
    }
}

/// The tiles of each group of a panel.
type Panel<'a> = Vec<&'a [u8]>;

/// Returns the function from a group of the matrix to its tiles in a panel that begins with `first_group`.
fn tiles_of<'a>(panel: &'a [&'a [u8]], first_group: usize) -> impl Fn(usize) -> &'a [u8] {
    move |group| panel[group - first_group]
}

impl<H: HalfType> WeightMatrix for HalfMatrix<H> {
    fn dequantize(&self, first: usize, out: &mut [f32]) {
        for (index, out) in out.chunks_exact_mut(self.columns).enumerate() {
            let row = first + index;
            assert!(row < self.rows, "a row of the matrix");
            let (group, _) = self.group(row / ROWS).as_chunks::<2>();
            for (column, out) in out.iter_mut().enumerate() {
                *out = H::to_f32(u16::from_le_bytes(group[H::position(column, row % ROWS)]));
            }
        }
    }

    fn activation_format(&self, phase: Phase) -> ActivationFormat {
        match phase {
            Phase::Prefill if self.amx.is_some() => ActivationFormat::SplitBf16Tiles,
            _ => ActivationFormat::F32,
        }
    }

    fn panel_rows(&self, phase: Phase) -> Option<usize> {
        (phase == Phase::Prefill).then_some(H::PANEL_ROWS)
    }

    fn matmul(
        &self,
        phase: Phase,
        arena: &mut Arena,
        input: &Activations<'_>,
        rows: Range<usize>,
        out: &Cells<'_>,
    ) {
        if let Some(amx) = self.amx.filter(|_| phase == Phase::Prefill) {
            return self.matmul_by_tiles(amx, arena, input, rows, out);
        }
        for group in rows.start / ROWS..rows.end.div_ceil(ROWS) {
            let mut first = 0;
            while first < input.m {
                // SAFETY: the caller has exclusive access to these columns of `out`.
                first += unsafe {
                    match input.m - first {
                        MAX_ROWS.. => self.gemv::<MAX_ROWS>(input, first, group, out),
                        4.. => self.gemv::<4>(input, first, group, out),
                        2.. => self.gemv::<2>(input, first, group, out),
                        _ => self.gemv::<1>(input, first, group, out),
                    }
                };
            }
        }
    }

    fn bytes(&self) -> usize {
        self.rows * self.columns * 2
    }
}
