//! Causal grouped-query attention over the pages of the KV cache, for packed rows of many sequences.
//!
//! The softmax is computed as the pages go by (Milakov and Gimelshein, 2018; Dao et al., 2022), so scores are
//! never stored. Work is split by (block of rows, kv head): the query heads of a group and the rows of a block
//! read a page once.

use crate::batch::Segment;
use crate::cache::KvCache;
use crate::pages::{PAGE, Table};
use crate::team::{Cells, Team};
use crate::vector::{exp, fma, max, tanh};

/// Rows of one sequence that read a page together.
const BLOCK: usize = 16;

/// The numbers of one layer's attention.
#[derive(Debug, Clone, Copy)]
pub struct Shape<'a> {
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub scale: f32,
    /// A token sees itself and at most `window - 1` before it.
    pub window: Option<usize>,
    /// Scores are bent to stay within this: `cap * tanh(score / cap)`.
    pub soft_cap: Option<f32>,
    /// Of each head: the score of a token that takes its share of the weight and has no value.
    pub sinks: Option<&'a [f32]>,
}

/// Some rows of one sequence.
struct Block<'a> {
    table: &'a Table,
    first_row: usize,
    rows: usize,
    /// Of the first row.
    position: usize,
}

/// `out[row] = attention(queries[row])` over the keys and values that the cache holds up to each row's own
/// position; queries and out are `[rows, heads * head_dim]`.
pub fn attend(
    team: &Team,
    shape: Shape<'_>,
    cache: &KvCache,
    layer: usize,
    segments: &[Segment],
    queries: &[f32],
    out: &mut [f32],
) {
    let blocks: Vec<Block<'_>> = segments.iter().flat_map(|segment| blocks(cache, segment)).collect();
    let out = Cells::new(out, shape.heads * shape.head_dim);
    team.run(blocks.len() * shape.kv_heads, 1, |arena, range| {
        let group = shape.heads / shape.kv_heads;
        let page = shape.head_dim * PAGE;
        for item in range {
            // Blocks of one head follow each other: late, long ones are not left for the end together.
            let (block, head) = (&blocks[item / shape.kv_heads], item % shape.kv_heads);
            let queries_of_block = block.rows * group;
            let memory = arena.floats(2 * page + queries_of_block * (shape.head_dim * 2 + 2));
            let (wide, rest) = memory.split_at_mut(2 * page);
            let (scaled, rest) = rest.split_at_mut(queries_of_block * shape.head_dim);
            let (sums, rest) = rest.split_at_mut(queries_of_block * shape.head_dim);
            let (most, weight) = rest.split_at_mut(queries_of_block);
            let columns = head * group * shape.head_dim..(head + 1) * group * shape.head_dim;
            for (row, scaled) in scaled.chunks_exact_mut(group * shape.head_dim).enumerate() {
                let start = (block.first_row + row) * shape.heads * shape.head_dim + columns.start;
                for (scaled, query) in scaled.iter_mut().zip(&queries[start..]) {
                    *scaled = query * shape.scale;
                }
            }
            let soft_cap = shape.soft_cap;
            let mut state = State { sums, most, weight, head_dim: shape.head_dim, soft_cap };
            state.reset(shape.sinks.map(|sinks| &sinks[head * group..(head + 1) * group]));
            let first =
                block.position.saturating_sub(shape.window.map_or(block.position, |window| window - 1));
            for index in first / PAGE..(block.position + block.rows).div_ceil(PAGE) {
                let (keys, values) = cache.read(layer, block.table.place(index * PAGE).0, head, wide);
                for row in 0..block.rows {
                    let position = block.position + row;
                    let from = shape.window.map_or(0, |window| (position + 1).saturating_sub(window));
                    let seen = from.saturating_sub(index * PAGE)
                        ..(position + 1).saturating_sub(index * PAGE).min(PAGE);
                    if seen.is_empty() {
                        continue;
                    }
                    for query in row * group..(row + 1) * group {
                        let scaled = &scaled[query * shape.head_dim..(query + 1) * shape.head_dim];
                        state.absorb(query, scaled, keys, values, seen.clone());
                    }
                }
            }
            for row in 0..block.rows {
                // SAFETY: this row and head belong to this item, and `run` gives each item to one call only.
                let out = unsafe { out.part(block.first_row + row, columns.clone()) };
                state.finish(row * group, out);
            }
        }
    });
}

