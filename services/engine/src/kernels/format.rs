//! The quantized types of ggml as strings of 32-bit words: how long a block is, and what of it changes place so that
//! vectors can take it apart.

/// How a block of a type is stored, and what of it changes place.
pub trait Layout: Send + Sync + 'static {
    /// Columns of a block.
    const COLUMNS: usize;
    /// Bytes of a block in a file.
    const BYTES: usize;
    /// Where a block's lone scale stands, if its bytes are no whole words.
    const LONE: Option<usize>;
    /// An f16 but for one type.
    const LONE_BYTES: usize = 2;

    /// Words of a block.
    const WORDS: usize = Self::BYTES / 4;

    /// Turns the words of a block as stored into those that are kept.
    fn arrange(_words: &mut [u32]) {}

    /// Undoes [`Layout::arrange`].
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

impl Layout for Q4K {
    const COLUMNS: usize = 256;
    const BYTES: usize = 144;
    const LONE: Option<usize> = None;
}

impl Layout for Q5K {
    const COLUMNS: usize = 256;
    const BYTES: usize = 176;
    const LONE: Option<usize> = None;
}

impl Layout for Q6K {
    const COLUMNS: usize = 256;
    const BYTES: usize = 210;
    const LONE: Option<usize> = Some(208);
}

impl Layout for Q2K {
    const COLUMNS: usize = 256;
    const BYTES: usize = 84;
    const LONE: Option<usize> = None;
}

impl Layout for Q3K {
    const COLUMNS: usize = 256;
    const BYTES: usize = 110;
    const LONE: Option<usize> = Some(108);
}

impl Layout for Q8_0 {
    const COLUMNS: usize = 32;
    const BYTES: usize = 34;
    const LONE: Option<usize> = Some(0);

    /// Signed to unsigned: 128 more.
    fn arrange(words: &mut [u32]) {
        for word in words {
            *word ^= 0x8080_8080;
        }
    }

    fn restore(words: &mut [u32]) {
        Self::arrange(words);
    }
}

impl Layout for Q4_0 {
    const COLUMNS: usize = 32;
    const BYTES: usize = 18;
    const LONE: Option<usize> = Some(0);
}

impl Layout for Q5_0 {
    const COLUMNS: usize = 32;
    const BYTES: usize = 22;
    const LONE: Option<usize> = Some(0);

    fn arrange(words: &mut [u32]) {
        words[0] = fifth_bits(words[0]);
    }

    fn restore(words: &mut [u32]) {
        words[0] = fifth_bits_back(words[0]);
    }
}

impl Layout for Q4_1 {
    const COLUMNS: usize = 32;
    const BYTES: usize = 20;
    const LONE: Option<usize> = None;
}

impl Layout for Q5_1 {
    const COLUMNS: usize = 32;
    const BYTES: usize = 24;
    const LONE: Option<usize> = None;

    fn arrange(words: &mut [u32]) {
        words[1] = fifth_bits(words[1]);
    }

    fn restore(words: &mut [u32]) {
        words[1] = fifth_bits_back(words[1]);
    }
}

impl Layout for Mxfp4 {
    const COLUMNS: usize = 32;
    const BYTES: usize = 17;
    const LONE: Option<usize> = Some(0);
    const LONE_BYTES: usize = 1;
}

/// Bit `4 j + b` to bit `j` of byte `b`: then four columns' bits are one shift and one mask away.
fn fifth_bits(word: u32) -> u32 {
    (0..32).fold(0, |out, bit| out | ((word >> bit) & 1) << (8 * (bit % 4) + bit / 4))
}

fn fifth_bits_back(word: u32) -> u32 {
    (0..32).fold(0, |out, bit| out | ((word >> (8 * (bit % 4) + bit / 4)) & 1) << bit)
}
