"""What the real huggingface_hub has put into its cache is used, and not fetched again: with the hub there, and without
it. The server and the hub are started here, because their folders and the hub's log are looked at."""

import hashlib
import json
import os
import subprocess
import urllib.request
from pathlib import Path

import pytest
from conftest import FIXTURES, built, free_port, wait_ready

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

from huggingface_hub import snapshot_download  # noqa: E402

REPO = "millm/tiny-millm"
WEIGHTS = "model.safetensors"


class Place:
    """A hub, a folder that huggingface_hub has filled from it, and miLLM beside it."""

    def __init__(self, folder: Path):
        self.folder = folder
        (folder / "hub").mkdir()
        command = [built("fake-hub", "FAKE_HUB_BIN"), "--models", str(folder / "hub")]
        command += ["--repo", f"{REPO}={FIXTURES / 'tiny-millm'}"]
        self.hub = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.hub_url = self.hub.stdout.readline().removeprefix("hub: ").strip()
        self.cache = folder / "hf" / "hub"
        self.snapshot = Path(snapshot_download(REPO, endpoint=self.hub_url, cache_dir=self.cache))
        self.control("DELETE")
        port = free_port()
        environment = {
            **os.environ,
            "HF_ENDPOINT": self.hub_url,
            "HF_HOME": str(folder / "hf"),
            "PORT": str(port),
            "DATABASE_URL": f"sqlite://{folder / 'millm.db'}",
            "MODEL_CACHE_DIR": str(folder / "models"),
            "MILLM_DOWNLOAD_RETRIES": "0",
            "MILLM_SERVER": f"http://127.0.0.1:{port}",
        }
        environment.pop("HF_HUB_CACHE", None)
        self.environment = environment
        self.millm = subprocess.Popen([built("millm", "MILLM_BIN"), "serve"], cwd=folder, env=environment)
        wait_ready(environment["MILLM_SERVER"], self.millm)

    def control(self, method: str):
        request = urllib.request.Request(f"{self.hub_url}/_hub/log", method=method)
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def pull(self, quantization: str) -> dict:
        command = [built("millm", "MILLM_BIN"), "pull", REPO, "-q", quantization, "--json"]
        done = subprocess.run(
            command, env=self.environment, cwd=self.folder, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    def close(self):
        for process in (self.millm, self.hub):
            process.terminate()
            process.wait(timeout=60)


@pytest.fixture
def place(tmp_path):
    place = Place(tmp_path)
    try:
        yield place
    finally:
        place.close()


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_cache_of_huggingface_hub_is_used(place):
    before = {path: path.stat() for path in place.cache.rglob("*")}
    model = place.pull("NATIVE")
    asked = [entry["path"] for entry in place.control("GET")]
    assert asked, "the hub was asked what there is"
    assert not [path for path in asked if path.endswith((WEIGHTS, "tokenizer.json"))], asked
    stored = Path(model["storage_path"]) / WEIGHTS
    assert digest(stored) == digest(place.snapshot / WEIGHTS) == digest(FIXTURES / "tiny-millm" / WEIGHTS)
    assert stored.stat().st_nlink == 1, "a copy: whoever changes the cache does not change the model"
    after = {path: path.stat() for path in place.cache.rglob("*")}
    assert before.keys() == after.keys()
    assert all(before[path].st_mtime_ns == after[path].st_mtime_ns for path in before)


def test_without_the_hub_the_cache_is_enough(place):
    place.hub.terminate()
    place.hub.wait(timeout=60)
    model = place.pull("Q4")
    assert model["status"] == "ready"
    assert model["commit"] == place.snapshot.name
