//! The sentences of errors, one constructor for each: no other code words an error of the table for people.

use std::{fmt::Display, time::Duration};

use super::{Reason, ServiceError};
use crate::{
    format::{excerpt, gigabytes},
    request_id::{self, RequestId},
};

impl ServiceError {
    /// No model has this name.
    pub fn model_not_found(model: impl Display) -> Self {
        Self::new(Reason::ModelNotFound, format!("Model not found: '{model}'."))
    }

    /// The model is registered: `id` and `name` are those of the existing row.
    pub fn model_already_exists(id: i64, name: &str, quantization: impl Display) -> Self {
        Self::new(Reason::ModelAlreadyExists, format!("Model already exists: '{name}' ({quantization})."))
            .with("model_id", id)
            .with("name", name)
    }

    /// The text is not a repository id.
    pub fn invalid_repo_id(repo: &str) -> Self {
        let repo = excerpt(repo);
        Self::new(Reason::InvalidRepoId, format!("Invalid repository id '{repo}': expected 'owner/name'."))
    }

    /// The hub has no such model repository.
    pub fn repo_not_found(repo: impl Display) -> Self {
        Self::new(
            Reason::RepoNotFound,
            format!("Model not found: '{repo}' does not exist on Hugging Face (or is private)."),
        )
    }

    /// The repository is a dataset.
    pub fn dataset_not_model(repo: impl Display) -> Self {
        Self::new(Reason::RepoNotFound, format!("Model not found: '{repo}' is a dataset, not a model."))
    }

    /// The hub has no such dataset repository.
    pub fn dataset_repo_not_found(repo: impl Display) -> Self {
        Self::new(
            Reason::RepoNotFound,
            format!("Dataset not found: '{repo}' does not exist on Hugging Face (or is private)."),
        )
    }

    /// The repository is a model.
    pub fn model_not_dataset(repo: impl Display) -> Self {
        Self::new(Reason::RepoNotFound, format!("Dataset not found: '{repo}' is a model, not a dataset."))
    }

    /// The repository is gated and no token was given.
    pub fn gated_no_token(repo: impl Display) -> Self {
        Self::new(Reason::GatedModelNoToken, format!("'{repo}' is gated: a Hugging Face token is needed."))
    }

    /// The repository is gated and the token's owner has no access. `url`: where to request it.
    pub fn gated_no_access(repo: impl Display, url: impl Display) -> Self {
        Self::new(
            Reason::GatedModelNoAccess,
            format!("Your token has no access to '{repo}'. Request access at {url}."),
        )
    }

    /// The hub rejected the token.
    pub fn invalid_hf_token() -> Self {
        Self::new(Reason::InvalidHfToken, "Hugging Face rejected the token.")
    }

    /// The path of a local model cannot be used. `why`: "it must be absolute".
    pub fn invalid_local_path(why: impl Display) -> Self {
        Self::new(Reason::InvalidLocalPath, format!("Invalid model path: {why}."))
    }

    /// The repository asks for custom code.
    pub fn remote_code_required(repo: impl Display, architecture: impl Display) -> Self {
        Self::new(
            Reason::RemoteCodeRequired,
            format!(
                "'{repo}' asks for custom code. miLLM never runs it; allow it (trust_remote_code) only to \
                 use the native '{architecture}' implementation."
            ),
        )
    }

    /// The architecture is not implemented. `supported`: a list of names.
    pub fn unsupported_architecture(architecture: impl Display, supported: impl Display) -> Self {
        Self::new(
            Reason::UnsupportedArchitecture,
            format!("Architecture '{architecture}' is not supported. Supported: {supported}."),
        )
    }

    /// A file of the model is not valid.
    pub fn invalid_model_file(file: impl Display, why: impl Display) -> Self {
        Self::new(Reason::InvalidModelFile, format!("{file}: {why}."))
    }

    /// The model lacks a hook point. `why`: "attention and MLP run in parallel"; `nearest`: a list of points it has.
    pub fn hook_point_unknown(point: &str, model: impl Display, why: impl Display, nearest: &str) -> Self {
        let point = excerpt(point);
        let nearest = if nearest.is_empty() { String::new() } else { format!("; nearest: {nearest}") };
        Self::new(
            Reason::HookPointUnknown,
            format!("'{point}' is not a hook point of '{model}': {why}{nearest}."),
        )
        .with("point", point)
    }

    /// No dataset has this name.
    pub fn dataset_not_found(dataset: impl Display) -> Self {
        Self::new(Reason::DatasetNotFound, format!("Dataset not found: '{dataset}'."))
    }

