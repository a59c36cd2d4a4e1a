//! What miLLM promises, seen from outside. Every scenario runs with all roles in one process and with each role in
//! its own.

mod answers;
mod arrival;
mod batching;
mod lifecycle;
mod refusals;
mod resuming;
mod streaming;
