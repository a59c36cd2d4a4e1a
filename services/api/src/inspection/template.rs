//! Extraction templates: named settings that are stored.

use millm_kit::ServiceError;
use millm_proto::catalog::v1 as catalog;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::settings::{ExtractionSettings, SettingsChoice};
use crate::time;

/// A template.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Template {
    /// Unique and never used again.
    pub id: i64,
    /// The unique name that people use.
    pub name: String,
    /// For people.
    pub description: String,
    /// Whether it is listed before the others.
    pub favorite: bool,
    /// What an extraction reads, and how.
    pub settings: ExtractionSettings,
    /// RFC 3339.
    pub created_at: Option<String>,
    /// RFC 3339.
    pub updated_at: Option<String>,
}

impl From<&catalog::Template> for Template {
    fn from(template: &catalog::Template) -> Self {
        Self {
            id: template.id,
            name: template.handle.clone(),
            description: template.description.clone(),
            favorite: template.favorite,
            settings: (&template.settings.clone().unwrap_or_default()).into(),
            created_at: time(template.create_time.as_ref()),
            updated_at: time(template.update_time.as_ref()),
        }
    }
}

/// The body of `POST /api/templates`.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
pub struct NewTemplate {
    /// 1 to 255 characters that no other template has; made from the settings unless given.
    #[schema(example = "residual-mlp_layers0-11_1000samples_1430")]
    pub name: Option<String>,
    /// For people.
    pub description: Option<String>,
    /// Whether it is listed before the others.
    pub favorite: Option<bool>,
    /// What an extraction reads, and how.
    #[schema(required, value_type = SettingsChoice)]
    pub settings: Option<SettingsChoice>,
}

impl TryFrom<NewTemplate> for catalog::Template {
    type Error = ServiceError;

    /// # Errors
    ///
    /// INVALID_ARGUMENT of `settings` when they are missing.
    fn try_from(template: NewTemplate) -> Result<Self, ServiceError> {
        let missing = || ServiceError::invalid_argument("settings", "must be given");
        let settings = template.settings.ok_or_else(missing)?;
        Ok(Self {
            handle: template.name.unwrap_or_default(),
            description: template.description.unwrap_or_default(),
            favorite: template.favorite.unwrap_or(false),
            settings: Some(settings.over(catalog::ExtractionSettings::default())),
            ..Self::default()
        })
    }
}

/// The body of `PATCH /api/templates/{id}`: the fields to change.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
pub struct TemplatePatch {
    /// The new name: 1 to 255 characters that no other template has.
    #[schema(min_length = 1, max_length = 255)]
    pub name: Option<String>,
    /// For people.
    pub description: Option<String>,
    /// Whether it is listed before the others.
    pub favorite: Option<bool>,
    /// The settings to change; the others stay.
    pub settings: Option<SettingsChoice>,
}

/// The body of `POST /api/templates/{id}/favorite`; it may be missing.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
pub struct FavoriteRequest {
    /// Whether the template is listed before the others; true unless given.
    pub favorite: Option<bool>,
}

/// A document with templates, as `GET /api/templates/export` writes and `POST /api/templates/import` reads it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = Object)]
pub struct TemplateDocument(pub Map<String, Value>);

/// What an import has made of a document.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ImportedTemplates {
    /// The templates that are new.
    pub created: Vec<Template>,
    /// The others.
    pub skipped: Vec<SkippedTemplate>,
}

/// A template of a document that was not imported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct SkippedTemplate {
    /// Its name in the document.
    pub name: String,
    /// Why, for people.
    pub reason: String,
}

impl From<&catalog::ImportTemplatesResponse> for ImportedTemplates {
    fn from(answer: &catalog::ImportTemplatesResponse) -> Self {
        let skipped = |skipped: &catalog::import_templates_response::Skipped| SkippedTemplate {
            name: skipped.handle.clone(),
            reason: skipped.reason.clone(),
        };
        Self {
            created: answer.created.iter().map(Template::from).collect(),
            skipped: answer.skipped.iter().map(skipped).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn templates_need_settings() {
        let read = |value: Value| -> Result<catalog::Template, ServiceError> {
            serde_json::from_value::<NewTemplate>(value).unwrap().try_into()
        };
        let template = read(json!({"settings": {"points": ["mlp"]}, "favorite": true})).unwrap();
        assert_eq!((template.handle.as_str(), template.favorite), ("", true));
        assert_eq!(template.settings.unwrap().points, ["mlp"]);
        assert_eq!(read(json!({"name": "a"})).unwrap_err().details["field"], "settings");
    }

    #[test]
    fn documents_stay_as_they_are() {
        let document = json!({"version": 1, "templates": [{"b": 1, "a": [2.5]}]});
        let read: TemplateDocument = serde_json::from_value(document.clone()).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), document.to_string());
        serde_json::from_value::<TemplateDocument>(json!([1])).unwrap_err();
    }
}
