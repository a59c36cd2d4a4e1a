//! Faults: their kind, the requests that they apply to, and their number. Every fault counts its uses, so that a test
//! can check that the fault occurred.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::gate::Gate;
use crate::journal::Host;
use crate::repo::blob::splitmix;
use crate::throttle::Throttle;

/// The kind of a fault. Offsets and sizes are in bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum FaultKind {
    /// The connection breaks after this many bytes of the body.
    Cut { after: u64 },
    /// The connection breaks at a random place in the body, with this probability (0 to 1).
    RandomCut { probability: f64, seed: u64 },
    /// The answer is 200 with the whole file, whatever range was requested.
    IgnoreRange,
    /// The answer is 206 and starts this many bytes before the requested range.
    WrongStart { before: u64 },
    /// The answer is 416.
    RangeNotSatisfiable,
    /// The body has the right length and one changed byte: at this offset of the file, or else in the middle.
    Corrupt { at: Option<u64> },
    /// The body is this many bytes short, and the announced length too.
    Short { by: u64 },
    /// The body never ends, and no length is announced.
    Endless,
    /// The server sends nothing more after this many bytes of the body, or before the headers if `after` is not given.
    /// It continues after `for_ms`, or when the fault is removed.
    Stall { after: Option<u64>, for_ms: Option<u64> },
    /// Each body is no faster than this. 1 to 20 bytes a second drip.
    Rate { bytes_per_second: u64 },
    /// All bodies that the fault applies to share this rate.
    TotalRate { bytes_per_second: u64 },
    /// The headers are delayed.
    Latency { ms: u64 },
    /// The body waits at this offset of the file until the fault is removed.
    Pause { at: u64 },
    /// The answer is an error. `retry_after` is the header's value; `rate_limit_seconds` goes into the hub's
    /// `RateLimit` header.
    Status { code: u16, retry_after: Option<String>, rate_limit_seconds: Option<u32> },
    /// The answer is a redirect to the same address.
    RedirectLoop,
    /// The answer is a redirect to this location.
    Redirect { location: String },
    /// The CDN answers that the signed link has expired.
    ExpiredLink,
    /// The answer is a page of another server, such as a hotel's captive portal.
    NotAHub,
}

impl FaultKind {
    /// Returns whether the fault applies to a file's body. Other faults apply to the answer before it.
    fn in_body(&self) -> bool {
        match self {
            Self::Cut { .. }
            | Self::RandomCut { .. }
            | Self::IgnoreRange
            | Self::WrongStart { .. }
            | Self::RangeNotSatisfiable
            | Self::Corrupt { .. }
            | Self::Short { .. }
            | Self::Endless
            | Self::Rate { .. }
            | Self::TotalRate { .. }
            | Self::Pause { .. } => true,
            Self::Stall { after, .. } => after.is_some(),
            Self::Latency { .. }
            | Self::Status { .. }
            | Self::RedirectLoop
            | Self::Redirect { .. }
            | Self::ExpiredLink
            | Self::NotAHub => false,
        }
    }
}

/// A fault and the requests that it applies to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fault {
    /// A pattern for the decoded path of the request; `*` is any run of characters. On both hosts an address ends with
    /// the file's path: `*/model.safetensors`.
    #[serde(default = "anything")]
    pub path: String,
    /// The host that the fault applies to; both unless set.
    #[serde(default)]
    pub host: Option<Host>,
    /// The HTTP method that the fault applies to; all unless set.
    #[serde(default)]
    pub method: Option<String>,
    /// The number of matching requests that are answered without the fault first.
    #[serde(default)]
    pub skip: u32,
    /// The number of requests that the fault applies to after that; unlimited unless set.
    #[serde(default)]
    pub times: Option<u32>,
    /// The kind of fault.
    #[serde(flatten)]
    pub kind: FaultKind,
}

fn anything() -> String {
    "*".to_owned()
}

impl Fault {
    /// Returns a fault for every request whose path matches this pattern (see [`Fault::path`]).
    pub fn new(path: impl Into<String>, kind: FaultKind) -> Self {
        Self { path: path.into(), host: None, method: None, skip: 0, times: None, kind }
    }

    /// Limits the fault to this many requests.
    #[must_use]
    pub fn times(mut self, times: u32) -> Self {
        self.times = Some(times);
        self
    }

    /// Answers this many matching requests without the fault first.
    #[must_use]
    pub fn skip(mut self, skip: u32) -> Self {
        self.skip = skip;
        self
    }

    /// Limits the fault to one host.
    #[must_use]
    pub fn on(mut self, host: Host) -> Self {
        self.host = Some(host);
        self
    }

    /// Limits the fault to one HTTP method.
    #[must_use]
    pub fn method(mut self, method: &str) -> Self {
        self.method = Some(method.to_owned());
        self
    }

    fn matches(&self, request: &Request<'_>) -> bool {
        self.host.is_none_or(|host| host == request.host)
            && self.method.as_deref().is_none_or(|method| method == request.method)
            && glob(&self.path, request.path)
    }
}

/// The parts of a request that decide which faults apply.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request<'a> {
    pub host: Host,
    pub method: &'a str,
    pub path: &'a str,
}

/// The state of an armed fault.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FaultState {
    /// The id that arming the fault returned.
    pub id: u64,
    /// The number of requests that it was applied to.
    pub uses: u32,
    /// The number of bodies that it holds or held: pauses and stalls.
    pub held: u32,
    /// The fault.
    #[serde(flatten)]
    pub fault: Fault,
}

