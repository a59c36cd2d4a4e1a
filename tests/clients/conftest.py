"""A running server with the trained tiny model on its hub, for the clients' tests.

MILLM_URL names one that runs already (MILLM_GRPC its gRPC target when that is elsewhere, MILLM_REPO the repository
on its hub); otherwise the built binaries are started on free ports and an empty folder. MILLM_HUB names another hub
for that server, one that holds the tiny model as MILLM_REPO: the same downloads then come from there.
"""

import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import grpc
import pytest
from reflected import Reflected

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "tests" / "fixtures"
REPO = "millm/tiny-millm"
START_SECONDS = 60


@dataclass(frozen=True)
class Server:
    """Where a server is reached, and what can be downloaded there."""

    url: str
    grpc: str
    repo: str


def built(name: str, variable: str) -> Path:
    binary = Path(os.environ.get(variable, ROOT / "target" / "debug" / name)).resolve()
    if not binary.exists():
        pytest.fail(f"{binary} does not exist: build it with `cargo build --workspace`")
    return binary


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_ready(url: str, process: subprocess.Popen) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            pytest.fail(f"millm serve ended with {process.returncode}")
        try:
            with urllib.request.urlopen(f"{url}/readyz"):
                return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.05)
    pytest.fail(f"{url} is not ready after {START_SECONDS} s")


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    url = os.environ.get("MILLM_URL")
    if url:
        target = os.environ.get("MILLM_GRPC", urlsplit(url).netloc)
        yield Server(url.rstrip("/"), target, os.environ.get("MILLM_REPO", REPO))
        return
    folder = tmp_path_factory.mktemp("server")
    repo, hub_url = os.environ.get("MILLM_REPO", REPO), os.environ.get("MILLM_HUB")
    hub = millm = None
    try:
        if not hub_url:
            (folder / "hub").mkdir()
            command = [built("fake-hub", "FAKE_HUB_BIN"), "--models", str(folder / "hub")]
            hub = subprocess.Popen(
                [*command, "--repo", f"{repo}={FIXTURES / 'tiny-millm'}"], stdout=subprocess.PIPE, text=True
            )
            hub_url = hub.stdout.readline().removeprefix("hub: ").strip()
        port = free_port()
        environment = {
            **os.environ,
            "HF_ENDPOINT": hub_url,
            "PORT": str(port),
            "DATABASE_URL": f"sqlite://{folder / 'millm.db'}",
            "MODEL_CACHE_DIR": str(folder / "models"),
            "HF_HUB_CACHE": str(folder / "hf"),
        }
        millm = subprocess.Popen([built("millm", "MILLM_BIN"), "serve"], cwd=folder, env=environment)
        url = f"http://127.0.0.1:{port}"
        wait_ready(url, millm)
        yield Server(url, f"127.0.0.1:{port}", repo)
    finally:
        for process in filter(None, (millm, hub)):
            process.terminate()
            process.wait(timeout=60)


@pytest.fixture(scope="session")
def api(server):
    with grpc.insecure_channel(server.grpc) as channel:
        yield Reflected(channel)


@pytest.fixture(scope="module")
def model(api, server):
    """The trained model with its published weights, downloaded and loaded: its handle."""
    handle = "clients-tiny"
    if not any(found.handle == handle for found in api.catalog("ListModels").models):
        api.pull(server.repo, handle, "QUANTIZATION_NATIVE")
    api.ensure_loaded(handle)
    return handle
