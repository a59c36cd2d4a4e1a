//! Compares the engine with references of transformers and llama.cpp, and a request in a batch with the same request
//! alone.

mod batching;
mod candle;
mod capture;
mod capture_limits;
mod collected;
mod config_keys;
mod failures;
mod families;
mod fixtures;
mod grammar;
mod greedy;
mod hooks;
mod multimodal;
mod mxfp4;
mod preemption;
mod prefix_cache;
mod random_arrivals;
mod rope_regimes;
mod speculative;
