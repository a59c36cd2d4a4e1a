//! Keys and values of all sequences, in pages of one preallocated pool per layer. Nothing is moved: attention reads
//! the pages where they lie, and sequences that begin the same read the same pages.

use half::f16;
use half::slice::HalfFloatSliceExt;
use millm_model::ModelSpec;

use crate::error::Result;
use crate::pages::{PAGE, Pages, SequenceId, Table};
use crate::plain::zeroed;

/// Element type of the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KvType {
    /// Half the memory and traffic; keys and values are rounded to 11 bits.
    #[default]
    F16,
    /// Exactly what the model computed.
    F32,
}

impl KvType {
    pub const fn bytes(self) -> usize {
        match self {
            Self::F16 => 2,
            Self::F32 => 4,
        }
    }
}

/// One layer's pages. Keys are `[page, kv_head, head_dim, PAGE]`: transposed, so that one query meets all keys
/// of a page without sums across lanes. Values are `[page, kv_head, PAGE, head_dim]`.
enum Store {
    F16 { keys: Vec<f16>, values: Vec<f16> },
    F32 { keys: Vec<f32>, values: Vec<f32> },
}

pub struct KvCache {
    pages: Pages,
    layers: Vec<Store>,
    kv_heads: usize,
    head_dim: usize,
}