/// A fault that applies to the current request.
#[derive(Debug, Clone)]
pub(crate) struct Applied {
    pub kind: FaultKind,
    pub gate: Arc<Gate>,
    pub throttle: Arc<Throttle>,
    /// A pseudorandom number in 0..1, computed from the seed and the number of uses.
    pub draw: f64,
}

#[derive(Debug)]
struct Armed {
    id: u64,
    fault: Fault,
    seen: u32,
    uses: u32,
    gate: Arc<Gate>,
    throttle: Arc<Throttle>,
}

#[derive(Debug, Default)]
pub(crate) struct Faults {
    armed: Mutex<(u64, Vec<Armed>)>,
}

impl Faults {
    /// Arms a fault. Returns its id and its gate.
    pub fn add(&self, fault: Fault) -> (u64, Arc<Gate>) {
        let gate = Gate::closed();
        let mut armed = self.locked();
        armed.0 += 1;
        let id = armed.0;
        armed.1.push(Armed {
            id,
            fault,
            seen: 0,
            uses: 0,
            gate: Arc::clone(&gate),
            throttle: Throttle::new(),
        });
        (id, gate)
    }

    /// Removes a fault and releases the bodies that it holds. Returns false if there is none with this id.
    pub fn remove(&self, id: u64) -> bool {
        let mut armed = self.locked();
        let before = armed.1.len();
        armed.1.retain(|armed| armed.id != id || armed.gate.open_and_forget());
        armed.1.len() < before
    }

    /// Removes all faults and releases the bodies that they hold.
    pub fn clear(&self) {
        self.locked().1.retain(|armed| armed.gate.open_and_forget());
    }

    /// Returns the state of each armed fault.
    pub fn states(&self) -> Vec<FaultState> {
        let state = |armed: &Armed| FaultState {
            id: armed.id,
            uses: armed.uses,
            held: armed.gate.held(),
            fault: armed.fault.clone(),
        };
        self.locked().1.iter().map(state).collect()
    }

    /// Returns the faults that apply to the answer, and counts them as used.
    pub fn on_answer(&self, request: Request<'_>) -> Vec<Applied> {
        self.take(request, |kind| !kind.in_body())
    }

    /// Returns the faults that apply to the file's body, and counts them as used.
    pub fn on_body(&self, request: Request<'_>) -> Vec<Applied> {
        self.take(request, FaultKind::in_body)
    }

    fn take(&self, request: Request<'_>, concerns: impl Fn(&FaultKind) -> bool) -> Vec<Applied> {
        let mut applied = Vec::new();
        for armed in &mut self.locked().1 {
            if !concerns(&armed.fault.kind) || !armed.fault.matches(&request) {
                continue;
            }
            armed.seen += 1;
            let used_up = armed.fault.times.is_some_and(|times| armed.uses >= times);
            if armed.seen <= armed.fault.skip || used_up {
                continue;
            }
            armed.uses += 1;
            let seed = if let FaultKind::RandomCut { seed, .. } = armed.fault.kind { seed } else { 0 };
            let draw = splitmix(seed.wrapping_add(u64::from(armed.uses))) as f64 / u64::MAX as f64;
            let (gate, throttle) = (Arc::clone(&armed.gate), Arc::clone(&armed.throttle));
            applied.push(Applied { kind: armed.fault.kind.clone(), gate, throttle, draw });
        }
        applied
    }

    fn locked(&self) -> MutexGuard<'_, (u64, Vec<Armed>)> {
        self.armed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns whether `text` matches `pattern`, in which `*` is any run of characters.
fn glob(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        let Some(found) = rest.find(part) else { return false };
        rest = &rest[found + part.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs() {
        for (pattern, text, expected) in [
            ("*", "/a/b", true),
            ("/a/b", "/a/b", true),
            ("/a/b", "/a/bc", false),
            ("*/model.safetensors", "/x/y/model.safetensors", true),
            ("*/model.safetensors", "/x/y/model.safetensors.json", false),
            ("/a/*/c*d", "/a/b/cxd", true),
            ("/a/*/c*d", "/a/cxd", false),
            ("ab*ba", "aba", false),
        ] {
            assert_eq!(glob(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn faults_skip_and_end() {
        let faults = Faults::default();
        let (id, _) = faults.add(Fault::new("*", FaultKind::IgnoreRange).skip(1).times(2));
        let request = Request { host: Host::Hub, method: "GET", path: "/a" };
        let hits: Vec<usize> = (0..5).map(|_| faults.on_body(request).len()).collect();
        assert_eq!(hits, [0, 1, 1, 0, 0]);
        assert!(faults.on_answer(request).is_empty());
        assert_eq!(faults.states()[0].uses, 2);
        assert!(faults.remove(id));
        assert!(!faults.remove(id));
    }

    #[test]
    fn faults_are_plain_json() {
        let fault: Fault = serde_json::from_str(
            r#"{"kind": "status", "code": 503, "retry_after": "2", "path": "/api/*", "times": 2}"#,
        )
        .unwrap();
        let kind = FaultKind::Status { code: 503, retry_after: Some("2".into()), rate_limit_seconds: None };
        assert_eq!(fault, Fault::new("/api/*", kind).times(2));
    }
}
