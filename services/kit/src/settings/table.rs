//! The table of settings: a row has the sentence for people, the key in `millm.toml`, the type, the default and the
//! environment variable. The macro `settings` in the parent module makes [`Settings`] of it.
//!
//! A new setting is a row here, and README's table again (`millm config --markdown`).

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, time::Duration};

use url::Url;

use super::{
    Layer, Row, SettingsError,
    value::{DatabaseUrl, DeviceChoice, KeepAlive, KernelChoice, LogFormat, SettingValue},
};
use crate::secret::Secret;

settings! {
    /// Address to listen on. Any address but loopback exposes an unprotected server to the network.
    host: IpAddr = "127.0.0.1", "HOST";
    /// Port to listen on. Empty: 8000 with the gateway; a service alone uses 8101 (catalog), 8102 (downloader) or 8103 (runtime).
    port: Option<u16> = "", "PORT";
    /// Database of the catalog: `sqlite://path` or `postgres://…`.
    database_url: DatabaseUrl = "sqlite://./data/millm.db", "DATABASE_URL";
    /// Folder where models are stored.
    model_cache_dir: PathBuf = "./data/models", "MODEL_CACHE_DIR";
    /// Folders below which datasets of this machine may lie, comma-separated. Empty: the data folder (above `model_cache_dir`) and the working folder.
    dataset_dirs: Vec<PathBuf> = "", "MILLM_DATASET_DIRS";
    /// Folder where extracted activations are stored.
    activations_dir: PathBuf = "./data/activations", "MILLM_ACTIVATIONS_DIR";
    /// Hugging Face token for gated repositories. It is kept in memory only.
    hf_token: Option<Secret> = "", "HF_TOKEN";
    /// Address of the Hugging Face hub.
    hf_endpoint: Url = "https://huggingface.co", "HF_ENDPOINT";
    /// Folder of Hugging Face's own tools. Empty: `~/.cache/huggingface`.
    hf_home: Option<PathBuf> = "", "HF_HOME";
    /// Download cache of Hugging Face's own tools: its files are reused, and it is never written. Empty: `hub` in `hf_home`.
    hf_hub_cache: Option<PathBuf> = "", "HF_HUB_CACHE";
    /// Model to load at startup, by handle or id.
    auto_load_model: Option<String> = "", "AUTO_LOAD_MODEL";
    /// Log level: `error`, `warn`, `info`, `debug`, `trace`, or a filter such as `millm_downloader=debug,info`.
    log_level: String = "info", "LOG_LEVEL";
    /// Log format: `console` or `json`.
    log_format: LogFormat = "console", "LOG_FORMAT";
    /// Address of the catalog, if it runs in another process.
    catalog_url: Option<Url> = "", "MILLM_CATALOG_URL";
    /// Address of the downloader, if it runs in another process.
    downloader_url: Option<Url> = "", "MILLM_DOWNLOADER_URL";
    /// Address of the runtime, if it runs in another process.
    runtime_url: Option<Url> = "", "MILLM_RUNTIME_URL";
    /// Host names that requests may use besides loopback and HOST, comma-separated. `*` allows all.
    allowed_hosts: Vec<String> = "", "MILLM_ALLOWED_HOSTS";
    /// Web origins that may call besides the server's own, comma-separated. `*` allows all.
    allowed_origins: Vec<String> = "", "MILLM_ALLOWED_ORIGINS";
    /// Maximum tokens of a request, prompt and output together. The model's own limit applies too.
    context_length: u32 = "4096", "MILLM_CONTEXT_LENGTH";
    /// Maximum requests that run at the same time. Others wait in the queue.
    parallel_requests: u32 = "8", "MILLM_PARALLEL_REQUESTS";
    /// Tokens that the KV cache holds for all requests together. 0: a full context for each parallel request.
    kv_cache_tokens: u32 = "0", "MILLM_KV_CACHE_TOKENS";
    /// Maximum draft tokens per step for prompt-lookup speculative decoding (0–16, 0 = off). Output is unchanged.
    speculate: u32 = "0", "MILLM_SPECULATE";
    /// Maximum requests that wait in the queue.
    queue_size: u32 = "64", "MILLM_QUEUE_SIZE";
    /// Models kept in memory. The least recently used is evicted when the limit or memory is reached.
    max_loaded_models: u32 = "1", "MILLM_MAX_LOADED_MODELS";
    /// Load a downloaded model when a request names it. The request waits for the load.
    load_on_demand: bool = "false", "MILLM_LOAD_ON_DEMAND";
    /// Maximum time that a request waits for its model to load, in seconds or as in `5m`.
    load_timeout: Duration = "300", "MILLM_LOAD_TIMEOUT";
    /// Time after which an unused model is unloaded, in seconds or as in `5m`. -1: never.
    keep_alive: KeepAlive = "-1", "MILLM_KEEP_ALIVE";
    /// Device that models run on: `cpu`, `cuda`, `cuda:1` and so on. `auto`: the first GPU if this build supports it, else the CPU.
    device: DeviceChoice = "auto", "MILLM_DEVICE";
    /// CPU kernels that models run with: `portable`, `avx2`, `avx512` or `amx`. `auto`: the fastest that the CPU supports.
    kernels: KernelChoice = "auto", "MILLM_KERNELS";
    /// Threads for inference and quantization. 0: one per core.
    threads: u32 = "0", "MILLM_THREADS";
    /// Maximum time that unloading and shutdown wait for running requests, in seconds or as in `5m`.
    drain_timeout: Duration = "30", "MILLM_DRAIN_TIMEOUT";
    /// Maximum downloads that run at the same time. Others wait in the queue.
    max_concurrent_downloads: u32 = "1", "MILLM_MAX_CONCURRENT_DOWNLOADS";
    /// Retries of a failed request to the hub, with exponential backoff.
    download_retries: u32 = "3", "MILLM_DOWNLOAD_RETRIES";
    /// Time without received data after which a transfer is retried, in seconds or as in `5m`.
    download_stall_timeout: Duration = "30", "MILLM_DOWNLOAD_STALL_TIMEOUT";
    /// Pause before a hub that keeps failing is asked again, in seconds or as in `5m`.
    hub_pause: Duration = "30", "MILLM_HUB_PAUSE";
}
