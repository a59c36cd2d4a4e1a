//! Reading a file's header from its first bytes alone, so that a remote file can be inspected with a range
//! request or two and nothing of its data.

pub use crate::gguf::GgufHeader;
pub use crate::safetensors::SafetensorsHeader;

/// What the first bytes of a file gave.
#[derive(Debug)]
pub enum Prefix<T> {
    Complete(T),
    /// The first this many bytes are needed: at most the file's length, and more than were given.
    NeedMore(u64),
}

impl<T> Prefix<T> {
    pub fn complete(self) -> Option<T> {
        match self {
            Self::Complete(value) => Some(value),
            Self::NeedMore(_) => None,
        }
    }
}
