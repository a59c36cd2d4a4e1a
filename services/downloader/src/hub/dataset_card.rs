//! The configurations of a dataset, as its card declares them. The card is YAML in the repository's README; the hub
//! parses it, and its description of the repository has it as JSON.
//! <https://huggingface.co/docs/hub/datasets-manual-configuration> describes the fields.

use serde_json::Value;

const MAX_CONFIGS: usize = 10_000;
/// Patterns of one configuration.
const MAX_PATTERNS: usize = 10_000;
/// The longest name or pattern, in bytes.
const MAX_TEXT_BYTES: usize = 1024;

/// A configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DataConfig {
    pub(crate) name: String,
    /// It is meant when none is asked for.
    pub(crate) is_default: bool,
    /// The folder that the patterns are relative to; empty for the repository's root.
    pub(crate) folder: String,
    /// The splits with their patterns; empty when the files are found by their names.
    pub(crate) splits: Vec<(String, Vec<String>)>,
}

/// Returns the configurations in the hub's description of a repository. What cannot be read is left out.
pub(super) fn configs(description: &[u8]) -> Vec<DataConfig> {
    let Ok(description) = serde_json::from_slice::<Value>(description) else { return Vec::new() };
    let configs = description.pointer("/cardData/configs").and_then(Value::as_array);
    configs.into_iter().flatten().take(MAX_CONFIGS).filter_map(config).collect()
}

fn config(value: &Value) -> Option<DataConfig> {
    let name = text(value.get("config_name")?)?;
    let folder = value.get("data_dir").and_then(text).unwrap_or_default();
    let splits = value.get("data_files").map(splits).unwrap_or_default();
    let patterns: usize = splits.iter().map(|(_, patterns)| patterns.len()).sum();
    (patterns <= MAX_PATTERNS).then(|| DataConfig {
        name,
        is_default: value.get("default").and_then(Value::as_bool).unwrap_or(false),
        folder: folder.trim_matches('/').to_owned(),
        splits,
    })
}

/// Reads `data_files`: a pattern, a list of patterns, or a list of splits with one or several patterns each.
fn splits(value: &Value) -> Vec<(String, Vec<String>)> {
    let Value::Array(entries) = value else { return vec![("train".to_owned(), patterns(value))] };
    if entries.iter().all(Value::is_string) {
        return vec![("train".to_owned(), patterns(value))];
    }
    let split = |entry: &Value| Some((text(entry.get("split")?)?, patterns(entry.get("path")?)));
    entries.iter().filter_map(split).collect()
}

fn patterns(value: &Value) -> Vec<String> {
    match value {
        Value::Array(all) => all.iter().filter_map(text).collect(),
        one => text(one).into_iter().collect(),
    }
}

fn text(value: &Value) -> Option<String> {
    value.as_str().filter(|text| !text.is_empty() && text.len() <= MAX_TEXT_BYTES).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn all_forms_of_data_files_are_read() {
        let card = json!({"cardData": {"configs": [
            {"config_name": "a", "default": true, "data_files": [
                {"split": "train", "path": ["a/*.parquet", "b.parquet"]}, {"split": "test", "path": "t.csv"}]},
            {"config_name": "b", "data_files": "x.jsonl"},
            {"config_name": "c", "data_files": ["x.jsonl", "y.jsonl"], "data_dir": "/d/"},
            {"config_name": "d", "data_dir": "e"},
            {"config_name": "odd", "data_files": [{"split": 5}, 7, {"path": "x"}]},
            {"config_name": 5}, "x", null,
        ]}});
        let found = configs(card.to_string().as_bytes());
        let names: Vec<_> = found.iter().map(|config| config.name.as_str()).collect();
        assert_eq!(names, ["a", "b", "c", "d", "odd"]);
        let pair = |split: &str, patterns: &[&str]| {
            (split.to_owned(), patterns.iter().map(|&p| p.to_owned()).collect())
        };
        assert!(found[0].is_default && !found[1].is_default);
        assert_eq!(found[0].splits, [pair("train", &["a/*.parquet", "b.parquet"]), pair("test", &["t.csv"])]);
        assert_eq!(found[1].splits, [pair("train", &["x.jsonl"])]);
        assert_eq!(
            (found[2].folder.as_str(), &found[2].splits[0]),
            ("d", &pair("train", &["x.jsonl", "y.jsonl"]))
        );
        assert!(found[3].splits.is_empty() && found[4].splits.is_empty());
        for other in ["{}", "[]", "<html>", r#"{"cardData": {"configs": {}}}"#] {
            assert!(configs(other.as_bytes()).is_empty(), "{other}");
        }
    }
}
