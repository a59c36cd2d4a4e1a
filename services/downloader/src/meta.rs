//! `.millm_meta.json`: what a finished folder holds and where it came from. A folder that has it is complete.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use millm_kit::view::quantization as name_of;
use millm_proto::catalog::v1::{Model, ModelFile, Quantization};
use serde::{Deserialize, Serialize};

use crate::{
    cache::{Cache, Incoming, absent_is_fine, read_json, sync_folder, write_json},
    digest::Digest,
};

const FILE: &str = ".millm_meta.json";
const NOTE: &str = ".making.json";
const VERSION: u32 = 1;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    version: u32,
    pub model_id: i64,
    /// "huggingface" or "local".
    source: String,
    repo_id: String,
    revision: String,
    commit: String,
    file: String,
    local_path: String,
    requested_quantization: String,
    actual_quantization: String,
    pub quantization_reason: String,
    original_bytes: u64,
    final_bytes: u64,
    millm_version: String,
    started: String,
    finished: String,
    files: Vec<MetaFile>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct MetaFile {
    path: String,
    size: u64,
    sha256: String,
}

/// How a model was made; the rest the files say. Noted once quantized, so that a crash after that repeats nothing.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Making {
    /// `Quantization`'s number.
    actual: i32,
    pub reason: String,
    pub original_bytes: u64,
    /// SHA-256 that is known already, by name.
    pub known: Vec<(String, Digest)>,
}

impl Making {
    pub fn new(actual: Quantization, reason: String, original_bytes: u64) -> Self {
        Self { actual: actual.into(), reason, original_bytes, known: Vec::new() }
    }

    pub fn quantized(&mut self, actual: Quantization, reason: Option<String>) {
        self.actual = actual.into();
        self.reason = reason.unwrap_or_default();
    }

    pub fn note(&self, incoming: &Incoming) -> io::Result<()> {
        write_json(&incoming.path().join(NOTE), self)
    }

    pub fn noted(incoming: &Incoming) -> Option<Self> {
        read_json(&incoming.path().join(NOTE))
    }
}

/// Finishes a folder: hashes what is not hashed yet, removes what was only needed on the way, writes the meta file,
/// syncs. Blocks.
pub fn seal(incoming: &Incoming, row: &Model, making: &Making) -> io::Result<Meta> {
    absent_is_fine(fs::remove_dir_all(incoming.partials()))?;
    let mut files = Vec::new();
    list(incoming.path(), "", making, &mut files)?;
    let is_hub = row.local_path.is_empty();
    let meta = Meta {
        version: VERSION,
        model_id: row.id,
        source: if is_hub { "huggingface" } else { "local" }.to_owned(),
        repo_id: row.repo_id.clone(),
        revision: row.revision.clone(),
        commit: row.commit.clone(),
        file: row.file.clone(),
        local_path: row.local_path.clone(),
        requested_quantization: name_of(row.requested_quantization()).to_owned(),
        actual_quantization: name_of(Quantization::try_from(making.actual).unwrap_or_default()).to_owned(),
        quantization_reason: making.reason.clone(),
        original_bytes: making.original_bytes,
        final_bytes: files.iter().map(|file| file.size).sum(),
        millm_version: env!("CARGO_PKG_VERSION").to_owned(),
        started: row.create_time.map(|time| time.to_string()).unwrap_or_default(),
        finished: prost_types::Timestamp::from(SystemTime::now()).to_string(),
        files,
    };
    sync_folder(incoming.path())?;
    write_json(&incoming.path().join(FILE), &meta)?;
    for name in [NOTE, crate::plan::FILE] {
        absent_is_fine(fs::remove_file(incoming.path().join(name)))?;
    }
    sync_folder(incoming.path())?;
    Ok(meta)
}

fn list(folder: &Path, prefix: &str, making: &Making, files: &mut Vec<MetaFile>) -> io::Result<()> {
    let mut entries = fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            list(&entry.path(), &format!("{path}/"), making, files)?;
        } else if ![FILE, NOTE, crate::plan::FILE].contains(&path.as_str()) {
            let known = making.known.iter().find(|(name, _)| *name == path).map(|(_, digest)| *digest);
            let sha256 = match known {
                Some(digest @ Digest::Sha256(_)) => digest.hex(),
                _ => sha256_of(&entry.path())?.hex(),
            };
            files.push(MetaFile { path, size: entry.metadata()?.len(), sha256 });
        }
    }
    Ok(())
}

