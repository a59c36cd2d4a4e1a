//! Compiles the contracts without protoc.

use std::{env, fs, path::PathBuf};

use protox::prost::Message as _;

const PROTOS: [&str; 8] = [
    "millm/catalog/v1/catalog.proto",
    "millm/catalog/v1/datasets.proto",
    "millm/catalog/v1/templates.proto",
    "millm/downloader/v1/downloader.proto",
    "millm/runtime/v1/runtime.proto",
    "millm/inspection/v1/inspection.proto",
    "millm/gateway/v1/gateway.proto",
    "google/rpc/error_details.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let descriptors = protox::compile(PROTOS, ["."])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("millm.binpb"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .extern_path(".google.rpc", "::tonic_types::pb")
        .build_transport(true)
        .compile_fds(descriptors)?;
    for file in PROTOS {
        println!("cargo:rerun-if-changed={file}");
    }
    Ok(())
}
