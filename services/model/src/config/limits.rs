//! The largest dimensions that are read: an order of magnitude beyond the largest published models. Larger values come
//! from a broken or hostile file. Products of any of these fit in 64 bits.

/// Layers of a model.
pub(crate) const LAYERS: usize = 4096;
/// Width of the residual or of an MLP.
pub(crate) const WIDTH: usize = 1 << 20;
/// Query heads.
pub(crate) const HEADS: usize = 1 << 14;
/// Width of a head.
pub(crate) const HEAD_DIM: usize = 1 << 14;
/// Rows of the embedding table.
pub(crate) const VOCABULARY: usize = 1 << 22;
/// Tokens of a sequence.
pub(crate) const CONTEXT: usize = 1 << 26;
/// Experts in one layer.
pub(crate) const EXPERTS: usize = 1 << 12;
/// Experts in all layers together.
pub(crate) const ALL_EXPERTS: usize = 1 << 16;
