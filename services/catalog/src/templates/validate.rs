//! Validation of templates before they are written: the form of the fields, not whether a model has what they name.

use millm_kit::{ServiceError, format::excerpt};
use millm_proto::catalog::v1::{ActivationFormat, ActivationType, ExtractionSettings, Template};

const MAX_HANDLE_CHARS: usize = 255;
const MAX_DESCRIPTION_CHARS: usize = 10_000;
const MAX_POINTS: usize = 1000;
/// The longest name of a hook point, in bytes.
const MAX_POINT_BYTES: usize = 255;
/// The longest list of layers or positions, in bytes.
const MAX_LIST_BYTES: usize = 10_000;
const MAX_SEQUENCE_LENGTH: u32 = 1 << 24;
const MAX_BATCH_SIZE: u32 = 1 << 16;

/// Returns the template to insert for a request's template: without output-only fields.
///
/// # Errors
///
/// INVALID_ARGUMENT, which names the first field that is not valid.
pub(super) fn new_template(mut template: Template) -> Result<Template, ServiceError> {
    template.id = 0;
    template.create_time = None;
    template.update_time = None;
    if !template.handle.is_empty() {
        check_handle(&template.handle)?;
    }
    check_fields(&template)?;
    Ok(template)
}

/// Checks a handle that a caller chose.
///
/// # Errors
///
/// INVALID_ARGUMENT for text that is not a handle.
pub(super) fn check_handle(handle: &str) -> Result<(), ServiceError> {
    let count = handle.chars().take(MAX_HANDLE_CHARS + 1).count();
    if (1..=MAX_HANDLE_CHARS).contains(&count) && !handle.chars().any(char::is_control) {
        return Ok(());
    }
    Err(ServiceError::invalid_argument("handle", "must be 1 to 255 characters without control characters"))
}

/// Checks all fields that can be written.
///
/// # Errors
///
/// INVALID_ARGUMENT, which names the first field that is not valid.
pub(super) fn check_fields(template: &Template) -> Result<(), ServiceError> {
    let invalid = |field: &str, why: String| Err(ServiceError::invalid_argument(field, why));
    let is_text = |c: char| !c.is_control() || matches!(c, '\n' | '\r' | '\t');
    if template.description.chars().take(MAX_DESCRIPTION_CHARS + 1).count() > MAX_DESCRIPTION_CHARS {
        return invalid("description", format!("must be at most {MAX_DESCRIPTION_CHARS} characters"));
    }
    if !template.description.chars().all(is_text) {
        return invalid("description", "must not contain control characters".to_owned());
    }
    match &template.settings {
        Some(settings) => check_settings(settings),
        None => invalid("settings", "must be given".to_owned()),
    }
}

fn check_settings(settings: &ExtractionSettings) -> Result<(), ServiceError> {
    let invalid = |field: &str, why: String| Err(ServiceError::invalid_argument(field, why));
    let count = settings.points.len();
    if !(1..=MAX_POINTS).contains(&count) {
        return invalid("settings.points", format!("has {count} elements, must be 1 to {MAX_POINTS}"));
    }
    for point in &settings.points {
        let is_name = !point.is_empty()
            && point.len() <= MAX_POINT_BYTES
            && point.bytes().all(|b| b.is_ascii_graphic());
        if !is_name {
            let why = format!("has '{}', which is not the name of a hook point", excerpt(point));
            return invalid("settings.points", why);
        }
    }
    if !is_list(&settings.layers, &["all"], is_layer_range) {
        let why =
            format!("is '{}', must be all, or numbers and ranges such as 0,5-10", excerpt(&settings.layers));
        return invalid("settings.layers", why);
    }
    if !is_list(&settings.positions, &["all", "last"], |part| part.parse::<i32>().is_ok()) {
        let why =
            format!("is '{}', must be all, last, or indices such as 0,5,-1", excerpt(&settings.positions));
        return invalid("settings.positions", why);
    }
    if i64::try_from(settings.max_samples).is_err() {
        return invalid(
            "settings.max_samples",
            format!("is {}, must be at most {}", settings.max_samples, i64::MAX),
        );
    }
    for (field, value, limit) in [
        ("settings.sequence_length", settings.sequence_length, MAX_SEQUENCE_LENGTH),
        ("settings.batch_size", settings.batch_size, MAX_BATCH_SIZE),
    ] {
        if value > limit {
            return invalid(field, format!("is {value}, must be at most {limit}"));
        }
    }
    if ActivationType::try_from(settings.dtype).is_err() {
        return invalid("settings.dtype", "has an unknown value".to_owned());
    }
    if ActivationFormat::try_from(settings.format).is_err() {
        return invalid("settings.format", "has an unknown value".to_owned());
    }
    Ok(())
}

