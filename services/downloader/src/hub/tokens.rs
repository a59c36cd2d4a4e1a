//! Whether the hub knows a token: asked of whoami, which is strictly rate-limited, and so remembered for minutes.

use std::collections::HashMap;

use millm_kit::{Reason, Secret, ServiceError};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tokio::{sync::Mutex, time::Instant};

use super::{Asked, Hub, HubFault, What};
use crate::policy::{ACCEPTED_TOKEN_FOR, OTHER_TOKEN_FOR};

const MOST_REMEMBERED: usize = 64;

/// By the token's hash: the tokens themselves are not kept.
#[derive(Debug, Default)]
pub(super) struct Tokens(Mutex<HashMap<[u8; 32], (Verdict, Instant)>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Accepted,
    Rejected,
    /// The hub did not say: a mirror without accounts, a rate limit, an outage.
    Unsaid,
}

impl Hub {
    /// INVALID_HF_TOKEN when the hub rejects the token. What it does not say is no reason to refuse anything.
    pub async fn check_token(&self, token: &Secret) -> Result<(), ServiceError> {
        let key: [u8; 32] = Sha256::digest(token.expose()).into();
        // Held while asking: of many who want to know of one token, one asks.
        let mut known = self.0.tokens.0.lock().await;
        let now = Instant::now();
        known.retain(|_, (_, until)| *until > now);
        let verdict = if let Some((verdict, _)) = known.get(&key) {
            *verdict
        } else {
            let verdict = self.who_is(token).await;
            let lasts = if verdict == Verdict::Accepted { ACCEPTED_TOKEN_FOR } else { OTHER_TOKEN_FOR };
            if known.len() < MOST_REMEMBERED {
                known.insert(key, (verdict, Instant::now() + lasts));
            }
            verdict
        };
        if verdict == Verdict::Rejected { Err(ServiceError::invalid_hf_token()) } else { Ok(()) }
    }

    async fn who_is(&self, token: &Secret) -> Verdict {
        let url = format!("{}/api/whoami-v2", self.0.endpoint);
        let asked = Asked { repo: None, what: What::Other, with_token: true, endpoint: &self.0.endpoint };
        match self.api_once(&url, asked, Some(token)).await {
            Ok((body, _)) if names_somebody(&body) => Verdict::Accepted,
            Err(HubFault::Final(error)) if error.reason == Reason::InvalidHfToken => Verdict::Rejected,
            _ => Verdict::Unsaid,
        }
    }
}

fn names_somebody(body: &[u8]) -> bool {
    let answer: Option<Value> = serde_json::from_slice(body).ok();
    answer.is_some_and(|answer| answer.get("name").is_some_and(Value::is_string))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Policy;
    use fake_hub::{Fault, FaultKind, READER_TOKEN, RepoSpec, RunningHub};
    use millm_kit::Settings;

    fn client(hub: &RunningHub) -> Hub {
        let settings = Settings::load(None, |_| None, &[]).unwrap();
        Hub::new(&hub.url().parse().unwrap(), Policy::new(&settings)).unwrap()
    }

    fn asked(hub: &RunningHub) -> usize {
        hub.log().iter().filter(|entry| entry.path == "/api/whoami-v2").count()
    }

    #[tokio::test]
    async fn a_token_is_asked_about_once() {
        let server = fake_hub::Hub::builder().repo(RepoSpec::new("o/n")).start().unwrap();
        let hub = client(&server);
        let (good, bad) = (Secret::new(READER_TOKEN).unwrap(), Secret::new("hf_wrong").unwrap());
        for _ in 0..3 {
            let (first, second) = tokio::join!(hub.check_token(&good), hub.check_token(&good));
            assert!(first.is_ok() && second.is_ok());
            assert_eq!(hub.check_token(&bad).await.unwrap_err().reason, Reason::InvalidHfToken);
        }
        assert_eq!(asked(&server), 2);
        let remembered = format!("{:?}", hub.0.tokens);
        assert!(!remembered.contains("hf_"), "{remembered}");
    }

    #[tokio::test]
    async fn what_the_hub_does_not_say_refuses_nobody() {
        let server = fake_hub::Hub::builder().repo(RepoSpec::new("o/n")).start().unwrap();
        let hub = client(&server);
        let kind =
            FaultKind::Status { code: 429, retry_after: Some("60".to_owned()), rate_limit_seconds: None };
        server.fault(Fault::new("/api/whoami-v2", kind));
        let token = Secret::new("hf_wrong").unwrap();
        assert!(hub.check_token(&token).await.is_ok());
        assert!(hub.check_token(&token).await.is_ok());
        assert_eq!(asked(&server), 1, "a rate limit is not asked against");
    }
}
