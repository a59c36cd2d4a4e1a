//! Sums of numbers that are exact, so that they do not depend on the order of the numbers: parts of an extraction are
//! added in any order, and give the same bytes.

use serde::{Deserialize, Serialize};

/// Bits of a digit.
const DIGIT: u32 = 32;
/// The weight of the lowest digit is 2 to the power of this: that of the smallest number that f64 has.
const LOWEST: i32 = -1074;
/// Digits for the largest f64, and two for sums of them.
const DIGITS: usize = (1024 + 1074) / DIGIT as usize + 3;
/// Numbers that can be added before digits could overflow: each adds less than 2^32 to a digit of 63 bits.
const MAX_UNCARRIED: u32 = 1 << 30;

/// A sum of f64 numbers without rounding (a fixed-point number of 2,176 bits, after Kulisch).
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(from = "Canonical", into = "Canonical")]
pub struct ExactSum {
    /// Lowest first; each may be negative, or larger than a digit, until it is carried.
    digits: Box<[i64; DIGITS]>,
    uncarried: u32,
}

impl Default for ExactSum {
    fn default() -> Self {
        Self { digits: Box::new([0; DIGITS]), uncarried: 0 }
    }
}

impl ExactSum {
    /// Adds a finite number. Others are ignored.
    #[inline]
    pub fn add(&mut self, value: f64) {
        if !value.is_finite() {
            return;
        }
        let bits = value.to_bits();
        let exponent = ((bits >> 52) & 0x7ff) as u32;
        let fraction = bits & ((1 << 52) - 1);
        // Subnormal numbers have the weight of the lowest exponent, and no implicit bit.
        let (mantissa, shift) =
            if exponent == 0 { (fraction, 0) } else { (fraction | (1 << 52), exponent - 1) };
        if mantissa == 0 {
            return;
        }
        let first = (shift / DIGIT) as usize;
        let mut rest = u128::from(mantissa) << (shift % DIGIT);
        for digit in &mut self.digits[first..first + 3] {
            let part = (rest & u128::from(u32::MAX)) as i64;
            *digit += if value.is_sign_negative() { -part } else { part };
            rest >>= DIGIT;
        }
        self.uncarried += 1;
        if self.uncarried >= MAX_UNCARRIED {
            self.carry();
        }
    }

    /// Adds another sum.
    pub fn merge(&mut self, other: &Self) {
        self.carry();
        let mut other = other.clone();
        other.carry();
        for (digit, more) in self.digits.iter_mut().zip(other.digits.iter()) {
            *digit += more;
        }
        self.uncarried = 2;
    }

    /// Brings all digits but the highest between 0 and 2^32 - 1. The highest has the sum's sign.
    fn carry(&mut self) {
        let mut carried = 0;
        let last = DIGITS - 1;
        for digit in &mut self.digits[..last] {
            let value = *digit + carried;
            *digit = value & i64::from(u32::MAX);
            carried = value >> DIGIT;
        }
        self.digits[last] += carried;
        self.uncarried = 1;
    }

    /// Returns the sum, rounded.
    pub fn value(&self) -> f64 {
        let canonical = Canonical::from(self.clone());
        let mut sum = 0.0;
        // From the highest digit down: what is left is below the rounding of the sum.
        for (index, digit) in canonical.digits.iter().enumerate().rev() {
            let power = LOWEST + DIGIT as i32 * (index as i32 + canonical.first as i32);
            sum += scale(f64::from(*digit), power);
        }
        if canonical.negative { -sum } else { sum }
    }
}

/// Returns `value * 2^power`, also where 2^power itself is no f64.
fn scale(value: f64, power: i32) -> f64 {
    let half = power / 2;
    value * 2f64.powi(half) * 2f64.powi(power - half)
}

/// The one way to write a sum: sign and digits without zeros at either end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Canonical {
    negative: bool,
    first: u16,
    digits: Vec<u32>,
}

impl From<ExactSum> for Canonical {
    fn from(mut sum: ExactSum) -> Self {
        sum.carry();
        let negative = sum.digits[DIGITS - 1] < 0;
        if negative {
            sum.digits.iter_mut().for_each(|digit| *digit = -*digit);
            sum.carry();
        }
        let first = sum.digits.iter().position(|digit| *digit != 0).unwrap_or(0);
        let end = sum.digits.iter().rposition(|digit| *digit != 0).map_or(0, |last| last + 1);
        // The highest digits are spare, so none is beyond 2^32.
        let digits = sum.digits[first.min(end)..end].iter().map(|digit| *digit as u32).collect();
        Self { negative, first: first as u16, digits }
    }
}

impl From<Canonical> for ExactSum {
    fn from(canonical: Canonical) -> Self {
        let mut sum = Self::default();
        let places = sum.digits.iter_mut().skip(usize::from(canonical.first));
        for (place, digit) in places.zip(&canonical.digits) {
            *place = if canonical.negative { -i64::from(*digit) } else { i64::from(*digit) };
        }
        sum.uncarried = 1;
        sum
    }
}

impl PartialEq for ExactSum {
    fn eq(&self, other: &Self) -> bool {
        Canonical::from(self.clone()) == Canonical::from(other.clone())
    }
}

#[cfg(test)]
#[allow(clippy::float_cmp, reason = "the values are exact")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sum(values: &[f64]) -> ExactSum {
        let mut sum = ExactSum::default();
        for value in values {
            sum.add(*value);
        }
        sum
    }

    #[test]
    fn sums_are_exact() {
        let check = |values: &[f64], expected: f64| {
            assert_eq!(sum(values).value(), expected, "{values:?}");
        };
        check(&[], 0.0);
        check(&[1e300, 1.0, -1e300], 1.0);
        check(&[0.1; 10], 1.0);
        check(&[f64::MIN_POSITIVE / 4.0, f64::MIN_POSITIVE / 4.0], f64::MIN_POSITIVE / 2.0);
        check(&[-3.5, 1.25], -2.25);
        check(&[f64::MAX, f64::MAX, -f64::MAX], f64::MAX);
        check(&[f64::INFINITY, f64::NAN, 2.0], 2.0);
        check(&[-1e-200, 1e-200], 0.0);
    }

    proptest! {
        #[test]
        fn order_and_parts_do_not_matter(
            values in prop::collection::vec(prop::num::f64::NORMAL | prop::num::f64::SUBNORMAL, 0..60),
            cut in 0usize..60,
        ) {
            let whole = sum(&values);
            let mut reversed = values.clone();
            reversed.reverse();
            prop_assert_eq!(&sum(&reversed), &whole);
            let (left, right) = values.split_at(cut.min(values.len()));
            let mut merged = sum(right);
            merged.merge(&sum(left));
            prop_assert_eq!(&merged, &whole);
            let bytes = postcard::to_stdvec(&merged).unwrap();
            prop_assert_eq!(&bytes, &postcard::to_stdvec(&whole).unwrap());
            let back: ExactSum = postcard::from_bytes(&bytes).unwrap();
            prop_assert_eq!(&back, &whole);
        }

        #[test]
        fn the_rounded_sum_is_close(values in prop::collection::vec(-1e6f64..1e6, 1..40)) {
            let naive: f64 = values.iter().sum();
            let scale: f64 = values.iter().map(|value| value.abs()).sum();
            prop_assert!((sum(&values).value() - naive).abs() <= scale * 1e-12);
        }
    }
}
