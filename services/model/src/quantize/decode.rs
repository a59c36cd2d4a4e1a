//! Decodes rows of plain types into `f32`. Quantized sources are not decoded: quantizing twice adds both errors.

use half::f16;

use crate::tensor::TensorType;

/// Returns whether rows of a type can be decoded.
pub(super) const fn is_plain(ty: TensorType) -> bool {
    matches!(ty, TensorType::F32 | TensorType::F16 | TensorType::BF16)
}

/// Decodes one row. `bytes` holds exactly `row.len()` elements of a plain type, at any alignment.
///
/// # Panics
/// For other types, which the run refuses before it starts, and for lengths that do not match.
pub(super) fn decode_row(ty: TensorType, bytes: &[u8], row: &mut [f32]) {
    match ty {
        TensorType::F32 => fill(bytes, row, f32::from_le_bytes),
        TensorType::F16 => fill(bytes, row, |b| f16::from_le_bytes(b).to_f32()),
        // The upper half of an f32. Shifting is vectorized; `to_f32` is not, since it checks for NaN.
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

    /// Every finite half-precision number is the same after decoding and encoding. NaN, which decoding bf16 does not check
    /// for, is refused by encoding.
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
