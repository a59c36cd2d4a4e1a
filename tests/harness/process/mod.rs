//! One child process: its log is a file, and it is killed when dropped.

pub mod tree;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use tokio::process::{Child, Command};

use crate::harness::within;

/// A running `millm`, which is killed on drop.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

/// The command of a process, which can be started several times.
#[derive(Clone)]
pub struct Launch {
    pub name: String,
    /// A command that runs the command that follows it; usually none.
    pub inside: Vec<String>,
    pub arguments: Vec<String>,
    pub environment: Vec<(String, String)>,
    /// The folder in which the process runs and writes its log.
    pub folder: PathBuf,
}

impl Process {
    pub fn start(launch: &Launch) -> Self {
        let log = launch.folder.join(format!("{}.log", launch.name));
        let file = File::options().create(true).append(true).open(&log).expect("the folder is ours");
        let errors = file.try_clone().expect("one more descriptor");
        let words = [binary().into_os_string()];
        let mut words = launch.inside.iter().map(Into::into).chain(words);
        let mut command = Command::new(words.next().expect("at least the binary"));
        isolate(&mut command, &launch.folder);
        command
            .args(words)
            .args(&launch.arguments)
            .envs(launch.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(errors)
            .kill_on_drop(true);
        let child = command.spawn().unwrap_or_else(|e| panic!("{}: {e}", binary().display()));
        Self { name: launch.name.clone(), child, log }
    }

    pub fn id(&self) -> u32 {
        self.child.id().expect("it has not been waited for")
    }

    /// Returns the command line as every user of the machine can read it.
    pub fn command_line(&self) -> String {
        let words = std::fs::read(format!("/proc/{}/cmdline", self.id())).expect("it runs");
        String::from_utf8_lossy(&words).replace('\0', " ")
    }

    /// Sends SIGKILL and waits for the end.
    pub async fn kill(&mut self) {
        self.child.kill().await.expect("it is ours to kill");
    }

    /// Sends SIGTERM and returns at once.
    pub fn terminate(&self) {
        let id = i32::try_from(self.id()).expect("ids are small");
        // SAFETY: sends a signal to a child that has not been waited for, so its process id is not reused.
        let sent = unsafe { libc::kill(id, libc::SIGTERM) };
        assert_eq!(sent, 0, "SIGTERM to {}", self.name);
    }

    /// Waits for the end.
    pub async fn ended(&mut self) -> ExitStatus {
        let what = format!("the end of {}", self.name);
        within(&what, self.child.wait()).await.expect("it is our child")
    }

    /// Panics with the log if the process has ended.
    pub fn assert_running(&mut self) {
        if let Ok(Some(status)) = self.child.try_wait() {
            panic!("{} ended with {status}:\n{}", self.name, self.log());
        }
    }

    /// Returns the whole log, including that of earlier starts.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(40)..];
            eprintln!("--- the end of {}'s log ---\n{}", self.name, last.join("\n"));
        }
    }
}

/// Returns the path of the `millm` under test: MILLM_BIN, or else the one beside the tests.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("MILLM_BIN") {
        return path.into();
    }
    let test = std::env::current_exe().expect("tests have a path");
    let built = test.ancestors().nth(2).expect("target/PROFILE/deps/test").join("millm");
    assert!(built.exists(), "{} is missing: cargo build -p millm", built.display());
    built
}

/// Clears the environment of a `millm`, except for the variables that every program needs.
pub fn isolate(command: &mut Command, folder: &Path) {
    command.env_clear().current_dir(folder).env("HOME", folder);
    for name in ["PATH", "LLVM_PROFILE_FILE", "RUST_BACKTRACE"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
}
