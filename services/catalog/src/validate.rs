//! Validation of models before they are written.
//!
//! The downloader has checked the content of the files. This module checks the form of the fields, so that both
//! databases can store them.

use std::path::Path;

use millm_kit::{
    ServiceError,
    names::{RepoId, Revision, is_commit},
};
use millm_proto::catalog::v1::{Model, Quantization, Source, model::State};

use crate::model_handle;

/// Returns the model to insert for a request's model: PENDING, without output-only fields, with defaults.
///
/// # Errors
///
/// INVALID_ARGUMENT, INVALID_REPO_ID or INVALID_LOCAL_PATH for a field that is not valid.
pub(crate) fn new_model(mut model: Model) -> Result<Model, ServiceError> {
    match model.source() {
        Source::Huggingface => {
            RepoId::parse(&model.repo_id)?;
            let revision = Revision::parse(&model.revision)?;
            revision.as_str().clone_into(&mut model.revision);
            must_be_empty("local_path", &model.local_path, "for a model from the hub")?;
        }
        Source::Local => {
            if !Path::new(&model.local_path).is_absolute() {
                return Err(ServiceError::invalid_local_path("it must be absolute"));
            }
            must_be_empty("repo_id", &model.repo_id, "for a local model")?;
            must_be_empty("file", &model.file, "for a local model")?;
        }
        Source::Unspecified => return Err(ServiceError::invalid_argument("source", "must be given")),
    }
    // The number is compared, since an unknown value must not count as unset.
    if model.requested_quantization == 0 {
        let default = if model.source() == Source::Local { Quantization::Native } else { Quantization::Q4 };
        model.set_requested_quantization(default);
    }
    model.set_state(State::Pending);
    model.id = 0;
    model.error = None;
    model.create_time = None;
    model.update_time = None;
    check_fields(&model)?;
    Ok(model)
}

/// Checks all fields that can be written.
///
/// # Errors
///
/// INVALID_ARGUMENT, which names the first field that is not valid.
pub(crate) fn check_fields(model: &Model) -> Result<(), ServiceError> {
    if !model.handle.is_empty() {
        model_handle::validate(&model.handle)?;
    }
    Revision::parse(&model.revision)?;
    let invalid = ServiceError::invalid_argument;
    if !model.commit.is_empty() && !is_commit(&model.commit) {
        return Err(invalid("commit", "must be 40 hex digits in lower case"));
    }
    check_enum("requested_quantization", model.requested_quantization, Quantization::try_from)?;
    check_enum("actual_quantization", model.actual_quantization, Quantization::try_from)?;
    check_enum("state", model.state, State::try_from)?;
    if model.state() == State::Unspecified {
        return Err(invalid("state", "must be given"));
    }
    for (field, number) in [
        ("parameter_count", model.parameter_count),
        ("disk_size_bytes", model.disk_size_bytes),
        ("memory_estimate_bytes", model.memory_estimate_bytes),
    ] {
        if number < 0 {
            return Err(invalid(field, "must not be negative"));
        }
    }
    let architecture = model.architecture.as_ref();
    let texts = [
        ("file", Some(&model.file)),
        ("local_path", Some(&model.local_path)),
        ("storage_path", Some(&model.storage_path)),
        ("quantization_reason", Some(&model.quantization_reason)),
        ("config_json", Some(&model.config_json)),
        ("architecture.name", architecture.map(|a| &a.name)),
        ("architecture.family", architecture.map(|a| &a.family)),
    ];
    let files = model.files.iter().flat_map(|f| [("files.path", &f.path), ("files.sha256", &f.sha256)]);
    for (field, text) in texts.into_iter().filter_map(|(f, t)| Some((f, t?))).chain(files) {
        // PostgreSQL cannot store NUL in text.
        if text.contains('\0') {
            return Err(invalid(field, "must not contain NUL"));
        }
    }
    Ok(())
}

/// Checks that a field has no value.
///
/// # Errors
///
/// INVALID_ARGUMENT, which names the field.
pub(crate) fn must_be_empty(field: &str, value: &str, when: &str) -> Result<(), ServiceError> {
    if value.is_empty() {
        return Ok(());
    }
    Err(ServiceError::invalid_argument(field, format!("must be empty {when}")))
}

fn check_enum<T, E>(
    field: &str,
    value: i32,
    parse: impl Fn(i32) -> Result<T, E>,
) -> Result<(), ServiceError> {
    parse(value).map(drop).map_err(|_| ServiceError::invalid_argument(field, "has an unknown value"))
}
