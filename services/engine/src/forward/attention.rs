//! Paged attention on the host: causal grouped-query attention over the blocks of the KV cache, for the packed rows
//! of many sequences.
//!
//! The softmax is updated block by block (Milakov and Gimelshein, 2018; Dao et al., 2022), so scores are never
//! stored. Work is split by (tile of rows, kv head): the query heads of a group and the rows of a tile read a block
//! once.

use std::ops::Range;

use millm_model::ModelSpec;
use millm_model::arch::LayerSpec;

use crate::forward::batch::Segment;
use crate::kv_cache::{BLOCK_SIZE, BlockPool, BlockTable, HeadBlock, HostKvStore};
#[cfg(target_arch = "x86_64")]
use crate::matmul::avx512::paged_attention::{KvBlock, RunningSoftmax, attend_block};
use crate::sys::cpu::KernelSet;
use crate::sys::simd::{exp, fma, max, tanh};
use crate::sys::thread_pool::{Cells, ThreadPool};

/// Rows of one sequence that read a block together.
const TILE_ROWS: usize = 16;

/// The numbers of one layer's attention. `S` is a vector on the device that runs it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AttentionShape<'a, S: ?Sized = [f32]> {
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// Multiplies scores.
    pub scale: f32,
    /// A token attends to itself and to at most `window - 1` tokens before it.
    pub window: Option<usize>,
    /// Limits scores: `cap * tanh(score / cap)`.
    pub soft_cap: Option<f32>,
    /// One for each head: the score of an extra token without a value, which takes its share of the weight.
    pub sinks: Option<&'a S>,
}

impl<'a, S: ?Sized> AttentionShape<'a, S> {
    /// Returns the shape of a layer's attention.
    pub fn of(spec: &ModelSpec, layer: &LayerSpec, sinks: Option<&'a S>) -> Self {
        Self {
            heads: spec.heads,
            kv_heads: spec.kv_heads,
            head_dim: spec.head_dim,
            scale: layer.attention_scale,
            window: layer.window,
            soft_cap: spec.attention_soft_cap,
            sinks,
        }
    }
}

impl AttentionShape<'_> {
    /// Returns the tokens of a sequence that the row at `position` attends to.
    pub fn attended(&self, position: usize) -> Range<usize> {
        self.window.map_or(0, |window| (position + 1).saturating_sub(window))..position + 1
    }

    /// Returns the tokens of a sequence's block, by its index, that the row at `position` attends to.
    pub fn visible(&self, position: usize, block: usize) -> Range<usize> {
        let (attended, start) = (self.attended(position), block * BLOCK_SIZE);
        attended.start.saturating_sub(start)..attended.end.saturating_sub(start).min(BLOCK_SIZE)
    }
}

/// The keys and values of one layer.
pub(crate) struct KvLayer<'a> {
    pub blocks: &'a BlockPool,
    pub store: &'a HostKvStore,
    pub layer: usize,
}

/// Some rows of one sequence.
struct QueryTile<'a> {
    table: &'a BlockTable,
    first_row: usize,
    rows: usize,
    /// The position of the first row.
    position: usize,
}

