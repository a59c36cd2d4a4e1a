//! A miLLM server under test, with all roles in one process or each in its own, and its folders, ports and clients.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use millm_proto::catalog::v1::catalog_service_client::CatalogServiceClient;
use millm_proto::catalog::v1::{GetModelRequest, Model, Quantization};
use millm_proto::downloader::v1::downloader_service_client::DownloaderServiceClient;
use millm_proto::downloader::v1::start_download_request::Source;
use millm_proto::downloader::v1::{
    Download, HubSource, StartDownloadRequest, WatchDownloadRequest, download,
};
use millm_proto::runtime::v1::runtime_service_client::RuntimeServiceClient;
use millm_proto::runtime::v1::{
    GetStatusRequest, LoadModelRequest, LoadProgress, LoadState, LoadedModel, UnloadModelRequest,
    WatchStatusRequest,
};
use tempfile::TempDir;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use super::process::{Launch, Process};
use super::{Cli, DEADLINE, ProcessTree, Rest, within};

/// The distribution of roles over processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    OneProcess,
    FourProcesses,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    Catalog,
    Downloader,
    Runtime,
    Gateway,
}

impl Role {
    const ALL: [Self; 4] = [Self::Catalog, Self::Downloader, Self::Runtime, Self::Gateway];

    fn name(self) -> &'static str {
        match self {
            Self::Catalog => "catalog",
            Self::Downloader => "downloader",
            Self::Runtime => "runtime",
            Self::Gateway => "gateway",
        }
    }
}

/// The differences from the default configuration.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// HF_ENDPOINT. The default is an address that refuses connections.
    pub hub: String,
    /// Further environment variables.
    pub environment: Vec<(String, String)>,
    /// A command that runs the command that follows it, such as `unshare`.
    pub inside: Vec<String>,
}

impl Options {
    pub fn with_hub(hub: &str) -> Self {
        Self { hub: hub.to_owned(), ..Self::default() }
    }

    #[must_use]
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// A server. Dropping it ends its processes and removes its files.
pub struct Server {
    layout: Layout,
    launches: BTreeMap<Role, Launch>,
    processes: BTreeMap<Role, Process>,
    ports: BTreeMap<Role, u16>,
    folder: TempDir,
    channel: Channel,
    rest: Rest,
}

impl Server {
    /// Starts a server and waits until it is ready.
    pub async fn start(layout: Layout, options: Options) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let ports = free_ports();
        let mut server = Self {
            layout,
            launches: launches(layout, &options, &ports, folder.path()),
            processes: BTreeMap::new(),
            channel: channel(ports[&Role::Gateway]),
            rest: Rest::new(&address(ports[&Role::Gateway])),
            ports,
            folder,
        };
        for (role, launch) in &server.launches {
            server.processes.insert(*role, Process::start(launch));
        }
        server.ready().await;
        server
    }

    /// Returns the gateway's address.
    pub fn url(&self) -> String {
        address(self.ports[&Role::Gateway])
    }

    /// Returns the folder of MODEL_CACHE_DIR.
    pub fn models_folder(&self) -> PathBuf {
        self.folder.path().join("models")
    }

    /// Translates a path of the server's own mount namespace into one of this process.
    pub fn outside(&self, path: &Path) -> PathBuf {
        let process = self.processes.values().next().expect("there is one");
        let root = PathBuf::from(format!("/proc/{}/root", process.id()));
        root.join(path.strip_prefix("/").expect("it is absolute"))
    }

    /// Returns the folder of everything that the server writes: models, database, logs.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Returns the folder of a model that is being downloaded.
    pub fn incoming(&self, model_id: i64) -> PathBuf {
        let folder = self.models_folder().join("huggingface");
        let begin = format!(".incoming-{model_id}-");
        let entries = std::fs::read_dir(&folder).expect("the models folder").flatten();
        let mut names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let name = names.find(|name| name.starts_with(&begin));
        folder.join(name.unwrap_or_else(|| panic!("model {model_id} is not on its way")))
    }

    pub fn rest(&self) -> &Rest {
        &self.rest
    }

    pub fn cli(&self) -> Cli {
        Cli::new(&self.url(), self.folder.path())
    }

    pub fn catalog(&self) -> CatalogServiceClient<Channel> {
        CatalogServiceClient::new(self.channel.clone())
    }

    pub fn downloader(&self) -> DownloaderServiceClient<Channel> {
        DownloaderServiceClient::new(self.channel.clone())
    }

