//! The error that every service answers with: a reason from the table, a sentence for people, details for programs.
//!
//! It travels in the gRPC status as `google.rpc.ErrorInfo` and `google.rpc.RetryInfo`. The client of a
//! [`Channel`](crate::Channel) decodes the same error again, so REST, CLI and page show the service's own words.

mod constructors;
mod table;

use std::{collections::HashMap, time::Duration};

use millm_proto::rpc;
use prost_types::Any;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

pub use table::Reason;

const DOMAIN: &str = "millm";

/// An error for callers. Each kind has its constructor (`constructors.rs`), such as [`ServiceError::model_not_found`].
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct ServiceError {
    /// The row of the error table.
    pub reason: Reason,
    /// A sentence for people.
    pub message: String,
    /// Values for programs, such as `model_id`, `required_bytes` or `field`.
    pub details: HashMap<String, String>,
    /// The time to wait before the call is repeated, if repeating it may help.
    pub retry_after: Option<Duration>,
}

impl ServiceError {
    /// Returns an error without details. Prefer the constructor of the kind.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), details: HashMap::new(), retry_after: None }
    }

    /// Returns the error with one more detail.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl ToString) -> Self {
        self.details.insert(key.to_owned(), value.to_string());
        self
    }

    /// Returns the error with the time after which the call may be repeated.
    #[must_use]
    pub fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// Returns the HTTP status code of the reason.
    pub fn http_status(&self) -> u16 {
        self.reason.http_status()
    }

    /// Encodes the error for a resource that stores it (`Model.error`, `Download.error`).
    pub fn to_rpc(&self) -> rpc::Status {
        let info = rpc::ErrorInfo {
            reason: self.reason.name().to_owned(),
            domain: DOMAIN.to_owned(),
            metadata: self.details.clone(),
        };
        let mut details = vec![any("google.rpc.ErrorInfo", &info)];
        if let Some(after) = self.retry_after {
            let retry = rpc::RetryInfo { retry_delay: prost_types::Duration::try_from(after).ok() };
            details.push(any("google.rpc.RetryInfo", &retry));
        }
        rpc::Status { code: self.reason.code() as i32, message: self.message.clone(), details }
    }

    /// Decodes a resource's stored error. Without a reason of the table, the status code's nearest reason is taken.
    pub fn from_rpc(status: &rpc::Status) -> Self {
        let mut error = Self::new(Reason::from_code(Code::from(status.code)), status.message.clone());
        for detail in &status.details {
            if let Some(info) = unpack::<rpc::ErrorInfo>(detail, "google.rpc.ErrorInfo")
                && info.domain == DOMAIN
                && let Some(reason) = Reason::from_name(&info.reason)
            {
                error.reason = reason;
                error.details = info.metadata;
            } else if let Some(retry) = unpack::<rpc::RetryInfo>(detail, "google.rpc.RetryInfo") {
                error.retry_after = retry.retry_delay.and_then(|d| Duration::try_from(d).ok());
            }
        }
        error
    }
}

fn any<M: prost::Message>(name: &str, message: &M) -> Any {
    Any { type_url: format!("type.googleapis.com/{name}"), value: message.encode_to_vec() }
}

fn unpack<M: prost::Message + Default>(any: &Any, name: &str) -> Option<M> {
    any.type_url.ends_with(name).then(|| M::decode(any.value.as_slice()).ok()).flatten()
}

impl From<ServiceError> for Status {
    fn from(error: ServiceError) -> Self {
        let mut details = ErrorDetails::new();
        details.set_error_info(error.reason.name(), DOMAIN, error.details);
        if let Some(after) = error.retry_after {
            details.set_retry_info(Some(after));
        }
        Status::with_error_details(error.reason.code(), error.message, details)
    }
}

impl From<Status> for ServiceError {
    fn from(status: Status) -> Self {
        Self::from(&status)
    }
}

impl From<&Status> for ServiceError {
    /// Decodes the error that the service raised. A status without a reason of the table gets its code's nearest one.
    fn from(status: &Status) -> Self {
        let details = status.get_error_details();
        let mut error = match details.error_info() {
            Some(info) if info.domain == DOMAIN => {
                let reason =
                    Reason::from_name(&info.reason).unwrap_or_else(|| Reason::from_code(status.code()));
                let mut error = Self::new(reason, status.message());
                error.details.clone_from(&info.metadata);
                error
            }
            _ => Self::new(Reason::from_code(status.code()), status.message()),
        };
        error.retry_after = details.retry_info().and_then(|r| r.retry_delay);
        error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_the_same_after_encoding_and_decoding() {
        for reason in Reason::ALL {
            let error = ServiceError::new(*reason, "what happened")
                .with("model_id", 7)
                .retry_after(Duration::from_secs(2));
            assert_eq!(ServiceError::from(Status::from(error.clone())), error);
            assert_eq!(ServiceError::from_rpc(&error.to_rpc()), error);
        }
    }

    #[test]
    fn a_status_without_a_reason_gets_the_nearest() {
        let error = ServiceError::from(Status::unavailable("tcp connect error"));
        assert_eq!(error.reason, Reason::ServiceUnavailable);
        assert_eq!(error.http_status(), 503);
    }
}
