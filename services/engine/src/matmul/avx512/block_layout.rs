//! The block layouts of ggml's quantized types (ggml-common.h), as strings of 32-bit words.

/// Rows of a group: side by side.
pub const ROWS: usize = 16;
/// Bytes of one word of all rows of a group: a vector and a cache line.
pub const LINE: usize = 4 * ROWS;

/// The layout of one block of a quantized type, in the file and after [`super::repack`].
pub trait BlockLayout: Send + Sync + 'static {
    /// Columns of a block.
    const COLUMNS: usize;
    /// Bytes of a block in the file.
    const BYTES: usize;
    /// The offset of the block's scale in bytes, for types whose blocks are whole words only without it. The scales of such
    /// types are stored apart from the words.
    const SEPARATE_SCALE: Option<usize>;
    /// Bytes of a separate scale: an f16 for all types but MXFP4.
    const SCALE_BYTES: usize = 2;

    /// Words of a block, without a separate scale.
    const WORDS: usize = Self::BYTES / 4;

    /// Rearranges the words of a block for the kernels.
    fn arrange(_words: &mut [u32]) {}

    /// Reverses [`BlockLayout::arrange`].
    fn restore(_words: &mut [u32]) {}
}

pub struct Q4K;
pub struct Q5K;
pub struct Q6K;
pub struct Q2K;
pub struct Q3K;
pub struct Q8_0;
pub struct Q4_0;
pub struct Q5_0;
pub struct Q4_1;
pub struct Q5_1;
pub struct Mxfp4;

impl BlockLayout for Q4K {
    const COLUMNS: usize = 256;
    const BYTES: usize = 144;
    const SEPARATE_SCALE: Option<usize> = None;
}

impl BlockLayout for Q5K {
    const COLUMNS: usize = 256;
    const BYTES: usize = 176;
    const SEPARATE_SCALE: Option<usize> = None;
}

impl BlockLayout for Q6K {
    const COLUMNS: usize = 256;
    const BYTES: usize = 210;
    const SEPARATE_SCALE: Option<usize> = Some(208);
}

impl BlockLayout for Q2K {
    const COLUMNS: usize = 256;
    const BYTES: usize = 84;
    const SEPARATE_SCALE: Option<usize> = None;
}

impl BlockLayout for Q3K {
    const COLUMNS: usize = 256;
    const BYTES: usize = 110;
    const SEPARATE_SCALE: Option<usize> = Some(108);
}

impl BlockLayout for Q8_0 {
    const COLUMNS: usize = 32;
    const BYTES: usize = 34;
    const SEPARATE_SCALE: Option<usize> = Some(0);

    /// Adds 128 to each code: signed bytes become unsigned, as VNNI takes them.
    fn arrange(words: &mut [u32]) {
        for word in words {
            *word ^= 0x8080_8080;
        }
    }

    fn restore(words: &mut [u32]) {
        Self::arrange(words);
    }
}

impl BlockLayout for Q4_0 {
    const COLUMNS: usize = 32;
    const BYTES: usize = 18;
    const SEPARATE_SCALE: Option<usize> = Some(0);
}

impl BlockLayout for Q5_0 {
    const COLUMNS: usize = 32;
    const BYTES: usize = 22;
    const SEPARATE_SCALE: Option<usize> = Some(0);

    fn arrange(words: &mut [u32]) {
        words[0] = fifth_bits(words[0]);
    }

    fn restore(words: &mut [u32]) {
        words[0] = fifth_bits_back(words[0]);
    }
}

impl BlockLayout for Q4_1 {
    const COLUMNS: usize = 32;
    const BYTES: usize = 20;
    const SEPARATE_SCALE: Option<usize> = None;
}

impl BlockLayout for Q5_1 {
    const COLUMNS: usize = 32;
    const BYTES: usize = 24;
    const SEPARATE_SCALE: Option<usize> = None;

    fn arrange(words: &mut [u32]) {
        words[1] = fifth_bits(words[1]);
    }

    fn restore(words: &mut [u32]) {
        words[1] = fifth_bits_back(words[1]);
    }
}

impl BlockLayout for Mxfp4 {
    const COLUMNS: usize = 32;
    const BYTES: usize = 17;
    const SEPARATE_SCALE: Option<usize> = Some(0);
    const SCALE_BYTES: usize = 1;
}

/// Moves bit `4 j + b` to bit `j` of byte `b`: one shift and one mask then give the fifth bits of four columns.
fn fifth_bits(word: u32) -> u32 {
    (0..32).fold(0, |out, bit| out | ((word >> bit) & 1) << (8 * (bit % 4) + bit / 4))
}

/// Reverses [`fifth_bits`].
fn fifth_bits_back(word: u32) -> u32 {
    (0..32).fold(0, |out, bit| out | ((word >> (8 * (bit % 4) + bit / 4)) & 1) << bit)
}
