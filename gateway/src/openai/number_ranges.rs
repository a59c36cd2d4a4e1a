//! The ranges of numbers in requests. Each mistake names its field and what is allowed.

use std::ops::RangeInclusive;

use millm_kit::ServiceError;

/// Returns the number, when one is given.
///
/// # Errors
///
/// INVALID_ARGUMENT of `field` outside of the range.
pub fn number(
    field: &str,
    value: Option<f64>,
    range: RangeInclusive<f64>,
) -> Result<Option<f32>, ServiceError> {
    match value {
        Some(number) if !range.contains(&number) => {
            let why = format!("must be a number from {} to {}", range.start(), range.end());
            Err(ServiceError::invalid_argument(field, why))
        }
        value => Ok(value.map(|number| number as f32)),
    }
}

/// Returns the integer, when one is given. The range must be one of `u32`.
///
/// # Errors
///
/// INVALID_ARGUMENT of `field` outside of the range.
pub fn integer(
    field: &str,
    value: Option<i64>,
    range: RangeInclusive<i64>,
) -> Result<Option<u32>, ServiceError> {
    match value {
        Some(number) if !range.contains(&number) => {
            let why = format!("must be an integer from {} to {}", range.start(), range.end());
            Err(ServiceError::invalid_argument(field, why))
        }
        value => Ok(value.map(|number| number as u32)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_name_field_and_range() {
        let error = number("t", Some(2.5), 0.0..=2.0).unwrap_err();
        assert!(error.message.starts_with("'t' must be a number from 0 to 2"), "{}", error.message);
        assert!(number("t", Some(f64::NAN), 0.0..=2.0).is_err());
        assert_eq!(number("t", None, 0.0..=2.0), Ok(None));
        let error = integer("n", Some(5), 1..=4).unwrap_err();
        assert!(error.message.starts_with("'n' must be an integer from 1 to 4"), "{}", error.message);
        assert_eq!(integer("n", Some(4), 1..=4), Ok(Some(4)));
    }
}
