//! The path policy: the files that a person's path, folder or pattern means, and whether they may be read.
//!
//! A dataset is read by the server, on behalf of whoever may call it. So only regular files below the allowed folders are
//! read, after all links are resolved.

use std::path::{Component, Path, PathBuf};

use glob::{MatchOptions, Pattern};
use walkdir::WalkDir;

use crate::{
    error::excerpt,
    formats::Format,
    limits::{MAX_FILES, MAX_VISITED},
};

/// Folders of the system whose regular files are no data.
const SYSTEM_FOLDERS: [&str; 3] = ["/proc", "/sys", "/dev"];

/// The deepest folder that is looked into, below the one that was named.
const MAX_DEPTH: usize = 32;

/// Why a path cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PathError {
    /// The path is no text that can be a path.
    #[error("it is empty or contains a NUL byte")]
    NoPath,
    /// The path is relative: the server's working folder is not the caller's.
    #[error("'{0}' is not absolute")]
    Relative(String),
    /// The path does not exist, or cannot be read.
    #[error("'{path}': {why}")]
    Unreadable {
        /// The path.
        path: String,
        /// The system's error.
        why: String,
    },
    /// The path leads out of the allowed folders.
    #[error("'{path}' is outside the allowed folders ({folders}); MILLM_DATASET_DIRS names others")]
    Outside {
        /// The path.
        path: String,
        /// The allowed folders.
        folders: String,
    },
    /// The path is a device, a pipe, a socket, or a file of the system.
    #[error("'{0}' is not a regular file")]
    NotRegular(String),
    /// The pattern is malformed.
    #[error("'{pattern}' is not a pattern: {why}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        why: String,
    },
    /// The folder or the pattern has no file of a known format.
    #[error("'{0}' has no file of a known format (.jsonl, .csv, .txt or .parquet, also with .gz or .zst)")]
    NoFiles(String),
    /// There are too many files.
    #[error("'{path}' has more than {limit} {what}")]
    TooMany {
        /// The path.
        path: String,
        /// What there is too much of.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
}

/// The folders below which datasets of this machine may lie.
#[derive(Debug, Clone, Default)]
pub struct AllowedFolders(Vec<PathBuf>);

impl AllowedFolders {
    /// Makes the policy. Links of the folders are resolved now; a folder that does not exist allows nothing.
    pub fn new(folders: impl IntoIterator<Item = PathBuf>) -> Self {
        Self(folders.into_iter().filter_map(|folder| folder.canonicalize().ok()).collect())
    }

    /// Returns the folders, with their links resolved.
    pub fn folders(&self) -> &[PathBuf] {
        &self.0
    }

    /// Returns the files that `path` means, with their links resolved: the file itself; the files of a known format in a
    /// folder and the folders below it; or those that match a pattern such as `/data/**/*.parquet`. They are sorted by
    /// name. Links to folders are not followed, and hidden files and folders are left out.
    ///
    /// # Errors
    ///
    /// Fails if the path is relative, leads out of the allowed folders, or means no file or too many.
    pub fn resolve(&self, path: &str) -> Result<Vec<PathBuf>, PathError> {
        if path.is_empty() || path.contains('\0') {
            return Err(PathError::NoPath);
        }
        let given = Path::new(path);
        if !given.is_absolute() {
            return Err(PathError::Relative(excerpt(path)));
        }
        match std::fs::metadata(given) {
            Ok(metadata) if metadata.is_dir() => {
                let folder = self.check_folder(given)?;
                self.below(&folder, path, |entry| Format::of_name(entry).is_some())
            }
            Ok(_) => Ok(vec![self.check_file(given)?]),
            Err(_) if has_wildcards(path) => self.matching(path),
            Err(error) => Err(PathError::Unreadable { path: excerpt(path), why: error.to_string() }),
        }
    }

    /// Checks that a registered file may still be read, and returns it with its links resolved.
    ///
    /// # Errors
    ///
    /// Fails if the file is gone, is no regular file, or leads out of the allowed folders.
    pub fn check_file(&self, path: &Path) -> Result<PathBuf, PathError> {
        let real = self.check_inside(path)?;
        let is_system = SYSTEM_FOLDERS.iter().any(|folder| real.starts_with(folder));
        match std::fs::symlink_metadata(&real) {
            Ok(metadata) if metadata.is_file() && !is_system => Ok(real),
            Ok(_) => Err(PathError::NotRegular(shown(path))),
            Err(error) => Err(PathError::Unreadable { path: shown(path), why: error.to_string() }),
        }
    }

