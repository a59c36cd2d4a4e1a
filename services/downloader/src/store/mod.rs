//! The Downloader's data on disk: the models folder, the datasets in it, the manifest of a finished model, locks between
//! processes, free space, and the read-only view of the Hugging Face cache.

pub(crate) mod atomic_file;
pub(crate) mod datasets_dir;
pub(crate) mod disk_space;
pub(crate) mod file_lock;
pub(crate) mod hf_cache;
pub(crate) mod manifest;
pub(crate) mod models_dir;
