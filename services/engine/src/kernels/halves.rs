//! Matrices of f16 and bf16 on this machine's vectors and matrix unit, sixteen rows side by side.
//!
//! bf16 lies as the matrix unit takes it: word i of sixteen rows together, two columns in each; f16 lies column by
//! column. Steps are f32 arithmetic. In chunks nothing is lost either that f32 would keep to 1e-5: activations go
//! through in two pieces of bf16, and so does an f16 weight, of which two pieces hold all bits.

#[allow(clippy::wildcard_imports)] // the machine's instructions
use std::arch::x86_64::*;
use std::marker::PhantomData;
use std::ops::Range;

use half::{bf16, f16};
use millm_model::TensorType;

use super::amx::{self, DEPTH, TILE};
use super::gemm::{self, Activations, Pass};
use super::spread::pair;
use super::tiles::Tiled;
use super::wide::{ROWS, ask_ahead, vectors};
use crate::error::Result;
use crate::inputs::{Form, Given};
use crate::matrix::{Kind, Matrix};
use crate::region::Region;
use crate::team::{Arena, Cells, Start, Team};

/// Rows of activations that weights are read for at once, at most.
const TALL: usize = 8;

pub fn read(
    team: &Team,
    ty: TensorType,
    bytes: &[u8],
    (rows, columns): (usize, usize),
) -> Result<Option<Box<dyn Matrix>>> {
    if !columns.is_multiple_of(DEPTH) {
        return Ok(None);
    }
    Ok(match ty {
        TensorType::F16 => Some(Box::new(Halves::<Narrow>::new(team, bytes, rows, columns)?)),
        TensorType::BF16 => Some(Box::new(Halves::<Brain>::new(team, bytes, rows, columns)?)),
        _ => None,
    })
}

/// A type of two bytes.
///
/// # Safety of its functions
/// `group` points to `columns` columns of sixteen rows, and [`super::vectors`] has said yes.
trait Half: Send + Sync + 'static {
    /// Rows of a panel that a chunk takes.
    const PANEL: usize;

    /// Where a column of a row lies in its group, in values.
    fn place(column: usize, lane: usize) -> usize;

    fn widened(bits: u16) -> f32;

    /// Products with `M` rows of activations, each `columns` long.
    unsafe fn meet<const M: usize>(group: *const u8, columns: usize, x: *const f32) -> [[f32; ROWS]; M];

    /// Makes tiles of some columns, of the pieces that a weight has, those of the second behind those of the first;
    /// gives where they are. `room` has room for two pieces.
    unsafe fn spread(group: *const u8, columns: Range<usize>, room: *mut u8) -> [Option<*const u8>; 2];
}

struct Narrow;
struct Brain;

impl Half for Narrow {
    const PANEL: usize = gemm::PANEL / 2;

    fn place(column: usize, lane: usize) -> usize {
        column * ROWS + lane
    }

    fn widened(bits: u16) -> f32 {
        f16::from_bits(bits).to_f32()
    }

    unsafe fn meet<const M: usize>(group: *const u8, columns: usize, x: *const f32) -> [[f32; ROWS]; M] {
        // SAFETY: promised by the caller.
        unsafe { products::<M, false>(group, columns, x) }
    }

    unsafe fn spread(group: *const u8, columns: Range<usize>, room: *mut u8) -> [Option<*const u8>; 2] {
        let low = room.wrapping_add(columns.len() / DEPTH * TILE);
        // SAFETY: promised by the caller.
        unsafe { in_two_pieces(group, columns, room, low) };
        [Some(room.cast_const()), Some(low.cast_const())]
    }
}

impl Half for Brain {
    const PANEL: usize = gemm::PANEL;

    fn place(column: usize, lane: usize) -> usize {
        column / 2 * 2 * ROWS + lane * 2 + column % 2
    }

    fn widened(bits: u16) -> f32 {
        bf16::from_bits(bits).to_f32()
    }

    unsafe fn meet<const M: usize>(group: *const u8, columns: usize, x: *const f32) -> [[f32; ROWS]; M] {
        // SAFETY: promised by the caller.
        unsafe { products::<M, true>(group, columns, x) }
    }

    unsafe fn spread(group: *const u8, columns: Range<usize>, _room: *mut u8) -> [Option<*const u8>; 2] {
        // They lie as tiles already.
        [Some(group.wrapping_add(columns.start / DEPTH * TILE)), None]
    }
}

