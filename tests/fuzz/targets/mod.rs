//! The fuzz targets, each with the protocol through which it reaches the server.

mod bodies;
mod constraints;
mod file_languages;
mod files;
mod languages;
mod messages;
mod raw;
