//! The search for repositories by part of their name: the checked query, and the checked answer.

use millm_kit::{ServiceError, names::RepoId};
use millm_model::Family;
use prost_types::Timestamp;
use serde_json::Value;
use url::form_urlencoded::Serializer;

const DEFAULT_LIMIT: u32 = 20;
const MAX_LIMIT: u32 = 100;
const MAX_QUERY_CHARS: usize = 200;
const MAX_TAG_CHARS: usize = 60;

/// A checked query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Search {
    query: String,
    author: String,
    sort: Option<Sort>,
    pub(super) limit: u32,
}

/// The order of the results: most, or newest, first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sort {
    Downloads,
    Likes,
    LastModified,
}

/// A repository as the hub lists it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ListedRepo {
    pub(crate) repo: RepoId,
    pub(crate) downloads: u64,
    pub(crate) likes: u64,
    pub(crate) last_modified: Option<Timestamp>,
    pub(crate) gated: bool,
    pub(crate) pipeline_tag: String,
    /// True if its architecture is supported; `None` if the listing does not tell.
    pub(crate) supported: Option<bool>,
}

impl Search {
    /// Checks a query. `limit` 0 means 20; the most is 100.
    ///
    /// # Errors
    ///
    /// INVALID_ARGUMENT.
    pub(crate) fn new(
        query: &str,
        author: &str,
        sort: Option<Sort>,
        limit: u32,
    ) -> Result<Self, ServiceError> {
        let (query, author) = (query.trim(), author.trim());
        let invalid = |field, why| Err(ServiceError::invalid_argument(field, why));
        if query.is_empty() && author.is_empty() {
            return invalid("query", "must be given");
        }
        if query.chars().count() > MAX_QUERY_CHARS || query.chars().any(char::is_control) {
            return invalid("query", "must be at most 200 characters of plain text");
        }
        if !author.is_empty() && RepoId::parse(&format!("{author}/x")).is_err() {
            return invalid("author", "must be the name of a user or organization");
        }
        let limit = if limit == 0 { DEFAULT_LIMIT } else { limit.min(MAX_LIMIT) };
        Ok(Self { query: query.to_owned(), author: author.to_owned(), sort, limit })
    }

    /// Returns the query as the hub's API takes it.
    pub(super) fn query_string(&self) -> String {
        let mut out = Serializer::new(String::new());
        for (name, value) in [("search", &self.query), ("author", &self.author)] {
            if !value.is_empty() {
                out.append_pair(name, value);
            }
        }
        if let Some(sort) = self.sort {
            let sort = match sort {
                Sort::Downloads => "downloads",
                Sort::Likes => "likes",
                Sort::LastModified => "lastModified",
            };
            out.append_pair("sort", sort);
        }
        out.append_pair("limit", &self.limit.to_string());
        for field in ["downloads", "likes", "lastModified", "gated", "pipeline_tag", "tags", "config", "gguf"]
        {
            out.append_pair("expand", field);
        }
        out.finish()
    }
}

/// Parses an answer. Returns `None` when no hub made it. Entries that could not be downloaded are left out.
pub(super) fn parse_found(body: &[u8], limit: usize) -> Option<Vec<ListedRepo>> {
    let Ok(Value::Array(entries)) = serde_json::from_slice(body) else { return None };
    Some(entries.iter().filter_map(parse_entry).take(limit).collect())
}

fn parse_entry(entry: &Value) -> Option<ListedRepo> {
    let text = |name: &str| entry.get(name).and_then(Value::as_str);
    let count = |name: &str| entry.get(name).and_then(Value::as_u64).unwrap_or(0).min(i64::MAX as u64);
    let is_tag = |tag: &&str| {
        tag.len() <= MAX_TAG_CHARS && tag.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
    };
    Some(ListedRepo {
        repo: RepoId::parse(text("id").or_else(|| text("modelId"))?).ok()?,
        downloads: count("downloads"),
        likes: count("likes"),
        last_modified: text("lastModified")
            .filter(|date| date.len() <= 40)
            .and_then(|date| date.parse().ok()),
        gated: matches!(entry.get("gated"), Some(Value::Bool(true) | Value::String(_))),
        pipeline_tag: text("pipeline_tag").filter(is_tag).unwrap_or_default().to_owned(),
        supported: supported(entry),
    })
}