    /// The dataset is registered: `id` and `name` are those of the existing row.
    pub fn dataset_already_exists(id: i64, name: &str) -> Self {
        Self::new(Reason::DatasetAlreadyExists, format!("Dataset already exists: '{name}'."))
            .with("dataset_id", id)
            .with("name", name)
    }

    /// The dataset cannot be read yet. `why`: "it is being fetched".
    pub fn dataset_not_ready(dataset: impl Display, why: impl Display) -> Self {
        Self::new(Reason::DatasetNotReady, format!("Dataset '{dataset}' is not ready: {why}."))
    }

    /// The path of a local dataset cannot be used. `why`: "it is outside the allowed folders (…)".
    pub fn invalid_dataset_path(why: impl Display) -> Self {
        Self::new(Reason::InvalidDatasetPath, format!("Invalid dataset path: {why}."))
    }

    /// A file of the dataset is not valid. `file`: its name, with the row where that is known.
    pub fn invalid_dataset(file: impl Display, why: impl Display) -> Self {
        Self::new(Reason::InvalidDataset, format!("{file}: {why}."))
    }

    /// No template has this name.
    pub fn template_not_found(template: impl Display) -> Self {
        Self::new(Reason::TemplateNotFound, format!("Template not found: '{template}'."))
    }

    /// A template has this name.
    pub fn template_already_exists(id: i64, name: &str) -> Self {
        Self::new(Reason::TemplateAlreadyExists, format!("Template already exists: '{name}'."))
            .with("template_id", id)
            .with("name", name)
    }

    /// No extraction has this id.
    pub fn extraction_not_found(extraction: impl Display) -> Self {
        Self::new(Reason::ExtractionNotFound, format!("Extraction not found: '{extraction}'."))
    }

    /// The extraction runs.
    pub fn extraction_running(extraction: impl Display) -> Self {
        Self::new(
            Reason::ExtractionRunning,
            format!("Extraction '{extraction}' is running: cancel it first."),
        )
    }

    /// An extraction ended before its last sample.
    pub fn extraction_failed(why: impl Display) -> Self {
        Self::new(Reason::ExtractionFailed, format!("Extraction failed: {why}."))
    }

    /// A download failed after its last attempt.
    pub fn download_failed(why: impl Display) -> Self {
        Self::new(
            Reason::ModelDownloadFailed,
            format!("Download failed: {why}. Please check the connection and try again."),
        )
    }

    /// The hub does not answer. `next_try`: "in 30 s".
    pub fn hub_unavailable(host: impl Display, next_try: impl Display) -> Self {
        Self::new(Reason::HubUnavailable, format!("{host} is not answering; next try {next_try}."))
    }

    /// The hub did not answer a request that is not retried.
    pub fn hub_gave_no_answer(host: impl Display, why: impl Display) -> Self {
        Self::new(Reason::HubUnavailable, format!("{host} gave no answer: {why}."))
    }

    /// A file had the wrong checksum twice.
    pub fn checksum_mismatch(file: impl Display, expected: impl Display, got: impl Display) -> Self {
        Self::new(
            Reason::ChecksumMismatch,
            format!("{file} arrived damaged twice (expected {expected}, got {got})."),
        )
    }

    /// The disk has too little space.
    pub fn insufficient_disk(required_bytes: u64, available_bytes: u64) -> Self {
        Self::new(
            Reason::InsufficientDisk,
            format!(
                "Insufficient disk space. Need {} GB, only {} GB available.",
                gigabytes(required_bytes),
                gigabytes(available_bytes)
            ),
        )
        .with("required_bytes", required_bytes)
        .with("available_bytes", available_bytes)
    }

    /// The model does not fit the free memory.
    pub fn insufficient_memory(required_bytes: u64, available_bytes: u64) -> Self {
        Self::new(
            Reason::InsufficientMemory,
            format!(
                "Model requires ~{} GB, only {} GB available. Set \
                 allow_insufficient_memory to load it anyway.",
                gigabytes(required_bytes),
                gigabytes(available_bytes)
            ),
        )
        .with("required_bytes", required_bytes)
        .with("available_bytes", available_bytes)
    }

    /// A load failed.
    pub fn load_failed(why: impl Display) -> Self {
        Self::new(Reason::ModelLoadFailed, format!("Failed to load: {why}."))
    }

    /// A load ran out of memory.
    pub fn load_out_of_memory() -> Self {
        Self::new(
            Reason::ModelLoadFailed,
            "Out of memory loading model. Try a smaller model or higher quantization (Q4).",
        )
    }

