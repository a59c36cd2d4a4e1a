//! The repair: Catalog and models folder are compared and made to agree. It runs at startup, on request
//! (`millm doctor`), and every few hours for what failed downloads have left.
//!
//! Only files are removed whose manifest or folder name says that they are this catalog's.

pub(crate) mod apply;
pub(crate) mod check;
pub(crate) mod compare;
pub(crate) mod remove_files;
pub(crate) mod report;
pub(crate) mod scan;
pub(crate) mod startup;
pub(crate) mod sweep;

#[cfg(test)]
mod tests;
