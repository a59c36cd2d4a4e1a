//! The registry of models: the only crate that speaks SQL.
