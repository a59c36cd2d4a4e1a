//! Templates as one JSON document, to move them from one server to another:
//!
//! ```json
//! {"version": 1, "templates": [{"name": "mine", "settings": {"points": ["residual"], "layers": "0-11"}}]}
//! ```

use millm_kit::{ServiceError, format::excerpt};
use millm_proto::catalog::v1::{ActivationFormat, ActivationType, ExtractionSettings, Template};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The version that this program writes and reads.
const VERSION: u64 = 1;
/// The largest document, in bytes. It must fit into a gRPC message of the usual limit.
const MAX_BYTES: usize = 2 << 20;
/// The most templates of a document.
pub(super) const MAX_TEMPLATES: usize = 1000;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u64,
    templates: Vec<Value>,
}

/// A template of a document. A number that is missing or null is unset.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DocumentTemplate {
    name: String,
    #[serde(default)]
    description: String,
    #[serde(default)]
    favorite: bool,
    settings: DocumentSettings,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DocumentSettings {
    points: Vec<String>,
    #[serde(default = "all")]
    layers: String,
    #[serde(default)]
    max_samples: Option<u64>,
    #[serde(default)]
    sequence_length: Option<u32>,
    #[serde(default)]
    batch_size: Option<u32>,
    #[serde(default)]
    dtype: Dtype,
    #[serde(default = "all")]
    positions: String,
    #[serde(default)]
    pack: bool,
    #[serde(default)]
    split: bool,
    #[serde(default)]
    chat_template: bool,
    #[serde(default)]
    no_special_tokens: bool,
    #[serde(default)]
    format: FileFormat,
}

fn all() -> String {
    "all".to_owned()
}

#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Dtype {
    #[default]
    F32,
    F16,
    Bf16,
}

#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum FileFormat {
    #[default]
    Npy,
    Safetensors,
}

/// One entry of a document.
pub(super) struct Entry {
    /// Its name, or its place where it has none.
    pub name: String,
    /// The template, or why it cannot be read.
    pub template: Result<Template, String>,
}

/// Reads a document.
///
/// # Errors
///
/// INVALID_ARGUMENT for text that is no document, that is too large, or whose version is not known.
pub(super) fn read(json: &str) -> Result<Vec<Entry>, ServiceError> {
    let invalid = |why: String| ServiceError::invalid_argument("json", why);
    if json.len() > MAX_BYTES {
        return Err(invalid(format!("has {} bytes, the limit is {MAX_BYTES}", json.len())));
    }
    // The version is read first: another version may have other fields.
    #[derive(Deserialize)]
    struct Versioned {
        version: Value,
    }
    let unread = |error: serde_json::Error| {
        invalid(format!("is no document of templates: {}", excerpt(&error.to_string())))
    };
    let Versioned { version } = serde_json::from_str(json).map_err(unread)?;
    if version != VERSION {
        let version: String = version.to_string().chars().take(50).collect();
        return Err(invalid(format!("has version {version}; this server reads version {VERSION}")));
    }
    let document: Document = serde_json::from_str(json).map_err(unread)?;
    let count = document.templates.len();
    if count > MAX_TEMPLATES {
        return Err(invalid(format!("has {count} templates, the limit is {MAX_TEMPLATES}")));
    }
    Ok((1..).zip(document.templates).map(|(place, value)| entry(place, value)).collect())
}

fn entry(place: usize, value: Value) -> Entry {
    let name = value.get("name").and_then(Value::as_str).map(|name| excerpt(name).to_string());
    let name = name.unwrap_or_else(|| format!("template {place}"));
    let template = DocumentTemplate::deserialize(value).map(Template::from);
    Entry { name, template: template.map_err(|error| excerpt(&error.to_string()).to_string()) }
}

/// Writes templates as a document.
///
/// # Errors
///
/// INVALID_ARGUMENT when they are too many for one document.
pub(super) fn write(templates: &[Template]) -> Result<String, ServiceError> {
    let invalid = |why: String| ServiceError::invalid_argument("names", why);
    if templates.len() > MAX_TEMPLATES {
        return Err(invalid(format!(
            "must name at most {MAX_TEMPLATES} templates of the many that there are"
        )));
    }
    let values = templates.iter().map(|template| serde_json::to_value(DocumentTemplate::from(template)));
    let templates = values.collect::<Result<_, _>>().map_err(ServiceError::internal)?;
    let document = Document { version: VERSION, templates };
    let json = serde_json::to_string_pretty(&document).map_err(ServiceError::internal)?;
    if json.len() > MAX_BYTES {
        return Err(invalid(format!(
            "make a document of {} bytes, the limit is {MAX_BYTES}: name fewer",
            json.len()
        )));
    }
    Ok(json)
}

impl From<DocumentTemplate> for Template {
    fn from(template: DocumentTemplate) -> Self {
        let DocumentTemplate { name, description, favorite, settings } = template;
        Self { handle: name, description, favorite, settings: Some(settings.into()), ..Self::default() }
    }
}

