//! The bytes of one file of a repository: in memory, on disk, or computed from a seed, so that a test can serve
//! gigabytes that are stored nowhere. Hashes are computed once, when a commit is made.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use sha1::{Digest, Sha1};
use sha2::Sha256;

/// The bytes that are read and hashed at once.
const PIECE: u64 = 1 << 20;

/// The bytes of a tile.
const TILE: u64 = 2 * ((4 << 20) - 3);

/// The extensions of files that the hub stores in LFS, whatever their size.
const LFS_EXTENSIONS: [&str; 10] =
    ["safetensors", "gguf", "bin", "pt", "pth", "h5", "onnx", "msgpack", "npy", "parquet"];

/// The source of a file's bytes.
#[derive(Debug, Clone)]
pub enum Content {
    /// Bytes in memory.
    Bytes(Bytes),
    /// A file on disk, which is read while it is sent.
    Disk(PathBuf),
    /// Bytes that are computed from a seed.
    Seeded(Seeded),
    /// Bytes that repeat.
    Tiled(Tiled),
    /// Like `Seeded`, but too large to be hashed: its sha256 is invented. For files that a client refuses by their
    /// size.
    Claimed(Seeded),
}

/// A computed file: `head`, then bytes from `seed`, `size` bytes in all.
#[derive(Debug, Clone)]
pub struct Seeded {
    /// The first bytes.
    pub head: Bytes,
    /// The size of the whole file in bytes.
    pub size: u64,
    /// The seed of the other bytes.
    pub seed: u64,
    /// The kind of the other bytes.
    pub pattern: Pattern,
}

/// The kind of bytes after the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pattern {
    /// Any byte.
    Noise,
    /// Little-endian bf16 numbers of magnitude 2⁻⁷ to 2⁻⁵ and either sign, so that a model's activations stay finite.
    Bf16Weights,
}

/// A file that costs no computation to serve: `head`, then the same tile over and over, `size` bytes in all.
#[derive(Debug, Clone)]
pub struct Tiled {
    /// The first bytes.
    pub head: Bytes,
    /// The bytes that repeat.
    pub tile: Bytes,
    /// The size of the whole file in bytes.
    pub size: u64,
}

impl Tiled {
    /// Returns `seeded` with its first weights repeated. A tile has an odd number of weights, so any two parts that
    /// begin at different multiples of a power of two differ, and a client that confuses them is found out.
    pub fn weights(seeded: &Seeded) -> Self {
        let all = Seeded { head: Bytes::new(), size: TILE, ..seeded.clone() };
        Self { head: seeded.head.clone(), tile: all.read(0, TILE as usize), size: seeded.size }
    }

    fn read(&self, offset: u64, len: usize) -> Bytes {
        let head = self.head.len() as u64;
        let place = if offset < head { offset } else { (offset - head) % self.tile.len() as u64 } as usize;
        let source = if offset < head { &self.head } else { &self.tile };
        if place + len <= source.len() {
            return source.slice(place..place + len);
        }
        let first = source.slice(place..);
        let rest = self.read(offset + first.len() as u64, len - first.len());
        [first, rest].concat().into()
    }
}

impl Content {
    /// Returns `size` pseudorandom bytes from `seed`.
    pub fn noise(seed: u64, size: u64) -> Self {
        Self::Seeded(Seeded { head: Bytes::new(), size, seed, pattern: Pattern::Noise })
    }

    pub(crate) fn open(&self) -> io::Result<Reader> {
        Ok(match self {
            Self::Bytes(bytes) => Reader::Bytes(bytes.clone()),
            Self::Disk(path) => Reader::Disk(File::open(path).map_err(|e| at(path, &e))?),
            Self::Seeded(seeded) | Self::Claimed(seeded) => Reader::Seeded(seeded.clone()),
            Self::Tiled(tiled) => Reader::Tiled(tiled.clone()),
        })
    }

