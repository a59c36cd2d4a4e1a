//! Routes: the resource of the hub that a path names. They are parsed by hand, because a repository's id is one or two
//! segments and a revision may hold `%2F`.

use crate::repo::Kind;

/// The resource that an address of the hub names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Route {
    WhoAmI,
    List(Kind),
    Info {
        repo: RepoId,
        revision: String,
    },
    Tree {
        repo: RepoId,
        revision: String,
        path: String,
    },
    PathsInfo {
        repo: RepoId,
        revision: String,
    },
    XetToken {
        repo: RepoId,
        revision: String,
    },
    Resolve {
        repo: RepoId,
        revision: String,
        path: String,
    },
    /// The address that `Resolve` of a small file may redirect to.
    ResolveCache {
        repo: RepoId,
        revision: String,
        path: String,
    },
    Unknown,
}

/// A repository's kind and id, as an address has them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RepoId {
    pub kind: Kind,
    pub id: String,
}

impl Route {
    /// Parses a path, which is percent-encoded and begins with `/`.
    pub fn parse(path: &str) -> Self {
        let segments: Vec<String> = path.split('/').skip(1).map(decode).collect();
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        match segments.as_slice() {
            ["api", "whoami-v2"] => Self::WhoAmI,
            ["api", "models"] => Self::List(Kind::Model),
            ["api", "datasets"] => Self::List(Kind::Dataset),
            ["api", "resolve-cache", kind, namespace, name, revision, path @ ..] => {
                let Some(kind) = api_kind(kind) else { return Self::Unknown };
                let id = format!("{namespace}/{name}");
                let repo = RepoId { kind, id: id.trim_start_matches("_/").to_owned() };
                Self::ResolveCache { repo, revision: (*revision).to_owned(), path: path.join("/") }
            }
            ["api", kind, rest @ ..] => match api_kind(kind) {
                Some(kind) => Self::api(kind, rest),
                None => Self::Unknown,
            },
            ["datasets", rest @ ..] => Self::resolve(Kind::Dataset, rest),
            rest => Self::resolve(Kind::Model, rest),
        }
    }

    fn api(kind: Kind, segments: &[&str]) -> Self {
        let repo = |parts: &[&str]| RepoId { kind, id: parts.join("/") };
        // The verb is the second or third segment.
        for at in 1..segments.len().min(3) {
            let id = repo(&segments[..at]);
            let revision = segments.get(at + 1).map(|revision| (*revision).to_owned());
            let rest = segments.get(at + 2..).unwrap_or_default();
            match (segments[at], revision) {
                ("revision", Some(revision)) if rest.is_empty() => {
                    return Self::Info { repo: id, revision };
                }
                ("tree", Some(revision)) => {
                    return Self::Tree { repo: id, revision, path: rest.join("/") };
                }
                ("paths-info", Some(revision)) => return Self::PathsInfo { repo: id, revision },
                ("xet-read-token", Some(revision)) => {
                    return Self::XetToken { repo: id, revision };
                }
                _ => {}
            }
        }
        if segments.len() <= 2 {
            return Self::Info { repo: repo(segments), revision: "main".to_owned() };
        }
        Self::Unknown
    }

    fn resolve(kind: Kind, segments: &[&str]) -> Self {
        for at in 1..segments.len().min(3) {
            if segments[at] == "resolve" && segments.len() > at + 2 {
                return Self::Resolve {
                    repo: RepoId { kind, id: segments[..at].join("/") },
                    revision: segments[at + 1].to_owned(),
                    path: segments[at + 2..].join("/"),
                };
            }
        }
        Self::Unknown
    }
}

fn api_kind(segment: &str) -> Option<Kind> {
    match segment {
        "models" => Some(Kind::Model),
        "datasets" => Some(Kind::Dataset),
        _ => None,
    }
}

/// Percent-decodes a text. Bytes that are not UTF-8 become U+FFFD.
pub(crate) fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = text.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        if let Some(byte) = escaped.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            out.push(byte);
            at += 3;
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Percent-encodes all but letters, digits, `-_.~` and `/`.
pub(crate) fn encode_path(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~/".contains(&byte) {
            out.push(byte as char);
        } else {
            out.extend(["%", &hex::encode_upper([byte])]);
        }
    }
    out
}

/// Returns the decoded parameters of a query or form, in order.
pub(crate) fn parameters(query: &str) -> Vec<(String, String)> {
    let plain = |text: &str| decode(&text.replace('+', " "));
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (plain(name), plain(value)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, expected: &Route) {
        assert_eq!(&Route::parse(path), expected, "{path}");
    }

    #[test]
    fn addresses() {
        let repo = |id: &str| RepoId { kind: Kind::Model, id: id.into() };
        let data = RepoId { kind: Kind::Dataset, id: "o/d".into() };
        let main = || "main".to_owned();
        check("/api/models", &Route::List(Kind::Model));
        check("/api/models/gpt2", &Route::Info { repo: repo("gpt2"), revision: main() });
        check("/api/models/o/n", &Route::Info { repo: repo("o/n"), revision: main() });
        check(
            "/api/models/o/n/revision/refs%2Fpr%2F1",
            &Route::Info { repo: repo("o/n"), revision: "refs/pr/1".into() },
        );
        check(
            "/api/models/gpt2/tree/main/a/b",
            &Route::Tree { repo: repo("gpt2"), revision: main(), path: "a/b".into() },
        );
        check(
            "/api/datasets/o/d/paths-info/main",
            &Route::PathsInfo { repo: data.clone(), revision: main() },
        );
        check(
            "/datasets/o/d/resolve/main/x/y%20z.csv",
            &Route::Resolve { repo: data, revision: main(), path: "x/y z.csv".into() },
        );
        check(
            "/gpt2/resolve/main/config.json",
            &Route::Resolve { repo: repo("gpt2"), revision: main(), path: "config.json".into() },
        );
        check("/o/n/blob/main/x", &Route::Unknown);
        check("/api/models/o/n/what/main", &Route::Unknown);
        check("/", &Route::Unknown);
    }

    #[test]
    fn escapes() {
        assert_eq!(decode("a%2Fb%zz%"), "a/b%zz%");
        assert_eq!(encode_path("a b/ü"), "a%20b/%C3%BC");
        assert_eq!(
            parameters("a=1+2&b&a=%3D"),
            [("a".into(), "1 2".into()), ("b".into(), String::new()), ("a".into(), "=".into())]
                as [(String, String); 3]
        );
    }
}