/// Computes `out[row] = attention(queries[row])` over the keys and values up to each row's own position; `queries`
/// and `out` are `[rows, heads * head_dim]`.
pub(crate) fn attend(
    pool: &ThreadPool,
    shape: AttentionShape<'_>,
    kv: &KvLayer<'_>,
    segments: &[Segment],
    queries: &[f32],
    out: &mut [f32],
) {
    let tiles: Vec<QueryTile<'_>> = segments.iter().flat_map(|segment| tiles(kv.blocks, segment)).collect();
    let kernels = pool.kernels();
    let out = Cells::new(out, shape.heads * shape.head_dim);
    pool.run(tiles.len() * shape.kv_heads, 1, |arena, range| {
        let group = shape.heads / shape.kv_heads;
        let block_size = shape.head_dim * BLOCK_SIZE;
        for item in range {
            // The tiles of one head follow each other, so that the late, long ones are not all left for the end.
            let (tile, head) = (&tiles[item / shape.kv_heads], item % shape.kv_heads);
            let tile_queries = tile.rows * group;
            let memory = arena.floats(2 * block_size + tile_queries * (shape.head_dim * 2 + 2));
            let (wide, rest) = memory.split_at_mut(2 * block_size);
            let (scaled, rest) = rest.split_at_mut(tile_queries * shape.head_dim);
            let (sums, rest) = rest.split_at_mut(tile_queries * shape.head_dim);
            let (max, weight) = rest.split_at_mut(tile_queries);
            let columns = head * group * shape.head_dim..(head + 1) * group * shape.head_dim;
            for (row, scaled) in scaled.chunks_exact_mut(group * shape.head_dim).enumerate() {
                let start = (tile.first_row + row) * shape.heads * shape.head_dim + columns.start;
                for (scaled, query) in scaled.iter_mut().zip(&queries[start..]) {
                    *scaled = query * shape.scale;
                }
            }
            let (head_dim, soft_cap) = (shape.head_dim, shape.soft_cap);
            let mut softmax = OnlineSoftmax { sums, max, weight, head_dim, soft_cap, kernels };
            softmax.reset(shape.sinks.map(|sinks| &sinks[head * group..(head + 1) * group]));
            let window = shape.window.map_or(tile.position, |window| window - 1);
            let first = tile.position.saturating_sub(window);
            for index in first / BLOCK_SIZE..(tile.position + tile.rows).div_ceil(BLOCK_SIZE) {
                let block = kv.store.read(kv.layer, tile.table.slot(index * BLOCK_SIZE).block, head);
                let visible = |row: usize| shape.visible(tile.position + row, index);
                let mut row = 0;
                while row < tile.rows {
                    // Rows that attend to the same tokens of a block read it together: mostly all of them.
                    let alike = (row + 1..tile.rows).take_while(|next| visible(*next) == visible(row));
                    let alike = alike.count() + 1;
                    if !visible(row).is_empty() {
                        let queries = row * group..(row + alike) * group;
                        softmax.update(queries, scaled, block, wide, visible(row));
                    }
                    row += alike;
                }
            }
            for row in 0..tile.rows {
                // SAFETY: this row and head belong to this item, and `run` gives each item to one call only.
                let out = unsafe { out.part(tile.first_row + row, columns.clone()) };
                softmax.finish(row * group, out);
            }
        }
    });
}

fn tiles<'a>(blocks: &'a BlockPool, segment: &Segment) -> impl Iterator<Item = QueryTile<'a>> + use<'a> {
    let table = blocks.table(segment.sequence).expect("an open sequence: the batch was checked");
    let (rows, position) = (segment.rows.clone(), segment.position);
    rows.clone().step_by(TILE_ROWS).map(move |first_row| QueryTile {
        table,
        first_row,
        rows: TILE_ROWS.min(rows.end - first_row),
        position: position + first_row - rows.start,
    })
}

/// The softmax of some queries over the blocks so far.
struct OnlineSoftmax<'a> {
    /// `[queries, head_dim]`: sums of the values, weighted by e^(score - max).
    sums: &'a mut [f32],
    /// `[queries]`: the largest score so far.
    max: &'a mut [f32],
    /// `[queries]`: the sum of the weights so far.
    weight: &'a mut [f32],
    head_dim: usize,
    soft_cap: Option<f32>,
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "there is one set of kernels"))]
    kernels: KernelSet,
}

