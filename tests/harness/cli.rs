//! The command line, run as a user runs it.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;
use tokio::process::Command;

use super::process::{binary, isolate};
use super::within;

/// Runs `millm` commands against one server.
pub struct Cli {
    url: String,
    folder: PathBuf,
    environment: Vec<(String, String)>,
}

/// The end of a command.
#[derive(Debug)]
pub struct Outcome {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    /// Returns standard output. The command must have succeeded.
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "{}{}", self.stdout, self.stderr);
        self.stdout
    }

    /// Returns the last line of standard output, as JSON.
    pub fn json(&self) -> Value {
        let last = self.stdout.trim_end().lines().last().unwrap_or_default();
        serde_json::from_str(&self.stdout)
            .or_else(|_| serde_json::from_str(last))
            .unwrap_or_else(|e| panic!("{e}: {}{}", self.stdout, self.stderr))
    }
}

impl Cli {
    pub fn new(url: &str, folder: &Path) -> Self {
        Self { url: url.to_owned(), folder: folder.to_owned(), environment: Vec::new() }
    }

    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    pub async fn run(&self, arguments: &[&str]) -> Outcome {
        let mut command = Command::new(binary());
        isolate(&mut command, &self.folder);
        command
            .args(arguments)
            .env("MILLM_SERVER", &self.url)
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let what = format!("millm {}", arguments.join(" "));
        let output = within(&what, command.output()).await.unwrap_or_else(|e| panic!("{what}: {e}"));
        Outcome {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).expect("UTF-8"),
            stderr: String::from_utf8(output.stderr).expect("UTF-8"),
        }
    }
}
