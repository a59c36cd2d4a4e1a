//! Output for people and programs: tables, JSON, and errors with a hint and an exit code.

use std::{fmt, io::Write as _, process::ExitCode};

use anyhow::Result;
use millm_api::{Error, cli::ErrorReport};
use millm_kit::{Reason, ServiceError};
use serde::Serialize;

/// The command line is wrong: exit code 2.
#[derive(Debug)]
pub struct Misuse(pub String);

/// Advice, printed under the error.
#[derive(Debug)]
pub struct Hint(pub String);

/// Problems that stdout shows already, with their summary: exit code 1.
#[derive(Debug)]
pub struct Unwell(pub String);

impl fmt::Display for Unwell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unwell {}

impl fmt::Display for Misuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Misuse {}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Prints a JSON document on a line of its own.
pub fn json(value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string(value)?;
    line(&text)
}

/// Prints a line. A closed pipe, as in `millm list | head`, ends the program without an error.
pub fn line(text: &str) -> Result<()> {
    match writeln!(std::io::stdout().lock(), "{text}") {
        Err(cause) if cause.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => Ok(other?),
    }
}

/// Prints a table. The columns of `right` are aligned to the right.
pub fn table(header: &[&str], right: &[usize], rows: &[Vec<String>]) -> Result<()> {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([header[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let render = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::new();
        for (column, cell) in cells.enumerate() {
            let (width, gap) = (widths[column], if column == 0 { "" } else { "  " });
            if right.contains(&column) {
                text += &format!("{gap}{cell:>width$}");
            } else {
                text += &format!("{gap}{cell:<width$}");
            }
        }
        text.trim_end().to_owned()
    };
    line(&render(&mut header.iter().copied()))?;
    for row in rows {
        line(&render(&mut row.iter().map(String::as_str)))?;
    }
    Ok(())
}

/// Prints the error, with `--json` on stdout too as `{"error": …}`, and returns the exit code.
pub fn failure(error: &anyhow::Error, as_json: bool) -> ExitCode {
    if let Some(Unwell(summary)) = error.downcast_ref() {
        eprintln!("{summary}");
        return ExitCode::FAILURE;
    }
    let service = error.chain().find_map(|cause| cause.downcast_ref::<ServiceError>());
    let misuse = error.downcast_ref::<Misuse>();
    let hint = error.downcast_ref::<Hint>().map(|h| h.0.clone()).or_else(|| service.and_then(hint));
    let message = match (service, misuse) {
        (Some(service), _) => service.message.clone(),
        (None, _) => format!("{error:#}"),
    };
    eprintln!("error: {message}");
    if let Some(hint) = hint {
        eprintln!("hint: {hint}");
    }
    if as_json {
        let reason = if misuse.is_some() { Reason::InvalidArgument } else { Reason::Internal };
        let other = || ServiceError::new(reason, message.clone());
        let mut error = service.map_or_else(|| Error::from(&other()), Error::from);
        if misuse.is_some() {
            error.code = Reason::InvalidArgument.name();
        }
        if json(&ErrorReport { error }).is_err() {
            return ExitCode::FAILURE;
        }
    }
    if misuse.is_some() { ExitCode::from(2) } else { ExitCode::FAILURE }
}

fn hint(error: &ServiceError) -> Option<String> {
    let text = match error.reason {
        Reason::GatedModelNoToken | Reason::InvalidHfToken => {
            "set HF_TOKEN to a token from https://huggingface.co/settings/tokens and try again"
        }
        Reason::RemoteCodeRequired => "add --trust-remote-code to use the native implementation",
        Reason::InsufficientMemory => "add --allow-insufficient-memory to load it all the same",
        Reason::ModelNotFound => "see 'millm list'",
        Reason::ModelInUse => "'millm unload' frees it",
        Reason::ModelDownloadFailed | Reason::HubUnavailable | Reason::ChecksumMismatch => {
            "pull it again: it goes on from the bytes it has"
        }
        Reason::InsufficientDisk => {
            "free some space ('millm rm' removes models), or choose a smaller quantization"
        }
        Reason::HookPointUnknown => "'millm show MODEL --layers' lists the hook points",
        Reason::DatasetNotFound => "see 'millm datasets list'",
        Reason::DatasetAlreadyExists => {
            "see 'millm datasets list', or choose another name with 'millm datasets add --name'"
        }
        Reason::DatasetNotReady => "'millm datasets show NAME' says how far it is",
        Reason::InvalidDatasetPath => {
            "the path is one on the server, under a folder of the setting dataset_dirs"
        }
        Reason::InvalidDataset => {
            "'millm datasets show NAME' lists its columns, 'millm datasets rows NAME' prints rows"
        }
        Reason::TemplateNotFound => "see 'millm templates list'",
        Reason::TemplateAlreadyExists => {
            "choose another name, or remove the old one with 'millm templates rm'"
        }
        Reason::ExtractionNotFound => "see 'millm extractions list'",
        Reason::ExtractionRunning => "'millm extractions cancel ID' stops it",
        Reason::ExtractionFailed => "'millm extractions resume ID' goes on from what is written",
        _ => return None,
    };
    Some(text.to_owned())
}