/// Returns whether a text is empty, one of the words, or a list of parts that `is_part` accepts.
fn is_list(text: &str, words: &[&str], is_part: impl Fn(&str) -> bool) -> bool {
    text.is_empty()
        || words.contains(&text)
        || (text.len() <= MAX_LIST_BYTES && text.split(',').all(|part| is_part(part.trim())))
}

fn is_layer_range(part: &str) -> bool {
    let number = |text: &str| text.trim().parse::<u16>().ok();
    match part.split_once('-') {
        Some((first, last)) => number(first).zip(number(last)).is_some_and(|(first, last)| first <= last),
        None => number(part).is_some(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> ExtractionSettings {
        ExtractionSettings { points: vec!["residual".to_owned()], ..ExtractionSettings::default() }
    }

    #[test]
    fn settings_are_checked_in_their_form() {
        let check = |change: fn(&mut ExtractionSettings), expected: &str| {
            let mut settings = good();
            change(&mut settings);
            let template = Template { settings: Some(settings), ..Template::default() };
            let found = check_fields(&template).map_or_else(|error| error.message, |()| "good".to_owned());
            assert!(found.contains(expected), "{found}");
        };
        check(|_| {}, "good");
        check(|s| s.layers = "all".into(), "good");
        check(|s| s.layers = "0, 5-10,3".into(), "good");
        check(|s| s.positions = "0,5,-1".into(), "good");
        check(|s| s.positions = "last".into(), "good");
        check(|s| s.points.clear(), "'settings.points' has 0 elements");
        check(|s| s.points = vec!["a b".into()], "'settings.points' has 'a b'");
        check(|s| s.points = vec!["x".into(); 1001], "has 1001 elements, must be 1 to 1000");
        for layers in ["5-3", "-1", "1-", "a", "1,,2", "70000", "last"] {
            let settings = ExtractionSettings { layers: layers.into(), ..good() };
            let error = check_settings(&settings).unwrap_err();
            assert_eq!(error.details["field"], "settings.layers", "{layers}");
        }
        check(|s| s.positions = "1-3".into(), "'settings.positions' is '1-3'");
        check(|s| s.max_samples = u64::MAX, "'settings.max_samples' is 18446744073709551615");
        check(
            |s| s.sequence_length = u32::MAX,
            "'settings.sequence_length' is 4294967295, must be at most 16777216",
        );
        check(|s| s.batch_size = 100_000, "'settings.batch_size' is 100000");
        check(|s| s.dtype = 77, "'settings.dtype'");
        check(|s| s.format = -1, "'settings.format'");
        assert_eq!(check_fields(&Template::default()).unwrap_err().details["field"], "settings");
    }

    #[test]
    fn handles_are_texts_without_control_characters() {
        for good in ["a", "Mein Entwurf: ü 7", &"é".repeat(255)] {
            assert!(check_handle(good).is_ok(), "{good}");
        }
        for bad in ["", "a\nb", "a\0", &"é".repeat(256)] {
            assert!(check_handle(bad).is_err(), "{bad:?}");
        }
    }
}
