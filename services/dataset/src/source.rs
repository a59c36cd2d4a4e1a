//! Opened files: read as a stream, decompressed where they are compressed, and hashed on the way where that is asked for.
//!
//! The compression is told by the first bytes, so a name does not matter. A file that expands without end is refused.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufRead, BufReader, Cursor, Read},
    os::unix::fs::OpenOptionsExt as _,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::{
    BlockDecodingStrategy, FrameDecoder,
    errors::{FrameDecoderError, ReadFrameHeaderError},
};
use sha2::{Digest as _, Sha256};

use crate::{
    error::{Error, Result},
    limits::{MAX_EXPANSION, MIN_EXPANDED_BYTES},
};

const BUFFER_BYTES: usize = 64 << 10;
const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const BYTE_ORDER_MARK: [u8; 3] = [0xef, 0xbb, 0xbf];

/// A switch that stops readers from another thread. It is cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Stops all readers that have this switch.
    pub fn stop(&self) {
        self.0.store(true, Relaxed);
    }

    /// Fails once the switch is set.
    pub(crate) fn check(&self) -> Result<()> {
        if self.0.load(Relaxed) { Err(Error::Cancelled) } else { Ok(()) }
    }
}

/// Opens a regular file. A path that became a pipe or a device meanwhile is refused, and blocks nothing.
///
/// # Errors
///
/// [`Error::Io`], or [`Error::Invalid`] for what is no regular file.
pub(crate) fn open_regular(path: &Path) -> Result<(File, u64)> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path)
        .map_err(|error| Error::io(path, error))?;
    let metadata = file.metadata().map_err(|error| Error::io(path, error))?;
    if !metadata.is_file() {
        return Err(Error::file(path, "is not a regular file"));
    }
    Ok((file, metadata.len()))
}

/// What a whole file is: known once it was read to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fingerprint {
    pub(crate) size: u64,
    /// Hexadecimal.
    pub(crate) sha256: String,
}

/// The content of a file, decompressed, without a byte order mark.
pub(crate) struct Source {
    reader: Box<dyn BufRead + Send>,
    raw: Raw,
    stop: Stop,
}

impl Source {
    /// Opens a file. With `hashed`, [`Self::finish`] returns its fingerprint.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], [`Error::Invalid`].
    pub(crate) fn open(path: &Path, hashed: bool, stop: Stop) -> Result<Self> {
        let (file, size) = open_regular(path)?;
        let raw = Raw(Arc::new(Mutex::new(RawFile { file, hasher: hashed.then(Sha256::new), read: 0 })));
        let failed = |error| Error::io(path, error);
        let reader = decompressed(raw.clone(), size).map_err(failed)?;
        let reader = without_mark(reader).map_err(failed)?;
        Ok(Self { reader, raw, stop })
    }

    /// Returns the bytes of the file (compressed) that were read so far.
    pub(crate) fn bytes_read(&self) -> u64 {
        self.raw.locked().read
    }

    /// Fails once the reader is to stop.
    ///
    /// # Errors
    ///
    /// [`Error::Cancelled`].
    pub(crate) fn check_stop(&self) -> Result<()> {
        self.stop.check()
    }

    /// Reads what is left of the file and returns its fingerprint; `None` when it was opened without hashing.
    ///
    /// # Errors
    ///
    /// The system's error.
    pub(crate) fn finish(self) -> io::Result<Option<Fingerprint>> {
        let Self { reader, mut raw, .. } = self;
        drop(reader);
        io::copy(&mut raw, &mut io::sink())?;
        let mut raw = raw.locked();
        let size = raw.read;
        let hasher = raw.hasher.take();
        Ok(hasher.map(|hasher| Fingerprint { size, sha256: hex::encode(hasher.finalize()) }))
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buffer)
    }
}

impl BufRead for Source {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.reader.fill_buf()
    }

    fn consume(&mut self, bytes: usize) {
        self.reader.consume(bytes);
    }
}

/// Hashes a file without reading its rows. `progress` gets the bytes so far and returns whether to go on.
///
/// # Errors
///
/// [`Error::Io`], [`Error::Invalid`]; [`Error::Cancelled`] when `progress` says so.
pub(crate) fn fingerprint(path: &Path, progress: &mut dyn FnMut(u64) -> bool) -> Result<Fingerprint> {
    let (file, _) = open_regular(path)?;
    let mut raw = RawFile { file, hasher: Some(Sha256::new()), read: 0 };
    let mut buffer = vec![0; BUFFER_BYTES];
    while raw.read(&mut buffer).map_err(|error| Error::io(path, error))? > 0 {
        if !progress(raw.read) {
            return Err(Error::Cancelled);
        }
    }
    let sha256 = raw.hasher.take().map(|hasher| hex::encode(hasher.finalize())).unwrap_or_default();
    Ok(Fingerprint { size: raw.read, sha256 })
}

