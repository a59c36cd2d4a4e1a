//! The composition root: builds the roles asked for, connects them (in this process or over the network), and
//! serves them on one port.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, bail};
use millm_catalog::Catalog;
use millm_downloader::Downloader;
use millm_gateway::{Gateway, Services};
use millm_kit::{Channel, Host, Settings, Shutdown, telemetry};
use millm_runtime::Runtime;
use millm_sandbox::Sandbox;
use tokio::net::TcpListener;
use url::Url;

use crate::{allocator, args::Role, client::GATEWAY_PORT};

const fn default_port(role: Role) -> u16 {
    match role {
        Role::Gateway => GATEWAY_PORT,
        Role::Catalog => 8101,
        Role::Downloader => 8102,
        Role::Runtime => 8103,
    }
}

/// Builds, connects and serves the roles until a signal stops the process.
pub async fn run(settings: Settings, roles: &[Role]) -> Result<()> {
    allocator::return_pages_quickly();
    telemetry::init(&settings);
    let has = |role| roles.contains(&role);
    let Some(first) = roles.iter().max() else { bail!("no role to run") };
    let port = settings.port.unwrap_or(default_port(*first));
    let address = SocketAddr::new(settings.host, port);
    // Bound first: a taken port must fail before anything is resumed or migrated.
    let listener = TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address} (is another server running? PORT chooses another)")
    })?;
    let address = listener.local_addr()?;

    let shutdown = Shutdown::on_signals(settings.drain_timeout);
    let mut host = Host::new(shutdown);
    let catalog = if has(Role::Catalog) {
        Catalog::build(&settings).await.context("catalog")?.mount(&mut host).await
    } else {
        elsewhere(settings.catalog_url.as_ref(), Role::Catalog)?
    };
    let runtime = if has(Role::Runtime) {
        let sandbox = Sandbox::of_this_program().context("this program's own path")?;
        let runtime = Runtime::build(&settings, catalog.clone(), sandbox).context("runtime")?;
        runtime.with_release_memory(allocator::release_free_pages).mount(&mut host).await
    } else {
        elsewhere(settings.runtime_url.as_ref(), Role::Runtime)?
    };
    let downloader = if has(Role::Downloader) {
        Downloader::build(&settings, catalog.clone(), runtime.clone())
            .context("downloader")?
            .mount(&mut host)
            .await
    } else {
        elsewhere(settings.downloader_url.as_ref(), Role::Downloader)?
    };
    let routes = if has(Role::Gateway) {
        let services = Services { catalog, downloader, runtime };
        Gateway::build(&settings, address, services, &host).routes(host.standard_routes())
    } else {
        host.routes()
    };
    let names: Vec<String> = roles.iter().map(ToString::to_string).collect();
    tracing::info!(
        roles = names.join(","),
        version = env!("CARGO_PKG_VERSION"),
        "serving on http://{address}"
    );
    host.serve(listener, routes).await.context("serving")?;
    tracing::info!("stopped");
    Ok(())
}

fn elsewhere(url: Option<&Url>, role: Role) -> Result<Channel> {
    let fallback = Url::parse(&format!("http://127.0.0.1:{}", default_port(role))).expect("a valid URL");
    let url = url.unwrap_or(&fallback);
    Channel::remote(url).with_context(|| format!("{role} at {url}"))
}
