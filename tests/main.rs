//! Black-box tests: miLLM through the real binary, as a person or a program meets it; and the rules of the house.

#![allow(
    clippy::format_collect,
    clippy::type_complexity,
    clippy::unnecessary_wraps,
    clippy::needless_for_each,
    clippy::if_not_else,
    clippy::collapsible_if,
    reason = "hostile inputs are built as they read best"
)]

mod harness;
mod hostile_inputs;
mod house;
mod scenarios;
