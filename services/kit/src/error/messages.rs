//! The sentences of the error table, one constructor each: nobody else words an error for people.

use std::{fmt::Display, time::Duration};

use super::{Reason, ServiceError};
use crate::format::gigabytes;

impl ServiceError {
    pub fn model_not_found(model: impl Display) -> Self {
        Self::new(Reason::ModelNotFound, format!("Model not found: '{model}'."))
    }

    pub fn model_already_exists(id: i64, name: &str, quantization: impl Display) -> Self {
        Self::new(Reason::ModelAlreadyExists, format!("Model already exists: '{name}' ({quantization})."))
            .with("model_id", id)
            .with("name", name)
    }

    pub fn invalid_repo_id(repo: &str) -> Self {
        // Hostile input goes back shortened and escaped.
        let shown: String = repo.chars().take(120).flat_map(char::escape_debug).collect();
        Self::new(Reason::InvalidRepoId, format!("Invalid repository id '{shown}': expected 'owner/name'."))
    }

    pub fn repo_not_found(repo: impl Display) -> Self {
        Self::new(
            Reason::RepoNotFound,
            format!("Model not found: '{repo}' does not exist on Hugging Face (or is private)."),
        )
    }

    pub fn dataset_not_model(repo: impl Display) -> Self {
        Self::new(Reason::RepoNotFound, format!("Model not found: '{repo}' is a dataset, not a model."))
    }

    pub fn gated_no_token(repo: impl Display) -> Self {
        Self::new(Reason::GatedModelNoToken, format!("'{repo}' is gated: a Hugging Face token is needed."))
    }

    pub fn gated_no_access(repo: impl Display, url: impl Display) -> Self {
        Self::new(
            Reason::GatedModelNoAccess,
            format!("Your token has no access to '{repo}'. Ask for it at {url}."),
        )
    }

    pub fn invalid_hf_token() -> Self {
        Self::new(Reason::InvalidHfToken, "Hugging Face rejected the token.")
    }

    pub fn invalid_local_path(why: impl Display) -> Self {
        Self::new(Reason::InvalidLocalPath, format!("Invalid model path: {why}."))
    }

    pub fn remote_code_required(repo: impl Display, architecture: impl Display) -> Self {
        Self::new(
            Reason::RemoteCodeRequired,
            format!(
                "'{repo}' asks for custom code. miLLM never runs it; allow it (trust_remote_code) only to \
                 use the native '{architecture}' implementation."
            ),
        )
    }

    pub fn unsupported_architecture(architecture: impl Display, supported: impl Display) -> Self {
        Self::new(
            Reason::UnsupportedArchitecture,
            format!("Architecture '{architecture}' is not supported. Supported: {supported}."),
        )
    }

    pub fn invalid_model_file(file: impl Display, why: impl Display) -> Self {
        Self::new(Reason::InvalidModelFile, format!("{file}: {why}."))
    }

    pub fn download_failed(why: impl Display) -> Self {
        Self::new(
            Reason::ModelDownloadFailed,
            format!("Download failed: {why}. Please check the connection and try again."),
        )
    }

    pub fn hub_unavailable(host: impl Display, next_try: impl Display) -> Self {
        Self::new(Reason::HubUnavailable, format!("{host} is not answering; next try {next_try}."))
    }

    /// To a question that is asked once only.
    pub fn hub_gave_no_answer(host: impl Display, why: impl Display) -> Self {
        Self::new(Reason::HubUnavailable, format!("{host} gave no answer: {why}."))
    }

    pub fn checksum_mismatch(file: impl Display, expected: impl Display, got: impl Display) -> Self {
        Self::new(
            Reason::ChecksumMismatch,
            format!("{file} arrived damaged twice (expected {expected}, got {got})."),
        )
    }

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

    pub fn insufficient_memory(required_bytes: u64, available_bytes: u64) -> Self {
        Self::new(
            Reason::InsufficientMemory,
            format!(
                "Model requires ~{} GB, only {} GB available. (Loads all the same with \
                 allow_insufficient_memory.)",
                gigabytes(required_bytes),
                gigabytes(available_bytes)
            ),
        )
        .with("required_bytes", required_bytes)
        .with("available_bytes", available_bytes)
    }

