//! OpenAI's API as types: requests, answers, chunks of streams, errors. Names are OpenAI's own. Extensions are named
//! as in vLLM or llama-server, and their comments say so.

pub mod answer;
pub mod error;
pub mod logprobs;
pub mod models;
pub mod request;

pub use error::ErrorBody;
