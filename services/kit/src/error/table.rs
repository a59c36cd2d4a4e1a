//! The error table: reason → gRPC code, HTTP status. Every face reads it here.

use tonic::Code;

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $code:ident, $http:literal;)*) => {
        /// Why a call failed: the machine-readable name that is the same on gRPC, REST, CLI and the page.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Reason { $($(#[$doc])* $variant,)* }

        impl Reason {
            pub const ALL: &'static [Reason] = &[$(Reason::$variant,)*];

            /// `MODEL_NOT_FOUND`.
            pub const fn name(self) -> &'static str {
                match self { $(Reason::$variant => $name,)* }
            }

            pub const fn code(self) -> Code {
                match self { $(Reason::$variant => Code::$code,)* }
            }

            pub const fn http_status(self) -> u16 {
                match self { $(Reason::$variant => $http,)* }
            }
        }
    };
}

reasons! {
    ModelNotFound = "MODEL_NOT_FOUND", NotFound, 404;
    ModelAlreadyExists = "MODEL_ALREADY_EXISTS", AlreadyExists, 409;
    InvalidRepoId = "INVALID_REPO_ID", InvalidArgument, 400;
    RepoNotFound = "REPO_NOT_FOUND", NotFound, 404;
    GatedModelNoToken = "GATED_MODEL_NO_TOKEN", Unauthenticated, 401;
    GatedModelNoAccess = "GATED_MODEL_NO_ACCESS", PermissionDenied, 403;
    InvalidHfToken = "INVALID_HF_TOKEN", Unauthenticated, 401;
    InvalidLocalPath = "INVALID_LOCAL_PATH", InvalidArgument, 400;
    RemoteCodeRequired = "REMOTE_CODE_REQUIRED", FailedPrecondition, 400;
    UnsupportedArchitecture = "UNSUPPORTED_ARCHITECTURE", FailedPrecondition, 422;
    InvalidModelFile = "INVALID_MODEL_FILE", FailedPrecondition, 422;
    ModelDownloadFailed = "MODEL_DOWNLOAD_FAILED", Unavailable, 502;
    HubUnavailable = "HUB_UNAVAILABLE", Unavailable, 502;
    ChecksumMismatch = "CHECKSUM_MISMATCH", DataLoss, 502;
    InsufficientDisk = "INSUFFICIENT_DISK", ResourceExhausted, 507;
    InsufficientMemory = "INSUFFICIENT_MEMORY", ResourceExhausted, 507;
    ModelLoadFailed = "MODEL_LOAD_FAILED", Internal, 500;
    ModelAlreadyLoaded = "MODEL_ALREADY_LOADED", FailedPrecondition, 400;
    ModelNotLoaded = "MODEL_NOT_LOADED", FailedPrecondition, 400;
    ModelLoading = "MODEL_LOADING", Unavailable, 503;
    /// The model has not finished arriving, or failed to.
    ModelNotReady = "MODEL_NOT_READY", FailedPrecondition, 409;
    ModelInUse = "MODEL_IN_USE", FailedPrecondition, 409;
    ContextLengthExceeded = "CONTEXT_LENGTH_EXCEEDED", InvalidArgument, 400;
    QueueFull = "QUEUE_FULL", ResourceExhausted, 429;
    Cancelled = "CANCELLED", Cancelled, 499;
    Deadline = "DEADLINE", DeadlineExceeded, 504;
    InvalidArgument = "INVALID_ARGUMENT", InvalidArgument, 400;
    /// There is no such download, route or method.
    NotFound = "NOT_FOUND", NotFound, 404;
    /// The row has changed since its etag was read.
    Conflict = "CONFLICT", Aborted, 409;
    /// A foreign Host or Origin header.
    Forbidden = "FORBIDDEN", PermissionDenied, 403;
    /// A service behind this one does not answer.
    ServiceUnavailable = "SERVICE_UNAVAILABLE", Unavailable, 503;
    Internal = "INTERNAL", Internal, 500;
}

impl Reason {
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| reason.name() == name)
    }

    /// The nearest reason for a status that carries none of ours.
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
