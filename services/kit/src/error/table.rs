//! The error table: each reason with its gRPC code and its HTTP status. Every API reads it here.
//!
//! A new reason is a row here, a constructor in `constructors.rs`, and a row in docs/troubleshooting.md. A new HTTP status
//! also needs its meaning in `gateway/src/openapi.rs`.

use tonic::Code;

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $code:ident, $http:literal;)*) => {
        /// The machine-readable reason of a failed call: the same on gRPC, REST, the CLI and the web page.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Reason { $($(#[$doc])* $variant,)* }

        impl Reason {
            /// All reasons, in the order of the table.
            pub const ALL: &'static [Reason] = &[$(Reason::$variant,)*];

            /// Returns the name on the wire, such as `MODEL_NOT_FOUND`.
            pub const fn name(self) -> &'static str {
                match self { $(Reason::$variant => $name,)* }
            }

            /// Returns the gRPC status code.
            pub const fn code(self) -> Code {
                match self { $(Reason::$variant => Code::$code,)* }
            }

            /// Returns the HTTP status code.
            pub const fn http_status(self) -> u16 {
                match self { $(Reason::$variant => $http,)* }
            }
        }
    };
}

reasons! {
    /// No model has this id or handle.
    ModelNotFound = "MODEL_NOT_FOUND", NotFound, 404;
    /// A model with this handle, or with the same source and quantization, is registered.
    ModelAlreadyExists = "MODEL_ALREADY_EXISTS", AlreadyExists, 409;
    /// The repository id is not `owner/name`.
    InvalidRepoId = "INVALID_REPO_ID", InvalidArgument, 400;
    /// The hub has no such model repository, or it is private.
    RepoNotFound = "REPO_NOT_FOUND", NotFound, 404;
    /// The repository is gated and no Hugging Face token was given.
    GatedModelNoToken = "GATED_MODEL_NO_TOKEN", Unauthenticated, 401;
    /// The repository is gated and the token's owner has no access.
    GatedModelNoAccess = "GATED_MODEL_NO_ACCESS", PermissionDenied, 403;
    /// The hub rejected the token.
    InvalidHfToken = "INVALID_HF_TOKEN", Unauthenticated, 401;
    /// The path of a local model cannot be used.
    InvalidLocalPath = "INVALID_LOCAL_PATH", InvalidArgument, 400;
    /// The repository asks for custom code, which needs the caller's consent.
    RemoteCodeRequired = "REMOTE_CODE_REQUIRED", FailedPrecondition, 400;
    /// The model's architecture is not implemented.
    UnsupportedArchitecture = "UNSUPPORTED_ARCHITECTURE", FailedPrecondition, 422;
    /// A file of the model cannot be read as its format.
    InvalidModelFile = "INVALID_MODEL_FILE", FailedPrecondition, 422;
    /// A download failed after all its attempts.
    ModelDownloadFailed = "MODEL_DOWNLOAD_FAILED", Unavailable, 502;
    /// The hub does not answer.
    HubUnavailable = "HUB_UNAVAILABLE", Unavailable, 502;
    /// A downloaded file does not have the checksum that the hub publishes.
    ChecksumMismatch = "CHECKSUM_MISMATCH", DataLoss, 502;
    /// The disk has too little free space.
    InsufficientDisk = "INSUFFICIENT_DISK", ResourceExhausted, 507;
    /// The machine has too little free memory.
    InsufficientMemory = "INSUFFICIENT_MEMORY", ResourceExhausted, 507;
    /// A load failed after it began.
    ModelLoadFailed = "MODEL_LOAD_FAILED", Internal, 500;
    /// The model is loaded.
    ModelAlreadyLoaded = "MODEL_ALREADY_LOADED", FailedPrecondition, 400;
    /// The model is not loaded.
    ModelNotLoaded = "MODEL_NOT_LOADED", FailedPrecondition, 400;
    /// A model is being loaded: the call may succeed later.
    ModelLoading = "MODEL_LOADING", Unavailable, 503;
    /// The model is still downloading, or its download failed.
    ModelNotReady = "MODEL_NOT_READY", FailedPrecondition, 409;
    /// The model is loaded and must be unloaded first.
    ModelInUse = "MODEL_IN_USE", FailedPrecondition, 409;
    /// The model does not have this hook point.
    HookPointUnknown = "HOOK_POINT_UNKNOWN", InvalidArgument, 400;
    /// No dataset has this id or handle.
    DatasetNotFound = "DATASET_NOT_FOUND", NotFound, 404;
    /// A dataset with this handle is registered.
    DatasetAlreadyExists = "DATASET_ALREADY_EXISTS", AlreadyExists, 409;
    /// The dataset is still being fetched, or that failed.
    DatasetNotReady = "DATASET_NOT_READY", FailedPrecondition, 409;
    /// The path of a local dataset cannot be used.
    InvalidDatasetPath = "INVALID_DATASET_PATH", InvalidArgument, 400;
    /// A file of the dataset cannot be read as its format, or lacks what is asked of it.
    InvalidDataset = "INVALID_DATASET", FailedPrecondition, 422;
    /// No template has this id or handle.
    TemplateNotFound = "TEMPLATE_NOT_FOUND", NotFound, 404;
    /// A template with this handle exists.
    TemplateAlreadyExists = "TEMPLATE_ALREADY_EXISTS", AlreadyExists, 409;
    /// No extraction has this id.
    ExtractionNotFound = "EXTRACTION_NOT_FOUND", NotFound, 404;
    /// The extraction is running and must be cancelled first.
    ExtractionRunning = "EXTRACTION_RUNNING", FailedPrecondition, 409;
    /// An extraction failed after it began.
    ExtractionFailed = "EXTRACTION_FAILED", Internal, 500;
    /// The prompt does not fit the context.
    ContextLengthExceeded = "CONTEXT_LENGTH_EXCEEDED", InvalidArgument, 400;
    /// Too many requests are waiting.
    QueueFull = "QUEUE_FULL", ResourceExhausted, 429;
    /// The caller or the server cancelled the call.
    Cancelled = "CANCELLED", Cancelled, 499;
    /// The deadline of the call has passed.
    Deadline = "DEADLINE", DeadlineExceeded, 504;
    /// A field of the request has a value that is not allowed.
    InvalidArgument = "INVALID_ARGUMENT", InvalidArgument, 400;
    /// No such download, route or method exists.
    NotFound = "NOT_FOUND", NotFound, 404;
    /// The row has changed since its etag was read.
    Conflict = "CONFLICT", Aborted, 409;
    /// The Host or Origin header names a site that is not allowed.
    Forbidden = "FORBIDDEN", PermissionDenied, 403;
    /// A service that this one depends on does not answer.
    ServiceUnavailable = "SERVICE_UNAVAILABLE", Unavailable, 503;
    /// A fault in miLLM: the cause is in the log.
    Internal = "INTERNAL", Internal, 500;
}

impl Reason {
    /// Returns the reason with this name on the wire.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| reason.name() == name)
    }

    /// Returns the nearest reason for a gRPC status that carries no reason of this table.
    pub const fn from_code(code: Code) -> Self {
        match code {
            Code::Cancelled => Self::Cancelled,
            Code::DeadlineExceeded => Self::Deadline,
            Code::InvalidArgument | Code::OutOfRange | Code::FailedPrecondition => Self::InvalidArgument,
            Code::NotFound | Code::Unimplemented => Self::NotFound,
            Code::Aborted | Code::AlreadyExists => Self::Conflict,
            Code::PermissionDenied | Code::Unauthenticated => Self::Forbidden,
            Code::ResourceExhausted => Self::QueueFull,
            Code::Unavailable => Self::ServiceUnavailable,
            _ => Self::Internal,
        }
    }
}
