//! The client of a Hugging Face hub: its API, its files, and its file servers. Every answer counts as hostile: it is
//! bounded, checked and typed.
//!
//! The token goes to the hub's own origin and nowhere else, so redirects are followed by hand ([`http`]).

pub(crate) mod api_types;
pub(crate) mod breaker;
pub(crate) mod client;
pub(crate) mod dataset_card;
pub(crate) mod digest;
pub(crate) mod error;
mod http;
pub(crate) mod path;
pub(crate) mod repo_kind;
pub(crate) mod search;
mod signed_url;
mod ssrf_guard;
mod token_check;
