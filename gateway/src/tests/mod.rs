//! The faces over services that are played: what goes out is what the clients of each face expect.

mod faces;
mod management;
mod openai;
mod world;
