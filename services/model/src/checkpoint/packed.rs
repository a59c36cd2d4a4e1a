//! MXFP4 in safetensors files: one tensor holds the sixteen bytes of each block, with neighbouring elements in one byte,
//! and another tensor holds the scales. The decoder reads ggml's blocks: the scale, then bytes whose low nibbles are the
//! first half of the elements.

use std::collections::HashMap;

use super::found::{BlockScales, FoundTensor};
use crate::tensor::TensorType;

const BLOCKS: &str = "_blocks";
const SCALES: &str = "_scales";
/// The element type of both tensors.
const DTYPE: &str = "U8";
/// The bytes of a block without its scale.
pub(super) const BODY: usize = 16;

/// Joins blocks `[.., columns / 32, 16]` and scales `[.., columns / 32]` into one tensor under the blocks' name. A tensor
/// without a partner stays as it is.
pub(super) fn join(found: &mut [FoundTensor]) {
    let scales = found.iter().filter(|tensor| tensor.dtype == DTYPE && tensor.name.ends_with(SCALES));
    let scales: HashMap<String, (Vec<usize>, BlockScales)> = scales
        .map(|tensor| {
            let place = BlockScales { map: tensor.map, range: tensor.range.clone() };
            (tensor.name.clone(), (tensor.shape.clone(), place))
        })
        .collect();
    for tensor in found.iter_mut().filter(|tensor| tensor.dtype == DTYPE) {
        let partner =
            tensor.name.strip_suffix(BLOCKS).and_then(|name| scales.get(&format!("{name}{SCALES}")));
        let (Some((shape, place)), [rows @ .., BODY]) = (partner, tensor.shape.as_slice()) else { continue };
        let [rows @ .., blocks] = rows else { continue };
        let Some(columns) = blocks.checked_mul(TensorType::MXFP4.block_size()) else { continue };
        if shape[..] != tensor.shape[..tensor.shape.len() - 1] {
            continue;
        }
        (tensor.shape, tensor.ty) = ([rows, &[columns]].concat(), Some(TensorType::MXFP4));
        tensor.scales = Some(place.clone());
    }
}

/// Returns these rows, of `count` blocks each, as ggml's blocks.
pub(super) fn rows(blocks: &[u8], scales: &[u8], count: usize, rows: &[usize]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(rows.len() * count * (1 + BODY));
    for row in rows {
        let (blocks, _) = blocks[row * count * BODY..(row + 1) * count * BODY].as_chunks::<BODY>();
        for (block, scale) in blocks.iter().zip(&scales[row * count..(row + 1) * count]) {
            bytes.push(*scale);
            bytes.extend_from_slice(&reorder_nibbles(block));
        }
    }
    bytes
}

/// Reorders nibbles: from two neighbours in one byte to two columns that are sixteen apart.
fn reorder_nibbles(block: &[u8; BODY]) -> [u8; BODY] {
    let (first, second) = block.split_at(BODY / 2);
    let mut out = [0; BODY];
    for ((out, a), b) in out.as_chunks_mut::<2>().0.iter_mut().zip(first).zip(second) {
        *out = [a & 15 | b << 4, a >> 4 | b & 0xf0];
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nibbles_change_places() {
        let nibble = |bytes: &[u8; BODY], index: usize| bytes[index / 2] >> (4 * (index % 2)) & 15;
        let block: [u8; BODY] = std::array::from_fn(|index| (index * 37 + 11) as u8);
        let out = reorder_nibbles(&block);
        for (column, byte) in out.iter().enumerate() {
            assert_eq!((byte & 15, byte >> 4), (nibble(&block, column), nibble(&block, column + 16)));
        }
        let two = [block, [0; BODY]].concat();
        assert_eq!(rows(&two, &[7, 9], 1, &[1, 0]), [&[9][..], &[0; BODY], &[7], &out].concat());
    }

    fn found(name: &str, dtype: &'static str, shape: &[usize]) -> FoundTensor {
        let (name, shape, file) = (name.to_owned(), shape.to_vec(), String::new());
        FoundTensor { name, ty: None, dtype, shape, map: 0, range: 3..5, file: file.into(), scales: None }
    }

    #[test]
    fn only_blocks_with_their_scales_are_joined() {
        let mut tensors = [
            found("a_blocks", DTYPE, &[2, 8, 3, 16]),
            found("a_scales", DTYPE, &[2, 8, 3]),
            found("b_blocks", DTYPE, &[2, 16]),
            found("b_scales", "I8", &[2]),
            found("c_blocks", DTYPE, &[2, 16]),
            found("c_scales", DTYPE, &[3]),
            found("d_blocks", DTYPE, &[2, 15]),
            found("d_scales", DTYPE, &[2]),
            found("e_blocks", DTYPE, &[16]),
            found("e_scales", DTYPE, &[]),
            found("f_blocks", DTYPE, &[]),
        ];
        join(&mut tensors);
        let joined: Vec<_> = tensors.iter().filter(|tensor| tensor.scales.is_some()).collect();
        assert_eq!(joined.len(), 1);
        assert_eq!((joined[0].name.as_str(), joined[0].ty), ("a_blocks", Some(TensorType::MXFP4)));
        assert_eq!(joined[0].shape, [2, 8, 96]);
    }
}
