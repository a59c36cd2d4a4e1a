//! A model on disk, opened and validated.
