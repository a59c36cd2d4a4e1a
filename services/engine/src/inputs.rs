//! Activations in the forms that kernels take them in, each made once for all products that share them.

use candle_core::quantized::GgmlType;
use candle_core::quantized::k_quants::{BlockQ8_0, BlockQ8_1, BlockQ8K};

use crate::kernels::rounded::{Block, Block32, Block256, Rounded};
use crate::kernels::tiles::Tiled;
use crate::plain::{Plain, room};
use crate::team::Team;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Floats,
    /// Bytes with a scale for each 32 columns.
    Rounded32,
    /// Bytes with a scale for each 256 columns.
    Rounded256,
    /// Tiles of bf16.
    Tiles,
    /// Tiles of bf16 in two pieces.
    TilesOfTwo,
    /// What candle's dot products take.
    Q8_0,
    Q8_1,
    Q8K,
}

/// Memory for all forms, kept between products.
#[derive(Default)]
pub struct Scratch {
    rounded_32: Rounded<Block32>,
    rounded_256: Rounded<Block256>,
    tiles: Tiled,
    q8_0: Vec<BlockQ8_0>,
    q8_1: Vec<BlockQ8_1>,
    q8_k: Vec<BlockQ8K>,
}

/// Rows of activations, `[m, columns]`, in the forms that were asked for.
pub struct Given<'a> {
    pub floats: &'a [f32],
    pub m: usize,
    pub columns: usize,
    scratch: &'a Scratch,
}

impl Scratch {
    /// Brings rows into some forms.
    pub fn give<'a>(
        &'a mut self,
        team: &Team,
        floats: &'a [f32],
        columns: usize,
        forms: impl Iterator<Item = Form>,
    ) -> Given<'a> {
        let mut made = Vec::new();
        for form in forms {
            if made.contains(&form) {
                continue;
            }
            made.push(form);
            match form {
                Form::Floats => {}
                Form::Rounded32 => self.rounded_32.take(team, floats, columns),
                Form::Rounded256 => self.rounded_256.take(team, floats, columns),
                Form::Tiles => self.tiles.take(team, floats, columns, made.contains(&Form::TilesOfTwo)),
                Form::TilesOfTwo => self.tiles.take(team, floats, columns, true),
                Form::Q8_0 => blocks(&mut self.q8_0, floats),
                Form::Q8_1 => blocks(&mut self.q8_1, floats),
                Form::Q8K => blocks(&mut self.q8_k, floats),
            }
        }
        Given { floats, m: floats.len() / columns, columns, scratch: self }
    }
}

impl<'a> Given<'a> {
    pub fn tiles(&self) -> &'a Tiled {
        &self.scratch.tiles
    }
}

/// A kind of blocks of bytes.
pub trait Bytes: Block {
    const FORM: Form;

    fn of<'a>(given: &Given<'a>) -> &'a Rounded<Self>;
}

impl Bytes for Block32 {
    const FORM: Form = Form::Rounded32;

    fn of<'a>(given: &Given<'a>) -> &'a Rounded<Self> {
        &given.scratch.rounded_32
    }
}

impl Bytes for Block256 {
    const FORM: Form = Form::Rounded256;

    fn of<'a>(given: &Given<'a>) -> &'a Rounded<Self> {
        &given.scratch.rounded_256
    }
}

/// A type that candle rounds activations to.
pub trait Partner: GgmlType + Plain {
    const FORM: Form;

    fn of<'a>(given: &Given<'a>) -> &'a [Self];
}

macro_rules! partners {
    ($($block:ident $form:ident $field:ident),*) => { $(
        impl Partner for $block {
            const FORM: Form = Form::$form;

            fn of<'a>(given: &Given<'a>) -> &'a [Self] {
                &given.scratch.$field
            }
        }
    )* };
}

partners!(BlockQ8_0 Q8_0 q8_0, BlockQ8_1 Q8_1 q8_1, BlockQ8K Q8K q8_k);

fn blocks<T: GgmlType>(buffer: &mut Vec<T>, floats: &[f32]) {
    T::from_float(floats, room(buffer, floats.len() / T::BLCK_SIZE, T::zeros()));
}