    pub fn runtime(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.channel.clone())
    }

    /// Returns the process of a role and its descendants.
    pub fn process_tree(&self, role: Role) -> ProcessTree {
        ProcessTree::of(self.processes[&self.home_of(role)].id())
    }

    /// Returns the command lines of all processes.
    pub fn command_lines(&self) -> String {
        self.processes.values().map(Process::command_line).collect()
    }

    /// Returns the logs of all processes.
    pub fn log(&self) -> String {
        self.processes.values().map(Process::log).collect()
    }

    /// Sends SIGKILL to the process of a role, which may be the only process.
    pub async fn kill(&mut self, role: Role) {
        self.process(role).kill().await;
    }

    /// Sends SIGKILL to all processes.
    pub async fn kill_all(&mut self) {
        for process in self.processes.values_mut() {
            process.kill().await;
        }
    }

    /// Sends SIGTERM to the process of a role, without waiting for its end.
    pub fn begin_to_stop(&mut self, role: Role) {
        self.process(role).terminate();
    }

    /// Waits until the process of a role has ended, and returns its exit code.
    pub async fn ended(&mut self, role: Role) -> Option<i32> {
        self.process(role).ended().await.code()
    }

    /// Starts a role that has ended, at the same address, and waits until all are ready.
    pub async fn restart(&mut self, role: Role) {
        let role = self.home_of(role);
        let process = Process::start(&self.launches[&role]);
        self.processes.insert(role, process);
        self.ready().await;
    }

    /// Starts every process again.
    pub async fn restart_all(&mut self) {
        for (role, launch) in &self.launches {
            self.processes.insert(*role, Process::start(launch));
        }
        self.ready().await;
    }

    fn home_of(&self, role: Role) -> Role {
        match self.layout {
            Layout::OneProcess => Role::Gateway,
            Layout::FourProcesses => role,
        }
    }

    fn process(&mut self, role: Role) -> &mut Process {
        let role = self.home_of(role);
        self.processes.get_mut(&role).expect("every role has a home")
    }

    /// Waits until every process listens and the gateway reports that all services are ready.
    async fn ready(&mut self) {
        let started = std::time::Instant::now();
        loop {
            for process in self.processes.values_mut() {
                process.assert_running();
            }
            if self.is_ready().await {
                return;
            }
            assert!(started.elapsed() < DEADLINE, "not ready in time:\n{}", self.log());
            // No event tells when a process is ready, so this polls.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn is_ready(&self) -> bool {
        for role in self.processes.keys() {
            if tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, self.ports[role])).await.is_err() {
                return false;
            }
        }
        self.rest.ready().await
    }

    /// Starts a download from the hub. Returns its first state.
    pub async fn start_pull(
        &self,
        source: HubSource,
        quantization: Quantization,
    ) -> Result<Download, Status> {
        let request = StartDownloadRequest {
            source: Some(Source::Hub(source)),
            quantization: quantization.into(),
            ..StartDownloadRequest::default()
        };
        Ok(self.downloader().start_download(request).await?.into_inner())
    }

    /// Watches a download until `wanted` holds. Returns that state.
    pub async fn watch_until(&self, model_id: i64, wanted: impl Fn(&Download) -> bool) -> Download {
        let request = WatchDownloadRequest { name: format!("downloads/{model_id}") };
        within("the download", async {
            let mut stream = self.downloader().watch_download(request).await.expect("a watch").into_inner();
            let mut last = None;
            while let Some(download) = stream.message().await.expect("the watch goes on") {
                if wanted(&download) {
                    return download;
                }
                last = Some(download);
            }
            panic!("the watch ended with {last:?}");
        })
        .await
    }

    /// Downloads a model from the hub and waits for its end.
    pub async fn pull(&self, repo: &str, quantization: Quantization) -> Model {
        let source = HubSource { repo_id: repo.to_owned(), ..HubSource::default() };
        let started = self.start_pull(source, quantization).await.expect("the download starts");
        self.arrived(started.model_id).await
    }

    /// Registers a local model and waits for its end.
    pub async fn add(&self, path: &Path, handle: &str) -> Model {
        let request = StartDownloadRequest {
            source: Some(Source::LocalPath(path.to_str().expect("our paths are UTF-8").to_owned())),
            handle: handle.to_owned(),
            ..StartDownloadRequest::default()
        };
        let started = self.downloader().start_download(request).await.expect("it is taken").into_inner();
        self.arrived(started.model_id).await
    }

    /// Returns the model once its download has succeeded.
    pub async fn arrived(&self, model_id: i64) -> Model {
        let end = self.watch_until(model_id, is_final).await;
        assert_eq!(end.state(), download::State::Succeeded, "{:?}", end.error);
        self.model(&model_id.to_string()).await.expect("it is in the catalog")
    }

    pub async fn model(&self, name: &str) -> Result<Model, Status> {
        Ok(self.catalog().get_model(GetModelRequest { name: name.to_owned() }).await?.into_inner())
    }

    /// Loads a model. Returns the last state of the load.
    pub async fn load(&self, model: &str) -> LoadProgress {
        let request = LoadModelRequest { model: model.to_owned(), ..LoadModelRequest::default() };
        within("loading", async {
            let mut stream = self.runtime().load_model(request).await.expect("it starts").into_inner();
            let mut last = LoadProgress::default();
            while let Some(progress) = stream.message().await.expect("loading is told to its end") {
                last = progress;
            }
            assert_eq!(last.state(), LoadState::Loaded, "{:?}", last.error);
            last
        })
        .await
    }

    pub async fn unload(&self) {
        let mut stream =
            self.runtime().unload_model(UnloadModelRequest::default()).await.expect("it starts").into_inner();
        within("unloading", async { while stream.message().await.expect("to its end").is_some() {} }).await;
    }

    /// Returns when nothing is loaded.
    pub async fn unload_settled(&self) {
        self.status_until(|models| models.iter().all(|m| m.state() == LoadState::Failed).then_some(())).await;
    }

    /// Returns when a model is loaded.
    pub async fn load_settled(&self) -> LoadedModel {
        let loaded = |models: &[LoadedModel]| models.iter().find(|m| m.state() == LoadState::Loaded).cloned();
        self.status_until(loaded).await
    }

    async fn status_until<T>(&self, wanted: impl Fn(&[LoadedModel]) -> Option<T>) -> T {
        within("the runtime's state", async {
            let mut stream =
                self.runtime().watch_status(WatchStatusRequest {}).await.expect("a watch").into_inner();
            while let Some(status) = stream.message().await.expect("the watch goes on") {
                if let Some(found) = wanted(&status.models) {
                    return found;
                }
            }
            panic!("the watch ended");
        })
        .await
    }

    /// Returns the loaded model in the Runtime's view.
    pub async fn loaded(&self) -> Option<LoadedModel> {
        let status = self.runtime().get_status(GetStatusRequest {}).await.expect("a status").into_inner();
        status.models.into_iter().find(|model| model.state() == LoadState::Loaded)
    }
}

