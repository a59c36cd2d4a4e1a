//! Causal grouped-query attention over the pages of the KV cache, for packed rows of many sequences.
//!
//! The softmax is computed as the pages go by (Milakov and Gimelshein, 2018; Dao et al., 2022), so scores are
//! never stored. Work is split by (block of rows, kv head): the query heads of a group and the rows of a block
//! read a page once.

use std::ops::Range;

use millm_model::{ModelSpec, spec};

use crate::batch::Segment;
use crate::cache::{KvCache, Page};
#[cfg(target_arch = "x86_64")]
use crate::kernels;
use crate::pages::{PAGE, Table};
use crate::team::{Cells, Team};
use crate::vector::{exp, fma, max, tanh};

/// Rows of one sequence that read a page together.
const BLOCK: usize = 16;

/// The numbers of one layer's attention.
#[derive(Debug, Clone, Copy)]
pub struct Shape<'a, S: ?Sized = [f32]> {
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub scale: f32,
    /// A token sees itself and at most `window - 1` before it.
    pub window: Option<usize>,
    /// Scores are bent to stay within this: `cap * tanh(score / cap)`.
    pub soft_cap: Option<f32>,
    /// Of each head: the score of a token that takes its share of the weight and has no value.
    pub sinks: Option<&'a S>,
}

impl<'a, S: ?Sized> Shape<'a, S> {
    /// Of a layer, whose sinks are where it is run.
    pub fn of(spec: &ModelSpec, layer: &spec::Block, sinks: Option<&'a S>) -> Self {
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

impl Shape<'_> {
    /// The tokens of a page, by its index in the sequence, that the row at `position` sees.
    fn seen(&self, position: usize, page: usize) -> Range<usize> {
        let from = self.window.map_or(0, |window| (position + 1).saturating_sub(window));
        from.saturating_sub(page * PAGE)..(position + 1).saturating_sub(page * PAGE).min(PAGE)
    }
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
                let page = cache.read(layer, block.table.place(index * PAGE).0, head);
                let seen = |row: usize| shape.seen(block.position + row, index);
                let mut row = 0;
                while row < block.rows {
                    // Rows that see the same of a page read it together: mostly all of them.
                    let alike = (row + 1..block.rows).take_while(|next| seen(*next) == seen(row)).count() + 1;
                    if !seen(row).is_empty() {
                        let queries = row * group..(row + alike) * group;
                        state.absorb(queries, scaled, page, wide, seen(row));
                    }
                    row += alike;
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

    /// Lets some queries, of all in `scaled`, see some tokens of a page.
    fn absorb(
        &mut self,
        queries: Range<usize>,
        scaled: &[f32],
        page: Page<'_>,
        wide: &mut [f32],
        seen: Range<usize>,
    ) {
        let dim = self.head_dim;
        let columns = queries.start * dim..queries.end * dim;
        #[cfg(target_arch = "x86_64")]
        if kernels::vectors() {
            let mut running = kernels::page::Running {
                queries: &scaled[columns.clone()],
                sums: &mut self.sums[columns],
                most: &mut self.most[queries.clone()],
                weight: &mut self.weight[queries],
                head_dim: dim,
                soft_cap: self.soft_cap,
            };
            // SAFETY: the machine was asked.
            return unsafe {
                match page {
                    Page::F16 { keys, values } => {
                        kernels::page::absorb(&mut running, kernels::page::Page { keys, values }, seen);
                    }
                    Page::F32 { keys, values } => {
                        kernels::page::absorb(&mut running, kernels::page::Page { keys, values }, seen);
                    }
                }
            };
        }
        let (keys, values) = page.widened(wide);
        for (query, scaled) in queries.zip(scaled[columns].chunks_exact(dim)) {
            self.absorb_one(query, scaled, keys, values, seen.clone());
        }
    }

    fn absorb_one(&mut self, index: usize, query: &[f32], keys: &[f32], values: &[f32], seen: Range<usize>) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use half::f16;
    use half::slice::HalfFloatSliceExt;

    fn noise(length: usize, seed: usize) -> Vec<f32> {
        (0..length).map(|i| ((i * 7919 + seed * 104_729) % 2003) as f32 / 500.0 - 2.0).collect()
    }

    /// Sums, largest scores and weights after two pages.
    fn run(queries: &[f32], dim: usize, pages: &[Page<'_>; 2], portable: bool) -> [Vec<f32>; 3] {
        let count = queries.len() / dim;
        let (mut sums, mut most, mut weight) = (vec![0.0; queries.len()], vec![0.0; count], vec![0.0; count]);
        let mut wide = vec![0.0; 2 * dim * PAGE];
        let mut state = State {
            sums: &mut sums,
            most: &mut most,
            weight: &mut weight,
            head_dim: dim,
            soft_cap: Some(5.0),
        };
        state.reset(None);
        for (page, seen) in pages.iter().zip([3..PAGE, 0..17]) {
            if portable {
                let (keys, values) = page.widened(&mut wide);
                for (index, query) in queries.chunks_exact(dim).enumerate() {
                    state.absorb_one(index, query, keys, values, seen.clone());
                }
            } else {
                state.absorb(0..count, queries, *page, &mut wide, seen);
            }
        }
        [sums, most, weight]
    }

    #[test]
    fn pages_give_the_same_by_every_path_and_in_any_company() {
        for dim in [8, 16, 24, 64, 80, 128] {
            let pages: Vec<Vec<f32>> = (0..4).map(|seed| noise(dim * PAGE, seed)).collect();
            let halves: Vec<Vec<f16>> = pages
                .iter()
                .map(|page| {
                    let mut half = vec![f16::ZERO; page.len()];
                    half.convert_from_f32_slice(page);
                    half
                })
                .collect();
            let floats = [0, 2].map(|i| Page::F32 { keys: &pages[i], values: &pages[i + 1] });
            let halves = [0, 2].map(|i| Page::F16 { keys: &halves[i], values: &halves[i + 1] });
            for pages in [floats, halves] {
                let queries: Vec<f32> = noise(9 * dim, 11).iter().map(|x| x * 0.2).collect();
                let expected = run(&queries, dim, &pages, true);
                let got = run(&queries, dim, &pages, false);
                for (got, expected) in got.iter().flatten().zip(expected.iter().flatten()) {
                    assert!(
                        (got - expected).abs() <= 1e-5 * expected.abs().max(1.0),
                        "{got}, not {expected}"
                    );
                }
                for (index, query) in queries.chunks_exact(dim).enumerate() {
                    let [sums, most, weight] = run(query, dim, &pages, false);
                    assert_eq!(sums, got[0][index * dim..(index + 1) * dim], "query {index} alone");
                    assert_eq!((most[0], weight[0]), (got[1][index], got[2][index]));
                }
            }
        }
    }
}
