//! Settings: defaults, overridden by `millm.toml`, then by the environment, then by flags.
//!
//! One table ([`table`]) defines the struct, reads every layer, and prints `millm config` and the README's table. Each
//! value is parsed once into its type ([`value`]).

mod value;

use std::{collections::BTreeMap, path::PathBuf};

pub use table::Settings;
pub use value::{DatabaseUrl, DeviceChoice, KeepAlive, KernelChoice, LogFormat, SettingValue};

/// The origin of a value. Later layers override earlier ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Layer {
    /// The default in the table.
    Default,
    /// `millm.toml`.
    File,
    /// An environment variable.
    Environment,
    /// A flag of the command line.
    Flag,
}

impl Layer {
    /// Returns the layer's name for people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::File => "millm.toml",
            Self::Environment => "environment",
            Self::Flag => "flag",
        }
    }
}

/// A setting that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The value is not of the setting's type.
    #[error("{name} = '{value}' ({layer}): {why}")]
    Invalid {
        /// The setting, as its layer spells it.
        name: String,
        /// The text of the value, or `***`.
        value: String,
        /// The layer that the value comes from.
        layer: &'static str,
        /// The expected form of the value.
        why: String,
    },
    /// There is no such setting.
    #[error("{file}: unknown setting '{key}'; known: {known}")]
    Unknown {
        /// The file, or `flag`.
        file: String,
        /// The unknown key.
        key: String,
        /// All known keys.
        known: String,
    },
    /// The file is not valid.
    #[error("{file}: {why}")]
    File {
        /// The name of the file.
        file: String,
        /// The reason why the file is not valid.
        why: String,
    },
}

/// One row of `millm config` and of the README's table.
#[derive(Debug, Clone)]
pub struct Row {
    /// The key in `millm.toml`.
    pub key: &'static str,
    /// The environment variable.
    pub env: &'static str,
    /// The default as text; empty for none.
    pub default: &'static str,
    /// One line for people.
    pub about: &'static str,
    /// The value as text, secrets hidden.
    pub value: String,
    /// The layer that the value comes from.
    pub layer: Layer,
}

