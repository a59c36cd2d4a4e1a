//! The question before something is removed.

use std::io::{IsTerminal as _, Write as _};

use anyhow::{Result, bail};

use crate::output::Misuse;

/// Asks whether `what` may be removed; `name` is for the error.
///
/// # Errors
///
/// [`Misuse`] when nobody can be asked: stdin is no terminal, or the output is for programs.
pub fn removal(name: &str, what: &str, json: bool) -> Result<bool> {
    if json || !std::io::stdin().is_terminal() {
        bail!(Misuse(format!("removing '{name}' needs --yes when nobody can be asked")));
    }
    eprint!("Remove {what}? [y/N] ");
    std::io::stderr().flush()?;
    let said_yes = read_yes()?;
    if !said_yes {
        eprintln!("kept");
    }
    Ok(said_yes)
}

/// Reads a line and returns whether it says yes.
pub fn read_yes() -> std::io::Result<bool> {
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
