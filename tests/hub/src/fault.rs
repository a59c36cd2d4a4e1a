//! Faults: what goes wrong, for which requests, how often. Every fault counts its uses, so that a test
//! can tell that it met what it asked for.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::gate::Gate;
use crate::journal::Host;
use crate::repo::blob::splitmix;
use crate::throttle::Throttle;

/// What goes wrong. Offsets and sizes are bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum FaultKind {
    /// The connection breaks after this many bytes of the body.
    Cut { after: u64 },
    /// With this probability (0 to 1) the connection breaks somewhere in the body.
    RandomCut { probability: f64, seed: u64 },
    /// 200 and the whole file, whatever range was asked for.
    IgnoreRange,
    /// 206 that starts this many bytes before what was asked for.
    WrongStart { before: u64 },
    /// 416.
    RangeNotSatisfiable,
    /// The right length with one byte changed: at this offset of the file, else in mid-body.
    Corrupt { at: Option<u64> },
    /// A body that ends this much too early, as if that were right.
    Short { by: u64 },
    /// A body that never ends and says no length.
    Endless,
    /// Silence after this many bytes of the body; before the headers when not given. For so long, or
    /// until the fault is removed.
    Stall { after: Option<u64>, for_ms: Option<u64> },
    /// A body no faster than this; 1 to 20 make a drip.
    Rate { bytes_per_second: u64 },
    /// All bodies that it is for share a line of this rate.
    TotalRate { bytes_per_second: u64 },
    /// A wait before the headers.
    Latency { ms: u64 },
    /// The body waits at this offset of the file until the fault is removed.
    Pause { at: u64 },
    /// An error. `retry_after` as the header has it; `rate_limit_seconds` as the hub's `RateLimit` header.
    Status { code: u16, retry_after: Option<String>, rate_limit_seconds: Option<u32> },
    /// A redirect to itself.
    RedirectLoop,
    /// A redirect to somewhere.
    Redirect { location: String },
    /// The CDN says that the signed link has expired.
    ExpiredLink,
    /// A page of some other server, such as a hotel's.
    NotAHub,
}

impl FaultKind {
    /// Whether it concerns the sending of a file rather than the answer as such.
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

/// A fault and the requests that it is for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fault {
    /// The decoded path of the request, `*` for any run of characters. A file's path ends the address on
    /// both hosts: `*/model.safetensors`.
    #[serde(default = "anything")]
    pub path: String,
    /// Only this host.
    #[serde(default)]
    pub host: Option<Host>,
    /// Only this method.
    #[serde(default)]
    pub method: Option<String>,
    /// Lets the first so many pass.
    #[serde(default)]
    pub skip: u32,
    /// Then happens so often; always unless set.
    #[serde(default)]
    pub times: Option<u32>,
    #[serde(flatten)]
    pub kind: FaultKind,
}

fn anything() -> String {
    "*".to_owned()
}

impl Fault {
    pub fn new(path: impl Into<String>, kind: FaultKind) -> Self {
        Self { path: path.into(), host: None, method: None, skip: 0, times: None, kind }
    }

    #[must_use]
    pub fn times(mut self, times: u32) -> Self {
        self.times = Some(times);
        self
    }

    #[must_use]
    pub fn skip(mut self, skip: u32) -> Self {
        self.skip = skip;
        self
    }

    #[must_use]
    pub fn on(mut self, host: Host) -> Self {
        self.host = Some(host);
        self
    }

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

/// What a fault looks at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request<'a> {
    pub host: Host,
    pub method: &'a str,
    pub path: &'a str,
}

/// An armed fault as a test sees it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FaultState {
    pub id: u64,
    /// How often it happened.
    pub uses: u32,
    /// How many bodies are or were held by it: pauses and stalls.
    pub held: u32,
    #[serde(flatten)]
    pub fault: Fault,
}

/// A fault that applies to the request at hand.
#[derive(Debug, Clone)]
pub(crate) struct Applied {
    pub kind: FaultKind,
    pub gate: Arc<Gate>,
    pub throttle: Arc<Throttle>,
    /// A number in 0..1 that is new with each use and follows from the seed.
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

    /// Removes one and lets go of what it holds. False when there is none of that id.
    pub fn remove(&self, id: u64) -> bool {
        let mut armed = self.locked();
        let before = armed.1.len();
        armed.1.retain(|armed| armed.id != id || armed.gate.open_and_forget());
        armed.1.len() < before
    }

    pub fn clear(&self) {
        self.locked().1.retain(|armed| armed.gate.open_and_forget());
    }

    pub fn states(&self) -> Vec<FaultState> {
        let state = |armed: &Armed| FaultState {
            id: armed.id,
            uses: armed.uses,
            held: armed.gate.held(),
            fault: armed.fault.clone(),
        };
        self.locked().1.iter().map(state).collect()
    }

    /// Those for the answer as such; each counts as used.
    pub fn on_answer(&self, request: Request<'_>) -> Vec<Applied> {
        self.take(request, |kind| !kind.in_body())
    }

    /// Those for the file that is about to be sent; each counts as used.
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

/// Whether `text` is `pattern`, where `*` stands for any run of characters.
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
