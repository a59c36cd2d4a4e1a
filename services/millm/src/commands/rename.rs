//! `millm rename`: gives a model another name.

use anyhow::Result;
use millm_proto::catalog::v1::{Model, UpdateModelRequest};
use prost_types::FieldMask;

use crate::{args::Rename, client::Server, live_state::LiveState, output};

/// Renames a model.
pub async fn run(server: &Server, args: Rename, json: bool) -> Result<()> {
    let request = UpdateModelRequest {
        model: Some(Model { name: args.model.clone(), handle: args.name, ..Model::default() }),
        update_mask: Some(FieldMask { paths: vec!["handle".to_owned()] }),
    };
    let renamed = server.catalog().update_model(request).await.map_err(|s| server.explain(&s))?.into_inner();
    if json {
        return output::json(&LiveState::read(server).await.model(&renamed));
    }
    eprintln!("{} is {} now", args.model, renamed.handle);
    Ok(())
}