/// Returns whether the architecture in the listing's summary of `config.json` or the GGUF header is supported.
fn supported(entry: &Value) -> Option<bool> {
    let text = |pointer: &str| entry.pointer(pointer).and_then(Value::as_str);
    if let Some(architecture) = text("/gguf/architecture") {
        return Some(Family::by_gguf_name(architecture, false).is_some());
    }
    let packed = entry.pointer("/config/quantization_config").is_some_and(|packing| !packing.is_null());
    let architecture = text("/config/architectures/0")?;
    let within = || Family::within(Some(architecture), None).map(|(family, _)| family);
    let family = Family::by_architecture(architecture).or_else(within);
    let unpacks = |family: &Family| {
        family
            .packing
            .is_some_and(|known| text("/config/quantization_config/quant_method") == Some(known.method))
    };
    let known = family.is_some_and(|family| !packed || unpacks(family));
    let tags = entry.get("tags").and_then(Value::as_array)?;
    let tagged = |wanted: &str| tags.iter().any(|tag| tag.as_str() == Some(wanted));
    match (known, tagged("safetensors") || tagged("gguf"), tagged("pytorch")) {
        (false, _, _) | (true, false, true) => Some(false),
        (true, true, _) => Some(true),
        (true, false, false) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn searches_are_checked() {
        let new = |query: &str, author: &str| Search::new(query, author, None, 0);
        assert_eq!(
            new(" gemma ", "").unwrap().query_string().split("&expand").next(),
            Some("search=gemma&limit=20")
        );
        assert!(new("", "google").is_ok());
        for (query, author, field) in [
            ("", " ", "query"),
            ("a\nb", "", "query"),
            (&"a".repeat(201), "", "query"),
            ("a", "../x", "author"),
        ] {
            assert_eq!(new(query, author).unwrap_err().details["field"], field);
        }
        let parameters =
            Search::new("ü &limit=9", "", Some(Sort::LastModified), 1000).unwrap().query_string();
        assert!(
            parameters.starts_with("search=%C3%BC+%26limit%3D9&sort=lastModified&limit=100&"),
            "{parameters}"
        );
    }

    #[test]
    fn malformed_entries_are_left_out() {
        let body = json!([
            {"id": "o/good", "downloads": 7, "likes": 2, "gated": "auto", "pipeline_tag": "text-generation",
             "lastModified": "2025-06-01T12:00:00.000Z", "tags": ["safetensors"],
             "config": {"architectures": ["LlamaForCausalLM"]}},
            {"id": "../evil"}, {"id": 7}, {}, "x", {"id": "gpt2"},
            {"id": "o/odd", "downloads": -1, "likes": "many", "gated": 3, "pipeline_tag": "<b>", "lastModified": "soon"},
        ]);
        let found = parse_found(body.to_string().as_bytes(), 9).unwrap();
        assert_eq!(found.len(), 2);
        let good = &found[0];
        assert_eq!((good.repo.as_str(), good.downloads, good.likes, good.gated), ("o/good", 7, 2, true));
        assert_eq!((good.pipeline_tag.as_str(), good.supported), ("text-generation", Some(true)));
        assert_eq!(
            good.last_modified.as_ref().map(ToString::to_string).as_deref(),
            Some("2025-06-01T12:00:00Z")
        );
        let odd = &found[1];
        assert_eq!((odd.downloads, odd.likes, odd.gated, odd.supported), (0, 0, false, None));
        assert!(odd.pipeline_tag.is_empty() && odd.last_modified.is_none());
        assert_eq!(parse_found(body.to_string().as_bytes(), 1).unwrap().len(), 1);
        for bad in ["<html>", "{}", "null"] {
            assert!(parse_found(bad.as_bytes(), 9).is_none(), "{bad}");
        }
    }

    #[test]
    fn support_is_known_where_the_listing_tells() {
        let check = |entry: Value, expected: Option<bool>| assert_eq!(supported(&entry), expected, "{entry}");
        let llama = json!({"architectures": ["LlamaForCausalLM"]});
        check(json!({"tags": ["safetensors"], "config": llama}), Some(true));
        check(json!({"tags": ["pytorch"], "config": llama}), Some(false));
        check(json!({"tags": [], "config": llama}), None);
        check(
            json!({"tags": ["safetensors"], "config": {"architectures": ["MambaForCausalLM"]}}),
            Some(false),
        );
        let packed =
            json!({"architectures": ["LlamaForCausalLM"], "quantization_config": {"quant_method": "gptq"}});
        check(json!({"tags": ["safetensors"], "config": packed}), Some(false));
        for (method, runs) in [("mxfp4", true), ("gptq", false)] {
            let packed = json!({"architectures": ["GptOssForCausalLM"], "quantization_config": {"quant_method": method}});
            check(json!({"tags": ["safetensors"], "config": packed}), Some(runs));
        }
        check(json!({"tags": ["gguf"], "gguf": {"architecture": "llama"}}), Some(true));
        check(json!({"tags": ["gguf"], "gguf": {"architecture": "bert"}}), Some(false));
        check(json!({"tags": ["gguf"]}), None);
    }
}
