//! The ledger beside a partial file. The first line says which file it becomes; each further line is a block that was
//! written, with its checksum, in the order of the writes. Lines are only appended, so a kill loses at most the line
//! that it interrupts.
//!
//! It is written by hand: its point is that one appended line of text is the whole commit of a block, with no library
//! or database between a write and its note.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{hub::digest::Digest, limits::BLOCK_BYTES, store::atomic_file::ignore_not_found};

/// The file that a partial becomes.
#[derive(Debug, Clone)]
pub(crate) struct ExpectedFile {
    pub(crate) size: u64,
    pub(crate) digest: Digest,
    pub(crate) commit: String,
}

impl ExpectedFile {
    /// Returns the number of blocks.
    pub(crate) fn blocks(&self) -> u64 {
        self.size.div_ceil(BLOCK_BYTES)
    }
}

/// The first line.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Header {
    version: u32,
    size: u64,
    digest: Digest,
    commit: String,
    block: u64,
}

const VERSION: u32 = 2;

/// The CRC-32 of each block; `None` for a block that is not known to be on the disk.
pub(crate) type BlockChecksums = Vec<Option<u32>>;

/// A ledger, open for more lines. Its file is made with the first one: most small files never need it.
#[derive(Debug)]
pub(crate) struct Ledger {
    path: PathBuf,
    header: Header,
    file: Option<File>,
}

impl Ledger {
    /// Opens the ledger beside `partial`, and reads what an earlier run noted about the same content. The commit may
    /// differ: the digest decides.
    ///
    /// # Errors
    ///
    /// Returns the system's error.
    pub(crate) fn open(partial: &Path, expected: &ExpectedFile) -> io::Result<(Self, BlockChecksums)> {
        let header = Header {
            version: VERSION,
            size: expected.size,
            digest: expected.digest,
            commit: expected.commit.clone(),
            block: BLOCK_BYTES,
        };
        let mut ledger = Self { path: beside(partial), header, file: None };
        let none = vec![None; expected.blocks() as usize];
        let Ok(text) = fs::read(&ledger.path) else { return Ok((ledger, none)) };
        let Some((checksums, length)) = ledger.read(&text, none.clone()) else {
            ledger.clear()?;
            return Ok((ledger, none));
        };
        let file = OpenOptions::new().append(true).open(&ledger.path)?;
        // Cuts off a line that a kill interrupted.
        file.set_len(length)?;
        ledger.file = Some(file);
        Ok((ledger, checksums))
    }

    /// Returns the checksums and the length of the valid lines; `None` when the ledger is about another file.
    fn read(&self, text: &[u8], mut checksums: BlockChecksums) -> Option<(BlockChecksums, u64)> {
        let mut lines = text.split_inclusive(|byte| *byte == b'\n');
        let header: Header = serde_json::from_slice(lines.next()?).ok()?;
        let same = |header: &Header| (header.version, header.size, header.digest, header.block);
        if same(&header) != same(&self.header) {
            return None;
        }
        let mut length = text.iter().position(|byte| *byte == b'\n')? as u64 + 1;
        for line in lines {
            let Some((checksum, crc)) =
                parse_line(line).and_then(|(i, crc)| Some((checksums.get_mut(i)?, crc)))
            else {
                break;
            };
            *checksum = Some(crc);
            length += line.len() as u64;
        }
        Some((checksums, length))
    }

    /// Notes that a block is on the disk.
    ///
    /// # Errors
    ///
    /// Returns the system's error.
    pub(crate) fn note(&mut self, block: u64, crc: u32) -> io::Result<()> {
        let mut text = Vec::with_capacity(32);
        if self.file.is_none() {
            serde_json::to_writer(&mut text, &self.header)?;
            text.push(b'\n');
            self.file = Some(File::create(&self.path)?);
        }
        writeln!(text, "{block} {crc:08x}")?;
        self.file.as_ref().map_or(Ok(()), |mut file| file.write_all(&text))
    }

    /// Removes all notes.
    ///
    /// # Errors
    ///
    /// Returns the system's error.
    pub(crate) fn clear(&mut self) -> io::Result<()> {
        self.file = None;
        ignore_not_found(fs::remove_file(&self.path))
    }
}

/// Parses a line: `17 0badcafe` and a newline.
fn parse_line(line: &[u8]) -> Option<(usize, u32)> {
    let text = std::str::from_utf8(line.strip_suffix(b"\n")?).ok()?;
    let (block, crc) = text.split_once(' ')?;
    Some((block.parse().ok()?, u32::from_str_radix(crc, 16).ok().filter(|_| crc.len() == 8)?))
}

fn beside(partial: &Path) -> PathBuf {
    let mut name = OsString::from(partial);
    name.push(".ledger");
    name.into()
}