/// The file as it is on the disk. The decompressor and the [`Source`] share it.
#[derive(Clone)]
struct Raw(Arc<Mutex<RawFile>>);

struct RawFile {
    file: File,
    hasher: Option<Sha256>,
    read: u64,
}

impl Raw {
    fn locked(&self) -> MutexGuard<'_, RawFile> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Read for Raw {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.locked().read(buffer)
    }
}

impl Read for RawFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.file.read(buffer)?;
        self.read += bytes as u64;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buffer[..bytes]);
        }
        Ok(bytes)
    }
}

/// Reads up to `N` bytes, fewer only at the end of the file.
fn first_bytes<const N: usize>(reader: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(N);
    reader.take(N as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn decompressed(mut raw: Raw, size: u64) -> io::Result<Box<dyn BufRead + Send>> {
    let head = first_bytes::<4>(&mut raw)?;
    let (is_gzip, is_zstd) = (head.starts_with(&GZIP), head.starts_with(&ZSTD));
    let whole = BufReader::with_capacity(BUFFER_BYTES, Cursor::new(head).chain(raw));
    let limit = size.saturating_mul(MAX_EXPANSION).max(MIN_EXPANDED_BYTES);
    Ok(if is_gzip {
        Box::new(BufReader::with_capacity(BUFFER_BYTES, Limited::new(MultiGzDecoder::new(whole), limit)))
    } else if is_zstd {
        Box::new(BufReader::with_capacity(BUFFER_BYTES, Limited::new(ZstdDecoder::new(whole), limit)))
    } else {
        Box::new(whole)
    })
}

fn without_mark(mut reader: Box<dyn BufRead + Send>) -> io::Result<Box<dyn BufRead + Send>> {
    let head = first_bytes::<3>(&mut reader)?;
    let head = if head == BYTE_ORDER_MARK { Vec::new() } else { head };
    Ok(if head.is_empty() { reader } else { Box::new(Cursor::new(head).chain(reader)) })
}

/// Stops a file that expands without end.
struct Limited<R> {
    reader: R,
    left: u64,
    limit: u64,
}

impl<R> Limited<R> {
    fn new(reader: R, limit: u64) -> Self {
        Self { reader, left: limit, limit }
    }
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.reader.read(buffer)?;
        self.left = self.left.checked_sub(bytes as u64).ok_or_else(|| {
            io::Error::other(format!(
                "expands to more than {} bytes, {MAX_EXPANSION} times its size: it is refused",
                self.limit
            ))
        })?;
        Ok(bytes)
    }
}

/// Decompresses all frames of a Zstandard file (RFC 8878), one after the other.
struct ZstdDecoder<R> {
    source: R,
    frame: FrameDecoder,
    is_in_frame: bool,
}

impl<R: BufRead> ZstdDecoder<R> {
    fn new(source: R) -> Self {
        Self { source, frame: FrameDecoder::new(), is_in_frame: false }
    }

    fn decode(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.is_in_frame {
                while self.frame.can_collect() == 0 && !self.frame.is_finished() {
                    let one = BlockDecodingStrategy::UptoBlocks(1);
                    self.frame.decode_blocks(&mut self.source, one).map_err(io::Error::other)?;
                }
                let bytes = self.frame.read(buffer)?;
                if bytes > 0 {
                    return Ok(bytes);
                }
                self.is_in_frame = false;
                let sums = (self.frame.get_checksum_from_data(), self.frame.get_calculated_checksum());
                if let (Some(expected), Some(found)) = sums
                    && expected != found
                {
                    return Err(io::Error::other("has a wrong checksum"));
                }
            }
            if self.source.fill_buf()?.is_empty() {
                return Ok(0);
            }
            match self.frame.reset(&mut self.source) {
                Ok(()) => self.is_in_frame = true,
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    io::copy(&mut self.source.by_ref().take(u64::from(length)), &mut io::sink())?;
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
    }
}

impl<R: BufRead> Read for ZstdDecoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        // A damaged file must not end more than its own reading.
        catch_unwind(AssertUnwindSafe(|| self.decode(buffer)))
            .unwrap_or_else(|_| Err(io::Error::other("is damaged: the decompressor gave up")))
    }
}

