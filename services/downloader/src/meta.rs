//! `.millm_meta.json`: what a finished folder holds and where it came from. A folder that has it is complete.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use millm_kit::{ServiceError, names::RepoId, view::quantization as name_of};
use millm_proto::catalog::v1::{Model, ModelFile, Quantization};
use serde::{Deserialize, Serialize};

use crate::{
    cache::{Cache, Incoming, absent_is_fine, read_json, sync_folder, write_json},
    digest::Digest,
    hub::RepoPath,
};

const FILE: &str = ".millm_meta.json";
const NOTE: &str = ".making.json";
const VERSION: u32 = 1;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    version: u32,
    /// Whose model it is: ids count anew in every catalogue.
    #[serde(default)]
    pub catalog: String,
    pub model_id: i64,
    /// "huggingface" or "local".
    source: String,
    pub repo_id: String,
    pub revision: String,
    pub commit: String,
    pub file: String,
    local_path: String,
    requested_quantization: String,
    actual_quantization: String,
    pub quantization_reason: String,
    pub original_bytes: u64,
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

/// A file of a finished model, as its meta file names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptFile {
    pub path: RepoPath,
    pub size: u64,
    pub digest: Digest,
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

    /// As the same model was made before; `known` are its files, verified.
    pub fn again(meta: &Meta, known: Vec<(String, Digest)>) -> Self {
        let (reason, original_bytes) = (meta.quantization_reason.clone(), meta.original_bytes);
        Self { actual: meta.actual_quantization().into(), reason, original_bytes, known }
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
pub fn seal(incoming: &Incoming, row: &Model, making: &Making, catalog: &str) -> io::Result<Meta> {
    absent_is_fine(fs::remove_dir_all(incoming.partials()))?;
    let mut files = Vec::new();
    list(incoming.path(), "", making, &mut files)?;
    let is_hub = row.local_path.is_empty();
    let meta = Meta {
        version: VERSION,
        catalog: catalog.to_owned(),
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
        Self::read(folder).filter(|meta| meta.is_whole(folder))
    }

    /// Of a folder that may have lost files since.
    pub fn read(folder: &Path) -> Option<Self> {
        read_json(&folder.join(FILE)).filter(|meta: &Self| meta.version == VERSION)
    }

    pub fn is_whole(&self, folder: &Path) -> bool {
        let whole =
            |file: &MetaFile| fs::metadata(folder.join(&file.path)).is_ok_and(|m| m.len() == file.size);
        self.files.iter().all(whole)
    }

    /// Its files. It lay on a disk: names are checked as they were when they came.
    pub fn files(&self) -> Vec<KeptFile> {
        let file = |file: &MetaFile| {
            let digest = Digest::sha256(&file.sha256)?;
            Some(KeptFile { path: RepoPath::parse(&file.path).ok()?, size: file.size, digest })
        };
        self.files.iter().filter_map(file).collect()
    }

    pub fn actual_quantization(&self) -> Quantization {
        let named = |q: &Quantization| name_of(*q) == self.actual_quantization;
        crate::quantization::ALL.into_iter().find(named).unwrap_or_default()
    }

    /// Whether it was made of the same files in the same way as `row` asks for, by whomever.
    pub fn is_twin_of(&self, row: &Model) -> bool {
        self.source == "huggingface"
            && row.local_path.is_empty()
            && self.repo_id.eq_ignore_ascii_case(&row.repo_id)
            && (&self.commit, &self.file) == (&row.commit, &row.file)
            && self.requested_quantization == name_of(row.requested_quantization())
    }

    /// Whether it is the model of `row`, a row of `catalog`. The id alone proves nothing: a new database counts anew.
    pub fn belongs_to(&self, row: &Model, catalog: &str) -> bool {
        self.model_id == row.id
            && self.catalog == catalog
            && (&self.repo_id, &self.file, &self.local_path) == (&row.repo_id, &row.file, &row.local_path)
            && (row.commit.is_empty() || self.commit == row.commit)
            && self.requested_quantization == name_of(row.requested_quantization())
    }

    /// Writes what it knows into a row.
    pub fn fill(&self, row: &mut Model) {
        row.set_actual_quantization(self.actual_quantization());
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

/// Where a model goes once it is finished, unless another has that name.
pub fn final_folder(cache: &Cache, row: &Model) -> Result<PathBuf, ServiceError> {
    let quantization = name_of(row.requested_quantization());
    if !row.local_path.is_empty() {
        return Ok(cache.quantized_local_folder(&row.handle, row.id, quantization));
    }
    // A GGUF file is kept as it is, so that is what its folder says.
    let quantization = if row.file.ends_with(".gguf") { "NATIVE" } else { quantization };
    Ok(cache.hub_folder(&RepoId::parse(&row.repo_id)?, quantization, &row.file))
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
        match fs::rename(incoming.path(), &name) {
            // Another process was faster.
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => continue,
            renamed => renamed?,
        }
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
    let is_it = |folder: &PathBuf| Meta::of(folder).is_some_and(|meta| meta.belongs_to(row, cache.catalog()));
    Ok(folders.into_iter().find(is_it))
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
        cache.keep_for("ab12");
        seal(&incoming, &row, &making, "ab12").unwrap();
        let other = cache.hub_folder(&millm_kit::names::RepoId::parse("o/n").unwrap(), "Q2", "");
        fs::create_dir_all(&other).unwrap();
        let folder = place(&incoming, &other, 7).unwrap();
        assert!(folder.ends_with("o--n--Q2--7"));
        assert_eq!(find_finished(&cache, &row).unwrap(), Some(folder.clone()));
        assert_eq!(find_finished(&cache, &Model { id: 8, ..row.clone() }).unwrap(), None);
        assert_eq!(
            find_finished(&Cache::open(root.path()).unwrap(), &row).unwrap(),
            None,
            "another catalogue's"
        );
        let meta = Meta::of(&folder).unwrap();
        assert!(meta.is_twin_of(&Model { id: 8, repo_id: "O/N".into(), ..row.clone() }));
        assert!(!meta.is_twin_of(&Model { commit: "c".repeat(40), ..row.clone() }));
        assert_eq!((meta.files().len(), meta.files()[0].size), (1, 5));
        Meta::of(&folder).unwrap().fill(&mut row);
        assert_eq!((row.actual_quantization(), row.disk_size_bytes), (Quantization::Q4, 5));
        assert!(row.files[0].sha256.starts_with("2cf24dba"));
        fs::write(folder.join("model.gguf"), b"hell").unwrap();
        assert!(Meta::of(&folder).is_none() && Meta::read(&folder).is_some());
    }
}
