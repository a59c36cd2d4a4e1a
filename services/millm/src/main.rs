//! miLLM.
fn main() {}