    fn check_folder(&self, path: &Path) -> Result<PathBuf, PathError> {
        let real = self.check_inside(path)?;
        if SYSTEM_FOLDERS.iter().any(|folder| real.starts_with(folder)) {
            return Err(PathError::NotRegular(shown(path)));
        }
        Ok(real)
    }

    fn check_inside(&self, path: &Path) -> Result<PathBuf, PathError> {
        let real = path
            .canonicalize()
            .map_err(|error| PathError::Unreadable { path: shown(path), why: error.to_string() })?;
        if self.0.iter().any(|folder| real.starts_with(folder)) {
            return Ok(real);
        }
        let folders: Vec<_> = self.0.iter().map(|folder| folder.display().to_string()).collect();
        Err(PathError::Outside { path: shown(path), folders: folders.join(", ") })
    }

    /// Returns the files that match a pattern. Only the folder before the first wildcard is walked.
    fn matching(&self, path: &str) -> Result<Vec<PathBuf>, PathError> {
        let invalid = |why: &str| PathError::Pattern { pattern: excerpt(path), why: why.to_owned() };
        let pattern = Pattern::new(path).map_err(|error| invalid(error.msg))?;
        let is_plain = |part: &Component<'_>| !part.as_os_str().to_str().is_none_or(has_wildcards);
        let base: PathBuf = Path::new(path).components().take_while(is_plain).collect();
        if Path::new(path).components().any(|part| part == Component::ParentDir) {
            return Err(invalid("it must not contain '..'"));
        }
        self.check_folder(&base)?;
        let options = MatchOptions {
            case_sensitive: true,
            require_literal_separator: true,
            require_literal_leading_dot: true,
        };
        self.below(&base, path, |entry| pattern.matches_path_with(entry, options))
    }

    /// Returns the wanted files in a folder and below it.
    fn below(
        &self,
        folder: &Path,
        asked: &str,
        is_wanted: impl Fn(&Path) -> bool,
    ) -> Result<Vec<PathBuf>, PathError> {
        let too_many = |what, limit| PathError::TooMany { path: excerpt(asked), what, limit };
        let is_hidden = |entry: &walkdir::DirEntry| {
            entry.depth() > 0 && entry.file_name().as_encoded_bytes().starts_with(b".")
        };
        let walk = WalkDir::new(folder).max_depth(MAX_DEPTH).sort_by_file_name();
        let mut files = Vec::new();
        for (visited, entry) in walk.into_iter().filter_entry(|entry| !is_hidden(entry)).enumerate() {
            if visited >= MAX_VISITED {
                return Err(too_many("entries", MAX_VISITED));
            }
            let entry = entry.map_err(|error| PathError::Unreadable {
                path: error.path().map_or_else(|| excerpt(asked), shown),
                why: error.io_error().map_or_else(|| "it cannot be read".to_owned(), ToString::to_string),
            })?;
            let is_folder = std::fs::metadata(entry.path()).is_ok_and(|metadata| metadata.is_dir());
            if is_folder || !is_wanted(entry.path()) {
                continue;
            }
            if files.len() == MAX_FILES {
                return Err(too_many("files", MAX_FILES));
            }
            files.push((entry.path().to_owned(), self.check_file(entry.path())?));
        }
        if files.is_empty() {
            return Err(PathError::NoFiles(excerpt(asked)));
        }
        files.sort();
        Ok(files.into_iter().map(|(_, real)| real).collect())
    }
}

