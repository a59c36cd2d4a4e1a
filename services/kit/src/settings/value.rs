//! The types a setting can have: how each is read from text and shown.

use std::{fmt, net::IpAddr, path::PathBuf, time::Duration};

use url::Url;

use crate::Secret;

pub trait SettingValue: Sized {
    /// Never shown, not even in an error.
    const SECRET: bool = false;
    /// The error continues "NAME = 'text': ".
    fn parse(text: &str) -> Result<Self, String>;
    fn show(&self) -> String;
}

macro_rules! numbers {
    ($($ty:ty),*) => {$(
        impl SettingValue for $ty {
            fn parse(text: &str) -> Result<Self, String> {
                text.trim().parse().map_err(|_| format!("expected a number from 0 to {}", <$ty>::MAX))
            }
            fn show(&self) -> String {
                self.to_string()
            }
        }
    )*};
}
numbers!(u16, u32);

impl<T: SettingValue> SettingValue for Option<T> {
    const SECRET: bool = T::SECRET;
    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() { Ok(None) } else { T::parse(text).map(Some) }
    }
    fn show(&self) -> String {
        self.as_ref().map(SettingValue::show).unwrap_or_default()
    }
}

impl SettingValue for IpAddr {
    fn parse(text: &str) -> Result<Self, String> {
        if text == "localhost" {
            return Ok(IpAddr::from([127, 0, 0, 1]));
        }
        text.parse().map_err(|_| "expected an IP address such as 127.0.0.1 or 0.0.0.0".to_owned())
    }
    fn show(&self) -> String {
        self.to_string()
    }
}

impl SettingValue for String {
    fn parse(text: &str) -> Result<Self, String> {
        Ok(text.to_owned())
    }
    fn show(&self) -> String {
        self.clone()
    }
}

impl SettingValue for Vec<String> {
    fn parse(text: &str) -> Result<Self, String> {
        Ok(text.split(',').map(str::trim).filter(|s| !s.is_empty()).map(str::to_owned).collect())
    }
    fn show(&self) -> String {
        self.join(",")
    }
}

impl SettingValue for PathBuf {
    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() { Err("expected a path".to_owned()) } else { Ok(text.into()) }
    }
    fn show(&self) -> String {
        self.display().to_string()
    }
}

impl SettingValue for Duration {
    fn parse(text: &str) -> Result<Self, String> {
        let seconds: f64 = text.trim().parse().map_err(|_| "expected seconds".to_owned())?;
        Duration::try_from_secs_f64(seconds).map_err(|_| "expected seconds, 0 or more".to_owned())
    }
    fn show(&self) -> String {
        self.as_secs_f64().to_string()
    }
}

impl SettingValue for Url {
    fn parse(text: &str) -> Result<Self, String> {
        let url = Url::parse(text).map_err(|e| format!("expected a URL: {e}"))?;
        if matches!(url.scheme(), "http" | "https") && url.has_host() {
            Ok(url)
        } else {
            Err("expected an http:// or https:// URL".to_owned())
        }
    }
    fn show(&self) -> String {
        self.to_string()
    }
}

impl SettingValue for Secret {
    const SECRET: bool = true;
    fn parse(text: &str) -> Result<Self, String> {
        Secret::new(text).ok_or_else(|| "expected a token".to_owned())
    }
    fn show(&self) -> String {
        self.to_string()
    }
}

/// `sqlite://path`, `sqlite::memory:` or `postgres://…`; shown without its password.
#[derive(Clone)]
pub struct DatabaseUrl(Secret);

impl DatabaseUrl {
    pub fn expose(&self) -> &str {
        self.0.expose()
    }

    pub fn is_postgres(&self) -> bool {
        self.expose().starts_with("postgres")
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.show())
    }
}

impl SettingValue for DatabaseUrl {
    const SECRET: bool = true;
    fn parse(text: &str) -> Result<Self, String> {
        let known = ["sqlite:", "postgres://", "postgresql://"];
        match Secret::new(text) {
            Some(url) if known.iter().any(|scheme| text.starts_with(scheme)) => Ok(Self(url)),
            _ => Err("expected sqlite://path or postgres://user@host/database".to_owned()),
        }
    }
    fn show(&self) -> String {
        match Url::parse(self.expose()) {
            Ok(mut url) if url.password().is_some() => {
                let _ = url.set_password(Some("***"));
                url.to_string()
            }
            _ => self.expose().to_owned(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Console,
    Json,
}

impl SettingValue for LogFormat {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "console" => Ok(Self::Console),
            "json" => Ok(Self::Json),
            _ => Err("expected console or json".to_owned()),
        }
    }
    fn show(&self) -> String {
        match self {
            Self::Console => "console".to_owned(),
            Self::Json => "json".to_owned(),
        }
    }
}
