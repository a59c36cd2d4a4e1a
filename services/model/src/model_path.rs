//! Checks paths that people give: absolute, existing, and those of a model.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The extensions of weight files that run code when they are read.
pub const PICKLE_EXTENSIONS: &[&str] = &["bin", "pt", "pth", "ckpt", "pkl"];

/// Accepts an absolute path to one `.gguf` file, or to a folder with config.json and safetensors or with a `.gguf`
/// file. Returns the path with all links resolved. The content of the files is validated when they are opened.
///
/// # Errors
/// [`Error::InvalidPath`] for any other path, [`Error::PickleOnly`] for a folder with pickled weights only, and
/// [`Error::Io`] where the folder cannot be listed.
pub fn validate_local_path(path: &Path) -> Result<PathBuf> {
    let invalid = |why: String| Error::InvalidPath { why };
    if path.as_os_str().as_encoded_bytes().contains(&0) {
        return Err(invalid("it contains a NUL byte".to_owned()));
    }
    if !path.is_absolute() {
        return Err(invalid(format!("'{}' is not absolute", path.display())));
    }
    let real = path.canonicalize().map_err(|error| invalid(format!("'{}': {error}", path.display())))?;
    let metadata =
        std::fs::metadata(&real).map_err(|error| invalid(format!("'{}': {error}", path.display())))?;
    if metadata.is_file() {
        if has_extension(&real, "gguf") {
            return Ok(real);
        }
        return Err(invalid(format!("'{}' is not a .gguf file", path.display())));
    }
    if !metadata.is_dir() {
        return Err(invalid(format!("'{}' is neither a folder nor a regular file", path.display())));
    }
    weights_in(&real)?;
    Ok(real)
}

/// The kind of weights in a folder.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Weights {
    /// This GGUF file.
    Gguf(PathBuf),
    /// Safetensors, beside a config.json.
    Safetensors,
}

/// Finds the weights of a folder. miLLM's own `model.gguf` comes before the files that it was made from; another GGUF
/// file counts only where it is the only one and there are no safetensors.
pub(crate) fn weights_in(folder: &Path) -> Result<Weights> {
    let invalid = |why: String| Error::InvalidPath { why };
    let mut names: Vec<String> = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|error| Error::io(folder, error))? {
        let entry = entry.map_err(|error| Error::io(folder, error))?;
        let is_file = std::fs::metadata(entry.path()).is_ok_and(|metadata| metadata.is_file());
        if let (true, Ok(name)) = (is_file, entry.file_name().into_string()) {
            names.push(name);
        }
    }
    names.sort();
    let with_extension = |extension: &str| -> Vec<&String> {
        names.iter().filter(|name| has_extension(Path::new(name), extension)).collect()
    };
    let (gguf, safetensors) = (with_extension("gguf"), with_extension("safetensors"));
    if names.iter().any(|name| name == "model.gguf") {
        return Ok(Weights::Gguf(folder.join("model.gguf")));
    }
    if !safetensors.is_empty() {
        if names.iter().any(|name| name == "config.json") {
            return Ok(Weights::Safetensors);
        }
        return Err(invalid(format!("'{}' has no config.json", folder.display())));
    }
    match gguf.as_slice() {
        [] => {}
        [one] => return Ok(Weights::Gguf(folder.join(one))),
        _ => return Err(invalid(format!("'{}' has several .gguf files: name one", folder.display()))),
    }
    match names
        .iter()
        .find(|name| PICKLE_EXTENSIONS.iter().any(|extension| has_extension(Path::new(name), extension)))
    {
        Some(file) => Err(Error::PickleOnly { file: file.clone() }),
        None => Err(invalid(format!("'{}' has neither safetensors nor a .gguf file", folder.display()))),
    }
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found.eq_ignore_ascii_case(extension))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for file in files {
            std::fs::write(folder.path().join(file), b"x").expect("writable");
        }
        folder
    }

    #[test]
    fn folders_of_models_are_accepted() {
        let check = |files: &[&str], expected: &str| {
            let folder = folder(files);
            let found = match validate_local_path(folder.path()) {
                Ok(path) => format!("ok {}", path.is_absolute()),
                Err(error) => error.to_string(),
            };
            assert!(found.contains(expected), "{files:?}: {found}");
        };
        check(&["config.json", "model.safetensors"], "ok true");
        check(&["a.gguf"], "ok true");
        check(&["a.gguf", "b.gguf"], "several");
        check(&["a.gguf", "b.gguf", "model.gguf"], "ok true");
        check(&["model.safetensors"], "no config.json");
        check(&["config.json", "pytorch_model.bin"], "unsafe");
        check(&["config.json"], "neither");
        check(&[], "neither");
    }

    #[test]
    fn odd_paths_are_refused() {
        let folder = folder(&["x.txt", "m.gguf"]);
        let refused = |path: &Path, expected: &str| match validate_local_path(path) {
            Err(Error::InvalidPath { why }) => assert!(why.contains(expected), "{why}"),
            other => panic!("{}: {other:?}", path.display()),
        };
        refused(Path::new("models/x"), "not absolute");
        refused(Path::new(""), "not absolute");
        refused(Path::new("/a\0b"), "NUL");
        refused(&folder.path().join("absent"), "No such file");
        refused(&folder.path().join("x.txt"), "not a .gguf");
        refused(Path::new("/dev/zero"), "neither a folder");
        assert!(validate_local_path(&folder.path().join("m.gguf")).is_ok());
    }

    #[cfg(unix)]
    #[test]
    fn links_are_resolved_and_their_targets_checked() {
        let folder = folder(&["m.gguf"]);
        let link = folder.path().join("link.gguf");
        std::os::unix::fs::symlink("/dev/zero", &link).expect("links can be made");
        assert!(matches!(validate_local_path(&link), Err(Error::InvalidPath { .. })));
        let good = folder.path().join("good.gguf");
        std::os::unix::fs::symlink(folder.path().join("m.gguf"), &good).expect("links can be made");
        assert!(validate_local_path(&good).expect("good").ends_with("m.gguf"));
    }
}