/// Defines [`Settings`] from the rows of [`table`].
macro_rules! settings {
    ($($(#[doc = $about:literal])+ $field:ident: $ty:ty = $default:literal, $env:literal;)*) => {
        /// All settings, each of its type.
        #[derive(Debug, Clone)]
        pub struct Settings {
            $($(#[doc = $about])+ pub $field: $ty,)*
            layers: BTreeMap<&'static str, Layer>,
        }

        impl Settings {
            /// The keys in `millm.toml`, each with its environment variable.
            pub(super) const KEYS: &'static [(&'static str, &'static str)] = &[$((stringify!($field), $env),)*];

            /// Parses the values. A key without a text gets its default.
            pub(super) fn resolve(
                texts: &BTreeMap<&'static str, (String, Layer)>,
            ) -> Result<Self, SettingsError> {
                let text = |key: &'static str, default: &'static str| {
                    texts.get(key).map_or((default, Layer::Default), |(text, layer)| (text.as_str(), *layer))
                };
                Ok(Self {
                    $($field: {
                        let (text, layer) = text(stringify!($field), $default);
                        <$ty as SettingValue>::parse(text).map_err(|why| SettingsError::Invalid {
                            name: if layer == Layer::Environment { $env.into() } else { stringify!($field).into() },
                            value: if <$ty as SettingValue>::SECRET { "***".into() } else { text.to_owned() },
                            layer: layer.name(),
                            why,
                        })?
                    },)*
                    layers: texts.iter().map(|(key, (_, layer))| (*key, *layer)).collect(),
                })
            }

            /// Returns one row for each setting, in the order of the table.
            pub fn rows(&self) -> Vec<Row> {
                vec![$(Row {
                    key: stringify!($field),
                    env: $env,
                    default: $default,
                    about: concat!($($about),+).trim_ascii_start(),
                    value: self.$field.show(),
                    layer: self.layers.get(stringify!($field)).copied().unwrap_or(Layer::Default),
                },)*]
            }
        }
    };
}

// A macro is known only to the modules after it.
mod table;

/// The most tokens that `speculate` may draft per step.
///
/// The engine has the same limit, which the runtime checks when it is compiled.
pub const MAX_DRAFT_TOKENS: u32 = 16;

impl Settings {
    /// Reads all layers.
    ///
    /// `file` is the name and the text of `millm.toml`, if it exists. `env` returns the value of an environment
    /// variable. `flags` are values by key.
    ///
    /// # Errors
    ///
    /// Fails if the file is invalid, a key is unknown or a value is not of its setting's type.
    pub fn load(
        file: Option<(&str, &str)>,
        env: impl Fn(&str) -> Option<String>,
        flags: &[(&str, String)],
    ) -> Result<Self, SettingsError> {
        let mut texts = BTreeMap::new();
        if let Some((name, text)) = file {
            for (key, value) in parse_file(name, text)? {
                texts.insert(key, (value, Layer::File));
            }
        }
        for (key, variable) in Self::KEYS {
            if let Some(value) = env(variable).filter(|v| !v.is_empty()) {
                texts.insert(*key, (value, Layer::Environment));
            }
        }
        for (flag, value) in flags {
            let key = known_key(flag).ok_or_else(|| unknown_key("flag", flag))?;
            texts.insert(key, (value.clone(), Layer::Flag));
        }
        let mut settings = Self::resolve(&texts)?;
        settings.find_hub_cache(&env);
        Ok(settings)
    }

    /// Finds the download cache as huggingface_hub does, so that both use the same folder.
    fn find_hub_cache(&mut self, env: &impl Fn(&str) -> Option<String>) {
        let folder = |name: &str| env(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let cache = || folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")));
        if self.hf_home.is_none() {
            self.hf_home = cache().map(|cache| cache.join("huggingface"));
        }
        if self.hf_hub_cache.is_none() {
            self.hf_hub_cache = self.hf_home.as_ref().map(|home| home.join("hub"));
        }
    }

    /// Returns the README's table of settings, in Markdown.
    ///
    /// # Panics
    ///
    /// Never: the defaults are valid.
    pub fn markdown() -> String {
        use std::fmt::Write as _;
        let defaults = Self::load(None, |_| None, &[]).expect("defaults are valid");
        let mut out = String::from("| `millm.toml` | environment | default | |\n|---|---|---|---|\n");
        for row in defaults.rows() {
            let default = if row.default.is_empty() { String::new() } else { format!("`{}`", row.default) };
            let _ = writeln!(out, "| `{}` | `{}` | {default} | {} |", row.key, row.env, row.about);
        }
        out
    }
}

fn known_key(key: &str) -> Option<&'static str> {
    Settings::KEYS.iter().map(|(known, _)| *known).find(|known| *known == key)
}

fn unknown_key(file: &str, key: &str) -> SettingsError {
    let known: Vec<_> = Settings::KEYS.iter().map(|(key, _)| *key).collect();
    SettingsError::Unknown { file: file.into(), key: key.into(), known: known.join(", ") }
}

fn parse_file(name: &str, text: &str) -> Result<Vec<(&'static str, String)>, SettingsError> {
    let invalid = |why: String| SettingsError::File { file: name.into(), why };
    let table: toml::Table = text.parse().map_err(|e: toml::de::Error| invalid(e.to_string()))?;
    table
        .into_iter()
        .map(|(key, value)| {
            let known = known_key(&key).ok_or_else(|| unknown_key(name, &key))?;
            let scalar = |value: &toml::Value| match value {
                toml::Value::String(s) => Ok(s.clone()),
                toml::Value::Table(_) | toml::Value::Array(_) | toml::Value::Datetime(_) => {
                    Err(invalid(format!("'{key}' must be a string, a number or a list of strings")))
                }
                other => Ok(other.to_string()),
            };
            let text = match &value {
                toml::Value::Array(items) => {
                    items.iter().map(scalar).collect::<Result<Vec<_>, _>>()?.join(",")
                }
                other => scalar(other)?,
            };
            Ok((known, text))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env<'a>(pairs: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + 'a {
        move |name| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned())
    }

    #[test]
    fn later_layers_override_earlier_ones() {
        let file = Some(("millm.toml", "port = 9000\nlog_level = 'debug'\nallowed_hosts = ['a', 'b']"));
        let flags = [("log_level", "warn".to_owned())];
        let settings = Settings::load(file, env(&[("PORT", "9001")]), &flags).unwrap();
        assert_eq!(settings.port, Some(9001));
        assert_eq!(settings.log_level, "warn");
        assert_eq!(settings.allowed_hosts, ["a", "b"]);
        let layer = |key| settings.rows().into_iter().find(|r| r.key == key).unwrap().layer;
        assert_eq!(layer("port"), Layer::Environment);
        assert_eq!(layer("log_level"), Layer::Flag);
        assert_eq!(layer("host"), Layer::Default);
    }

    #[test]
    fn invalid_settings_are_named() {
        let error = |file, pairs: &[_]| Settings::load(file, env(pairs), &[]).unwrap_err().to_string();
        assert_eq!(
            error(None, &[("PORT", "many")]),
            "PORT = 'many' (environment): expected a number from 0 to 65535"
        );
        assert!(error(Some(("millm.toml", "prot = 1")), &[]).contains("unknown setting 'prot'"));
        assert!(error(Some(("millm.toml", "port = [")), &[]).starts_with("millm.toml: "));
        assert!(error(None, &[("DATABASE_URL", "mysql://x")]).contains("sqlite://"));
    }

    #[test]
    fn the_hub_cache_is_found_as_huggingface_hub_finds_it() {
        let check = |pairs: &[_], expected: Option<&str>| {
            let settings = Settings::load(None, env(pairs), &[]).unwrap();
            assert_eq!(settings.hf_hub_cache, expected.map(PathBuf::from), "{pairs:?}");
        };
        check(&[], None);
        check(&[("HOME", "/me")], Some("/me/.cache/huggingface/hub"));
        check(&[("HOME", "/me"), ("XDG_CACHE_HOME", "/x")], Some("/x/huggingface/hub"));
        check(&[("HOME", "/me"), ("HF_HOME", "/hf")], Some("/hf/hub"));
        check(&[("HF_HOME", "/hf"), ("HF_HUB_CACHE", "/c")], Some("/c"));
    }

    #[test]
    fn secrets_are_hidden() {
        let pairs = [("HF_TOKEN", "hf_secret"), ("DATABASE_URL", "postgres://me:pass@db/millm")];
        let settings = Settings::load(None, env(&pairs), &[]).unwrap();
        let shown = format!("{settings:?}{:?}", settings.rows());
        assert!(!shown.contains("hf_secret") && !shown.contains(":pass@"), "{shown}");
        assert_eq!(settings.database_url.expose(), "postgres://me:pass@db/millm");
    }
}
