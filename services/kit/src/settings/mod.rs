//! Settings: defaults < `millm.toml` < environment < flags, each parsed once into its type.
//!
//! One table (below) makes the struct, reads every layer, prints `millm config` and the README's table.

mod value;

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, time::Duration};

use url::Url;

use crate::Secret;
pub use value::{DatabaseUrl, KeepAlive, LogFormat, SettingValue};

/// Where a value came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Layer {
    Default,
    File,
    Environment,
    Flag,
}

impl Layer {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::File => "millm.toml",
            Self::Environment => "environment",
            Self::Flag => "flag",
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("{name} = '{value}' ({layer}): {why}")]
    Invalid { name: String, value: String, layer: &'static str, why: String },
    #[error("{file}: unknown setting '{key}'; known: {known}")]
    Unknown { file: String, key: String, known: String },
    #[error("{file}: {why}")]
    File { file: String, why: String },
}

/// One row of `millm config` and of the README's table.
#[derive(Debug, Clone)]
pub struct Row {
    /// As in `millm.toml`.
    pub key: &'static str,
    pub env: &'static str,
    pub default: &'static str,
    pub about: &'static str,
    /// As it prints: secrets hidden.
    pub value: String,
    pub layer: Layer,
}

macro_rules! settings {
    ($($(#[doc = $about:literal])+ $field:ident: $ty:ty = $default:literal, $env:literal;)*) => {
        /// Every setting, validated.
        #[derive(Debug, Clone)]
        pub struct Settings {
            $($(#[doc = $about])+ pub $field: $ty,)*
            layers: BTreeMap<&'static str, Layer>,
        }

        impl Settings {
            const KEYS: &'static [(&'static str, &'static str)] = &[$((stringify!($field), $env),)*];

            fn resolve(texts: &BTreeMap<&'static str, (String, Layer)>) -> Result<Self, SettingsError> {
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

            /// One row per setting, in the table's order.
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

settings! {
    /// Address to listen on. Anything but loopback puts an unprotected server on the network.
    host: IpAddr = "127.0.0.1", "HOST";
    /// Port to listen on; empty: the gateway's 8000, or alone 8101 catalog, 8102 downloader, 8103 runtime.
    port: Option<u16> = "", "PORT";
    /// `sqlite://path` or `postgres://…`.
    database_url: DatabaseUrl = "sqlite://./data/millm.db", "DATABASE_URL";
    /// Where models are kept.
    model_cache_dir: PathBuf = "./data/models", "MODEL_CACHE_DIR";
    /// Hugging Face token for gated repositories; kept in memory only.
    hf_token: Option<Secret> = "", "HF_TOKEN";
    /// The hub.
    hf_endpoint: Url = "https://huggingface.co", "HF_ENDPOINT";
    /// Where Hugging Face's own tools keep theirs; empty: `~/.cache/huggingface`.
    hf_home: Option<PathBuf> = "", "HF_HOME";
    /// What they have downloaded: used instead of downloading it again, never written; empty: `hub` in `hf_home`.
    hf_hub_cache: Option<PathBuf> = "", "HF_HUB_CACHE";
    /// Model to load at start, by handle or id.
    auto_load_model: Option<String> = "", "AUTO_LOAD_MODEL";
    /// `error`, `warn`, `info`, `debug`, `trace`, or a filter such as `millm_downloader=debug,info`.
    log_level: String = "info", "LOG_LEVEL";
    /// `console` or `json`.
    log_format: LogFormat = "console", "LOG_FORMAT";
    /// The catalog, when it runs elsewhere.
    catalog_url: Option<Url> = "", "MILLM_CATALOG_URL";
    /// The downloader, when it runs elsewhere.
    downloader_url: Option<Url> = "", "MILLM_DOWNLOADER_URL";
    /// The runtime, when it runs elsewhere.
    runtime_url: Option<Url> = "", "MILLM_RUNTIME_URL";
    /// Host names besides loopback and HOST that requests may name, comma-separated; `*` allows all.
    allowed_hosts: Vec<String> = "", "MILLM_ALLOWED_HOSTS";
    /// Web origins besides the own that may call, comma-separated; `*` allows all.
    allowed_origins: Vec<String> = "", "MILLM_ALLOWED_ORIGINS";
    /// Tokens a request may hold, prompt and answer; at most what the model was made for.
    context_length: u32 = "4096", "MILLM_CONTEXT_LENGTH";
    /// Requests that run at once; more wait.
    parallel_requests: u32 = "8", "MILLM_PARALLEL_REQUESTS";
    /// Tokens the KV cache holds for all requests together; 0: a whole context for each that runs.
    kv_cache_tokens: u32 = "0", "MILLM_KV_CACHE_TOKENS";
    /// Tokens guessed ahead from a text's own repetitions, at most 16; the text is the same, and comes sooner where it repeats itself.
    speculate: u32 = "0", "MILLM_SPECULATE";
    /// Requests that may wait.
    queue_size: u32 = "64", "MILLM_QUEUE_SIZE";
    /// Models in memory at once. The least recently used leaves for another, sooner when memory is short.
    max_loaded_models: u32 = "1", "MILLM_MAX_LOADED_MODELS";
    /// Load a finished model when a request names it; the request waits.
    load_on_demand: bool = "false", "MILLM_LOAD_ON_DEMAND";
    /// How long a request waits for its model to be loaded, in seconds or such as 5m.
    load_timeout: Duration = "300", "MILLM_LOAD_TIMEOUT";
    /// How long a model stays loaded that nobody uses, in seconds or such as 5m; -1: for ever.
    keep_alive: KeepAlive = "-1", "MILLM_KEEP_ALIVE";
    /// Threads for inference and quantizing; 0: one per core.
    threads: u32 = "0", "MILLM_THREADS";
    /// How long unloading and shutting down wait for running requests, in seconds.
    drain_timeout: Duration = "30", "MILLM_DRAIN_TIMEOUT";
    /// Downloads at once; more queue.
    max_concurrent_downloads: u32 = "1", "MILLM_MAX_CONCURRENT_DOWNLOADS";
    /// Tries after a failed one, with growing pauses.
    download_retries: u32 = "3", "MILLM_DOWNLOAD_RETRIES";
    /// A transfer without a byte for so many seconds is stalled and tried again.
    download_stall_timeout: Duration = "30", "MILLM_DOWNLOAD_STALL_TIMEOUT";
    /// A hub that keeps failing is left alone for so many seconds before it is tried again.
    hub_pause: Duration = "30", "MILLM_HUB_PAUSE";
}

impl Settings {
    /// `file`: `millm.toml`'s text with its name, when there is one. `env`: the environment. `flags`: by key.
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
            let key = known(flag).ok_or_else(|| unknown("flag", flag))?;
            texts.insert(key, (value.clone(), Layer::Flag));
        }
        let mut settings = Self::resolve(&texts)?;
        settings.find_hub_cache(&env);
        Ok(settings)
    }

    /// As huggingface_hub finds it, so that both mean the same folder.
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

    /// The README's table.
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

fn known(key: &str) -> Option<&'static str> {
    Settings::KEYS.iter().map(|(known, _)| *known).find(|known| *known == key)
}

fn unknown(file: &str, key: &str) -> SettingsError {
    let known: Vec<_> = Settings::KEYS.iter().map(|(key, _)| *key).collect();
    SettingsError::Unknown { file: file.into(), key: key.into(), known: known.join(", ") }
}

fn parse_file(name: &str, text: &str) -> Result<Vec<(&'static str, String)>, SettingsError> {
    let invalid = |why: String| SettingsError::File { file: name.into(), why };
    let table: toml::Table = text.parse().map_err(|e: toml::de::Error| invalid(e.to_string()))?;
    table
        .into_iter()
        .map(|(key, value)| {
            let known = known(&key).ok_or_else(|| unknown(name, &key))?;
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
    fn later_layers_win() {
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
    fn mistakes_are_named() {
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
    fn the_hub_cache_is_where_huggingface_hub_has_it() {
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
