//! The options that are the same for all loads.

use std::{sync::Arc, time::Duration};

use millm_engine::KernelSet;
use millm_kit::{Settings, settings::KeepAlive};
use millm_sandbox::Sandbox;

use crate::{
    devices::{Devices, kernel_set},
    read_model::{ReadModel, read_model},
};

/// The options that are the same for all loads.
pub(crate) struct LoaderOptions {
    pub devices: Arc<Devices>,
    /// Tokens of a request, prompt and output.
    pub context_length: u32,
    /// Requests of a model that run at the same time.
    pub slots: u32,
    /// Tokens in the KV cache for all requests together; 0 is a full context for each slot.
    pub kv_tokens: u32,
    /// Draft tokens per step unless a request says otherwise.
    pub max_draft_tokens: u32,
    /// Requests of a model that may wait.
    pub queue_size: u32,
    /// Compute threads; 0 is one for each core.
    pub threads: u32,
    /// CPU kernels; `None` is the fastest set of this machine.
    pub kernels: Option<KernelSet>,
    /// The maximum time that unloading waits for running requests.
    pub drain: Duration,
    /// Models in memory at the same time.
    pub max_models: usize,
    /// True if requests load the models that they name.
    pub load_on_demand: bool,
    /// The maximum time that a request waits for its model to load.
    pub load_timeout: Duration,
    /// The time for which an unused model stays loaded.
    pub keep_alive: KeepAlive,
    /// Runs tokenizers, chat templates and grammars.
    pub sandbox: Sandbox,
    /// Reads a model into memory. Tests replace it.
    pub read_model: ReadModel,
    /// Makes the allocator return freed memory to the system.
    pub release_memory: fn(),
}

impl LoaderOptions {
    /// Returns the options that the settings give.
    pub fn new(settings: &Settings, devices: Arc<Devices>, sandbox: Sandbox) -> Self {
        Self {
            devices,
            context_length: settings.context_length,
            slots: settings.parallel_requests.max(1),
            kv_tokens: settings.kv_cache_tokens,
            max_draft_tokens: settings.speculate,
            queue_size: settings.queue_size.max(1),
            threads: settings.threads,
            kernels: kernel_set(settings.kernels),
            drain: settings.drain_timeout,
            max_models: settings.max_loaded_models.max(1) as usize,
            load_on_demand: settings.load_on_demand,
            load_timeout: settings.load_timeout,
            keep_alive: settings.keep_alive,
            sandbox,
            read_model,
            release_memory: || {},
        }
    }
}
