//! What an extraction reads and how: the choices of a request, and the settings of a template or an extraction.

use millm_proto::catalog::v1 as catalog;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The settings of a request. What is not given comes from the template, or else from the defaults.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, ToSchema)]
#[serde(default)]
pub struct SettingsChoice {
    /// Hook points, with a layer (`resid_post.3`) or without one (`resid_post`, or `residual`, `attention`, `mlp`).
    #[schema(example = json!(["residual", "mlp"]))]
    pub points: Option<Vec<String>>,
    /// The layers of points without one: `all`, or numbers and ranges; `all` unless given.
    #[schema(example = "0,5-10")]
    pub layers: Option<String>,
    /// The most samples of the dataset to read; 0 is all of them, as when it is not given.
    pub max_samples: Option<u64>,
    /// Tokens of a row at most; the model's context unless given.
    pub sequence_length: Option<u32>,
    /// Rows that are computed at once; 0 chooses a number, as when it is not given.
    pub batch_size: Option<u32>,
    /// The type of the numbers in the files; `f32` unless given.
    pub dtype: Option<ActivationType>,
    /// `all`, `last`, or indices, negative ones from the end; `all` unless given.
    #[schema(example = "0,5,-1")]
    pub positions: Option<String>,
    /// Puts several texts into a row, one after the other, instead of one text and padding.
    pub pack: Option<bool>,
    /// Continues texts that are longer than a row in the next rows, instead of cutting them.
    pub split: Option<bool>,
    /// Renders messages with the model's chat template.
    pub chat_template: Option<bool>,
    /// Leaves the tokenizer's own special tokens out.
    pub no_special_tokens: Option<bool>,
    /// The format of the files; `npy` unless given.
    pub format: Option<ActivationFormat>,
}

impl SettingsChoice {
    /// Returns `base` with the settings that are given.
    #[must_use]
    pub fn over(self, base: catalog::ExtractionSettings) -> catalog::ExtractionSettings {
        let dtype = self.dtype.map(catalog::ActivationType::from).map_or(base.dtype, i32::from);
        let format = self.format.map(catalog::ActivationFormat::from).map_or(base.format, i32::from);
        let layers = self.layers.unwrap_or(base.layers);
        catalog::ExtractionSettings {
            points: self.points.unwrap_or(base.points),
            layers: if layers.is_empty() { "all".to_owned() } else { layers },
            max_samples: self.max_samples.unwrap_or(base.max_samples),
            sequence_length: self.sequence_length.unwrap_or(base.sequence_length),
            batch_size: self.batch_size.unwrap_or(base.batch_size),
            dtype,
            positions: self.positions.unwrap_or(base.positions),
            pack: self.pack.unwrap_or(base.pack),
            split: self.split.unwrap_or(base.split),
            chat_template: self.chat_template.unwrap_or(base.chat_template),
            no_special_tokens: self.no_special_tokens.unwrap_or(base.no_special_tokens),
            format,
        }
    }
}

/// The settings of a template or an extraction.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ExtractionSettings {
    /// Hook points, with a layer or without one.
    pub points: Vec<String>,
    /// The layers of points without one: `all`, or numbers and ranges.
    pub layers: String,
    /// The most samples of the dataset to read; null is all of them.
    pub max_samples: Option<u64>,
    /// Tokens of a row at most; null is the model's context.
    pub sequence_length: Option<u32>,
    /// Rows that are computed at once; null chooses a number.
    pub batch_size: Option<u32>,
    /// The type of the numbers in the files.
    pub dtype: ActivationType,
    /// `all`, `last`, or indices.
    pub positions: String,
    /// Whether rows hold several texts, instead of one text and padding.
    pub pack: bool,
    /// Whether texts that are longer than a row continue in the next rows, instead of being cut.
    pub split: bool,
    /// Whether messages are rendered with the model's chat template.
    pub chat_template: bool,
    /// Whether the tokenizer's own special tokens are left out.
    pub no_special_tokens: bool,
    /// The format of the files.
    pub format: ActivationFormat,
}

impl From<&catalog::ExtractionSettings> for ExtractionSettings {
    fn from(settings: &catalog::ExtractionSettings) -> Self {
        let all = |text: &str| if text.is_empty() { "all" } else { text }.to_owned();
        Self {
            points: settings.points.clone(),
            layers: all(&settings.layers),
            max_samples: (settings.max_samples > 0).then_some(settings.max_samples),
            sequence_length: (settings.sequence_length > 0).then_some(settings.sequence_length),
            batch_size: (settings.batch_size > 0).then_some(settings.batch_size),
            dtype: settings.dtype().into(),
            positions: all(&settings.positions),
            pack: settings.pack,
            split: settings.split,
            chat_template: settings.chat_template,
            no_special_tokens: settings.no_special_tokens,
            format: settings.format().into(),
        }
    }
}

