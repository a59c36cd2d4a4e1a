//! Inputs that are too much: the smallest that end or stop a server without a sandbox, and variants of them. The
//! scenarios send them to a server, and the fuzz targets begin with them.

pub mod gguf;
pub mod grammars;
pub mod requests;
pub mod schemas;
pub mod templates;
pub mod tokenizers;
pub mod weights;

/// An input with its name.
pub type Named<T> = (&'static str, T);

/// Returns `n` texts in a row.
fn repeated(n: usize, text: impl Fn(usize) -> String) -> String {
    (0..n).map(text).collect()
}
