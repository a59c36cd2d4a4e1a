"""The real huggingface_hub client against the fake hub: what it can do here, the real hub allows too.

Run by pytest; FAKE_HUB_BIN is the `fake-hub` binary, unless it is where cargo puts it.
"""

import hashlib
import json
import os
import subprocess
import urllib.request
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

from huggingface_hub import HfApi, hf_hub_download, snapshot_download  # noqa: E402
from huggingface_hub.errors import (  # noqa: E402
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
TINY = FIXTURES / "tiny-millm"
BUILT = FIXTURES.parent.parent / "target" / "debug" / "fake-hub"
MEMBER = "hf_member"


class Hub:
    """A running fake-hub."""

    def __init__(self, url: str):
        self.url = url
        self.api = HfApi(endpoint=url, token=False)

    def control(self, method: str, path: str, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/_hub/{path}", data=data, method=method)
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def log(self) -> list[dict]:
        return self.control("GET", "log")


def repo(models: Path, repo_id: str, settings=None, **files: bytes) -> Path:
    """Makes a repository folder, by default of one small config."""
    folder = models / repo_id
    folder.mkdir(parents=True)
    for name, content in (files or {"config.json": b'{"model_type": "llama"}'}).items():
        (folder / name).write_bytes(content)
    if settings is not None:
        (folder / ".hub.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="module", params=["direct", "resolve-cache"])
def hub(request, tmp_path_factory):
    binary = Path(os.environ.get("FAKE_HUB_BIN", BUILT)).resolve()
    if not binary.exists():
        pytest.fail(f"{binary} does not exist: build it with `cargo build -p fake-hub`")
    models = tmp_path_factory.mktemp("models")
    repo(models, "acme/gated", {"gated": "manual", "tokens": [MEMBER]})
    repo(models, "acme/private", {"private": True, "tokens": [MEMBER]})
    repo(models, "acme/disabled", {"disabled": True})
    repo(models, "acme/data", {"kind": "dataset"}, **{"rows.csv": b"text\nhello\n"})
    repo(models, "acme/large", {"seeded": {"weights.bin": {"seed": 3, "size": 20_000_000}}})
    many = {f"part-{n:03}.txt": str(n).encode() for n in range(25)}
    repo(models, "acme/many", **many)
    nested = repo(models, "acme/nested")
    (nested / "sub" / "deeper").mkdir(parents=True)
    (nested / "sub" / "deeper" / "ü file.txt").write_text("deep")
    old = nested / ".revisions" / "v1.0"
    old.mkdir(parents=True)
    (old / "config.json").write_text('{"old": true}')
    command = [binary, "--models", str(models), "--repo", f"millm/tiny={TINY}", "--page-size", "10"]
    if request.param == "resolve-cache":
        command.append("--resolve-cache")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield Hub(process.stdout.readline().removeprefix("hub: ").strip())
    finally:
        process.kill()
        process.wait()


def files_of(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_a_snapshot_has_the_same_bytes(hub, tmp_path):
    folder = snapshot_download("millm/tiny", endpoint=hub.url, cache_dir=tmp_path)
    assert files_of(Path(folder)) == files_of(TINY)


def test_a_snapshot_into_a_folder(hub, tmp_path):
    snapshot_download("acme/nested", endpoint=hub.url, local_dir=tmp_path)
    assert (tmp_path / "sub" / "deeper" / "ü file.txt").read_text() == "deep"


def test_one_file_of_a_branch(hub, tmp_path):
    path = hf_hub_download(
        "acme/nested", "config.json", revision="v1.0", endpoint=hub.url, cache_dir=tmp_path
    )
    assert json.loads(Path(path).read_text()) == {"old": True}
    commit = Path(path).parent.name
    assert commit == hub.api.model_info("acme/nested", revision="v1.0").sha
    again = hf_hub_download(
        "acme/nested", "config.json", revision=commit, endpoint=hub.url, cache_dir=tmp_path
    )
    assert again == path


def test_a_large_file_comes_from_the_cdn_without_a_token(hub, tmp_path):
    hub.control("DELETE", "log")
    path = hf_hub_download(
        "acme/large", "weights.bin", endpoint=hub.url, cache_dir=tmp_path, token=MEMBER
    )
    content = Path(path).read_bytes()
    assert len(content) == 20_000_000
    info = hub.api.model_info("acme/large", files_metadata=True)
    (sibling,) = [file for file in info.siblings if file.rfilename == "weights.bin"]
    assert hashlib.sha256(content).hexdigest() == sibling.lfs.sha256
    requests = [entry for entry in hub.log() if entry["path"].endswith("weights.bin")]
    assert {(entry["host"], entry["authorized"]) for entry in requests} == {("hub", True), ("cdn", False)}


def test_a_cut_download_is_resumed(hub, tmp_path):
    hub.control("DELETE", "log")
    # The client writes in pieces of 10 MiB: it keeps the first.
    fault = {"kind": "cut", "after": 15_000_000, "path": "*/weights.bin", "times": 1}
    hub.control("POST", "faults", fault)
    path = hf_hub_download("acme/large", "weights.bin", endpoint=hub.url, cache_dir=tmp_path)
    assert Path(path).stat().st_size == 20_000_000
    served = [entry for entry in hub.log() if entry["host"] == "cdn"]
    assert [entry["status"] for entry in served] == [200, 206]
    assert hub.control("GET", "faults")[0]["uses"] == 1
    hub.control("DELETE", "faults")


def test_a_poor_line_is_survived(hub, tmp_path):
    """What the benches use: one line for all, a wait before each answer, ranges cut by chance."""
    faults = [
        {"kind": "total_rate", "bytes_per_second": 50_000_000},
        {"kind": "latency", "ms": 40},
        {"kind": "random_cut", "probability": 0.5, "seed": 2, "path": "*/weights.bin"},
    ]
    hub.control("POST", "faults", faults)
    hub.control("DELETE", "log")
    path = hf_hub_download("acme/large", "weights.bin", endpoint=hub.url, cache_dir=tmp_path)
    hub.control("DELETE", "faults")
    info = hub.api.model_info("acme/large", files_metadata=True)
    (sibling,) = [file for file in info.siblings if file.rfilename == "weights.bin"]
    assert hashlib.sha256(Path(path).read_bytes()).hexdigest() == sibling.lfs.sha256
    assert sum(entry["bytes_sent"] for entry in hub.log() if entry["host"] == "cdn") >= 20_000_000


def test_model_info(hub):
    info = hub.api.model_info("millm/tiny", files_metadata=True)
    assert info.id == "millm/tiny"
    assert len(info.sha) == 40
    assert info.private is False
    assert info.gated is False
    assert info.config["architectures"] == ["LlamaForCausalLM"]
    assert info.pipeline_tag == "text-generation"
    assert info.safetensors.total == info.safetensors.parameters["BF16"] > 3_000_000
    sizes = {file.rfilename: file.size for file in info.siblings}
    assert sizes == {path: len(content) for path, content in files_of(TINY).items()}
    weights = (TINY / "model.safetensors").read_bytes()
    lfs = {file.rfilename: file.lfs for file in info.siblings if file.lfs}
    assert lfs["model.safetensors"].sha256 == hashlib.sha256(weights).hexdigest()


def test_gguf_is_described(hub, tmp_path):
    info = hub.api.model_info("millm/tiny", expand=["sha", "gguf"])
    assert info.sha is not None
    assert info.gguf is None
    assert info.siblings is None


def test_lists_and_search(hub):
    everything = {model.id for model in hub.api.list_models()}
    assert everything == {
        *(f"acme/{name}" for name in ("gated", "disabled", "large", "many", "nested")),
        "millm/tiny",
    }
    assert [model.id for model in hub.api.list_models(search="TIN")] == ["millm/tiny"]
    assert {model.id for model in hub.api.list_models(author="millm")} == {"millm/tiny"}
    assert [model.id for model in hub.api.list_models(filter="safetensors")] == ["millm/tiny"]
    assert len(list(hub.api.list_models(limit=2, sort="downloads"))) == 2
    fields = ["downloads", "likes", "lastModified", "gated", "pipeline_tag", "tags", "config", "gguf"]
    (tiny,) = hub.api.list_models(search="tiny", expand=fields, limit=5)
    assert (tiny.gated, tiny.likes, tiny.pipeline_tag) == (False, 0, "text-generation")
    assert tiny.config["architectures"] == ["LlamaForCausalLM"]
    assert tiny.last_modified.year == 2025
    assert tiny.sha is None
    (full,) = hub.api.list_models(search="nested", full=True)
    assert "config.json" in {file.rfilename for file in full.siblings}
    member = HfApi(endpoint=hub.url, token=MEMBER)
    assert "acme/private" in {model.id for model in member.list_models()}
    assert [data.id for data in hub.api.list_datasets()] == ["acme/data"]


def test_trees_are_paged(hub):
    tree = list(hub.api.list_repo_tree("acme/many"))
    assert sorted(entry.path for entry in tree) == [f"part-{n:03}.txt" for n in range(25)]


def test_trees_have_folders(hub):
    top = {entry.path: type(entry).__name__ for entry in hub.api.list_repo_tree("acme/nested")}
    assert top == {"config.json": "RepoFile", "sub": "RepoFolder"}
    deep = {entry.path for entry in hub.api.list_repo_tree("acme/nested", recursive=True)}
    assert deep == {"config.json", "sub", "sub/deeper", "sub/deeper/ü file.txt"}
    below = {entry.path for entry in hub.api.list_repo_tree("acme/nested", "sub/deeper")}
    assert below == {"sub/deeper/ü file.txt"}


def test_paths_info(hub):
    (info,) = hub.api.get_paths_info("millm/tiny", ["config.json", "absent"])
    content = (TINY / "config.json").read_bytes()
    assert info.size == len(content)
    assert info.blob_id == hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    assert hub.api.file_exists("millm/tiny", "config.json")
    assert not hub.api.file_exists("millm/tiny", "absent")


def test_who_am_i(hub):
    assert HfApi(endpoint=hub.url, token="hf_reader").whoami()["name"] == "reader"
    with pytest.raises(HfHubHTTPError) as error:
        HfApi(endpoint=hub.url, token="hf_wrong").whoami()
    assert error.value.response.status_code == 401


def test_a_gated_repo(hub, tmp_path):
    def config(token):
        return hf_hub_download(
            "acme/gated", "config.json", endpoint=hub.url, cache_dir=tmp_path, token=token
        )

    assert hub.api.model_info("acme/gated").gated == "manual"
    for token, status in [(False, 401), ("hf_reader", 403)]:
        with pytest.raises(GatedRepoError) as error:
            config(token)
        assert error.value.response.status_code == status
    assert Path(config(MEMBER)).exists()


def test_a_private_repo_looks_missing(hub):
    for name in ("acme/private", "acme/missing"):
        for token, status in [(False, 401), ("hf_reader", 404)]:
            with pytest.raises(RepositoryNotFoundError) as error:
                hub.api.model_info(name, token=token)
            assert error.value.response.status_code == status
    assert hub.api.model_info("acme/private", token=MEMBER).private is True


def test_what_is_not_there(hub, tmp_path):
    with pytest.raises(RevisionNotFoundError):
        hub.api.model_info("millm/tiny", revision="nope")
    with pytest.raises(RemoteEntryNotFoundError):
        hf_hub_download("millm/tiny", "nope.txt", endpoint=hub.url, cache_dir=tmp_path)
    with pytest.raises((DisabledRepoError, LocalEntryNotFoundError)):
        hf_hub_download("acme/disabled", "config.json", endpoint=hub.url, cache_dir=tmp_path)


def test_a_wrong_case_id_is_redirected(hub, tmp_path):
    path = hf_hub_download("ACME/Nested", "config.json", endpoint=hub.url, cache_dir=tmp_path)
    assert Path(path).read_bytes() == b'{"model_type": "llama"}'


def test_a_dataset(hub, tmp_path):
    path = hf_hub_download(
        "acme/data", "rows.csv", repo_type="dataset", endpoint=hub.url, cache_dir=tmp_path
    )
    assert Path(path).read_text() == "text\nhello\n"
    with pytest.raises(RepositoryNotFoundError):
        hub.api.model_info("acme/data")