impl OnlineSoftmax<'_> {
    /// Forgets all blocks. `sinks` are those of the group's heads, the queries of one row.
    fn reset(&mut self, sinks: Option<&[f32]>) {
        self.sums.fill(0.0);
        self.max.fill(f32::NEG_INFINITY);
        self.weight.fill(0.0);
        if let Some(sinks) = sinks {
            // As a token before all others, with a value of zeros.
            self.max.chunks_exact_mut(sinks.len()).for_each(|row| row.copy_from_slice(sinks));
            self.weight.fill(1.0);
        }
    }

    /// Adds tokens of a block to the softmax of some queries, which are a range of `scaled`.
    fn update(
        &mut self,
        queries: Range<usize>,
        scaled: &[f32],
        block: HeadBlock<'_>,
        wide: &mut [f32],
        visible: Range<usize>,
    ) {
        let dim = self.head_dim;
        let columns = queries.start * dim..queries.end * dim;
        #[cfg(target_arch = "x86_64")]
        if let Some(avx512) = self.kernels.avx512() {
            let mut softmax = RunningSoftmax {
                queries: &scaled[columns.clone()],
                sums: &mut self.sums[columns],
                max: &mut self.max[queries.clone()],
                weight: &mut self.weight[queries],
                head_dim: dim,
                soft_cap: self.soft_cap,
            };
            match block {
                HeadBlock::F16 { keys, values } => {
                    attend_block(avx512, &mut softmax, KvBlock { keys, values }, visible);
                }
                HeadBlock::F32 { keys, values } => {
                    attend_block(avx512, &mut softmax, KvBlock { keys, values }, visible);
                }
            }
            return;
        }
        let (keys, values) = block.to_f32(wide);
        for (query, scaled) in queries.zip(scaled[columns].chunks_exact(dim)) {
            self.update_one(query, scaled, keys, values, visible.clone());
        }
    }

    fn update_one(
        &mut self,
        index: usize,
        query: &[f32],
        keys: &[f32],
        values: &[f32],
        visible: Range<usize>,
    ) {
        let mut scores = scores(query, keys);
        let scores = &mut scores[visible.clone()];
        if let Some(cap) = self.soft_cap {
            for score in &mut *scores {
                *score = soft_capped(*score, cap);
            }
        }
        let largest = max(scores).max(self.max[index]);
        let shrink = exp(self.max[index] - largest);
        let mut weight = self.weight[index] * shrink;
        for score in &mut *scores {
            *score = exp(*score - largest);
            weight += *score;
        }
        (self.max[index], self.weight[index]) = (largest, weight);
        let sums = &mut self.sums[index * self.head_dim..(index + 1) * self.head_dim];
        let values = &values[visible.start * self.head_dim..visible.end * self.head_dim];
        add_weighted(sums, shrink, scores, values);
    }

    /// Writes the weighted means of the queries from `first` on.
    fn finish(&self, first: usize, out: &mut [f32]) {
        for (index, out) in out.chunks_exact_mut(self.head_dim).enumerate() {
            let share = 1.0 / self.weight[first + index];
            let sums = &self.sums[(first + index) * self.head_dim..];
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = sum * share;
            }
        }
    }
}

/// Returns a score limited to `-cap..cap`.
#[inline]
pub(crate) fn soft_capped(score: f32, cap: f32) -> f32 {
    cap * tanh(score / cap)
}

/// Returns the query's products with all keys of a block, `[head_dim, BLOCK_SIZE]`.
#[inline]
pub(crate) fn scores(query: &[f32], keys: &[f32]) -> [f32; BLOCK_SIZE] {
    // Two sets of sums: with one, each addition would wait for the one before.
    let mut even = [0.0; BLOCK_SIZE];
    let mut odd = [0.0; BLOCK_SIZE];
    let (keys, _) = keys.as_chunks::<BLOCK_SIZE>();
    let (pairs, last) = query.as_chunks::<2>();
    for (query, keys) in pairs.iter().zip(keys.chunks_exact(2)) {
        for token in 0..BLOCK_SIZE {
            even[token] = fma(query[0], keys[0][token], even[token]);
            odd[token] = fma(query[1], keys[1][token], odd[token]);
        }
    }
    if let [query] = last {
        for token in 0..BLOCK_SIZE {
            even[token] = fma(*query, keys[keys.len() - 1][token], even[token]);
        }
    }
    for token in 0..BLOCK_SIZE {
        even[token] += odd[token];
    }
    even
}

