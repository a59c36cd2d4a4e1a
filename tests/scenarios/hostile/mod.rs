//! Inputs that once ended or stopped the server: each gets a typed answer, and the server continues as before.
//!
//! One server takes a whole batch. After each input the process must be the same, and an ordinary question must be
//! answered. After the batch, memory must not have grown. A failure is noted and the batch continues, with a new
//! server if the old one ended, so that one run finds all failures.

mod batch;
mod constraints;
mod crowd;
mod files;
mod helpers;
mod honest;
mod prompts;
mod running;
