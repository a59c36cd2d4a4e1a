"""Generated text: whole, or in pieces as it comes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

from .runtime.v1 import runtime_pb2


class Message(TypedDict):
    """One message of a chat."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True)
class Completion:
    """A generated text and its measures, in tokens."""

    text: str
    #: `stop`: the model ended it, or a stop string did. `length`: the limit was reached. `cancelled`: the server ended it.
    finish_reason: str
    prompt_tokens: int
    generated_tokens: int
    #: Prompt tokens that were found in the server's cache.
    cached_tokens: int


class Stream(Iterator[str]):
    """A text in pieces as the model writes it. Closing it, or leaving its `with` block, stops the model.

    Attributes:
        completion: The whole text and its measures, once the last piece has come; `None` before.
    """

    completion: Completion | None = None

    def __init__(self, responses: Iterator[Any]):
        self._responses = responses
        self._text = ""

    def __next__(self) -> str:
        for response in self._responses:
            self._text += response.text
            if response.HasField("end"):
                self.completion = _completion(self._text, response.end)
            if response.text:
                return str(response.text)
        raise StopIteration

    def close(self) -> None:
        """Stops the model, unless it has ended."""
        # A generator; its `close` cancels the call.
        getattr(self._responses, "close")()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _completion(text: str, end: Any) -> Completion:
    reason = runtime_pb2.FinishReason.Name(end.finish_reason).removeprefix("FINISH_REASON_").lower()
    return Completion(text, reason, end.prompt_tokens, end.generated_tokens, end.cached_tokens)
