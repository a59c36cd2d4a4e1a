//! Activations in the formats that kernels take, each converted once for all products that share the input.

pub(crate) mod bf16_tiles;
pub(crate) mod q8;

use candle_core::quantized::GgmlType;
use candle_core::quantized::k_quants::{BlockQ8_0, BlockQ8_1, BlockQ8K};

use crate::sys::pod::{Pod, resized};
use crate::sys::thread_pool::ThreadPool;
use bf16_tiles::SplitTiles;
use q8::{Q8Block, Q8Block32, Q8Block256, Q8Rows};

/// A format of activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActivationFormat {
    F32,
    /// Signed bytes with a scale for each 32 columns ([`Q8Block32`]).
    Q8Block32,
    /// Signed bytes with a scale for each 256 columns ([`Q8Block256`]).
    Q8Block256,
    /// Tiles of bf16 for the matrix unit.
    Bf16Tiles,
    /// As [`ActivationFormat::Bf16Tiles`], with a second bf16 for each value: the rounding error of the first.
    SplitBf16Tiles,
    /// Blocks for candle's dot products.
    Q8_0,
    /// Blocks for candle's dot products.
    Q8_1,
    /// Blocks for candle's dot products.
    Q8K,
}

/// Memory for all formats, kept between products.
#[derive(Default)]
pub struct Scratch {
    q8_block_32: Q8Rows<Q8Block32>,
    q8_block_256: Q8Rows<Q8Block256>,
    tiles: SplitTiles,
    q8_0: Vec<BlockQ8_0>,
    q8_1: Vec<BlockQ8_1>,
    q8_k: Vec<BlockQ8K>,
}

/// Rows of activations, `[m, columns]`, in the formats that were requested.
pub struct Activations<'a> {
    /// The rows as f32, which are always there.
    pub f32: &'a [f32],
    /// The number of rows.
    pub m: usize,
    pub columns: usize,
    scratch: &'a Scratch,
}

impl Scratch {
    /// Converts rows of activations, `[m, columns]`, into each of `formats`.
    pub fn convert<'a>(
        &'a mut self,
        pool: &ThreadPool,
        input: &'a [f32],
        columns: usize,
        formats: impl Iterator<Item = ActivationFormat>,
    ) -> Activations<'a> {
        let mut done = Vec::new();
        for format in formats {
            if done.contains(&format) {
                continue;
            }
            done.push(format);
            match format {
                ActivationFormat::F32 => {}
                ActivationFormat::Q8Block32 => self.q8_block_32.quantize(pool, input, columns),
                ActivationFormat::Q8Block256 => self.q8_block_256.quantize(pool, input, columns),
                ActivationFormat::Bf16Tiles => {
                    let split = done.contains(&ActivationFormat::SplitBf16Tiles);
                    self.tiles.convert(pool, input, columns, split);
                }
                ActivationFormat::SplitBf16Tiles => self.tiles.convert(pool, input, columns, true),
                ActivationFormat::Q8_0 => quantize(&mut self.q8_0, input),
                ActivationFormat::Q8_1 => quantize(&mut self.q8_1, input),
                ActivationFormat::Q8K => quantize(&mut self.q8_k, input),
            }
        }
        Activations { f32: input, m: input.len() / columns, columns, scratch: self }
    }
}

impl<'a> Activations<'a> {
    /// Returns the rows as tiles of bf16, if [`ActivationFormat::Bf16Tiles`] or its split form was requested.
    pub fn tiles(&self) -> &'a SplitTiles {
        &self.scratch.tiles
    }
}

/// A block type of this crate's kernels, and the format that consists of its blocks.
pub trait Q8Format: Q8Block {
    const FORMAT: ActivationFormat;

    /// Returns the rows in this format, if it was requested.
    fn of<'a>(activations: &Activations<'a>) -> &'a Q8Rows<Self>;
}

impl Q8Format for Q8Block32 {
    const FORMAT: ActivationFormat = ActivationFormat::Q8Block32;

    fn of<'a>(activations: &Activations<'a>) -> &'a Q8Rows<Self> {
        &activations.scratch.q8_block_32
    }
}

impl Q8Format for Q8Block256 {
    const FORMAT: ActivationFormat = ActivationFormat::Q8Block256;

    fn of<'a>(activations: &Activations<'a>) -> &'a Q8Rows<Self> {
        &activations.scratch.q8_block_256
    }
}

/// A block type that candle's dot products take, and the format that consists of its blocks.
pub trait CandleFormat: GgmlType + Pod {
    const FORMAT: ActivationFormat;

    /// Returns the rows in this format, if it was requested.
    fn of<'a>(activations: &Activations<'a>) -> &'a [Self];
}

macro_rules! candle_formats {
    ($($block:ident $format:ident $field:ident),*) => { $(
        impl CandleFormat for $block {
            const FORMAT: ActivationFormat = ActivationFormat::$format;

            fn of<'a>(activations: &Activations<'a>) -> &'a [Self] {
                &activations.scratch.$field
            }
        }
    )* };
}

candle_formats!(BlockQ8_0 Q8_0 q8_0, BlockQ8_1 Q8_1 q8_1, BlockQ8K Q8K q8_k);

/// Quantizes rows with candle's own rounding.
fn quantize<T: GgmlType>(buffer: &mut Vec<T>, input: &[f32]) {
    T::from_float(input, resized(buffer, input.len() / T::BLCK_SIZE, T::zeros()));
}
