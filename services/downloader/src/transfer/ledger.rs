//! What lies beside a partial: which file it is to become, then a line for each block that was written, with its
//! checksum, in the order in which they were. Only ever added to, so a kill loses at most the line it interrupts.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{cache::absent_is_fine, digest::Digest, policy::BLOCK_BYTES};

/// What a partial is to become.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub size: u64,
    pub digest: Digest,
    pub commit: String,
}

impl Wanted {
    pub fn blocks(&self) -> u64 {
        self.size.div_ceil(BLOCK_BYTES)
    }
}

/// The first line.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Title {
    version: u32,
    size: u64,
    digest: Digest,
    commit: String,
    block: u64,
}

const VERSION: u32 = 2;

/// Checksums by block; `None` where nothing is known to be there.
pub type Marks = Vec<Option<u32>>;

/// Open for more lines. Made with the first one: most small files never need it.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    title: Title,
    file: Option<File>,
}

impl Ledger {
    /// What an earlier run noted about this very content. The commit may be another: the content decides.
    pub fn open(partial: &Path, wanted: &Wanted) -> io::Result<(Self, Marks)> {
        let title = Title {
            version: VERSION,
            size: wanted.size,
            digest: wanted.digest,
            commit: wanted.commit.clone(),
            block: BLOCK_BYTES,
        };
        let mut ledger = Self { path: beside(partial), title, file: None };
        let nothing = vec![None; wanted.blocks() as usize];
        let Ok(text) = fs::read(&ledger.path) else { return Ok((ledger, nothing)) };
        let Some((marks, length)) = ledger.read(&text, nothing.clone()) else {
            ledger.clear()?;
            return Ok((ledger, nothing));
        };
        let file = OpenOptions::new().append(true).open(&ledger.path)?;
        // A line that a kill interrupted must not become part of the next one.
        file.set_len(length)?;
        ledger.file = Some(file);
        Ok((ledger, marks))
    }

    /// The marks, and the length of what could be read; `None` when it is about something else.
    fn read(&self, text: &[u8], mut marks: Marks) -> Option<(Marks, u64)> {
        let mut lines = text.split_inclusive(|byte| *byte == b'\n');
        let title: Title = serde_json::from_slice(lines.next()?).ok()?;
        let same = |title: &Title| (title.version, title.size, title.digest, title.block);
        if same(&title) != same(&self.title) {
            return None;
        }
        let mut length = text.iter().position(|byte| *byte == b'\n')? as u64 + 1;
        for line in lines {
            let Some((mark, crc)) = line_of(line).and_then(|(i, crc)| Some((marks.get_mut(i)?, crc))) else {
                break;
            };
            *mark = Some(crc);
            length += line.len() as u64;
        }
        Some((marks, length))
    }

    /// The block is on the disk.
    pub fn note(&mut self, block: u64, crc: u32) -> io::Result<()> {
        let mut text = Vec::with_capacity(32);
        if self.file.is_none() {
            serde_json::to_writer(&mut text, &self.title)?;
            text.push(b'\n');
            self.file = Some(File::create(&self.path)?);
        }
        writeln!(text, "{block} {crc:08x}")?;
        self.file.as_ref().map_or(Ok(()), |mut file| file.write_all(&text))
    }

    /// Nothing is known to be there any more.
    pub fn clear(&mut self) -> io::Result<()> {
        self.file = None;
        absent_is_fine(fs::remove_file(&self.path))
    }
}

/// `17 0badcafe` and the line's end.
fn line_of(line: &[u8]) -> Option<(usize, u32)> {
    let text = std::str::from_utf8(line.strip_suffix(b"\n")?).ok()?;
    let (block, crc) = text.split_once(' ')?;
    Some((block.parse().ok()?, u32::from_str_radix(crc, 16).ok().filter(|_| crc.len() == 8)?))
}

fn beside(partial: &Path) -> PathBuf {
    let mut name = OsString::from(partial);
    name.push(".ledger");
    name.into()
}
