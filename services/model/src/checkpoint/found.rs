//! A tensor as a file stores it, of either format.

use std::ops::Range;
use std::sync::Arc;

use crate::tensor::TensorType;

/// A tensor as a file stores it, under the file's name.
pub(super) struct FoundTensor {
    pub name: String,
    /// `None` for element types that cannot be weights; `dtype` names them.
    pub ty: Option<TensorType>,
    pub dtype: &'static str,
    pub shape: Vec<usize>,
    /// The index of the mapped file.
    pub map: usize,
    /// The tensor's bytes in that file.
    pub range: Range<usize>,
    /// The file's name, for messages.
    pub file: Arc<str>,
    /// The scales of a tensor of blocks, where the file stores them in another tensor.
    pub scales: Option<BlockScales>,
}

/// The place of the scales of a tensor of blocks.
#[derive(Debug, Clone)]
pub(super) struct BlockScales {
    pub map: usize,
    pub range: Range<usize>,
}
