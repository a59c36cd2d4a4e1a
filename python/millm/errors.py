"""The one exception of this package."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import grpc
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status


class Error(Exception):
    """A request that failed.

    Attributes:
        reason: The machine-readable cause, such as `MODEL_NOT_FOUND`; the gRPC code where the server gives no cause, such
            as `UNAVAILABLE` when no server answers.
        message: What happened, for people.
        metadata: Facts about the cause, such as `{"model_id": "7"}`.
    """

    def __init__(self, reason: str, message: str, metadata: Mapping[str, str] | None = None):
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message
        self.metadata = dict(metadata or {})

    @classmethod
    def from_status(cls, status: status_pb2.Status) -> Error:
        """Returns the error that a `google.rpc.Status` describes."""
        for detail in status.details:
            info = error_details_pb2.ErrorInfo()
            if detail.Unpack(info):
                return cls(info.reason, status.message, info.metadata)
        return cls(code_pb2.Code.Name(status.code), status.message)

    @classmethod
    def from_call(cls, call: Any) -> Error:
        """Returns the error that a call of grpcio ended with."""
        status = rpc_status.from_call(call)
        return cls(call.code().name, call.details() or "") if status is None else cls.from_status(status)


@contextmanager
def translated() -> Iterator[None]:
    """Raises `Error` for what grpcio raises inside."""
    try:
        yield
    except grpc.RpcError as error:
        raise Error.from_call(error) from error


def each(call: Callable[[], Any]) -> Iterator[Any]:
    """Yields the messages of a streaming call, which is cancelled when the iterator is closed early."""
    with translated():
        stream = call()
        try:
            yield from stream
        finally:
            stream.cancel()