vectors! {
    /// Columns `2 index` and `2 index + 1` of sixteen rows.
    unsafe fn two_columns(group: *const u8, index: usize, brain: bool) -> [__m512; 2] {
        let at = group.add(index * 64);
        if brain {
            let both = _mm512_loadu_si512(at.cast());
            let top = _mm512_set1_epi32(0xffff_0000_u32 as i32);
            let (even, odd) = (_mm512_slli_epi32::<16>(both), _mm512_and_si512(both, top));
            return [_mm512_castsi512_ps(even), _mm512_castsi512_ps(odd)];
        }
        let (even, odd) = (_mm256_loadu_si256(at.cast()), _mm256_loadu_si256(at.add(32).cast()));
        [_mm512_cvtph_ps(even), _mm512_cvtph_ps(odd)]
    }

    /// What rounding to bf16, as [`pair`] does it, leaves of a value.
    unsafe fn rest(x: __m512) -> __m512 {
        let rounded = _mm512_add_epi32(_mm512_castps_si512(x), _mm512_set1_epi32(0x8000));
        let top = _mm512_and_si512(rounded, _mm512_set1_epi32(0xffff_0000_u32 as i32));
        _mm512_sub_ps(x, _mm512_castsi512_ps(top))
    }

    unsafe fn in_two_pieces(group: *const u8, columns: Range<usize>, high: *mut u8, low: *mut u8) {
        for (row, index) in (columns.start / 2..columns.end / 2).enumerate() {
            let [even, odd] = two_columns(group, index, false);
            _mm512_storeu_si512(high.add(row * 64).cast(), pair(even, odd));
            _mm512_storeu_si512(low.add(row * 64).cast(), pair(rest(even), rest(odd)));
        }
    }
}

/// Even and odd columns are summed apart, each in order, whatever `M` is.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
unsafe fn products<const M: usize, const BRAIN: bool>(
    group: *const u8,
    columns: usize,
    x: *const f32,
) -> [[f32; ROWS]; M] {
    let mut even_sums = [_mm512_setzero_ps(); M];
    let mut odd_sums = [_mm512_setzero_ps(); M];
    for index in 0..columns / 2 {
        // SAFETY: within the group and the rows of activations, as the caller promises.
        unsafe {
            ask_ahead(group, index..index + 1);
            let [even, odd] = two_columns(group, index, BRAIN);
            for i in 0..M {
                let x = x.add(i * columns + 2 * index);
                even_sums[i] = _mm512_fmadd_ps(even, _mm512_set1_ps(*x), even_sums[i]);
                odd_sums[i] = _mm512_fmadd_ps(odd, _mm512_set1_ps(*x.add(1)), odd_sums[i]);
            }
        }
    }
    let mut out = [[0.0; ROWS]; M];
    for i in 0..M {
        // SAFETY: sixteen floats.
        unsafe { _mm512_storeu_ps(out[i].as_mut_ptr(), _mm512_add_ps(even_sums[i], odd_sums[i])) };
    }
    out
}

struct Halves<H> {
    region: Region,
    rows: usize,
    columns: usize,
    half: PhantomData<H>,
}

impl<H: Half> Halves<H> {
    /// Bytes of sixteen rows.
    fn size(columns: usize) -> usize {
        columns * ROWS * 2
    }

    fn new(team: &Team, bytes: &[u8], rows: usize, columns: usize) -> Result<Self> {
        assert!(bytes.len() == rows * columns * 2, "whole rows");
        let (groups, size) = (rows.div_ceil(ROWS), Self::size(columns));
        let fill = |start: *mut u8| {
            let start = Start(start);
            team.run(groups, team.grain(groups), |_, range| {
                for group in range {
                    let start = start.at(group * size);
                    // SAFETY: each group is one call's, and the region has room for all of them.
                    let room = unsafe {
                        start.write_bytes(0, size);
                        std::slice::from_raw_parts_mut(start, size)
                    };
                    let first = group * ROWS;
                    for row in first..rows.min(first + ROWS) {
                        let values = bytes[row * columns * 2..(row + 1) * columns * 2].as_chunks::<2>().0;
                        let (room, _) = room.as_chunks_mut::<2>();
                        for (column, value) in values.iter().enumerate() {
                            room[H::place(column, row - first)] = *value;
                        }
                    }
                }
            });
        };
        // SAFETY: every group is filled.
        let region = unsafe { Region::filled("weights", groups * size, fill) }?;
        Ok(Self { region, rows, columns, half: PhantomData })
    }

    fn group(&self, index: usize) -> *const u8 {
        assert!(index < self.rows.div_ceil(ROWS), "a group of the matrix");
        self.region.start().wrapping_add(index * Self::size(self.columns))
    }