fn has_wildcards(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

fn shown(path: &Path) -> String {
    excerpt(&path.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    struct Fixture {
        _outer: tempfile::TempDir,
        allowed: PathBuf,
        outside: PathBuf,
        policy: AllowedFolders,
    }

    fn fixture() -> Fixture {
        let outer = tempfile::tempdir().unwrap();
        let root = outer.path().canonicalize().unwrap();
        let (allowed, outside) = (root.join("allowed"), root.join("outside"));
        for folder in ["allowed/b", "allowed/.hidden", "outside", "allowedtoo"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        let files = [
            "allowed/2.jsonl",
            "allowed/10.jsonl",
            "allowed/README.md",
            "allowed/b/x.jsonl.gz",
            "allowed/.hidden/y.jsonl",
        ];
        for file in files.iter().chain(&["outside/secret.jsonl", "allowedtoo/z.jsonl"]) {
            fs::write(root.join(file), "{}\n").unwrap();
        }
        let policy = AllowedFolders::new([allowed.clone(), root.join("absent")]);
        Fixture { _outer: outer, allowed, outside, policy }
    }

    fn names(fixture: &Fixture, path: &str) -> Vec<String> {
        let files = fixture.policy.resolve(path).unwrap();
        files.iter().map(|file| file.strip_prefix(&fixture.allowed).unwrap().display().to_string()).collect()
    }

    #[test]
    fn files_folders_and_patterns_are_resolved_in_their_order() {
        let fixture = fixture();
        let below = |path: &str| format!("{}/{path}", fixture.allowed.display());
        assert_eq!(names(&fixture, &below("2.jsonl")), ["2.jsonl"]);
        assert_eq!(names(&fixture, &below("README.md")), ["README.md"], "the format is not the policy's");
        assert_eq!(names(&fixture, &below("")), ["10.jsonl", "2.jsonl", "b/x.jsonl.gz"]);
        assert_eq!(names(&fixture, &below("*.jsonl")), ["10.jsonl", "2.jsonl"]);
        assert_eq!(names(&fixture, &below("**/*.jsonl*")), ["10.jsonl", "2.jsonl", "b/x.jsonl.gz"]);
        assert_eq!(names(&fixture, &below("?.jsonl")), ["2.jsonl"]);
        // A file whose name is a pattern is itself.
        fs::write(fixture.allowed.join("[1].jsonl"), "{}").unwrap();
        assert_eq!(names(&fixture, &below("[1].jsonl")), ["[1].jsonl"]);
    }

    #[test]
    fn paths_that_lead_outside_are_refused() {
        let fixture = fixture();
        let root = fixture.outside.parent().unwrap().display().to_string();
        symlink(&fixture.outside, fixture.allowed.join("link")).unwrap();
        symlink(fixture.outside.join("secret.jsonl"), fixture.allowed.join("link.jsonl")).unwrap();
        for path in [
            format!("{root}/outside/secret.jsonl"),
            format!("{root}/allowed/../outside/secret.jsonl"),
            format!("{root}/allowed/link/secret.jsonl"),
            format!("{root}/allowed/link.jsonl"),
            format!("{root}/allowed/link/*.jsonl"),
            format!("{root}/allowed/l*.jsonl"),
            format!("{root}/*/*.jsonl"),
            format!("{root}/allowedtoo/z.jsonl"),
            "/etc/*.conf".to_owned(),
        ] {
            let error = fixture.policy.resolve(&path).unwrap_err();
            assert!(matches!(error, PathError::Outside { .. }), "{path}: {error}");
        }
        // A link to a folder is not followed by a walk.
        fs::remove_file(fixture.allowed.join("link.jsonl")).unwrap();
        assert_eq!(names(&fixture, &fixture.allowed.display().to_string()).len(), 3);
        assert!(AllowedFolders::default().resolve("/etc/passwd").is_err());
    }

    #[test]
    fn what_is_no_regular_file_is_refused() {
        let everywhere = AllowedFolders::new([PathBuf::from("/")]);
        for path in
            ["/dev/zero", "/dev/null", "/proc/self/environ", "/proc/version", "/sys", "/proc/**/environ"]
        {
            let error = everywhere.resolve(path).unwrap_err();
            assert!(matches!(error, PathError::NotRegular(_)), "{path}: {error}");
        }
        let fixture = fixture();
        let socket = fixture.allowed.join("socket.jsonl");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let error = fixture.policy.resolve(&socket.display().to_string()).unwrap_err();
        assert!(matches!(error, PathError::NotRegular(_)), "{error}");
    }

    #[test]
    fn other_paths_are_refused() {
        let fixture = fixture();
        let below = |path: &str| format!("{}/{path}", fixture.allowed.display());
        for (path, expected) in [
            (String::new(), "empty"),
            ("a\0b".to_owned(), "NUL"),
            ("data/x.jsonl".to_owned(), "not absolute"),
            (below("absent.jsonl"), "No such file"),
            (below("*.parquet"), "no file of a known format"),
            (below("a**b*"), "not a pattern"),
            (below("*/../x"), "'..'"),
        ] {
            let error = fixture.policy.resolve(&path).unwrap_err().to_string();
            assert!(error.contains(expected), "{path}: {error}");
        }
    }
}
