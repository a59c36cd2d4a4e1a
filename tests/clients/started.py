"""A `millm serve` of its own with the trained tiny model on its hub, or the server of MILLM_URL."""

import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

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


@contextmanager
def running(folder: Path) -> Iterator[Server]:
    """The server of MILLM_URL; else a fresh one that keeps its data in `folder` and ends with the block."""
    url = os.environ.get("MILLM_URL")
    if url:
        target = os.environ.get("MILLM_GRPC", urlsplit(url).netloc)
        yield Server(url.rstrip("/"), target, os.environ.get("MILLM_REPO", REPO))
        return
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
