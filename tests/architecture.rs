//! Rules of the source tree that the compiler does not check: the imports between crates, no circles among the files
//! of a crate, and the form of source files and folders.

mod modules;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use cargo_metadata::{DependencyKind, MetadataCommand};

use self::modules::Crate;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace").to_owned()
}

/// Each crate of the workspace, and the others that it may import.
const MAY_IMPORT: [(&str, &[&str]); 14] = [
    ("millm-proto", &[]),
    ("millm-kit", &["millm-proto"]),
    ("millm-api", &["millm-proto", "millm-kit"]),
    ("millm-model", &[]),
    ("millm-engine", &["millm-model"]),
    ("millm-extraction", &["millm-model", "millm-engine"]),
    ("millm-sandbox", &["millm-model"]),
    ("millm-dataset", &[]),
    ("millm-catalog", &["millm-proto", "millm-kit"]),
    ("millm-downloader", &["millm-proto", "millm-kit", "millm-model", "millm-dataset"]),
    (
        "millm-runtime",
        &[
            "millm-proto",
            "millm-kit",
            "millm-model",
            "millm-engine",
            "millm-sandbox",
            "millm-dataset",
            "millm-extraction",
        ],
    ),
    ("millm-gateway", &["millm-proto", "millm-kit", "millm-api"]),
    (
        "millm",
        &[
            "millm-proto",
            "millm-kit",
            "millm-api",
            "millm-sandbox",
            "millm-catalog",
            "millm-downloader",
            "millm-runtime",
            "millm-gateway",
        ],
    ),
    ("fake-hub", &[]),
];

/// Crates from outside that only these crates may import.
const ONLY_IN: [(&str, &[&str]); 10] = [
    ("sqlx", &["millm-catalog"]),
    ("parquet", &["millm-dataset"]),
    ("csv", &["millm-dataset"]),
    ("candle-core", &["millm-model", "millm-engine"]),
    ("clap", &["millm", "fake-hub"]),
    // They run programs by strangers, which must not happen in the server's own process.
    ("tokenizers", &["millm-sandbox"]),
    ("minijinja", &["millm-sandbox"]),
    ("llguidance", &["millm-sandbox"]),
    ("reqwest", &["millm-downloader"]),
    ("rust-embed", &["millm-gateway"]),
];

/// The crates that know no protobuf, no HTTP, no SQL and no async.
const PURE: [&str; 5] = ["millm-model", "millm-engine", "millm-sandbox", "millm-dataset", "millm-extraction"];
const IMPURE: [&str; 9] = ["prost", "tonic", "axum", "http", "hyper", "reqwest", "sqlx", "tokio", "futures"];

const MAX_LINES: usize = 500;

/// The most source files in a folder, without tests beside the code.
const MAX_FILES: usize = 15;

/// Folders of peers: their files are alike, and none needs another to be understood.
const PEERS: [&str; 3] =
    ["services/engine/tests/engine", "services/millm/src/commands", "services/model/src/arch/families"];

