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

impl SettingValue for bool {
    fn parse(text: &str) -> Result<Self, String> {
        match text.trim().to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => Ok(true),
            "false" | "0" | "no" | "off" => Ok(false),
            _ => Err("expected true or false".to_owned()),
        }
    }
    fn show(&self) -> String {
        self.to_string()
    }
}

impl SettingValue for Duration {
    fn parse(text: &str) -> Result<Self, String> {
        span(text.trim()).ok_or_else(|| "expected seconds, 0 or more, or such as 5m".to_owned())
    }
    fn show(&self) -> String {
        self.as_secs_f64().to_string()
    }
}

/// `90`, `1.5`, `500ms`, `5m`, `1h30m`.
fn span(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.parse() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let (mut total, mut rest) = (Duration::ZERO, text);
    while !rest.is_empty() {
        let (number, unit) = rest.split_at(rest.find(|c: char| c.is_ascii_alphabetic())?);
        let end = unit.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(unit.len());
        let seconds = match &unit[..end] {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        let part = Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()?;
        total = total.checked_add(part)?;
        rest = &unit[end..];
    }
    (!text.is_empty()).then_some(total)
}

/// How long something is kept that nobody uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepAlive {
    Forever,
    For(Duration),
}

impl SettingValue for KeepAlive {
    fn parse(text: &str) -> Result<Self, String> {
        match text.trim() {
            "" => Ok(Self::Forever),
            // Any negative time, as people know it from other servers.
            text if text.strip_prefix('-').is_some_and(|text| span(text).is_some()) => Ok(Self::Forever),
            text => Duration::parse(text).map(Self::For).map_err(|why| why + ", or -1 for ever"),
        }
    }
    fn show(&self) -> String {
        match self {
            Self::Forever => "-1".to_owned(),
            Self::For(time) => time.show(),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_in_seconds_or_with_units() {
        let parse = |text| Duration::parse(text).ok().map(|time| time.as_secs_f64());
        for (text, seconds) in [("30", 30.0), ("0", 0.0), ("1.5", 1.5), ("5m", 300.0), ("1h30m", 5400.0)] {
            assert_eq!(parse(text), Some(seconds), "{text}");
        }
        assert_eq!(parse("500ms"), Some(0.5));
        for text in ["", "m", "-1", "5x", "5m3", "1e400", "99999999999999999999h", "5 m", "NaN", "5é"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn keeping_for_ever_or_not() {
        assert_eq!(KeepAlive::parse(""), Ok(KeepAlive::Forever));
        assert_eq!(KeepAlive::parse("-1"), Ok(KeepAlive::Forever));
        assert_eq!(KeepAlive::parse("-1m"), Ok(KeepAlive::Forever));
        assert_eq!(KeepAlive::parse("0"), Ok(KeepAlive::For(Duration::ZERO)));
        assert_eq!(KeepAlive::parse("5m"), Ok(KeepAlive::For(Duration::from_secs(300))));
        assert!(KeepAlive::parse("soon").is_err() && KeepAlive::parse("-").is_err());
        assert_eq!(KeepAlive::parse(&KeepAlive::Forever.show()), Ok(KeepAlive::Forever));
    }

    #[test]
    fn yes_or_no() {
        assert_eq!((bool::parse("True"), bool::parse("0")), (Ok(true), Ok(false)));
        assert!(bool::parse("").is_err());
    }
}