    /// A request ran out of memory.
    pub fn request_out_of_memory() -> Self {
        Self::new(
            Reason::InsufficientMemory,
            "Out of memory while answering. Try a shorter prompt, or fewer requests at once.",
        )
    }

    /// The model is loaded.
    pub fn already_loaded(name: impl Display) -> Self {
        Self::new(Reason::ModelAlreadyLoaded, format!("'{name}' is already loaded."))
    }

    /// The named model is not loaded.
    pub fn not_loaded(name: impl Display) -> Self {
        Self::new(
            Reason::ModelNotLoaded,
            format!("'{name}' is not loaded: load it with 'millm load {name}'."),
        )
    }

    /// No model is loaded.
    pub fn nothing_loaded() -> Self {
        Self::new(Reason::ModelNotLoaded, "No model is loaded: load one with 'millm load <name>'.")
    }

    /// The model is loading: the call may be repeated.
    pub fn loading(name: impl Display) -> Self {
        Self::new(Reason::ModelLoading, format!("'{name}' is loading.")).retry_after(Duration::from_secs(2))
    }

    /// The model cannot be loaded yet. `why`: "is still downloading", "failed to download".
    pub fn not_ready(name: impl Display, why: impl Display) -> Self {
        Self::new(Reason::ModelNotReady, format!("'{name}' {why}."))
    }

    /// The model is loaded and cannot be removed.
    pub fn in_use(name: impl Display) -> Self {
        Self::new(Reason::ModelInUse, format!("'{name}' is loaded: unload it first."))
    }

    /// The prompt has more tokens than the context holds.
    pub fn context_length_exceeded(tokens: usize, context: usize) -> Self {
        Self::new(
            Reason::ContextLengthExceeded,
            format!("This prompt has {tokens} tokens; the context holds {context}."),
        )
        .with("prompt_tokens", tokens)
        .with("context_length", context)
    }

    /// Too many requests wait.
    pub fn queue_full(waiting: usize) -> Self {
        Self::new(Reason::QueueFull, format!("Too many requests: {waiting} waiting."))
            .retry_after(Duration::from_secs(1))
    }

    /// The client reads a stream too slowly. `limit`: bytes of a response that may wait to be read.
    pub fn response_not_read(limit: usize) -> Self {
        let why = format!(
            "Cancelled: more than {limit} bytes of the response waited to be read, which is the limit now. Read the \
             stream as it arrives."
        );
        Self::new(Reason::Cancelled, why)
    }

    /// Responses that are not streamed take too much memory. `held`, `limit`: bytes of all of them.
    pub fn too_many_large_responses(held: usize, limit: usize) -> Self {
        let why = format!(
            "Too many large responses: they hold {held} bytes, the limit is {limit}. Try again later, or use streaming."
        );
        Self::new(Reason::QueueFull, why).retry_after(Duration::from_secs(1))
    }

    /// The call was cancelled.
    pub fn cancelled() -> Self {
        Self::new(Reason::Cancelled, "Cancelled.")
    }

    /// A field of the request is not valid. `why` follows the field's name: "must be between 0 and 2".
    pub fn invalid_argument(field: &str, why: impl Display) -> Self {
        Self::new(Reason::InvalidArgument, format!("'{field}' {why}.")).with("field", field)
    }

    /// Something other than a model does not exist.
    pub fn not_found(what: impl Display) -> Self {
        Self::new(Reason::NotFound, format!("Not found: {what}."))
    }

    /// The row has changed since its etag was read.
    pub fn conflict(name: impl Display) -> Self {
        Self::new(Reason::Conflict, format!("'{name}' has changed since it was read: read it again."))
    }

    /// A request from a site that is not allowed. `what`: "Host 'evil.example'"; `setting` would allow it.
    pub fn forbidden(what: impl Display, setting: &str) -> Self {
        Self::new(Reason::Forbidden, format!("{what} is not allowed here; {setting} allows it."))
    }

    /// A service does not answer.
    pub fn service_unavailable(service: impl Display) -> Self {
        Self::new(Reason::ServiceUnavailable, format!("The {service} is not answering. Try again soon."))
            .retry_after(Duration::from_secs(1))
    }

    /// Logs `cause` with the id of the request (a random one outside of a request) and returns an error that names the
    /// id alone: causes are for the log.
    pub fn internal(cause: impl Display) -> Self {
        let id = request_id::current().unwrap_or_else(RequestId::random);
        tracing::error!(request_id = %id, "internal error: {cause:#}");
        Self::new(Reason::Internal, format!("Internal error (request {id}).")).with("request_id", id)
    }
}