    /// Writes the products of `M` rows of activations, from `first` on, with a group; gives `M`.
    ///
    /// # Safety
    /// Nobody else touches these columns of `out`; [`super::vectors`] has said yes.
    unsafe fn met<const M: usize>(
        &self,
        input: &Given<'_>,
        first: usize,
        group: usize,
        out: &Cells<'_>,
    ) -> usize {
        let x = &input.floats[first * self.columns..(first + M) * self.columns];
        // SAFETY: the group is whole and `x` holds `M` rows.
        let products = unsafe { H::meet::<M>(self.group(group), self.columns, x.as_ptr()) };
        let columns = group * ROWS..out.width().min((group + 1) * ROWS);
        for (i, products) in products.iter().enumerate() {
            // SAFETY: promised by the caller.
            let cells = unsafe { out.part(first + i, columns.clone()) };
            cells.copy_from_slice(&products[..cells.len()]);
        }
        M
    }

    fn through_tiles(&self, arena: &mut Arena, input: &Given<'_>, rows: Range<usize>, out: &Cells<'_>) {
        let groups = rows.start / ROWS..rows.end.div_ceil(ROWS);
        let width = gemm::COLUMNS.min(self.columns);
        let room = width / DEPTH * TILE * 2;
        let panel = arena.bytes(groups.len() * room).as_mut_ptr();
        // SAFETY: the form is of tiles only where the unit is usable.
        let tiles = unsafe { amx::Tiles::configure() };
        for start in (0..self.columns).step_by(width) {
            let columns = start..self.columns.min(start + width);
            // SAFETY: the panel has room for two pieces of all groups.
            let weights: Vec<_> = groups
                .clone()
                .map(|group| unsafe {
                    H::spread(self.group(group), columns.clone(), panel.add((group - groups.start) * room))
                })
                .collect();
            let pass = |piece, of: usize| {
                let x = Activations {
                    piece,
                    m: input.m,
                    depth: self.columns / DEPTH,
                    from: columns.start / DEPTH,
                };
                let weights = &weights;
                Pass { x, weights: move |group: usize| weights[group - groups.start][of].unwrap_or(panel) }
            };
            let Tiled { high, low } = input.tiles();
            let passes = [pass(high, 0), pass(low, 0), pass(high, 1)];
            let passes =
                if weights.iter().all(|pieces| pieces[1].is_some()) { &passes[..] } else { &passes[..2] };
            // SAFETY: the tiles are there; these columns of `out` are this call's.
            unsafe { gemm::product(&tiles, passes, groups.clone(), columns.len() / DEPTH, out, start > 0) };
        }
    }
}

impl<H: Half> Matrix for Halves<H> {
    fn widen(&self, first: usize, out: &mut [f32]) {
        for (index, out) in out.chunks_exact_mut(self.columns).enumerate() {
            let row = first + index;
            assert!(row < self.rows, "a row of the matrix");
            let group = self.group(row / ROWS);
            // SAFETY: a whole group.
            let group =
                unsafe { std::slice::from_raw_parts(group, Self::size(self.columns)) }.as_chunks::<2>().0;
            for (column, out) in out.iter_mut().enumerate() {
                *out = H::widened(u16::from_le_bytes(group[H::place(column, row % ROWS)]));
            }
        }
    }

    fn form(&self, kind: Kind) -> Form {
        if kind == Kind::Chunk && amx::usable() { Form::TilesOfTwo } else { Form::Floats }
    }

    fn panel(&self, kind: Kind) -> Option<usize> {
        (kind == Kind::Chunk).then_some(H::PANEL)
    }

    fn meet(&self, kind: Kind, arena: &mut Arena, input: &Given<'_>, rows: Range<usize>, out: &Cells<'_>) {
        if self.form(kind) == Form::TilesOfTwo {
            return self.through_tiles(arena, input, rows, out);
        }
        for group in rows.start / ROWS..rows.end.div_ceil(ROWS) {
            let mut first = 0;
            while first < input.m {
                // SAFETY: `kernels::read` has asked the machine; these columns of `out` are this call's.
                first += unsafe {
                    match input.m - first {
                        TALL.. => self.met::<TALL>(input, first, group, out),
                        4.. => self.met::<4>(input, first, group, out),
                        2.. => self.met::<2>(input, first, group, out),
                        _ => self.met::<1>(input, first, group, out),
                    }
                };
            }
        }
    }

    fn bytes(&self) -> usize {
        self.rows * self.columns * 2
    }
}