    pub fn load_failed(why: impl Display) -> Self {
        Self::new(Reason::ModelLoadFailed, format!("Failed to load: {why}."))
    }

    pub fn load_out_of_memory() -> Self {
        Self::new(
            Reason::ModelLoadFailed,
            "Out of memory loading model. Try a smaller model or higher quantization (Q4).",
        )
    }

    pub fn request_out_of_memory() -> Self {
        Self::new(
            Reason::InsufficientMemory,
            "Out of memory while answering. Try a shorter prompt, or fewer requests at once.",
        )
    }

    pub fn already_loaded(name: impl Display) -> Self {
        Self::new(Reason::ModelAlreadyLoaded, format!("'{name}' is already loaded."))
    }

    pub fn not_loaded(name: impl Display) -> Self {
        Self::new(
            Reason::ModelNotLoaded,
            format!("'{name}' is not loaded: load it with 'millm load {name}'."),
        )
    }

    pub fn nothing_loaded() -> Self {
        Self::new(Reason::ModelNotLoaded, "No model is loaded: load one with 'millm load <name>'.")
    }

    pub fn loading(name: impl Display) -> Self {
        Self::new(Reason::ModelLoading, format!("'{name}' is loading.")).retry_after(Duration::from_secs(2))
    }

    /// `why`: "is still downloading", "failed to download".
    pub fn not_ready(name: impl Display, why: impl Display) -> Self {
        Self::new(Reason::ModelNotReady, format!("'{name}' {why}."))
    }

    pub fn in_use(name: impl Display) -> Self {
        Self::new(Reason::ModelInUse, format!("'{name}' is loaded: unload it first."))
    }

    pub fn context_length_exceeded(tokens: usize, context: usize) -> Self {
        Self::new(
            Reason::ContextLengthExceeded,
            format!("This prompt has {tokens} tokens; the context holds {context}."),
        )
        .with("prompt_tokens", tokens)
        .with("context_length", context)
    }

    pub fn queue_full(waiting: usize) -> Self {
        Self::new(Reason::QueueFull, format!("Too many requests: {waiting} waiting."))
            .retry_after(Duration::from_secs(1))
    }

    pub fn answer_not_read(most: usize) -> Self {
        let why = format!(
            "Cancelled: more than {most} bytes of the answer waited to be read, the most allowed now. Read the stream as \
             it comes."
        );
        Self::new(Reason::Cancelled, why)
    }

    pub fn answers_not_read(held: usize, most: usize) -> Self {
        let why = format!(
            "Too many large answers: {held} bytes of them are held, the most allowed is {most}. Try again, or stream."
        );
        Self::new(Reason::QueueFull, why).retry_after(Duration::from_secs(1))
    }

    pub fn cancelled() -> Self {
        Self::new(Reason::Cancelled, "Cancelled.")
    }

    /// `why` continues the field's name: "must be between 0 and 2".
    pub fn invalid_argument(field: &str, why: impl Display) -> Self {
        Self::new(Reason::InvalidArgument, format!("'{field}' {why}.")).with("field", field)
    }

    pub fn not_found(what: impl Display) -> Self {
        Self::new(Reason::NotFound, format!("Not found: {what}."))
    }

    pub fn conflict(name: impl Display) -> Self {
        Self::new(Reason::Conflict, format!("'{name}' has changed since it was read: read it again."))
    }

    /// `what`: "Host 'evil.example'". The setting that would allow it is named.
    pub fn forbidden(what: impl Display, setting: &str) -> Self {
        Self::new(Reason::Forbidden, format!("{what} is not allowed here; {setting} allows it."))
    }

    pub fn service_unavailable(service: impl Display) -> Self {
        Self::new(Reason::ServiceUnavailable, format!("The {service} is not answering. Try again soon."))
            .retry_after(Duration::from_secs(1))
    }

    /// Logs `cause` under a fresh request id; people get the id alone.
    pub fn internal(cause: impl Display) -> Self {
        use std::time::{SystemTime, UNIX_EPOCH};
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos());
        let id = format!("{:012x}", nanos & 0xffff_ffff_ffff);
        tracing::error!(request_id = %id, "internal error: {cause:#}");
        Self::new(Reason::Internal, format!("Internal error (request {id}).")).with("request_id", id)
    }
}
