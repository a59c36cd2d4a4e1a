//! The types of settings: how each is parsed from text and displayed.

use std::{fmt, net::IpAddr, path::PathBuf, str::FromStr, time::Duration};

use jiff::SignedDuration;
use url::Url;

use crate::secret::Secret;

/// A type of settings.
pub trait SettingValue: Sized {
    /// True if the value is hidden, also in errors.
    const SECRET: bool = false;
    /// Parses the text of a value.
    ///
    /// # Errors
    ///
    /// Returns what was expected, to follow "NAME = 'text': ".
    fn parse(text: &str) -> Result<Self, String>;
    /// Returns the value as text that [`SettingValue::parse`] accepts, secrets hidden.
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

impl SettingValue for Vec<PathBuf> {
    fn parse(text: &str) -> Result<Self, String> {
        Ok(text.split(',').map(str::trim).filter(|s| !s.is_empty()).map(PathBuf::from).collect())
    }
    fn show(&self) -> String {
        let paths: Vec<_> = self.iter().map(SettingValue::show).collect();
        paths.join(",")
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
        let span = time_span(text.trim()).and_then(|span| Duration::try_from(span).ok());
        span.ok_or_else(|| {
            "expected a time of 0 or more: seconds such as 30, or with units such as 5m".to_owned()
        })
    }
    fn show(&self) -> String {
        self.as_secs_f64().to_string()
    }
}

/// Parses seconds (`90`, `1.5`) or numbers with units (`500ms`, `5m`, `1h30m`).
fn time_span(text: &str) -> Option<SignedDuration> {
    if text.contains(char::is_whitespace) {
        return None;
    }
    match text.parse::<f64>() {
        Ok(seconds) => SignedDuration::try_from_secs_f64(seconds).ok(),
        Err(_) => text.parse().ok(),
    }
}

/// The time for which an unused model stays loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepAlive {
    /// Until it is unloaded on request, or evicted.
    Forever,
    /// For this time after its last use.
    For(Duration),
}

impl SettingValue for KeepAlive {
    fn parse(text: &str) -> Result<Self, String> {
        match text.trim() {
            "" => Ok(Self::Forever),
            // Any negative time means forever, as in Ollama.
            text if text.starts_with('-') && time_span(text).is_some() => Ok(Self::Forever),
            text => Duration::parse(text).map(Self::For).map_err(|why| why + ", or -1 for forever"),
        }
    }
    fn show(&self) -> String {
        match self {
            Self::Forever => "-1".to_owned(),
            Self::For(time) => time.show(),
        }
    }
}

/// The device that models shall run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first GPU if this build supports it, else the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU with this number.
    Cuda(u32),
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.strip_prefix("cuda:").map(str::parse);
        match (text, number) {
            ("auto", _) => Ok(Self::Auto),
            ("cpu", _) => Ok(Self::Cpu),
            ("cuda", _) => Ok(Self::Cuda(0)),
            (_, Some(Ok(number))) => Ok(Self::Cuda(number)),
            _ => Err("expected auto, cpu, cuda, or a GPU's number such as cuda:1".to_owned()),
        }
    }
}

impl SettingValue for DeviceChoice {
    fn parse(text: &str) -> Result<Self, String> {
        text.parse()
    }
    fn show(&self) -> String {
        match self {
            Self::Auto => "auto".to_owned(),
            Self::Cpu => "cpu".to_owned(),
            Self::Cuda(number) => format!("cuda:{number}"),
        }
    }
}

/// The CPU kernels that models run with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KernelChoice {
    /// The fastest that the CPU supports.
    Auto,
    /// Plain Rust, compiled for the build's target.
    Portable,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512 with VNNI.
    Avx512,
    /// AVX-512, and AMX for prefill.
    Amx,
}

impl KernelChoice {
    const NAMES: [(&'static str, Self); 5] = [
        ("auto", Self::Auto),
        ("portable", Self::Portable),
        ("avx2", Self::Avx2),
        ("avx512", Self::Avx512),
        ("amx", Self::Amx),
    ];
}

impl FromStr for KernelChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let choice = Self::NAMES.into_iter().find(|(name, _)| *name == text.trim());
        choice
            .map(|(_, choice)| choice)
            .ok_or_else(|| "expected auto, portable, avx2, avx512 or amx".to_owned())
    }
}

impl SettingValue for KernelChoice {
    fn parse(text: &str) -> Result<Self, String> {
        text.parse()
    }
    fn show(&self) -> String {
        let name = Self::NAMES.into_iter().find(|(_, choice)| choice == self);
        name.map_or_else(String::new, |(name, _)| name.to_owned())
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

/// The address of a database: `sqlite://path`, `sqlite::memory:` or `postgres://…`. It displays without its password.
#[derive(Clone)]
pub struct DatabaseUrl(Secret);

impl DatabaseUrl {
    /// Returns the address with its password. Only the code that connects may call this.
    pub fn expose(&self) -> &str {
        self.0.expose()
    }

    /// Returns whether the database is PostgreSQL; otherwise it is SQLite.
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

/// The format of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Text for people.
    Console,
    /// One JSON object a line.
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
        for (text, seconds) in
            [("30", 30.0), ("0", 0.0), ("1.5", 1.5), ("5m", 300.0), ("1h30m", 5400.0), ("1.5h", 5400.0)]
        {
            assert_eq!(parse(text), Some(seconds), "{text}");
        }
        assert_eq!(parse("500ms"), Some(0.5));
        for text in ["", "m", "-1", "5x", "5m3", "1e400", "99999999999999999999h", "5 m", "NaN", "5é"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn lists_of_paths() {
        let parse = |text| Vec::<PathBuf>::parse(text).unwrap();
        assert_eq!(parse(" /data , ./more,"), [PathBuf::from("/data"), PathBuf::from("./more")]);
        assert!(parse("").is_empty());
        assert_eq!(parse("/a,/b").show(), "/a,/b");
    }

    #[test]
    fn kernels_by_name() {
        for text in ["auto", "portable", "avx2", "avx512", "amx"] {
            assert_eq!(KernelChoice::parse(text).map(|kernels| kernels.show()), Ok(text.to_owned()));
        }
        for text in ["", "AVX2", "avx", "sse"] {
            assert!(KernelChoice::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn devices_by_name() {
        for text in ["auto", "cpu", "cuda:0", "cuda:12"] {
            assert_eq!(DeviceChoice::parse(text).map(|device| device.show()), Ok(text.to_owned()));
        }
        assert_eq!(DeviceChoice::parse("cuda"), Ok(DeviceChoice::Cuda(0)));
        for text in ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "cpu:0"] {
            assert!(DeviceChoice::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn keep_alive_is_a_time_or_forever() {
        assert_eq!(KeepAlive::parse(""), Ok(KeepAlive::Forever));
        assert_eq!(KeepAlive::parse("-1"), Ok(KeepAlive::Forever));
        assert_eq!(KeepAlive::parse("-1m"), Ok(KeepAlive::Forever));
        assert_eq!(KeepAlive::parse("0"), Ok(KeepAlive::For(Duration::ZERO)));
        assert_eq!(KeepAlive::parse("5m"), Ok(KeepAlive::For(Duration::from_secs(300))));
        assert!(KeepAlive::parse("soon").is_err() && KeepAlive::parse("-").is_err());
        assert_eq!(KeepAlive::parse(&KeepAlive::Forever.show()), Ok(KeepAlive::Forever));
    }

    #[test]
    fn booleans_in_several_spellings() {
        assert_eq!((bool::parse("True"), bool::parse("0")), (Ok(true), Ok(false)));
        assert!(bool::parse("").is_err());
    }
}
