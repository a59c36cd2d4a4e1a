//! The preparation of a download: the repository at a pinned commit, the files that make its model, and the plan.

pub(crate) mod inspect;
pub(crate) mod offline;
pub(crate) mod plan;
pub(crate) mod quantization;
pub(crate) mod select;
