//! Stored rows of plain types into `f32`. Quantized sources are not decoded: quantizing twice adds both errors.

use half::f16;

use crate::tensor::TensorType;

/// Types that a row can be read from.
pub(super) const fn is_plain(ty: TensorType) -> bool {
    matches!(ty, TensorType::F32 | TensorType::F16 | TensorType::BF16)
}

/// Decodes one row. `bytes` holds exactly `row.len()` elements of a plain type, at any alignment.
///
/// # Panics
/// For other types: the run refuses them before it starts.
pub(super) fn decode_row(ty: TensorType, bytes: &[u8], row: &mut [f32]) {
    match ty {
        TensorType::F32 => fill(bytes, row, f32::from_le_bytes),
        TensorType::F16 => fill(bytes, row, |b| f16::from_le_bytes(b).to_f32()),
        // The upper half of an f32: shifting vectorizes where `to_f32` looks for NaN.
        TensorType::BF16 => fill(bytes, row, |b| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16)),
        other => unreachable!("{other} is not a plain type"),
    }
}

#[inline]
fn fill<const BYTES: usize>(bytes: &[u8], row: &mut [f32], decode: impl Fn([u8; BYTES]) -> f32) {
    let (elements, rest) = bytes.as_chunks::<BYTES>();
    assert!(rest.is_empty() && elements.len() == row.len(), "row and bytes do not fit");
    for (value, element) in row.iter_mut().zip(elements) {
        *value = decode(*element);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantize::encode::encode_row;
    use half::bf16;

    /// Every half-precision number that is finite survives decoding and encoding; bf16's NaN check is skipped
    /// only for what encoding refuses anyway.
    #[test]
    fn plain_types_round_trip_bit_for_bit() {
        for ty in [TensorType::F16, TensorType::BF16] {
            let bytes: Vec<u8> = (0..=u16::MAX)
                .filter(|bits| match ty {
                    TensorType::F16 => f16::from_bits(*bits).is_finite(),
                    _ => bf16::from_bits(*bits).is_finite(),
                })
                .flat_map(u16::to_le_bytes)
                .collect();
            let mut row = vec![0.0; bytes.len() / 2];
            decode_row(ty, &bytes, &mut row);
            let mut back = vec![0; bytes.len()];
            encode_row(ty, &row, None, &mut back).unwrap();
            assert_eq!(bytes, back, "{ty}");
        }
    }

    #[test]
    fn unaligned_f32() {
        let bytes = [0, 0, 0, 0x80, 0x3f, 0, 0, 0x20, 0xc1];
        let mut row = [0.0; 2];
        decode_row(TensorType::F32, &bytes[1..], &mut row);
        assert_eq!(row.map(f32::to_bits), [1.0, -10.0].map(f32::to_bits));
    }
}
