//! The promises of miLLM, tested from outside. Every scenario runs with all roles in one process, and with each role
//! in its own process.

mod batching;
mod doctor;
mod download;
mod faults;
mod hostile;
mod load_and_remove;
mod preview_and_search;
mod real_hub;
mod reference_answers;
mod refusals;
mod repositories;
mod resume;
mod reuse;
mod several_models;
mod shell_files;
mod streaming;
