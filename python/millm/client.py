"""The client: one connection to a server."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, overload
from urllib.parse import urlsplit

import grpc

from .catalog.v1 import catalog_pb2, catalog_pb2_grpc
from .downloader.v1 import downloader_pb2, downloader_pb2_grpc
from .errors import Error, each, translated
from .generation import Completion, Message, Stream
from .models import LoadProgress, Model, Progress
from .runtime.v1 import runtime_pb2, runtime_pb2_grpc

DEFAULT_ADDRESS = "http://127.0.0.1:8000"


class Client:
    """A connection to a miLLM server. It may be used by several threads.

    Args:
        address: `http://host:port`, `https://host:port` or `host:port`. The environment variable `MILLM_SERVER` is the
            default, and `http://127.0.0.1:8000` without it.

    Every method raises `millm.Error` when the request fails.
    """

    def __init__(self, address: str | None = None):
        self._channel = _channel(address or os.environ.get("MILLM_SERVER") or DEFAULT_ADDRESS)
        self._catalog = catalog_pb2_grpc.CatalogServiceStub(self._channel)
        self._downloader = downloader_pb2_grpc.DownloaderServiceStub(self._channel)
        self._runtime = runtime_pb2_grpc.RuntimeServiceStub(self._channel)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection. Requests that are running end with an error."""
        self._channel.close()

    def models(self, query: str = "") -> list[Model]:
        """Returns the models of the catalog.

        Args:
            query: Only models whose name, repository or architecture contains this.
        """
        models: list[Model] = []
        page_token = ""
        while True:
            request = catalog_pb2.ListModelsRequest(page_size=1000, page_token=page_token, query=query)
            with translated():
                page = self._catalog.ListModels(request)
            models += [Model._of(model) for model in page.models]
            page_token = page.next_page_token
            if not page_token:
                return models

    def pull(
        self,
        repo: str,
        *,
        quantization: Literal["Q2", "Q4", "Q8", "FP16", "NATIVE"] | None = None,
        name: str = "",
        revision: str = "",
        variant: str = "",
        subfolder: str = "",
        hf_token: str | None = None,
        trust_remote_code: bool = False,
        progress: Callable[[Progress], object] | None = None,
    ) -> Model:
        """Downloads a model from the hub, verifies and quantizes it, and returns it when it is ready to be loaded.

        An interrupted download goes on in the server.

        Args:
            repo: `owner/name`.
            quantization: `NATIVE` keeps the weights as published. The default is `Q4`.
            name: The model's name; the repository's name unless set.
            revision: Branch, tag or commit; `main` unless set.
            variant: Selects one of several GGUF files: `Q4_K_M`.
            subfolder: The repository's folder that holds the model.
            hf_token: A Hugging Face token; the environment variable `HF_TOKEN` is the default.
            trust_remote_code: Use the native implementation of a repository that asks for custom code.
            progress: Called with each change of the download.
        """
        source = downloader_pb2.HubSource(
            repo_id=repo,
            revision=revision,
            hf_token=os.environ.get("HF_TOKEN", "") if hf_token is None else hf_token,
            variant=variant,
            subfolder=subfolder,
        )
        request = downloader_pb2.StartDownloadRequest(
            hub=source,
            quantization=f"QUANTIZATION_{quantization or 'UNSPECIFIED'}",
            handle=name,
            trust_remote_code=trust_remote_code,
        )
        with translated():
            download = self._downloader.StartDownload(request)
        watch = downloader_pb2.WatchDownloadRequest(name=download.name)
        for download in each(lambda: self._downloader.WatchDownload(watch)):
            if progress:
                progress(Progress._of(download))
        if download.state == downloader_pb2.Download.STATE_FAILED:
            raise Error.from_status(download.error)
        if download.state != downloader_pb2.Download.STATE_SUCCEEDED:
            raise Error("CANCELLED", f"The download of '{repo}' was cancelled.")
        with translated():
            return Model._of(self._catalog.GetModel(catalog_pb2.GetModelRequest(name=str(download.model_id))))

    def load(
        self,
        model: str,
        *,
        context_length: int = 0,
        allow_insufficient_memory: bool = False,
        progress: Callable[[LoadProgress], object] | None = None,
    ) -> None:
        """Loads a model into memory and returns when it can generate.

        Args:
            model: Name or id.
            context_length: Tokens a request may hold; the server's setting unless set.
            allow_insufficient_memory: Load although the estimate exceeds the free memory.
            progress: Called with each step.
        """
        request = runtime_pb2.LoadModelRequest(
            model=model,
            context_length=context_length,
            allow_insufficient_memory=allow_insufficient_memory,
        )
        last = runtime_pb2.LoadProgress()
        for last in each(lambda: self._runtime.LoadModel(request)):
            if progress:
                progress(LoadProgress._of(last))
        if last.state != runtime_pb2.LOAD_STATE_LOADED:
            raise Error.from_status(last.error)

    def unload(self, model: str = "") -> None:
        """Unloads a model when its running requests have ended, or after the server's timeout.

        Args:
            model: Name or id; the loaded model unless set.
        """
        for _ in each(lambda: self._runtime.UnloadModel(runtime_pb2.UnloadModelRequest(model=model))):
            pass

    def remove(self, model: str) -> None:
        """Removes a model and its files. The files of a local model stay.

        Args:
            model: Name or id.
        """
        with translated():
            self._downloader.RemoveModel(downloader_pb2.RemoveModelRequest(name=model))

    @overload
    def chat(
        self, messages: str | Iterable[Message], *, stream: Literal[False] = False, model: str = "", **options: Any
    ) -> Completion: ...

    @overload
    def chat(
        self, messages: str | Iterable[Message], *, stream: Literal[True], model: str = "", **options: Any
    ) -> Stream: ...

    def chat(
        self, messages: str | Iterable[Message], *, stream: bool = False, model: str = "", **options: Any
    ) -> Completion | Stream:
        """Returns the model's answer to a chat, rendered with the model's chat template.

        Args:
            messages: The conversation, or one question.
            stream: Return the text in pieces as it comes.
            model: Name or id; the loaded model unless set.
            **options: As for `complete`.
        """
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        prompt = runtime_pb2.Messages(messages=[runtime_pb2.Message(**message) for message in messages])
        return self._generate({"messages": prompt, "model": model}, options, stream)

    @overload
    def complete(self, prompt: str, *, stream: Literal[False] = False, model: str = "", **options: Any) -> Completion: ...

    @overload
    def complete(self, prompt: str, *, stream: Literal[True], model: str = "", **options: Any) -> Stream: ...

    def complete(self, prompt: str, *, stream: bool = False, model: str = "", **options: Any) -> Completion | Stream:
        """Returns the text that continues a prompt.

        Args:
            prompt: The text, taken as it stands.
            stream: Return the text in pieces as it comes.
            model: Name or id; the loaded model unless set.
            **options: `max_tokens` and `stop` (a list of strings) end the text; `temperature` (0 is greedy), `top_k`,
                `top_p`, `min_p`, `repetition_penalty`, `frequency_penalty`, `presence_penalty`, `seed` and `logit_bias`
                choose its tokens. What is not set is the model's own recommendation.
        """
        return self._generate({"text": prompt, "model": model}, options, stream)

    def _generate(self, fields: Mapping[str, Any], options: dict[str, Any], stream: bool) -> Completion | Stream:
        limits = {name: options.pop(name) for name in ("max_tokens", "stop") if options.get(name) is not None}
        sampling = _sampling({name: value for name, value in options.items() if value is not None})
        request = runtime_pb2.GenerateRequest(sampling=sampling, **fields, **limits)
        answer = Stream(each(lambda: self._runtime.Generate(request)))
        if stream:
            return answer
        for _ in answer:
            pass
        if answer.completion is None:
            raise Error("UNAVAILABLE", "The server ended the answer early.")
        return answer.completion


def _sampling(options: Mapping[str, Any]) -> runtime_pb2.Sampling:
    try:
        return runtime_pb2.Sampling(**options)
    except ValueError as error:
        raise TypeError(f"unknown option: {error}") from None


def _channel(address: str) -> grpc.Channel:
    url = urlsplit(address if "://" in address else f"http://{address}")
    if url.scheme not in ("http", "https") or not url.netloc:
        raise ValueError(f"{address} is not an address: expected http://host:port")
    # A page of the catalog has the configurations of its models.
    options = [("grpc.max_receive_message_length", 64 << 20)]
    if url.scheme == "https":
        return grpc.secure_channel(url.netloc, grpc.ssl_channel_credentials(), options)
    return grpc.insecure_channel(url.netloc, options)
