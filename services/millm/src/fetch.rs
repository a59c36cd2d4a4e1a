//! Fetches the files of an extraction into a folder, and verifies their hashes.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write as _},
    path::{Component, Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use indicatif::{ProgressBar, ProgressDrawTarget};
use millm_api::cli::FetchedFile;
use millm_kit::{ServiceError, format, format::excerpt};
use millm_proto::inspection::v1::{Extraction, ExtractionFile, ReadExtractionFileRequest};
use sha2::{Digest as _, Sha256};

use crate::{
    client::Server,
    output::{self, Unwell},
    progress::style,
};

/// A damaged file is fetched once more.
const ATTEMPTS: usize = 2;

/// Fetches all files of an extraction that is over. A file that is there, complete, is not fetched again.
///
/// # Errors
///
/// The server's, those of the disk, CHECKSUM_MISMATCH, and [`Unwell`] when the person leaves before the end.
pub async fn files(server: &Server, extraction: &Extraction, folder: &Path, json: bool) -> Result<()> {
    create_folder(folder)?;
    tokio::select! {
        fetched = all(server, extraction, folder, json) => fetched,
        _ = tokio::signal::ctrl_c() => {
            let (id, folder) = (&extraction.id, folder.display());
            Err(Unwell(format!("left: 'millm extractions fetch {id} --out {folder}' fetches the rest")).into())
        }
    }
}

/// Creates the folder, so that one that cannot be written is an error before a job starts.
pub fn create_folder(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))
}

async fn all(server: &Server, extraction: &Extraction, folder: &Path, json: bool) -> Result<()> {
    let total: u64 = extraction.files.iter().map(size).sum();
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(10));
    bar.set_style(style("fetching    {wide_bar:.cyan/dim} {percent:>3}%  {msg}"));
    for file in &extraction.files {
        let path = place(folder, &file.name)?;
        bar.set_message(file.name.clone());
        let was_there = is_complete(path.clone(), file.clone()).await?;
        if was_there {
            bar.inc(size(file));
        } else {
            fetch(server, &extraction.id, file, &path, &bar).await?;
        }
        if json {
            let path = path.display().to_string();
            let (size_bytes, sha256) = (file.size_bytes, file.sha256.clone());
            output::json(&FetchedFile { path, size_bytes, sha256, was_there })?;
        }
    }
    bar.finish_and_clear();
    if !json {
        let (count, size) = (extraction.files.len(), format::bytes(total));
        eprintln!("{count} files ({size}) are in {}, verified", folder.display());
    }
    Ok(())
}

fn size(file: &ExtractionFile) -> u64 {
    u64::try_from(file.size_bytes).unwrap_or(0)
}

/// Returns where a file goes. Its name comes from the server, so it must not lead out of the folder.
fn place(folder: &Path, name: &str) -> Result<PathBuf> {
    let mut components = Path::new(name).components();
    match (components.next(), components.next()) {
        (Some(Component::Normal(only)), None) if only == name && !name.contains(['/', '\\']) => {
            Ok(folder.join(name))
        }
        _ => bail!("the server names a file '{}', which is no plain name", excerpt(name)),
    }
}

/// Returns whether the file is at `path` with the right hash. Reading it blocks, so that has a thread of its own.
async fn is_complete(path: PathBuf, file: ExtractionFile) -> Result<bool> {
    let shown = path.display().to_string();
    let read = tokio::task::spawn_blocking(move || {
        let mut found = match File::open(&path) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(false),
            found => found?,
        };
        if found.metadata()?.len() != size(&file) {
            return Ok(false);
        }
        let mut hash = Sha256::new();
        io::copy(&mut found, &mut hash)?;
        Ok::<_, io::Error>(hex::encode(hash.finalize()) == file.sha256)
    });
    read.await?.with_context(|| format!("cannot read {shown}"))
}

async fn fetch(
    server: &Server,
    id: &str,
    file: &ExtractionFile,
    path: &Path,
    bar: &ProgressBar,
) -> Result<()> {
    let partial = path.with_file_name(format!("{}.partial", file.name));
    let mut found = String::new();
    for _ in 0..ATTEMPTS {
        let start = bar.position();
        found = receive(server, id, file, &partial, bar).await?;
        if found == file.sha256 {
            return fs::rename(&partial, path).with_context(|| format!("cannot write {}", path.display()));
        }
        bar.set_position(start);
    }
    fs::remove_file(&partial).with_context(|| format!("cannot remove {}", partial.display()))?;
    Err(ServiceError::checksum_mismatch(&file.name, &file.sha256, found).into())
}

/// Writes a file and returns the hash of what has come, no more than the size that was announced.
async fn receive(
    server: &Server,
    id: &str,
    file: &ExtractionFile,
    path: &Path,
    bar: &ProgressBar,
) -> Result<String> {
    let cannot_write = || format!("cannot write {}", path.display());
    let mut out = BufWriter::new(File::create(path).with_context(cannot_write)?);
    let mut hash = Sha256::new();
    let mut left = size(file);
    let request =
        ReadExtractionFileRequest { name: id.to_owned(), file: file.name.clone(), offset: 0, length: 0 };
    let answer = server.inspection().read_extraction_file(request).await;
    let mut chunks = answer.map_err(|s| server.explain(&s))?.into_inner();
    while let Some(chunk) = chunks.message().await.map_err(|s| server.explain(&s))? {
        let length = chunk.data.len() as u64;
        let too_many =
            || format!("the server sends more of {} than its {} bytes", file.name, file.size_bytes);
        left = left.checked_sub(length).with_context(too_many)?;
        out.write_all(&chunk.data).with_context(cannot_write)?;
        hash.update(&chunk.data);
        bar.inc(length);
    }
    let out = out.into_inner().map_err(io::IntoInnerError::into_error).with_context(cannot_write)?;
    out.sync_all().with_context(cannot_write)?;
    Ok(hex::encode(hash.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_in_the_folder() {
        let folder = Path::new("/out");
        assert_eq!(place(folder, "resid_post.layer0.npy").unwrap(), Path::new("/out/resid_post.layer0.npy"));
        for bad in ["", ".", "..", "../x", "a/b", "/etc/passwd", "a/", "./a", "a\\b"] {
            assert!(place(folder, bad).is_err(), "{bad}");
        }
    }
}
