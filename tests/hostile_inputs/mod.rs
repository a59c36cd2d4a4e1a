//! Inputs that are too much: each line of issue 10's table, the smallest that ended or stopped a server then, and
//! its siblings. The scenarios ask a server with them, the fuzz targets begin with them.

pub mod gguf;
pub mod grammars;
pub mod requests;
pub mod schemas;
pub mod templates;
pub mod tokenizers;
pub mod weights;

/// A name for people and the input itself.
pub type Named<T> = (&'static str, T);
