//! What is fuzzed, and through which door it comes in.

mod bodies;
mod constraints;
mod file_languages;
mod files;
mod languages;
mod messages;
mod raw;
