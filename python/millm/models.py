"""What the server knows about models and their downloads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .catalog.v1 import catalog_pb2
from .downloader.v1 import downloader_pb2
from .runtime.v1 import runtime_pb2


def _word(enum: Any, number: int, prefix: str) -> str:
    """The name of an enum value without its prefix: `STATE_READY` becomes `ready`."""
    return enum.Name(number).removeprefix(prefix).lower()


@dataclass(frozen=True)
class Model:
    """A model of the server's catalog."""

    id: int
    #: The unique name that requests use.
    name: str
    #: `pending`, `ready`, `error` or `deleting`.
    state: str
    #: `q2`, `q4`, `q8`, `fp16` or `native`.
    quantization: str
    #: Such as `LlamaForCausalLM`; empty until the download has read the configuration.
    architecture: str
    parameters: int
    disk_bytes: int
    #: Estimated memory when loaded.
    memory_bytes: int
    #: `owner/name` on the hub; empty for a local model.
    repo: str
    #: The commit on the hub; empty for a local model.
    commit: str

    @classmethod
    def _of(cls, model: Any) -> Model:
        quantization = model.actual_quantization or model.requested_quantization
        return cls(
            id=model.id,
            name=model.handle,
            state=_word(catalog_pb2.Model.State, model.state, "STATE_"),
            quantization=_word(catalog_pb2.Quantization, quantization, "QUANTIZATION_"),
            architecture=model.architecture.name,
            parameters=model.parameter_count,
            disk_bytes=model.disk_size_bytes,
            memory_bytes=model.memory_estimate_bytes,
            repo=model.repo_id,
            commit=model.commit,
        )


@dataclass(frozen=True)
class Progress:
    """How far a download is."""

    #: `queued`, `resolving`, `downloading`, `verifying`, `quantizing`, `finalizing`, `succeeded`, `failed`, `cancelled`.
    state: str
    #: Of the whole work, from 0 to 1; never falls.
    fraction: float
    downloaded_bytes: int
    total_bytes: int
    bytes_per_second: int
    #: 0 while unknown.
    seconds_left: int

    @classmethod
    def _of(cls, download: Any) -> Progress:
        return cls(
            state=_word(downloader_pb2.Download.State, download.state, "STATE_"),
            fraction=download.fraction,
            downloaded_bytes=download.downloaded_bytes,
            total_bytes=download.total_bytes,
            bytes_per_second=download.speed_bytes_per_second,
            seconds_left=download.seconds_left,
        )


@dataclass(frozen=True)
class LoadProgress:
    """How far a load is."""

    #: `unloading_previous`, `reading`, `loading_weights`, `warming_up` or `done`.
    stage: str
    #: From 0 to 1; never falls.
    fraction: float

    @classmethod
    def _of(cls, progress: Any) -> LoadProgress:
        return cls(_word(runtime_pb2.LoadProgress.Stage, progress.stage, "STAGE_"), progress.fraction)