impl KvCache {
    /// Room for `pages` pages of [`PAGE`] tokens.
    pub fn new(spec: &ModelSpec, kv_type: KvType, pages: usize) -> Result<Self> {
        let length = pages.saturating_mul(spec.kv_heads * spec.head_dim * PAGE);
        let layers = (0..spec.layers)
            .map(|_| {
                Ok(match kv_type {
                    KvType::F16 => Store::F16 {
                        keys: zeroed("the KV cache", length)?,
                        values: zeroed("the KV cache", length)?,
                    },
                    KvType::F32 => Store::F32 {
                        keys: zeroed("the KV cache", length)?,
                        values: zeroed("the KV cache", length)?,
                    },
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self { pages: Pages::new(pages), layers, kv_heads: spec.kv_heads, head_dim: spec.head_dim })
    }

    /// Memory that `pages` pages take.
    pub fn bytes(spec: &ModelSpec, kv_type: KvType, pages: usize) -> u64 {
        ((2 * spec.layers * spec.kv_heads * spec.head_dim * PAGE * kv_type.bytes()) as u64)
            .saturating_mul(pages as u64)
    }

    pub fn pages(&self) -> &Pages {
        &self.pages
    }

    /// A sequence with room for `tokens`, or `None` when too few pages can be had.
    pub fn open(&mut self, tokens: usize) -> Option<SequenceId> {
        let sequence = self.pages.open();
        if self.pages.reserve(sequence, tokens) {
            return Some(sequence);
        }
        self.pages.close(sequence);
        None
    }

    /// Lets a sequence's pages go at once.
    pub fn close(&mut self, sequence: SequenceId) {
        self.pages.close(sequence);
    }

    pub fn pages_mut(&mut self) -> &mut Pages {
        &mut self.pages
    }

    /// Lets `to` begin as `from` is, whose full pages are all known: those are shared, the rest is copied.
    pub fn follow(&mut self, from: SequenceId, to: SequenceId) {
        let Some((from, to)) = self.pages.follow(from, to) else { return };
        let size = self.kv_heads * self.head_dim * PAGE;
        let (from, to) = (from as usize * size, to as usize * size);
        for layer in &mut self.layers {
            match layer {
                Store::F16 { keys, values } => {
                    keys.copy_within(from..from + size, to);
                    values.copy_within(from..from + size, to);
                }
                Store::F32 { keys, values } => {
                    keys.copy_within(from..from + size, to);
                    values.copy_within(from..from + size, to);
                }
            }
        }
    }

    /// Tokens of a sequence that are in the cache; 0 for one that is not open.
    pub fn length(&self, sequence: SequenceId) -> usize {
        self.pages.table(sequence).map_or(0, Table::length)
    }

    pub(crate) fn advance(&mut self, sequence: SequenceId, tokens: usize) {
        self.pages.advance(sequence, tokens);
    }

    /// Stores the key and the value (`[kv_heads * head_dim]`) of one token.
    pub(crate) fn write(
        &mut self,
        layer: usize,
        sequence: SequenceId,
        position: usize,
        key: &[f32],
        value: &[f32],
    ) {
        let table = self.pages.table(sequence).expect("an open sequence: the batch was checked");
        let (page, slot) = table.place(position);
        let (heads, dim) = (self.kv_heads, self.head_dim);
        match &mut self.layers[layer] {
            Store::F16 { keys, values } => {
                put(keys, values, (page * heads, dim, slot), key, value, (f16::ZERO, narrow));
            }
            Store::F32 { keys, values } => {
                let same = |from: &[f32], to: &mut [f32]| to.copy_from_slice(from);
                put(keys, values, (page * heads, dim, slot), key, value, (0.0, same));
            }
        }
    }

    /// One head's part of one page.
    pub(crate) fn read(&self, layer: usize, page: usize, head: usize) -> Page<'_> {
        let size = self.head_dim * PAGE;
        let start = (page * self.kv_heads + head) * size;
        let part = start..start + size;
        match &self.layers[layer] {
            Store::F16 { keys, values } => Page::F16 { keys: &keys[part.clone()], values: &values[part] },
            Store::F32 { keys, values } => Page::F32 { keys: &keys[part.clone()], values: &values[part] },
        }
    }
}

/// Keys `[head_dim, PAGE]` and values `[PAGE, head_dim]`.
#[derive(Clone, Copy)]
pub(crate) enum Page<'a> {
    F16 { keys: &'a [f16], values: &'a [f16] },
    F32 { keys: &'a [f32], values: &'a [f32] },
}

impl<'a> Page<'a> {
    /// Keys and values as floats; `wide` (of twice a part's size) takes them where they have to be widened.
    pub fn widened(self, wide: &'a mut [f32]) -> (&'a [f32], &'a [f32]) {
        match self {
            Self::F16 { keys, values } => {
                let (wide_keys, wide_values) = wide.split_at_mut(keys.len());
                keys.convert_to_f32_slice(wide_keys);
                values.convert_to_f32_slice(wide_values);
                (wide_keys, wide_values)
            }
            Self::F32 { keys, values } => (keys, values),
        }
    }
}

/// Numbers narrowed at a time.
const RUN: usize = 64;

fn put<T: Copy>(
    keys: &mut [T],
    values: &mut [T],
    (first_head, dim, slot): (usize, usize, usize),
    key: &[f32],
    value: &[f32],
    (zero, narrow): (T, impl Fn(&[f32], &mut [T])),
) {
    let mut run = [zero; RUN];
    for (head, (key, value)) in key.chunks_exact(dim).zip(value.chunks_exact(dim)).enumerate() {
        let start = (first_head + head) * dim * PAGE;
        let keys = &mut keys[start..start + dim * PAGE];
        for (index, key) in key.chunks(RUN).enumerate() {
            narrow(key, &mut run[..key.len()]);
            let columns = keys[index * RUN * PAGE..].chunks_exact_mut(PAGE);
            for (column, key) in columns.zip(&run[..key.len()]) {
                column[slot] = *key;
            }
        }
        narrow(value, &mut values[start + slot * dim..start + (slot + 1) * dim]);
    }
}

/// What f16 cannot hold becomes its largest: an infinity in the cache would reach rows that must not see it.
fn narrow(from: &[f32], to: &mut [f16]) {
    let most = f16::MAX.to_f32();
    let mut run = [0.0; RUN];
    for (from, to) in from.chunks(RUN).zip(to.chunks_mut(RUN)) {
        for (run, from) in run.iter_mut().zip(from) {
            *run = from.clamp(-most, most);
        }
        to.convert_from_f32_slice(&run[..from.len()]);
    }
}
