//! The runtime: loads models, generates text, and reads activations. It is the gRPC services around the engine.
//!
//! [`Runtime::build`] checks the settings and [`Runtime::mount`] starts the services. One task owns the loaded models
//! ([`loader`]). Requests go to the engine's thread, and events come back through one queue for each request
//! ([`generate`]). Jobs that write activations run beside them ([`inspection`]). The runtime calls only the catalog.

#![warn(missing_docs, clippy::missing_errors_doc, clippy::too_many_lines)]

mod autoload;
pub mod bench;
mod catalog_client;
mod catalog_watch;
mod devices;
mod error;
mod estimate;
mod generate;
#[cfg(feature = "cuda")]
mod gpu;
mod inspection;
mod loader;
mod model_finder;
mod options;
mod read_model;
mod service;
mod status;
#[cfg(test)]
mod tests;
mod tokenizer_bundle;

use std::{path::PathBuf, sync::Arc};

use millm_kit::{Channel, Host, ModelRef, Settings, settings::MAX_DRAFT_TOKENS};
use millm_proto::{
    inspection::v1::inspection_service_server::InspectionServiceServer,
    runtime::v1::runtime_service_server::RuntimeServiceServer,
};
use millm_sandbox::Sandbox;
use tonic::codec::CompressionEncoding;

use crate::{
    catalog_client::CatalogClient,
    devices::Devices,
    inspection::{DatasetsClient, Inspection, Jobs},
    model_finder::ModelFinder,
    options::LoaderOptions,
    service::Service,
};

/// The largest request: a body of the REST APIs at its limit, and its tools once more as a grammar.
const MAX_REQUEST_BYTES: usize = 10 << 20;
/// The largest message of a response: a prompt with its log probabilities.
const MAX_MESSAGE_BYTES: usize = 64 << 20;

const _: () = assert!(MAX_DRAFT_TOKENS as usize == millm_engine::MAX_DRAFT_TOKENS);

/// The runtime cannot start.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A setting is 0 that must not be.
    #[error("{setting} must be at least 1")]
    Zero {
        /// The setting's key.
        setting: &'static str,
    },
    /// The setting `speculate` is too large.
    #[error("speculate must be at most {MAX_DRAFT_TOKENS}")]
    Speculate,
    /// The device does not exist or cannot be used.
    #[error(transparent)]
    Device(#[from] millm_engine::Error),
    /// The setting `auto_load_model` cannot name a model.
    #[error("auto_load_model '{name}' is not a valid model name or id")]
    AutoLoad {
        /// The setting's value.
        name: String,
    },
}

/// A runtime that is not served yet.
pub struct Runtime {
    options: LoaderOptions,
    catalog: CatalogClient,
    datasets: DatasetsClient,
    activations_dir: PathBuf,
    auto_load: Option<String>,
}

impl Runtime {
    /// Checks the settings and opens the device. `sandbox` runs tokenizers, chat templates and grammars.
    ///
    /// # Errors
    ///
    /// Fails for a setting that is not valid, or a device that cannot be used.
    pub fn build(settings: &Settings, catalog: Channel, sandbox: Sandbox) -> Result<Self, BuildError> {
        for (setting, value) in [
            ("context_length", settings.context_length),
            ("parallel_requests", settings.parallel_requests),
            ("max_loaded_models", settings.max_loaded_models),
        ] {
            if value == 0 {
                return Err(BuildError::Zero { setting });
            }
        }
        if settings.speculate > MAX_DRAFT_TOKENS {
            return Err(BuildError::Speculate);
        }
        let auto_load = settings.auto_load_model.clone();
        if let Some(name) = &auto_load
            && ModelRef::parse(name).is_err()
        {
            return Err(BuildError::AutoLoad { name: name.clone() });
        }
        let devices = Devices::open(devices::choose(settings.device))?;
        if let Some(kernels) = devices::kernel_set(settings.kernels) {
            kernels.require()?;
        }
        let options = LoaderOptions::new(settings, Arc::new(devices), sandbox);
        Ok(Self {
            options,
            catalog: CatalogClient::new(catalog.clone()),
            datasets: DatasetsClient::new(catalog),
            activations_dir: settings.activations_dir.clone(),
            auto_load,
        })
    }

    /// Sets a function that is called after a model was freed: it makes the allocator return memory to the system.
    #[must_use]
    pub fn with_release_memory(mut self, release_memory: fn()) -> Self {
        self.options.release_memory = release_memory;
        self
    }

    /// Mounts the services into `host` and returns a channel to them. Shutdown interrupts extractions, and unloads all
    /// models after their requests.
    pub async fn mount(self, host: &mut Host) -> Channel {
        let Self { options, catalog, datasets, activations_dir, auto_load } = self;
        let loader = loader::start(options, &host.tasks, &host.shutdown);
        if let Some(name) = auto_load {
            let loading = autoload::load(name, catalog.clone(), loader.clone());
            let stopping = host.shutdown.stopping.clone();
            host.tasks.spawn(stopping.run_until_cancelled_owned(loading));
        }
        let following = catalog_watch::follow_renames(catalog.clone(), loader.clone());
        host.tasks.spawn(host.shutdown.stopping.clone().run_until_cancelled_owned(following));
        let models = ModelFinder { catalog, loader };
        // Nothing is served before it is known which extractions there are.
        let jobs = Jobs::open(activations_dir);
        let (tasks, shutdown) = (host.tasks.clone(), host.shutdown.clone());
        let inspection = Inspection::new(models.clone(), datasets, jobs, tasks, shutdown);
        let inspection = InspectionServiceServer::new(inspection)
            .accept_compressed(CompressionEncoding::Gzip)
            .max_decoding_message_size(MAX_REQUEST_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let service = Service { models, shutdown: host.shutdown.clone() };
        let service = RuntimeServiceServer::new(service)
            .accept_compressed(CompressionEncoding::Gzip)
            .max_decoding_message_size(MAX_REQUEST_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let inspection = host.grpc(inspection).await;
        host.grpc(service).await.join(inspection)
    }
}
