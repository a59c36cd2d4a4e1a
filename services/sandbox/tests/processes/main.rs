//! Programs by strangers in real processes: honest ones work as they do in this process, hostile ones end with a
//! reason, and the next request works.

mod dying;
mod grammars;
mod large;
mod prompts;

use std::path::{Path, PathBuf};

use millm_model::{Checkpoint, TokenizerFiles};
use millm_sandbox::{Language, Sandbox};

fn fixtures() -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures")).to_owned()
}

fn files() -> TokenizerFiles {
    Checkpoint::open(&fixtures().join("tiny-millm")).expect("a fixture").tokenizer_files()
}

fn open(files: TokenizerFiles) -> Language {
    Language::open(&Sandbox::beside_tests(), files).expect("opens")
}
