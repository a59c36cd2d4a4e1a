//! Handles: validation, and the default for a model that is created without one.

use std::path::Path;

use millm_kit::{ServiceError, names, quantization};
use millm_proto::catalog::v1::{Model, Source};

/// The longest derived base; it leaves room for `-native-999999`.
const MAX_BASE_CHARS: usize = 240;

/// Derives a handle from the name of the repository, or of the local folder or GGUF file.
pub(crate) fn derive(model: &Model) -> String {
    let path = match model.source() {
        Source::Local => &model.local_path,
        _ => &model.repo_id,
    };
    let name = Path::new(path).file_name().unwrap_or_default().to_string_lossy();
    let name = if model.source() == Source::Local {
        name.strip_suffix(".gguf").or_else(|| name.strip_suffix(".GGUF")).unwrap_or(&name)
    } else {
        &name
    };
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let name: String = name.chars().map(|c| if allowed(c) { c } else { '-' }).take(MAX_BASE_CHARS).collect();
    let name = name.trim_matches(['-', '.']);
    if name.is_empty() || name.bytes().all(|b| b.is_ascii_digit()) {
        // Digits alone would be read as an id.
        return format!("model-{name}").trim_end_matches('-').to_owned();
    }
    name.to_owned()
}

/// Returns the first of `base`, `base-q4`, `base-q4-2`, … that is not in `taken`.
pub(crate) fn first_free(base: &str, model: &Model, taken: &[String]) -> String {
    let quantization = quantization::name(model.requested_quantization()).to_ascii_lowercase();
    let numbered = (2_u64..).map(|n| format!("{base}-{quantization}-{n}"));
    [base.to_owned(), format!("{base}-{quantization}")]
        .into_iter()
        .chain(numbered)
        .find(|handle| !taken.contains(handle))
        .expect("the numbers are endless")
}

/// Checks a handle that a caller chose.
///
/// # Errors
///
/// INVALID_ARGUMENT for text that is not a handle.
pub(crate) fn validate(handle: &str) -> Result<(), ServiceError> {
    if names::is_handle(handle) {
        return Ok(());
    }
    Err(ServiceError::invalid_argument("handle", "must be 1 to 255 letters, digits, '-', '_' or '.'"))
}

#[cfg(test)]
mod tests {
    use millm_proto::catalog::v1::Quantization;

    use super::*;

    #[test]
    fn handles_are_derived_from_repository_or_path() {
        let hub = |repo: &str| derive(&Model { repo_id: repo.into(), source: 1, ..Model::default() });
        assert_eq!(hub("google/gemma-2-2b"), "gemma-2-2b");
        assert_eq!(hub("someone/2048"), "model-2048");
        let local = |path: &str| derive(&Model { local_path: path.into(), source: 2, ..Model::default() });
        assert_eq!(local("/models/Qwen2.5 (mine)"), "Qwen2.5--mine");
        assert_eq!(local("/models/tiny-Q4_0.gguf"), "tiny-Q4_0");
        assert_eq!(local("/"), "model");
        assert_eq!(local(&format!("/{}", "é".repeat(300))), "model");
    }

    #[test]
    fn a_taken_handle_gets_the_quantization_then_a_number() {
        let model = Model { requested_quantization: Quantization::Q8.into(), ..Model::default() };
        let mut taken = Vec::new();
        for want in ["a", "a-q8", "a-q8-2", "a-q8-3"] {
            let handle = first_free("a", &model, &taken);
            assert_eq!(handle, want);
            taken.push(handle);
        }
    }
}
