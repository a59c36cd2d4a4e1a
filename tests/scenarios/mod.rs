//! What miLLM promises, seen from outside. Every scenario runs with all roles in one process and with each role in
//! its own.

mod answers;
mod any_hub;
mod arrival;
mod batching;
mod doctor;
mod faults;
mod hostile;
mod lifecycle;
mod looking;
mod refusals;
mod repositories;
mod resuming;
mod reuse;
mod several;
mod streaming;