/// The type of the numbers in an extraction's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ActivationType {
    /// 32 bits, as they are computed.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of 32 bits.
    Bf16,
}

impl ActivationType {
    /// Returns the word, as JSON has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }
}

impl From<catalog::ActivationType> for ActivationType {
    fn from(dtype: catalog::ActivationType) -> Self {
        match dtype {
            catalog::ActivationType::Unspecified | catalog::ActivationType::F32 => Self::F32,
            catalog::ActivationType::F16 => Self::F16,
            catalog::ActivationType::Bf16 => Self::Bf16,
        }
    }
}

impl From<ActivationType> for catalog::ActivationType {
    fn from(dtype: ActivationType) -> Self {
        match dtype {
            ActivationType::F32 => Self::F32,
            ActivationType::F16 => Self::F16,
            ActivationType::Bf16 => Self::Bf16,
        }
    }
}

/// The format of an extraction's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ActivationFormat {
    /// NumPy's: one file for each hook point.
    Npy,
    /// Hugging Face's: shards with all hook points.
    Safetensors,
}

impl ActivationFormat {
    /// Returns the word, as JSON has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Npy => "npy",
            Self::Safetensors => "safetensors",
        }
    }
}

impl From<catalog::ActivationFormat> for ActivationFormat {
    fn from(format: catalog::ActivationFormat) -> Self {
        match format {
            catalog::ActivationFormat::Unspecified | catalog::ActivationFormat::Npy => Self::Npy,
            catalog::ActivationFormat::Safetensors => Self::Safetensors,
        }
    }
}

impl From<ActivationFormat> for catalog::ActivationFormat {
    fn from(format: ActivationFormat) -> Self {
        match format {
            ActivationFormat::Npy => Self::Npy,
            ActivationFormat::Safetensors => Self::Safetensors,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn choices_go_over_a_template() {
        let template = catalog::ExtractionSettings {
            points: vec!["residual".into()],
            layers: "0-3".into(),
            max_samples: 100,
            dtype: catalog::ActivationType::Bf16.into(),
            pack: true,
            ..Default::default()
        };
        let none: SettingsChoice = serde_json::from_value(json!({"layers": null})).unwrap();
        assert_eq!(none.over(template.clone()), template);
        let some: SettingsChoice =
            serde_json::from_value(json!({"layers": "all", "max_samples": 0, "dtype": "f16", "pack": false}))
                .unwrap();
        let settings = some.over(template);
        assert_eq!((settings.points[0].as_str(), settings.layers.as_str()), ("residual", "all"));
        assert_eq!((settings.max_samples, settings.pack), (0, false));
        assert_eq!(settings.dtype(), catalog::ActivationType::F16);
        let settings = SettingsChoice::default().over(catalog::ExtractionSettings::default());
        assert_eq!(settings.layers, "all", "points without a layer need some");
        serde_json::from_value::<SettingsChoice>(json!({"dtype": "f64"})).unwrap_err();
    }

    #[test]
    fn what_is_shown_can_be_sent_again() {
        let settings = catalog::ExtractionSettings {
            points: vec!["mlp.3".into()],
            layers: "all".into(),
            sequence_length: 128,
            positions: "0,-1".into(),
            dtype: catalog::ActivationType::F32.into(),
            format: catalog::ActivationFormat::Safetensors.into(),
            split: true,
            ..Default::default()
        };
        let shown = serde_json::to_value(ExtractionSettings::from(&settings)).unwrap();
        assert_eq!((&shown["batch_size"], &shown["dtype"]), (&json!(null), &json!("f32")));
        let choice: SettingsChoice = serde_json::from_value(shown).unwrap();
        assert_eq!(choice.over(catalog::ExtractionSettings::default()), settings);
    }

    #[test]
    fn words_are_those_of_json() {
        for dtype in [ActivationType::F32, ActivationType::F16, ActivationType::Bf16] {
            assert_eq!(serde_json::to_value(dtype).unwrap(), dtype.as_str());
        }
        for format in [ActivationFormat::Npy, ActivationFormat::Safetensors] {
            assert_eq!(serde_json::to_value(format).unwrap(), format.as_str());
        }
    }
}
