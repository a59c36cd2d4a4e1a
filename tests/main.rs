//! Black-box tests: miLLM through the real binary, as a user or a program uses it, and the rules of the source tree.

mod architecture;
mod harness;
mod hostile_inputs;
mod scenarios;
