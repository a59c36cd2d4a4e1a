//! OpenAI's API as types: requests, answers, chunks of streams, errors. Names are OpenAI's own; extensions are those of
//! vLLM and llama-server, and say so.

pub mod answer;
pub mod error;
pub mod logprobs;
pub mod models;
pub mod request;

pub use error::ErrorBody;
