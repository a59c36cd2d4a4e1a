//! Inputs that are too much: the smallest that end or stop a server without a sandbox, and their siblings. The
//! scenarios ask a server with them, the fuzz targets begin with them.

pub mod gguf;
pub mod grammars;
pub mod requests;
pub mod schemas;
pub mod templates;
pub mod tokenizers;
pub mod weights;

/// A name for people and the input itself.
pub type Named<T> = (&'static str, T);

/// `n` texts, one after the other.
fn repeated(n: usize, text: impl Fn(usize) -> String) -> String {
    (0..n).map(text).collect()
}
