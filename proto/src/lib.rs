//! The contracts of miLLM: messages, clients and servers generated from `proto/`, and the descriptor
//! set that reflection serves. Nothing here is written by hand but names.
#![allow(clippy::all, clippy::pedantic)]

/// The registry of models.
pub mod catalog {
    pub mod v1 {
        tonic::include_proto!("millm.catalog.v1");
    }
}

/// Downloads of models.
pub mod downloader {
    pub mod v1 {
        tonic::include_proto!("millm.downloader.v1");
    }
}

/// Loaded models and generation.
pub mod runtime {
    pub mod v1 {
        tonic::include_proto!("millm.runtime.v1");
    }
}

/// Models from within: layers, hook points, activations.
pub mod inspection {
    pub mod v1 {
        tonic::include_proto!("millm.inspection.v1");
    }
}

/// Models with their status, for clients.
pub mod gateway {
    pub mod v1 {
        tonic::include_proto!("millm.gateway.v1");
    }
}

/// `google.rpc.Status` and its details, as `tonic-types` has them.
pub mod rpc {
    pub use tonic_types::pb::*;
}

/// The descriptors of every message and service, for reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/millm.binpb"));