fn sha256_of(path: &Path) -> io::Result<Digest> {
    use io::Read as _;
    let mut file = fs::File::open(path)?;
    let mut hasher = Digest::Sha256([0; 32]).hasher(0);
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(hasher.finish());
        }
        hasher.update(&buffer[..read]);
    }
}

impl Meta {
    /// Of a folder that is complete; `None` otherwise.
    pub fn of(folder: &Path) -> Option<Self> {
        let meta: Self = read_json(&folder.join(FILE))?;
        let whole =
            |file: &MetaFile| fs::metadata(folder.join(&file.path)).is_ok_and(|m| m.len() == file.size);
        (meta.version == VERSION && meta.files.iter().all(whole)).then_some(meta)
    }

    /// Whether this is what `row` asks for. The id alone proves nothing: a new database counts anew.
    pub fn belongs_to(&self, row: &Model) -> bool {
        self.model_id == row.id
            && (&self.repo_id, &self.file, &self.local_path) == (&row.repo_id, &row.file, &row.local_path)
            && (row.commit.is_empty() || self.commit == row.commit)
            && self.requested_quantization == name_of(row.requested_quantization())
    }

    /// Writes what it knows into a row.
    pub fn fill(&self, row: &mut Model) {
        let actual = crate::quantization::ALL.into_iter().find(|q| name_of(*q) == self.actual_quantization);
        row.set_actual_quantization(actual.unwrap_or_default());
        row.quantization_reason.clone_from(&self.quantization_reason);
        row.disk_size_bytes = self.final_bytes as i64;
        row.files = self
            .files
            .iter()
            .map(|file| ModelFile {
                path: file.path.clone(),
                size_bytes: file.size as i64,
                sha256: file.sha256.clone(),
            })
            .collect();
    }
}

/// Gives a sealed folder its final name: `wanted`, or with the model's id where another model has that.
pub fn place(incoming: &Incoming, wanted: &Path, id: i64) -> io::Result<PathBuf> {
    let numbered = |ending: String| {
        let mut name = wanted.as_os_str().to_owned();
        name.push(ending);
        PathBuf::from(name)
    };
    let names = std::iter::once(wanted.to_owned())
        .chain(std::iter::once(numbered(format!("--{id}"))))
        .chain((2..).map(|n| numbered(format!("--{id}-{n}"))));
    for name in names {
        if fs::symlink_metadata(&name).is_ok() {
            continue;
        }
        fs::rename(incoming.path(), &name)?;
        if let Some(parent) = name.parent() {
            fs::File::open(parent)?.sync_all()?;
        }
        return Ok(name);
    }
    unreachable!("numbers do not end")
}

/// A finished folder that a crash kept from its row.
pub fn find_finished(cache: &Cache, row: &Model) -> io::Result<Option<PathBuf>> {
    let folders = cache.finished()?;
    Ok(folders.into_iter().find(|folder| Meta::of(folder).is_some_and(|meta| meta.belongs_to(row))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_complete_only_with_its_meta_and_all_bytes() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::open(root.path()).unwrap();
        let incoming = cache.incoming(7);
        incoming.create().unwrap();
        fs::write(incoming.path().join("model.gguf"), b"hello").unwrap();
        let mut row = Model { id: 7, repo_id: "o/n".into(), ..Model::default() };
        row.set_requested_quantization(Quantization::Q2);
        let making = Making::new(Quantization::Q4, "rows".into(), 9);
        assert!(Meta::of(incoming.path()).is_none());
        seal(&incoming, &row, &making).unwrap();
        let other = cache.hub_folder(&millm_kit::names::RepoId::parse("o/n").unwrap(), "Q2", "");
        fs::create_dir_all(&other).unwrap();
        let folder = place(&incoming, &other, 7).unwrap();
        assert!(folder.ends_with("o--n--Q2--7"));
        assert_eq!(find_finished(&cache, &row).unwrap(), Some(folder.clone()));
        assert_eq!(find_finished(&cache, &Model { id: 8, ..row.clone() }).unwrap(), None);
        Meta::of(&folder).unwrap().fill(&mut row);
        assert_eq!((row.actual_quantization(), row.disk_size_bytes), (Quantization::Q4, 5));
        assert!(row.files[0].sha256.starts_with("2cf24dba"));
        fs::write(folder.join("model.gguf"), b"hell").unwrap();
        assert!(Meta::of(&folder).is_none());
    }
}
