//! Inputs that once ended the server, or stopped it: each gets a typed answer, and the server goes on as before.
//!
//! One server takes a whole batch. After each input the process must be the same and an everyday question must be
//! answered; after the batch, memory must be what it was. What fails is noted and the batch goes on, with a new
//! server where the old one ended, so that one run tells all that is wrong.

mod batch;
mod constraints;
mod crowd;
mod files;
mod helpers;
mod honest;
mod prompts;
mod running;
