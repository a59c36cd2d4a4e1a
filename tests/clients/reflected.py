"""gRPC by reflection alone: services, methods and messages as the server describes them, no generated code."""

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase


CATALOG = "millm.catalog.v1.CatalogService"
DOWNLOADER = "millm.downloader.v1.DownloaderService"
RUNTIME = "millm.runtime.v1.RuntimeService"


class Reflected:
    """A channel whose methods are found by asking the server."""

    def __init__(self, channel: grpc.Channel):
        self.channel = channel
        self.database = ProtoReflectionDescriptorDatabase(channel)
        self.pool = DescriptorPool(self.database)

    def services(self) -> list[str]:
        return sorted(self.database.get_services())

    def message(self, full_name: str, /, **fields):
        descriptor = self.pool.FindMessageTypeByName(full_name)
        return message_factory.GetMessageClass(descriptor)(**fields)

    def enum(self, full_name: str, number: int) -> str:
        return self.pool.FindEnumTypeByName(full_name).values_by_number[number].name

    def call(self, service: str, method: str, /, **fields):
        """The answer, or for a streaming method an iterator of answers."""
        descriptor = self.pool.FindServiceByName(service).methods_by_name[method]
        request = message_factory.GetMessageClass(descriptor.input_type)
        answer = message_factory.GetMessageClass(descriptor.output_type)
        kind = self.channel.unary_stream if descriptor.server_streaming else self.channel.unary_unary
        invoke = kind(
            f"/{service}/{method}",
            request_serializer=request.SerializeToString,
            response_deserializer=answer.FromString,
        )
        return invoke(request(**fields), timeout=120)

    def catalog(self, method: str, /, **fields):
        return self.call(CATALOG, method, **fields)

    def downloader(self, method: str, /, **fields):
        return self.call(DOWNLOADER, method, **fields)

    def runtime(self, method: str, /, **fields):
        return self.call(RUNTIME, method, **fields)

    def state_of(self, download) -> str:
        return self.enum("millm.downloader.v1.Download.State", download.state)

    def load_state_of(self, progress) -> str:
        return self.enum("millm.runtime.v1.LoadState", progress.state)

    def pull(self, repo: str, handle: str, quantization: str) -> list:
        """Downloads to the end; all that was told on the way."""
        started = self.downloader(
            "StartDownload", hub={"repo_id": repo}, handle=handle, quantization=quantization
        )
        told = list(self.downloader("WatchDownload", name=started.name))
        assert self.state_of(told[-1]) == "STATE_SUCCEEDED", told[-1]
        return told

    def ensure_loaded(self, handle: str) -> None:
        models = self.runtime("GetStatus").models
        if any(m.handle == handle and self.load_state_of(m) == "LOAD_STATE_LOADED" for m in models):
            return
        last = list(self.runtime("LoadModel", model=handle))[-1]
        assert self.load_state_of(last) == "LOAD_STATE_LOADED", last

    def reason_of(self, error: grpc.RpcError) -> str:
        """The machine-readable reason in the details of a status."""
        trailers = dict(error.trailing_metadata())
        status = self.message("google.rpc.Status")
        status.ParseFromString(trailers["grpc-status-details-bin"])
        for detail in status.details:
            if detail.type_url.endswith("google.rpc.ErrorInfo"):
                info = self.message("google.rpc.ErrorInfo")
                info.ParseFromString(detail.value)
                return info.reason
        raise AssertionError(f"no ErrorInfo in {status}")
