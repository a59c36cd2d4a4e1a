//! Keys and values on the host, in blocks of one preallocated array per layer. Attention reads blocks where they lie.

use std::ops::Range;

use half::f16;
use half::slice::HalfFloatSliceExt;
use millm_model::ModelSpec;

use crate::error::Result;
use crate::kv_cache::block::{BLOCK_SIZE, KvType};
use crate::kv_cache::block_pool::{BlockCopy, KvSlot};
use crate::sys::pod::{Pod, zeroed};

/// Keys and values of all layers.
pub(crate) struct HostKvStore {
    layers: Vec<LayerKv>,
    kv_heads: usize,
    head_dim: usize,
}

enum LayerKv {
    F16(Arrays<f16>),
    F32(Arrays<f32>),
}

/// Keys `[block, kv_head, head_dim, BLOCK_SIZE]`: transposed, so that the products of a query with all keys of a
/// block need no sum across vector lanes. Values are `[block, kv_head, BLOCK_SIZE, head_dim]`.
struct Arrays<T> {
    keys: Vec<T>,
    values: Vec<T>,
}

/// The keys `[head_dim, BLOCK_SIZE]` and values `[BLOCK_SIZE, head_dim]` of one head in one block.
#[derive(Clone, Copy)]
pub(crate) enum HeadBlock<'a> {
    F16 { keys: &'a [f16], values: &'a [f16] },
    F32 { keys: &'a [f32], values: &'a [f32] },
}

impl HostKvStore {
    /// Allocates room for `blocks` blocks. The operating system gives the memory as it is first written.
    pub fn new(spec: &ModelSpec, kv_type: KvType, blocks: usize) -> Result<Self> {
        let length = blocks.saturating_mul(spec.kv_heads * spec.head_dim * BLOCK_SIZE);
        let layer = |_| {
            Ok(match kv_type {
                KvType::F16 => LayerKv::F16(Arrays::new(length)?),
                KvType::F32 => LayerKv::F32(Arrays::new(length)?),
            })
        };
        let layers = (0..spec.layers).map(layer).collect::<Result<_>>()?;
        Ok(Self { layers, kv_heads: spec.kv_heads, head_dim: spec.head_dim })
    }

    /// Copies a whole block in all layers.
    pub fn copy_block(&mut self, copy: BlockCopy) {
        let size = self.kv_heads * self.head_dim * BLOCK_SIZE;
        for layer in &mut self.layers {
            match layer {
                LayerKv::F16(arrays) => arrays.copy_block(copy, size),
                LayerKv::F32(arrays) => arrays.copy_block(copy, size),
            }
        }
    }

    /// Stores the key and the value of one token, `[kv_heads * head_dim]` each.
    pub fn write(&mut self, layer: usize, slot: KvSlot, key: &[f32], value: &[f32]) {
        let place =
            Place { first_head: slot.block * self.kv_heads, head_dim: self.head_dim, offset: slot.offset };
        match &mut self.layers[layer] {
            LayerKv::F16(arrays) => arrays.write(&place, key, value, round_to_f16),
            LayerKv::F32(arrays) => arrays.write(&place, key, value, |from, to| to.copy_from_slice(from)),
        }
    }

    /// Returns the keys and values of one head in one block.
    pub fn read(&self, layer: usize, block: usize, head: usize) -> HeadBlock<'_> {
        let size = self.head_dim * BLOCK_SIZE;
        let start = (block * self.kv_heads + head) * size;
        let part = start..start + size;
        match &self.layers[layer] {
            LayerKv::F16(arrays) => {
                let (keys, values) = arrays.read(part);
                HeadBlock::F16 { keys, values }
            }
            LayerKv::F32(arrays) => {
                let (keys, values) = arrays.read(part);
                HeadBlock::F32 { keys, values }
            }
        }
    }
}

/// The place of one token in a layer's arrays.
struct Place {
    /// Index of its first (block, head) pair.
    first_head: usize,
    head_dim: usize,
    /// Within the block.
    offset: usize,
}

/// Elements converted at a time.
const CHUNK: usize = 64;

impl<T: Pod + Copy + Default> Arrays<T> {
    fn new(length: usize) -> Result<Self> {
        Ok(Self { keys: zeroed("the KV cache", length)?, values: zeroed("the KV cache", length)? })
    }

    fn copy_block(&mut self, copy: BlockCopy, size: usize) {
        let (from, to) = (copy.from * size, copy.to * size);
        self.keys.copy_within(from..from + size, to);
        self.values.copy_within(from..from + size, to);
    }

    fn read(&self, part: Range<usize>) -> (&[T], &[T]) {
        (&self.keys[part.clone()], &self.values[part])
    }

    fn write(&mut self, place: &Place, key: &[f32], value: &[f32], convert: impl Fn(&[f32], &mut [T])) {
        let Place { first_head, head_dim, offset } = *place;
        let mut converted = [T::default(); CHUNK];
        let heads = key.chunks_exact(head_dim).zip(value.chunks_exact(head_dim));
        for (head, (key, value)) in heads.enumerate() {
            let start = (first_head + head) * head_dim * BLOCK_SIZE;
            let keys = &mut self.keys[start..start + head_dim * BLOCK_SIZE];
            for (index, key) in key.chunks(CHUNK).enumerate() {
                convert(key, &mut converted[..key.len()]);
                let columns = keys[index * CHUNK * BLOCK_SIZE..].chunks_exact_mut(BLOCK_SIZE);
                for (column, key) in columns.zip(&converted[..key.len()]) {
                    column[offset] = *key;
                }
            }
            convert(value, &mut self.values[start + offset * head_dim..start + (offset + 1) * head_dim]);
        }
    }
}

/// Rounds to f16. Values beyond its range become its largest: an infinity in the cache would reach rows that must not
/// see it.
fn round_to_f16(from: &[f32], to: &mut [f16]) {
    let largest = f16::MAX.to_f32();
    let mut clamped = [0.0; CHUNK];
    for (from, to) in from.chunks(CHUNK).zip(to.chunks_mut(CHUNK)) {
        for (clamped, from) in clamped.iter_mut().zip(from) {
            *clamped = from.clamp(-largest, largest);
        }
        to.convert_from_f32_slice(&clamped[..from.len()]);
    }
}

impl<'a> HeadBlock<'a> {
    /// Returns keys and values as f32. `buffer`, twice as long as either, receives them if they have to be converted.
    pub fn to_f32(self, buffer: &'a mut [f32]) -> (&'a [f32], &'a [f32]) {
        match self {
            Self::F16 { keys, values } => {
                let (wide_keys, wide_values) = buffer.split_at_mut(keys.len());
                keys.convert_to_f32_slice(wide_keys);
                values.convert_to_f32_slice(wide_values);
                (wide_keys, wide_values)
            }
            Self::F32 { keys, values } => (keys, values),
        }
    }
}