    fn size(&self) -> io::Result<u64> {
        Ok(match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Disk(path) => std::fs::metadata(path).map_err(|e| at(path, &e))?.len(),
            Self::Seeded(seeded) | Self::Claimed(seeded) => seeded.size,
            Self::Tiled(tiled) => tiled.size,
        })
    }

    /// Returns the first `most` bytes, or all if there are fewer.
    pub(crate) fn beginning(&self, most: u64) -> io::Result<Bytes> {
        let len = self.size()?.min(most);
        self.open()?.read(0, len as usize)
    }
}

impl From<Vec<u8>> for Content {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes.into())
    }
}

impl From<&str> for Content {
    fn from(text: &str) -> Self {
        Self::Bytes(Bytes::copy_from_slice(text.as_bytes()))
    }
}

impl From<String> for Content {
    fn from(text: String) -> Self {
        Self::Bytes(text.into())
    }
}

impl From<&Path> for Content {
    fn from(path: &Path) -> Self {
        Self::Disk(path.to_owned())
    }
}

fn at(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// An open [`Content`].
#[derive(Debug)]
pub(crate) enum Reader {
    Bytes(Bytes),
    Disk(File),
    Seeded(Seeded),
    Tiled(Tiled),
}

impl Reader {
    /// Reads `len` bytes from `offset` on. The range must lie inside the file.
    pub fn read(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        match self {
            Self::Bytes(bytes) => Ok(bytes.slice(offset as usize..offset as usize + len)),
            Self::Disk(file) => {
                let mut buffer = BytesMut::zeroed(len);
                file.read_exact_at(&mut buffer, offset)?;
                Ok(buffer.freeze())
            }
            Self::Seeded(seeded) => Ok(seeded.read(offset, len)),
            Self::Tiled(tiled) => Ok(tiled.read(offset, len)),
        }
    }
}

impl Seeded {
    fn read(&self, offset: u64, len: usize) -> Bytes {
        let head = self.head.len() as u64;
        let end = offset + len as u64;
        let mut out = BytesMut::with_capacity(len + 16);
        if offset < head {
            out.extend_from_slice(&self.head[offset as usize..end.min(head) as usize]);
        }
        if end > head {
            let (from, to) = (offset.max(head) - head, end - head);
            let start = out.len();
            for word in from / 8..to.div_ceil(8) {
                out.extend_from_slice(&self.word(word).to_le_bytes());
            }
            // The first word may begin before `from`: drop the bytes before it.
            let excess = (from % 8) as usize;
            let tail = out.split_off(start);
            out.extend_from_slice(&tail[excess..excess + (to - from) as usize]);
        }
        out.freeze()
    }

    fn word(&self, index: u64) -> u64 {
        let word = splitmix(self.seed.wrapping_add(index.wrapping_mul(GOLDEN)));
        match self.pattern {
            Pattern::Noise => word,
            Pattern::Bf16Weights => (word & 0x80ff_80ff_80ff_80ff) | 0x3c00_3c00_3c00_3c00,
        }
    }
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// SplitMix64 (Steele, Lea, Flood 2014): random access, so a range of a file costs only that range.
pub(crate) fn splitmix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(GOLDEN);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A file of the hub, with its hashes.
#[derive(Debug, Clone)]
pub struct Blob {
    pub(crate) content: Content,
    /// The size in bytes.
    pub size: u64,
    /// The git object id: of the bytes, or of the pointer file if the file is in LFS.
    pub oid: String,
    /// The sha256 of the bytes, in hex.
    pub sha256: String,
    /// The size of the pointer file in bytes; `None` if the file is not in LFS.
    pub pointer_size: Option<u64>,
}

impl Blob {
    /// Hashes `content`. `path` and `lfs_threshold` (bytes) decide whether the file is in LFS.
    pub(crate) fn new(path: &str, content: Content, lfs_threshold: u64) -> io::Result<Self> {
        let size = content.size()?;
        let extension = path.rsplit_once('.').map(|(_, extension)| extension);
        let lfs = size >= lfs_threshold || extension.is_some_and(|e| LFS_EXTENSIONS.contains(&e));
        let reader = content.open()?;
        let mut sha1 = Sha1::new_with_prefix(format!("blob {size}\0"));
        let mut sha256 = Sha256::new();
        let claimed = matches!(content, Content::Claimed(_));
        let mut offset = if claimed { size } else { 0 };
        sha256.update(if claimed { "claimed" } else { "" });
        while offset < size {
            let piece = reader.read(offset, PIECE.min(size - offset) as usize)?;
            // In LFS the git id is the pointer's, so gigabytes need no git hash.
            if !lfs {
                sha1.update(&piece);
            }
            sha256.update(&piece);
            offset += piece.len() as u64;
        }
        let sha256 = hex::encode(sha256.finalize());
        if !lfs {
            let oid = hex::encode(sha1.finalize());
            return Ok(Self { content, size, oid, sha256, pointer_size: None });
        }
        let pointer =
            format!("version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n");
        let oid = git_oid(pointer.as_bytes());
        Ok(Self { content, size, oid, sha256, pointer_size: Some(pointer.len() as u64) })
    }

    /// Returns the file's etag: the sha256 in LFS, otherwise the git id.
    pub fn etag(&self) -> &str {
        if self.pointer_size.is_some() { &self.sha256 } else { &self.oid }
    }
}

/// Returns the git object id of a blob with these bytes.
pub fn git_oid(bytes: &[u8]) -> String {
    let mut hash = Sha1::new_with_prefix(format!("blob {}\0", bytes.len()));
    hash.update(bytes);
    hex::encode(hash.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeded_ranges_are_cuts_of_the_whole() {
        let seeded = Seeded {
            head: Bytes::from_static(b"a head of 13b"),
            size: 1000,
            seed: 7,
            pattern: Pattern::Noise,
        };
        let whole = seeded.read(0, 1000);
        assert_eq!(whole.len(), 1000);
        assert_eq!(&whole[..13], b"a head of 13b");
        for (from, to) in [(0, 1), (3, 20), (12, 14), (13, 13), (14, 15), (29, 31), (500, 1000)] {
            assert_eq!(seeded.read(from as u64, to - from), whole.slice(from..to), "{from}..{to}");
        }
    }

    #[test]
    fn tiles_go_on_over_their_ends() {
        let seeded = Seeded {
            head: Bytes::from_static(b"head"),
            size: 3 * TILE,
            seed: 5,
            pattern: Pattern::Bf16Weights,
        };
        let tiled = Tiled::weights(&seeded);
        let first = tiled.read(0, 3 << 20);
        assert_eq!(first, seeded.read(0, 3 << 20));
        assert_eq!(tiled.read(TILE - 10, 2 << 20)[14..], first[4..(2 << 20) - 10]);
        assert_ne!(tiled.read(0, 1 << 20), tiled.read(8 << 20, 1 << 20));
    }

    #[test]
    fn weights_are_small_and_finite() {
        let seeded = Seeded { head: Bytes::new(), size: 4096, seed: 1, pattern: Pattern::Bf16Weights };
        for pair in seeded.read(0, 4096).chunks(2) {
            let bits = u32::from(u16::from_le_bytes([pair[0], pair[1]])) << 16;
            let value = f32::from_bits(bits).abs();
            assert!((0.0078..0.032).contains(&value), "{value}");
        }
    }

    #[test]
    fn oids_are_those_of_git() {
        // `printf 'hello\n' | git hash-object --stdin`
        let blob = Blob::new("a.txt", "hello\n".into(), 100).unwrap();
        assert_eq!(blob.oid, "ce013625030ba8dba906f756967f9e9ca394464a");
        assert_eq!(blob.etag(), blob.oid);
        let lfs = Blob::new("a.gguf", "hello\n".into(), 100).unwrap();
        assert_eq!(lfs.etag(), "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03");
        assert_eq!(lfs.pointer_size, Some(126));
    }
}
