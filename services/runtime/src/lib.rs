//! Runs the loaded models: the gRPC face of the engine.
//!
//! [`Runtime::build`] checks, [`Runtime::mount`] starts: one task owns what is loaded ([`loader`]), requests go
//! to the engine's own thread and come back through a channel each ([`generate`]). Calls the Catalog alone.

mod autoload;
pub mod bench;
mod catalog;
mod devices;
mod estimate;
mod failure;
mod generate;
#[cfg(feature = "cuda")]
mod gpu;
mod language;
mod loader;
mod renames;
mod service;
mod status;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use millm_kit::{Conn, Host, ModelRef, Settings};
use millm_proto::runtime::v1::runtime_service_server::RuntimeServiceServer;
use millm_sandbox::Sandbox;
use tonic::codec::CompressionEncoding;

use crate::{
    catalog::Catalog,
    devices::Devices,
    loader::{Ground, Loader},
    service::Service,
};

/// Of a request: the largest body of the REST faces, and tools once more as a grammar.
const MAX_REQUEST_BYTES: usize = 10 << 20;
/// Of one of ours: a prompt with its log probabilities.
const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// Tokens that may be guessed ahead.
const MOST_GUESSED: u32 = 16;

#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("{setting} must be at least 1")]
    Zero { setting: &'static str },
    #[error("speculate must be at most {MOST_GUESSED}")]
    Speculate,
    #[error(transparent)]
    Device(#[from] millm_engine::Error),
    #[error("auto_load_model '{name}' is no model's name or id")]
    AutoLoad { name: String },
}

/// The service before it is mounted: nothing runs yet.
pub struct Runtime {
    ground: Ground,
    catalog: Catalog,
    auto_load: Option<String>,
}

impl Runtime {
    /// `catalog`: where rows are read. `sandbox`: where tokenizers, chat templates and grammars run.
    pub fn build(settings: &Settings, catalog: Conn, sandbox: Sandbox) -> Result<Self, BuildError> {
        for (setting, value) in [
            ("context_length", settings.context_length),
            ("parallel_requests", settings.parallel_requests),
            ("max_loaded_models", settings.max_loaded_models),
        ] {
            if value == 0 {
                return Err(BuildError::Zero { setting });
            }
        }
        if settings.speculate > MOST_GUESSED {
            return Err(BuildError::Speculate);
        }
        let auto_load = settings.auto_load_model.clone();
        if let Some(name) = &auto_load
            && ModelRef::parse(name).is_err()
        {
            return Err(BuildError::AutoLoad { name: name.clone() });
        }
        let devices = Devices::open(devices::choose(settings.device))?;
        let ground = Ground::new(settings, Arc::new(devices), sandbox);
        Ok(Self { ground, catalog: Catalog::new(catalog), auto_load })
    }

    /// `give_back` is called when a model has been freed: allocators keep such memory unless told otherwise.
    #[must_use]
    pub fn giving_back_by(mut self, give_back: fn()) -> Self {
        self.ground.give_back = give_back;
        self
    }

    /// Serves within `host`, whose end unloads what is loaded after its requests. Gives the way to call it.
    pub async fn mount(self, host: &mut Host) -> Conn {
        let Self { ground, catalog, auto_load } = self;
        let loader = Loader::start(ground, &host.tasks, &host.shutdown);
        if let Some(name) = auto_load {
            let loading = autoload::load(name, catalog.clone(), loader.clone());
            let stopping = host.shutdown.stopping.clone();
            host.tasks.spawn(stopping.run_until_cancelled_owned(loading));
        }
        let following = renames::follow(catalog.clone(), loader.clone());
        host.tasks.spawn(host.shutdown.stopping.clone().run_until_cancelled_owned(following));
        let service = Service { catalog, loader, shutdown: host.shutdown.clone() };
        let service = RuntimeServiceServer::new(service)
            .accept_compressed(CompressionEncoding::Gzip)
            .max_decoding_message_size(MAX_REQUEST_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        host.grpc(service).await
    }
}