/// Computes `sums = sums * shrink + Σ weights[t] * values[t]`; values are `[tokens, head_dim]`.
#[inline]
fn add_weighted(sums: &mut [f32], shrink: f32, weights: &[f32], values: &[f32]) {
    const LANES: usize = 32;
    let head_dim = sums.len();
    let (blocks, rest) = sums.as_chunks_mut::<LANES>();
    let whole = blocks.len() * LANES;
    for (index, block) in blocks.iter_mut().enumerate() {
        let mut sum = *block;
        for value in &mut sum {
            *value *= shrink;
        }
        for (weight, values) in weights.iter().zip(values.chunks_exact(head_dim)) {
            let values = &values[index * LANES..(index + 1) * LANES];
            for lane in 0..LANES {
                sum[lane] = fma(*weight, values[lane], sum[lane]);
            }
        }
        *block = sum;
    }
    for (column, sum) in rest.iter_mut().enumerate() {
        *sum *= shrink;
        for (weight, values) in weights.iter().zip(values.chunks_exact(head_dim)) {
            *sum = fma(*weight, values[whole + column], *sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::f16;
    use half::slice::HalfFloatSliceExt;

    fn noise(length: usize, seed: usize) -> Vec<f32> {
        (0..length).map(|i| ((i * 7919 + seed * 104_729) % 2003) as f32 / 500.0 - 2.0).collect()
    }

    /// Returns sums, largest scores and weights after two blocks.
    fn run(queries: &[f32], dim: usize, blocks: &[HeadBlock<'_>; 2], kernels: KernelSet) -> [Vec<f32>; 3] {
        let count = queries.len() / dim;
        let (mut sums, mut max, mut weight) = (vec![0.0; queries.len()], vec![0.0; count], vec![0.0; count]);
        let mut wide = vec![0.0; 2 * dim * BLOCK_SIZE];
        let mut softmax = OnlineSoftmax {
            sums: &mut sums,
            max: &mut max,
            weight: &mut weight,
            head_dim: dim,
            soft_cap: Some(5.0),
            kernels,
        };
        softmax.reset(None);
        for (block, visible) in blocks.iter().zip([3..BLOCK_SIZE, 0..17]) {
            softmax.update(0..count, queries, *block, &mut wide, visible);
        }
        [sums, max, weight]
    }

    #[test]
    fn all_kernels_give_the_same_for_a_query_alone_and_among_others() {
        for dim in [8, 16, 24, 64, 80, 128] {
            let arrays: Vec<Vec<f32>> = (0..4).map(|seed| noise(dim * BLOCK_SIZE, seed)).collect();
            let halves: Vec<Vec<f16>> = arrays
                .iter()
                .map(|array| {
                    let mut half = vec![f16::ZERO; array.len()];
                    half.convert_from_f32_slice(array);
                    half
                })
                .collect();
            let floats = [0, 2].map(|i| HeadBlock::F32 { keys: &arrays[i], values: &arrays[i + 1] });
            let halves = [0, 2].map(|i| HeadBlock::F16 { keys: &halves[i], values: &halves[i + 1] });
            for blocks in [floats, halves] {
                let queries: Vec<f32> = noise(9 * dim, 11).iter().map(|x| x * 0.2).collect();
                let expected = run(&queries, dim, &blocks, KernelSet::Portable);
                for kernels in KernelSet::available() {
                    check(&queries, dim, &blocks, kernels, &expected);
                }
            }
        }
    }

    fn check(
        queries: &[f32],
        dim: usize,
        blocks: &[HeadBlock<'_>; 2],
        kernels: KernelSet,
        expected: &[Vec<f32>; 3],
    ) {
        let got = run(queries, dim, blocks, kernels);
        for (got, expected) in got.iter().flatten().zip(expected.iter().flatten()) {
            assert!(
                (got - expected).abs() <= 1e-5 * expected.abs().max(1.0),
                "{kernels}: {got}, not {expected}"
            );
        }
        for (index, query) in queries.chunks_exact(dim).enumerate() {
            let [sums, max, weight] = run(query, dim, blocks, kernels);
            assert_eq!(sums, got[0][index * dim..(index + 1) * dim], "{kernels}: query {index} alone");
            assert_eq!((max[0], weight[0]), (got[1][index], got[2][index]));
        }
    }
}