/// Decompresses Zstandard data that is in memory, at most `limit` bytes.
///
/// # Errors
///
/// Fails if the data is damaged or longer.
pub(crate) fn unpack_zstd(packed: &[u8], limit: usize) -> io::Result<Vec<u8>> {
    unpack(ZstdDecoder::new(packed), limit)
}

/// Decompresses gzip data that is in memory, at most `limit` bytes.
///
/// # Errors
///
/// Fails if the data is damaged or longer.
pub(crate) fn unpack_gzip(packed: &[u8], limit: usize) -> io::Result<Vec<u8>> {
    unpack(MultiGzDecoder::new(packed), limit)
}

fn unpack(reader: impl Read, limit: usize) -> io::Result<Vec<u8>> {
    let mut unpacked = Vec::new();
    reader.take(limit as u64 + 1).read_to_end(&mut unpacked)?;
    if unpacked.len() > limit {
        return Err(io::Error::other(format!("is longer than {limit} bytes")));
    }
    Ok(unpacked)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::{Compression, write::GzEncoder};
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        compress_to_vec(bytes, CompressionLevel::Fastest)
    }

    fn read(bytes: &[u8]) -> io::Result<(Vec<u8>, Fingerprint)> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, bytes).unwrap();
        let mut source = Source::open(&path, true, Stop::default()).map_err(io::Error::other)?;
        let mut content = Vec::new();
        source.read_to_end(&mut content)?;
        assert_eq!(fingerprint(&path, &mut |_| true).unwrap().size, bytes.len() as u64);
        Ok((content, source.finish()?.unwrap()))
    }

    #[test]
    fn compressed_files_are_read_and_hashed_as_they_are() {
        let text = "a line\n".repeat(20_000);
        let (first, second) = text.as_bytes().split_at(1000);
        let mark = [BYTE_ORDER_MARK.as_slice(), text.as_bytes()].concat();
        // A frame that holds no data stands between two others.
        let skipped = [0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3];
        for packed in [
            text.clone().into_bytes(),
            mark.clone(),
            gzip(text.as_bytes()),
            gzip(&mark),
            [gzip(first), gzip(second)].concat(),
            zstd(text.as_bytes()),
            zstd(&mark),
            [zstd(first), skipped.to_vec(), zstd(second)].concat(),
        ] {
            let (content, found) = read(&packed).unwrap();
            assert_eq!(content, text.as_bytes());
            assert_eq!(found.sha256, hex::encode(Sha256::digest(&packed)));
            assert_eq!(found.size, packed.len() as u64);
        }
        for short in ["", "a", "ab", "abc", "\u{feff}"] {
            assert_eq!(read(short.as_bytes()).unwrap().0, short.trim_start_matches('\u{feff}').as_bytes());
        }
    }

    #[test]
    fn the_rest_of_a_file_belongs_to_its_hash() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "0123456789").unwrap();
        let mut source = Source::open(&path, true, Stop::default()).unwrap();
        assert_eq!(first_bytes::<2>(&mut source).unwrap(), b"01");
        let found = source.finish().unwrap().unwrap();
        assert_eq!((found.size, found.sha256), (10, hex::encode(Sha256::digest("0123456789"))));
        assert_eq!(Source::open(&path, false, Stop::default()).unwrap().finish().unwrap(), None);
    }

    #[test]
    fn bombs_and_damaged_files_end_with_an_error() {
        let zeros = vec![0; 80 << 20];
        for bomb in [gzip(&zeros), zstd(&zeros)] {
            let error = read(&bomb).unwrap_err().to_string();
            assert!(error.contains("expands to more than"), "{error}");
        }
        let text = "some text that compresses ".repeat(100);
        for good in [gzip(text.as_bytes()), zstd(text.as_bytes())] {
            assert!(read(&good[..good.len() - 9]).is_err());
            for at in 4..good.len() {
                let mut damaged = good.clone();
                damaged[at] ^= 0x55;
                // Some damage cannot be told; none may panic or hang.
                let _ = read(&damaged);
            }
        }
        assert!(unpack_gzip(&gzip(&[0; 1000]), 999).is_err());
        assert_eq!(unpack_zstd(&zstd(&[7; 1000]), 1000).unwrap(), [7; 1000]);
    }

    #[test]
    fn only_regular_files_are_opened() {
        assert!(matches!(open_regular(Path::new("/dev/null")), Err(Error::Invalid { .. })));
        assert!(matches!(open_regular(Path::new("/")), Err(Error::Invalid { .. })));
        assert!(matches!(open_regular(Path::new("/no/such/file")), Err(Error::Io { .. })));
    }
}
