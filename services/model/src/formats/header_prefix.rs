//! The outcome of parsing a header from a file's first bytes. A remote file can thus be inspected with a range request
//! or two, and without its data.

/// The outcome of parsing a header from the first bytes of a file.
#[derive(Debug)]
pub enum HeaderPrefix<T> {
    /// The header, validated.
    Complete(T),
    /// The first this many bytes are needed: more than were given, and at most the file's length.
    NeedMore(u64),
}

impl<T> HeaderPrefix<T> {
    /// Returns the header, or `None` where more bytes are needed.
    pub fn complete(self) -> Option<T> {
        match self {
            Self::Complete(value) => Some(value),
            Self::NeedMore(_) => None,
        }
    }
}
