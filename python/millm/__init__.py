"""A client of the miLLM model server.

    import millm

    with millm.Client() as client:
        client.pull("owner/name", name="tiny")
        client.load("tiny")
        print(client.chat("What is the capital of Japan?", model="tiny").text)
        for piece in client.chat("Tell me a story.", model="tiny", stream=True):
            print(piece, end="", flush=True)

`millm serve`, which this package also installs, starts the server. Every failure is a `millm.Error`.
"""

from .client import Client
from .errors import Error
from .generation import Completion, Message, Stream
from .models import LoadProgress, Model, Progress

__all__ = ["Client", "Completion", "Error", "LoadProgress", "Message", "Model", "Progress", "Stream"]