fn blocks<'a>(cache: &'a KvCache, segment: &Segment) -> impl Iterator<Item = Block<'a>> + use<'a> {
    let table = cache.pages().table(segment.sequence).expect("an open sequence: the batch was checked");
    let (rows, position) = (segment.rows.clone(), segment.position);
    rows.clone().step_by(BLOCK).map(move |first_row| Block {
        table,
        first_row,
        rows: BLOCK.min(rows.end - first_row),
        position: position + first_row - rows.start,
    })
}

/// The running softmax of some queries.
struct State<'a> {
    /// `[queries, head_dim]`: sums of values weighted by e^(score - most).
    sums: &'a mut [f32],
    /// Largest score so far.
    most: &'a mut [f32],
    /// Sum of weights so far.
    weight: &'a mut [f32],
    head_dim: usize,
    soft_cap: Option<f32>,
}

impl State<'_> {
    /// `sinks` are those of the group's heads, which the queries of a row are.
    fn reset(&mut self, sinks: Option<&[f32]>) {
        self.sums.fill(0.0);
        self.most.fill(f32::NEG_INFINITY);
        self.weight.fill(0.0);
        if let Some(sinks) = sinks {
            // Seen before all tokens, with a value of zeros.
            self.most.chunks_exact_mut(sinks.len()).for_each(|row| row.copy_from_slice(sinks));
            self.weight.fill(1.0);
        }
    }

    /// Lets one query see some tokens of a page.
    fn absorb(
        &mut self,
        index: usize,
        query: &[f32],
        keys: &[f32],
        values: &[f32],
        seen: std::ops::Range<usize>,
    ) {
        let mut scores = scores(query, keys);
        let scores = &mut scores[seen.clone()];
        if let Some(cap) = self.soft_cap {
            for score in &mut *scores {
                *score = cap * tanh(*score / cap);
            }
        }
        let most = max(scores).max(self.most[index]);
        let shrink = exp(self.most[index] - most);
        let mut weight = self.weight[index] * shrink;
        for score in &mut *scores {
            *score = exp(*score - most);
            weight += *score;
        }
        (self.most[index], self.weight[index]) = (most, weight);
        let sums = &mut self.sums[index * self.head_dim..(index + 1) * self.head_dim];
        let values = &values[seen.start * self.head_dim..seen.end * self.head_dim];
        gather(sums, shrink, scores, values);
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

/// The query's products with all keys of a page (`[head_dim, PAGE]`).
#[inline]
fn scores(query: &[f32], keys: &[f32]) -> [f32; PAGE] {
    // Two sets of sums: one would make each step wait for the one before.
    let mut even = [0.0; PAGE];
    let mut odd = [0.0; PAGE];
    let (keys, _) = keys.as_chunks::<PAGE>();
    let (pairs, last) = query.as_chunks::<2>();
    for (query, keys) in pairs.iter().zip(keys.chunks_exact(2)) {
        for token in 0..PAGE {
            even[token] = fma(query[0], keys[0][token], even[token]);
            odd[token] = fma(query[1], keys[1][token], odd[token]);
        }
    }
    if let [query] = last {
        for token in 0..PAGE {
            even[token] = fma(*query, keys[keys.len() - 1][token], even[token]);
        }
    }
    for token in 0..PAGE {
        even[token] += odd[token];
    }
    even
}

/// `sums = sums * shrink + Σ weights[t] * values[t]`, values `[tokens, head_dim]`.
#[inline]
fn gather(sums: &mut [f32], shrink: f32, weights: &[f32], values: &[f32]) {
    const WIDE: usize = 32;
    let head_dim = sums.len();
    let (blocks, rest) = sums.as_chunks_mut::<WIDE>();
    let whole = blocks.len() * WIDE;
    for (index, block) in blocks.iter_mut().enumerate() {
        let mut sum = *block;
        for value in &mut sum {
            *value *= shrink;
        }
        for (weight, values) in weights.iter().zip(values.chunks_exact(head_dim)) {
            let values = &values[index * WIDE..(index + 1) * WIDE];
            for lane in 0..WIDE {
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
