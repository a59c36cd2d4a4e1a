//! Completions and man pages, which a package installs beside the program.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::harness::Cli;

/// Frequent commands.
const COMMANDS: [&str; 5] = ["pull", "load", "run", "serve", "doctor"];

/// Returns a command line without a server, and with a setting that is not valid.
fn offline(folder: &Path) -> Cli {
    Cli::new("http://127.0.0.1:1", folder).env("PORT", "no number")
}

#[tokio::test]
async fn every_shell_gets_a_completion_script() {
    let folder = tempfile::tempdir().expect("a folder");
    let cli = offline(folder.path());
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = cli.run(&["completions", shell]).await.ok();
        for command in COMMANDS {
            assert!(script.contains(command), "{shell} completes no {command}");
        }
    }
    assert_eq!(cli.run(&["completions", "no-shell"]).await.code, 2);
}

#[tokio::test]
async fn bash_completes_commands_and_options() {
    let folder = tempfile::tempdir().expect("a folder");
    let script = offline(folder.path()).run(&["completions", "bash"]).await.ok();
    let path = folder.path().join("millm.bash");
    fs::write(&path, script).expect("it can be written");
    let completed = |words: &[&str]| {
        let line = words.join(" ");
        let last = words.last().expect("a word");
        let code = format!(
            "source '{}'; COMP_WORDS=({line}); COMP_CWORD={}; _millm millm '{last}' millm; echo \"${{COMPREPLY[*]}}\"",
            path.display(),
            words.len() - 1
        );
        let output = Command::new("bash").args(["-c", &code]).output().expect("bash runs");
        String::from_utf8(output.stdout).expect("UTF-8").trim().to_owned()
    };
    assert_eq!(completed(&["millm", "pu"]), "pull");
    assert_eq!(completed(&["millm", "pull", "--dry"]), "--dry-run");
}

#[tokio::test]
async fn every_command_gets_a_man_page() {
    let folder = tempfile::tempdir().expect("a folder");
    let pages = folder.path().join("man/man1");
    let shown = pages.to_str().expect("UTF-8");
    offline(folder.path()).run(&["man", "--dir", shown]).await.ok();
    let page = |name: &str| {
        let path = pages.join(format!("{name}.1"));
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    assert!(page("millm").contains(".SH SUBCOMMANDS"));
    for command in COMMANDS {
        let text = page(&format!("millm-{command}"));
        assert!(text.contains(".TH millm-") && text.contains(".SH SYNOPSIS"), "{command}: {text}");
    }
    assert!(!pages.join("millm-man.1").exists(), "a hidden command has a page");
    let file = folder.path().join("file");
    fs::write(&file, "").expect("it can be written");
    let refused = offline(folder.path()).run(&["man", "--dir", file.to_str().expect("UTF-8")]).await;
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("cannot write man pages to"), "{}", refused.stderr);
}
