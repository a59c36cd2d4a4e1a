//! The check of tokens against the hub. The hub's `whoami` endpoint is strictly rate-limited, so its answers are
//! remembered for minutes.

use std::collections::HashMap;

use millm_kit::{Reason, Secret, ServiceError};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tokio::{sync::Mutex, time::Instant};

use super::error::HubError;
use crate::limits::{ACCEPTED_TOKEN_TTL, OTHER_TOKEN_TTL};

const MAX_REMEMBERED: usize = 64;

/// Answers about tokens, by the token's SHA-256. The tokens themselves are not kept.
#[derive(Debug, Default)]
pub(super) struct TokenCheck(Mutex<HashMap<[u8; 32], (Verdict, Instant)>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Accepted,
    Rejected,
    /// The answer says nothing about the token: a mirror without accounts, a rate limit, an outage.
    Unknown,
}

impl TokenCheck {
    /// Returns the remembered answer about a token, or calls `ask` for the body of the hub's answer.
    ///
    /// # Errors
    ///
    /// INVALID_HF_TOKEN when the hub rejects the token.
    pub(super) async fn check<F: Future<Output = Result<Vec<u8>, HubError>>>(
        &self,
        token: &Secret,
        ask: impl FnOnce() -> F,
    ) -> Result<(), ServiceError> {
        let key: [u8; 32] = Sha256::digest(token.expose()).into();
        // The lock is held during the call, so that concurrent checks of one token make one call.
        let mut known = self.0.lock().await;
        let now = Instant::now();
        known.retain(|_, (_, until)| *until > now);
        let verdict = if let Some((verdict, _)) = known.get(&key) {
            *verdict
        } else {
            let verdict = verdict(ask().await);
            let ttl = if verdict == Verdict::Accepted { ACCEPTED_TOKEN_TTL } else { OTHER_TOKEN_TTL };
            if known.len() < MAX_REMEMBERED {
                known.insert(key, (verdict, Instant::now() + ttl));
            }
            verdict
        };
        if verdict == Verdict::Rejected { Err(ServiceError::invalid_hf_token()) } else { Ok(()) }
    }
}

fn verdict(answer: Result<Vec<u8>, HubError>) -> Verdict {
    match answer {
        Ok(body) if has_name(&body) => Verdict::Accepted,
        Err(HubError::Permanent(error)) if error.reason == Reason::InvalidHfToken => Verdict::Rejected,
        _ => Verdict::Unknown,
    }
}

fn has_name(body: &[u8]) -> bool {
    let answer: Option<Value> = serde_json::from_slice(body).ok();
    answer.is_some_and(|answer| answer.get("name").is_some_and(Value::is_string))
}