impl From<DocumentSettings> for ExtractionSettings {
    fn from(settings: DocumentSettings) -> Self {
        let dtype = match settings.dtype {
            Dtype::F32 => ActivationType::F32,
            Dtype::F16 => ActivationType::F16,
            Dtype::Bf16 => ActivationType::Bf16,
        };
        let format = match settings.format {
            FileFormat::Npy => ActivationFormat::Npy,
            FileFormat::Safetensors => ActivationFormat::Safetensors,
        };
        Self {
            points: settings.points,
            layers: settings.layers,
            max_samples: settings.max_samples.unwrap_or_default(),
            sequence_length: settings.sequence_length.unwrap_or_default(),
            batch_size: settings.batch_size.unwrap_or_default(),
            dtype: dtype.into(),
            positions: settings.positions,
            pack: settings.pack,
            split: settings.split,
            chat_template: settings.chat_template,
            no_special_tokens: settings.no_special_tokens,
            format: format.into(),
        }
    }
}

impl From<&Template> for DocumentTemplate {
    fn from(template: &Template) -> Self {
        Self {
            name: template.handle.clone(),
            description: template.description.clone(),
            favorite: template.favorite,
            settings: (&template.settings.clone().unwrap_or_default()).into(),
        }
    }
}

impl From<&ExtractionSettings> for DocumentSettings {
    fn from(settings: &ExtractionSettings) -> Self {
        let or_all = |text: &str| if text.is_empty() { all() } else { text.to_owned() };
        Self {
            points: settings.points.clone(),
            layers: or_all(&settings.layers),
            max_samples: Some(settings.max_samples).filter(|n| *n > 0),
            sequence_length: Some(settings.sequence_length).filter(|n| *n > 0),
            batch_size: Some(settings.batch_size).filter(|n| *n > 0),
            dtype: match settings.dtype() {
                ActivationType::Unspecified | ActivationType::F32 => Dtype::F32,
                ActivationType::F16 => Dtype::F16,
                ActivationType::Bf16 => Dtype::Bf16,
            },
            positions: or_all(&settings.positions),
            pack: settings.pack,
            split: settings.split,
            chat_template: settings.chat_template,
            no_special_tokens: settings.no_special_tokens,
            format: match settings.format() {
                ActivationFormat::Unspecified | ActivationFormat::Npy => FileFormat::Npy,
                ActivationFormat::Safetensors => FileFormat::Safetensors,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let settings = ExtractionSettings {
            points: vec!["residual".into(), "mlp.3".into()],
            layers: "0,5-10".into(),
            max_samples: 1000,
            sequence_length: 128,
            dtype: ActivationType::Bf16.into(),
            positions: "0,-1".into(),
            split: true,
            format: ActivationFormat::Safetensors.into(),
            ..Default::default()
        };
        let template = Template {
            handle: "Entwurf \"ü\"".into(),
            description: "a\nb".into(),
            favorite: true,
            settings: Some(settings),
            ..Default::default()
        };
        let json = write(std::slice::from_ref(&template)).unwrap();
        let mut entries = read(&json).unwrap();
        let entry = entries.pop().unwrap();
        assert_eq!(entry.template.unwrap(), template);
        assert!(entries.is_empty());
        assert!(read(r#"{"version": 1, "templates": []}"#).unwrap().is_empty());
    }

    #[test]
    fn other_documents_are_refused_as_a_whole() {
        let check = |json: &str, expected: &str| {
            let error = read(json).err().unwrap();
            assert_eq!(error.details["field"], "json");
            assert!(error.message.contains(expected), "{}", error.message);
        };
        check("", "is no document of templates");
        check("[]", "is no document of templates");
        check("{}", "missing field `version`");
        check(r#"{"version": 2, "pages": []}"#, "has version 2; this server reads version 1");
        check(r#"{"version": "1", "templates": []}"#, "has version \"1\"");
        check(r#"{"version": 1}"#, "missing field `templates`");
        check(r#"{"version": 1, "templates": [], "more": 1}"#, "unknown field `more`");
        check(&format!(r#"{{"version": 1, "templates": [{}0]}}"#, "0,".repeat(1000)), "has 1001 templates");
        check(&" ".repeat(MAX_BYTES + 1), "has 2097153 bytes, the limit is 2097152");
        check(&"[".repeat(100_000), "is no document of templates");
    }

    #[test]
    fn a_bad_entry_is_named_and_does_not_harm_the_others() {
        let json = r#"{"version": 1, "templates": [
            {"name": "good", "settings": {"points": ["mlp"], "max_samples": null}},
            {"name": "odd", "settings": {"points": ["mlp"], "speed": 5}},
            {"name": "typed", "settings": {"points": ["mlp"], "dtype": "f64"}},
            {"settings": {"points": ["mlp"]}}, 5]}"#;
        let entries = read(json).unwrap();
        let names: Vec<_> = entries.iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!(names, ["good", "odd", "typed", "template 4", "template 5"]);
        assert_eq!(entries[0].template.as_ref().unwrap().settings.as_ref().unwrap().layers, "all");
        let why = |place: usize| entries[place].template.as_ref().unwrap_err().as_str();
        assert!(why(1).contains("unknown field `speed`") && why(2).contains("unknown variant `f64`"));
        assert!(why(3).contains("missing field `name`") && why(4).contains("invalid type"));
    }
}