/// Earlier names of files and folders, which the field's terms have replaced.
const OLD_WORDS: [&str; 35] = [
    "adopt",
    "any_hub",
    "bars",
    "dice",
    "ends",
    "faces",
    "hub_cache",
    "hub_view",
    "house",
    "known",
    "lifecycle",
    "lone",
    "meet",
    "meta",
    "outer",
    "panel",
    "pass_outcome",
    "plain",
    "region",
    "renames",
    "seat",
    "shelf",
    "spread",
    "stored",
    "stretch",
    "survey",
    "taps",
    "team",
    "torn",
    "turn",
    "twin",
    "upkeep",
    "utils",
    "widen",
    "world",
];

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
    let ours: BTreeSet<&str> = MAY_IMPORT.iter().map(|(name, _)| *name).collect();
    for (name, imports) in &dependencies {
        if name == "millm-tests" {
            continue;
        }
        let (_, allowed) =
            MAY_IMPORT.iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("{name} has no rule"));
        for import in imports {
            let (import, is_ours) = (import.as_str(), ours.contains(import.as_str()));
            assert!(!is_ours || allowed.contains(&import), "{name} must not import {import}");
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

/// Checks that a crate may import only crates that are above it in the table.
#[test]
fn the_table_of_crates_has_no_upward_arrow() {
    for (place, (name, allowed)) in MAY_IMPORT.iter().enumerate() {
        for import in *allowed {
            let before = MAY_IMPORT[..place].iter().any(|(other, _)| other == import);
            assert!(before, "{name} may import {import}, which does not stand above it");
        }
    }
}

#[test]
fn the_files_of_a_crate_form_no_circles() {
    let mut wrong = Vec::new();
    for source in crate_sources() {
        for circle in Crate::read(&source).circles() {
            let files: Vec<_> = circle.iter().map(|path| shown(path)).collect();
            wrong.push(files.join(" -> "));
        }
    }
    assert!(wrong.is_empty(), "files that need each other:\n{}", wrong.join("\n"));
}

/// Returns the `src` folder of each crate with a library or a program.
fn crate_sources() -> Vec<PathBuf> {
    let mut manifests: Vec<_> =
        sources(&["toml"]).into_iter().filter(|path| path.ends_with("Cargo.toml")).collect();
    manifests.retain(|path| path.with_file_name("src").exists());
    assert!(manifests.len() >= MAY_IMPORT.len(), "the walk found {manifests:?}");
    manifests.iter().map(|path| path.with_file_name("src")).collect()
}

/// Returns the files below the root with one of these extensions, except generated ones.
fn sources(extensions: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    walk(&root(), extensions, &mut found);
    found
}

fn walk(folder: &Path, extensions: &[&str], found: &mut Vec<PathBuf>) {
    const SKIPPED: [&str; 9] =
        ["target", "node_modules", "dist", "gen", "fixtures", "shared", ".git", ".venv", "test-results"];
    for entry in fs::read_dir(folder).expect("the workspace can be read") {
        let path = entry.expect("the workspace can be read").path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if path.is_dir() && !SKIPPED.contains(&name) {
            walk(&path, extensions, found);
        } else if !is_generated(name) && path.extension().is_some_and(|e| extensions.iter().any(|x| e == *x))
        {
            found.push(path);
        }
    }
}

/// Returns whether a file is one of the Python client's stubs.
fn is_generated(name: &str) -> bool {
    name.ends_with("_pb2.py") || name.ends_with("_pb2_grpc.py")
}

/// Returns the path relative to the root.
fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

#[test]
fn files_begin_with_their_purpose_and_stay_short() {
    let found = sources(&["rs", "ts", "tsx", "py"]);
    assert!(found.len() > 50, "the walk found {} sources", found.len());
    let mut wrong = Vec::new();
    for path in found {
        let text = fs::read_to_string(&path).expect("sources are UTF-8");
        let lines = text.lines().count();
        if lines > MAX_LINES {
            wrong.push(format!("{}: {lines} lines, at most {MAX_LINES}", shown(&path)));
        }
        if path.extension().is_some_and(|e| e == "rs") && !text.starts_with("//!") {
            wrong.push(format!("{}: does not begin with //!", shown(&path)));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn folders_are_no_heaps() {
    let mut folders = BTreeMap::<_, usize>::new();
    for path in sources(&["rs", "ts", "tsx", "py"]) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let is_test = ["_tests.rs", ".test.ts", ".test.tsx"].iter().any(|end| name.ends_with(end));
        *folders.entry(shown(path.parent().expect("a folder"))).or_default() += usize::from(!is_test);
    }
    for folder in PEERS {
        let count = folders.get(folder).copied().unwrap_or_default();
        assert!(count > 0, "{folder} is gone: PEERS is out of date");
    }
    folders.retain(|folder, count| *count > MAX_FILES && !PEERS.contains(&folder.as_str()));
    assert!(folders.is_empty(), "at most {MAX_FILES} files in a folder, unless they are peers: {folders:?}");
}

#[test]
fn old_words_are_gone() {
    let old = |path: &PathBuf| {
        let below = path.strip_prefix(root()).unwrap_or(path).with_extension("");
        below.components().any(|part| OLD_WORDS.iter().any(|word| part.as_os_str() == *word))
    };
    let found: Vec<_> = sources(&["rs"]).iter().filter(|path| old(path)).map(|path| shown(path)).collect();
    assert!(found.is_empty(), "use the field's term: {found:?}");
}

#[test]
fn the_settings_table_of_the_readme_is_the_codes() {
    let readme = fs::read_to_string(root().join("README.md")).expect("README.md");
    assert!(
        readme.contains(millm_kit::Settings::markdown().trim()),
        "README.md: replace the settings table by the output of `millm config --markdown`"
    );
}

#[test]
fn the_family_in_contributing_is_the_codes() {
    let page = fs::read_to_string(root().join("CONTRIBUTING.md")).expect("CONTRIBUTING.md");
    let code = root().join("services/model/src/arch/families/granite.rs");
    let code = fs::read_to_string(code).expect("the file of Granite");
    let start = code.find("pub(super) const GRANITE").expect("the constant of Granite");
    let block = format!("```rust\n{}\n```\n", code[start..].trim_end());
    assert!(page.contains(&block), "CONTRIBUTING.md: replace the family by the constant in granite.rs");
}
