//! Black-box tests: miLLM through the real binary, as a person or a program meets it; and the rules of the house.

mod harness;
mod hostile_inputs;
mod house;
mod scenarios;