/// Returns whether a download has ended.
pub fn is_final(download: &Download) -> bool {
    use download::State::{Cancelled, Failed, Succeeded};
    matches!(download.state(), Succeeded | Failed | Cancelled)
}

fn address(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

fn channel(port: u16) -> Channel {
    Endpoint::from_shared(address(port)).expect("an address").connect_lazy()
}

/// Returns ports that were free a moment ago. All are bound before any is released, so they differ.
fn free_ports() -> BTreeMap<Role, u16> {
    let taken =
        Role::ALL.map(|role| (role, TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port")));
    taken.iter().map(|(role, port)| (*role, port.local_addr().expect("it is bound").port())).collect()
}

fn launches(
    layout: Layout,
    options: &Options,
    ports: &BTreeMap<Role, u16>,
    folder: &Path,
) -> BTreeMap<Role, Launch> {
    let hub = if options.hub.is_empty() { "http://127.0.0.1:1" } else { &options.hub };
    let mut shared = vec![
        ("HOST".to_owned(), "127.0.0.1".to_owned()),
        ("LOG_FORMAT".to_owned(), "json".to_owned()),
        ("HF_ENDPOINT".to_owned(), hub.to_owned()),
        ("MODEL_CACHE_DIR".to_owned(), folder.join("models").display().to_string()),
        ("DATABASE_URL".to_owned(), format!("sqlite://{}", folder.join("millm.db").display())),
        ("MILLM_CATALOG_URL".to_owned(), address(ports[&Role::Catalog])),
        ("MILLM_DOWNLOADER_URL".to_owned(), address(ports[&Role::Downloader])),
        ("MILLM_RUNTIME_URL".to_owned(), address(ports[&Role::Runtime])),
    ];
    shared.extend(options.environment.iter().cloned());
    let launch = |role: Role, name: &str, arguments: &[&str]| {
        let mut environment = shared.clone();
        environment.push(("PORT".to_owned(), ports[&role].to_string()));
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let (name, inside) = (name.to_owned(), options.inside.clone());
        (role, Launch { name, inside, arguments, environment, folder: folder.to_owned() })
    };
    match layout {
        Layout::OneProcess => BTreeMap::from([launch(Role::Gateway, "millm", &["serve"])]),
        Layout::FourProcesses => {
            Role::ALL.map(|role| launch(role, role.name(), &["serve", "--roles", role.name()])).into()
        }
    }
}
