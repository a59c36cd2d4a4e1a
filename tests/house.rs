//! The house rules that the compiler does not hold: who may import whom, and what a source file looks like.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use cargo_metadata::{DependencyKind, MetadataCommand};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace").to_owned()
}

/// Each crate of the house with what it may import of the house.
const MAY_IMPORT: [(&str, &[&str]); 11] = [
    ("millm-proto", &[]),
    ("millm-kit", &["millm-proto"]),
    ("millm-model", &[]),
    ("millm-engine", &["millm-model"]),
    ("millm-sandbox", &["millm-model"]),
    ("millm-catalog", &["millm-proto", "millm-kit"]),
    ("millm-downloader", &["millm-proto", "millm-kit", "millm-model"]),
    ("millm-runtime", &["millm-proto", "millm-kit", "millm-model", "millm-engine", "millm-sandbox"]),
    ("millm-gateway", &["millm-proto", "millm-kit"]),
    (
        "millm",
        &[
            "millm-proto",
            "millm-kit",
            "millm-sandbox",
            "millm-catalog",
            "millm-downloader",
            "millm-runtime",
            "millm-gateway",
        ],
    ),
    ("fake-hub", &[]),
];

/// What only these crates may import from outside.
const ONLY_IN: [(&str, &[&str]); 8] = [
    ("sqlx", &["millm-catalog"]),
    ("candle-core", &["millm-model", "millm-engine"]),
    ("clap", &["millm", "fake-hub"]),
    // A stranger's program: never in the server's own process.
    ("tokenizers", &["millm-sandbox"]),
    ("minijinja", &["millm-sandbox"]),
    ("llguidance", &["millm-sandbox"]),
    ("reqwest", &["millm-downloader"]),
    ("rust-embed", &["millm-gateway"]),
];

/// `model`, `engine` and `sandbox` know no protobuf, no HTTP, no SQL, no async.
const PURE: [&str; 3] = ["millm-model", "millm-engine", "millm-sandbox"];
const IMPURE: [&str; 9] = ["prost", "tonic", "axum", "http", "hyper", "reqwest", "sqlx", "tokio", "futures"];

fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let metadata = MetadataCommand::new()
        .manifest_path(root().join("Cargo.toml"))
        .no_deps()
        .exec()
        .expect("cargo metadata runs where cargo built this test");
    let of = |package: &cargo_metadata::Package| {
        let normal = package.dependencies.iter().filter(|d| d.kind == DependencyKind::Normal);
        (package.name.to_string(), normal.map(|d| d.name.clone()).collect())
    };
    metadata.packages.iter().map(of).collect()
}

#[test]
fn crates_import_only_what_they_may() {
    let dependencies = dependencies();
    let house: BTreeSet<&str> = MAY_IMPORT.iter().map(|(name, _)| *name).collect();
    for (name, imports) in &dependencies {
        if name == "millm-tests" {
            continue;
        }
        let (_, allowed) =
            MAY_IMPORT.iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("{name} has no rule"));
        for import in imports {
            let (import, imports_house) = (import.as_str(), house.contains(import.as_str()));
            assert!(!imports_house || allowed.contains(&import), "{name} must not import {import}");
            assert!(
                !PURE.contains(&name.as_str()) || !IMPURE.contains(&import),
                "{name} must not know {import}"
            );
            if let Some((_, only)) = ONLY_IN.iter().find(|(n, _)| *n == import) {
                assert!(only.contains(&name.as_str()), "{import} belongs to {only:?}, not to {name}");
            }
        }
    }
    assert_eq!(dependencies.len(), MAY_IMPORT.len() + 1, "every crate has a rule");
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    const SKIPPED: [&str; 8] =
        ["target", "node_modules", "dist", "gen", "fixtures", ".git", ".venv", "test-results"];
    for entry in fs::read_dir(folder).expect("the workspace can be read") {
        let path = entry.expect("the workspace can be read").path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if path.is_dir() && !SKIPPED.contains(&name) {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| ["rs", "ts", "tsx", "py"].iter().any(|x| e == *x)) {
            found.push(path);
        }
    }
}

#[test]
fn files_say_what_they_are_and_stay_short() {
    let mut found = Vec::new();
    sources(&root(), &mut found);
    assert!(found.len() > 50, "the walk found {} sources", found.len());
    let mut wrong = Vec::new();
    for path in found {
        let text = fs::read_to_string(&path).expect("sources are UTF-8");
        let shown = path.strip_prefix(root()).unwrap_or(&path).display().to_string();
        let lines = text.lines().count();
        if lines > 500 {
            wrong.push(format!("{shown}: {lines} lines, at most 500"));
        }
        if shown.ends_with(".rs") && !text.starts_with("//!") {
            wrong.push(format!("{shown}: does not begin with //!"));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn the_settings_table_of_the_readme_is_the_codes() {
    let readme = fs::read_to_string(root().join("README.md")).expect("README.md");
    assert!(
        readme.contains(millm_kit::Settings::markdown().trim()),
        "README.md: replace the settings table by the output of `millm config --markdown`"
    );
}
