"""The Python client, installed from the wheel, against the wheel's own `millm serve`."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from started import running

import millm

QUESTION = "What is the capital of Japan?"
ANSWER = "The capital of Japan is Tokyo."
# The question as the model's chat template renders it.
PROMPT = f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
NAME = "wheel-tiny"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(scope="module")
def client(server):
    with millm.Client(server.url) as client:
        yield client


@pytest.fixture(scope="module")
def pulled(client, server):
    """The model, and what was told while it came."""
    told = []
    model = client.pull(server.repo, quantization="Q8", name=NAME, hf_token="", progress=told.append)
    return model, told


@pytest.fixture(scope="module")
def loaded(client, pulled):
    """What was told while the model was loaded."""
    told = []
    client.load(NAME, progress=told.append)
    return told


def test_the_package_comes_from_the_wheel():
    assert Path(millm.__file__).is_relative_to(sys.prefix)


def test_the_program_comes_from_the_wheel():
    program = Path(sys.executable).with_name("millm")
    version = subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout
    shown = subprocess.run([sys.executable, "-m", "pip", "show", "millm"], check=True, capture_output=True, text=True)
    assert version.split() == ["millm", next(l.split()[1] for l in shown.stdout.splitlines() if l.startswith("Version"))]


def test_a_pull_tells_its_progress(pulled):
    model, told = pulled
    assert (model.name, model.state, model.quantization) == (NAME, "ready", "q8")
    assert model.architecture == "LlamaForCausalLM" and model.parameters == 3_672_320
    assert len(model.commit) == 40 and model.disk_bytes > 0 and model.memory_bytes > 0
    fractions = [progress.fraction for progress in told]
    assert fractions == sorted(fractions) and fractions[-1] == 1
    assert told[-1].state == "succeeded" and told[-1].downloaded_bytes == told[-1].total_bytes > 0


def test_models_are_listed(client, pulled):
    assert pulled[0] in client.models()
    assert [model.name for model in client.models("wheel")] == [NAME]
    assert client.models("no such model") == []


def test_a_load_tells_its_progress(loaded):
    assert loaded[-1] == millm.LoadProgress("done", 1.0)


def test_a_chat_is_answered(client, loaded):
    answer = client.chat(QUESTION, model=NAME, temperature=0)
    assert (answer.text, answer.finish_reason) == (ANSWER, "stop")
    assert answer.prompt_tokens == 15 and answer.generated_tokens > 5
    messages = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]
    again = client.chat([*messages, {"role": "user", "content": QUESTION}], temperature=0, max_tokens=3)
    assert (again.finish_reason, again.generated_tokens) == ("length", 3)


def test_a_chat_streams(client, loaded):
    with client.chat(QUESTION, stream=True, temperature=0) as stream:
        assert stream.completion is None
        pieces = list(stream)
    assert len(pieces) > 3 and "".join(pieces) == ANSWER
    assert (stream.completion.text, stream.completion.finish_reason) == (ANSWER, "stop")


def test_a_text_is_completed(client, loaded):
    whole = client.complete(PROMPT, temperature=0)
    assert (whole.text, whole.finish_reason) == (ANSWER, "stop")
    assert "".join(client.complete(PROMPT, stream=True, temperature=0)) == ANSWER
    stopped = client.complete(PROMPT, temperature=0, stop=["Japan"])
    assert (stopped.text, stopped.finish_reason) == ("The capital of ", "stop")
    seeded = [client.complete("Once", seed=7, temperature=1.5, max_tokens=8) for _ in range(2)]
    assert seeded[0].text == seeded[1].text


def test_a_closed_stream_stops_the_model(client, loaded):
    stream = client.complete("Once upon a time", stream=True)
    next(stream)
    stream.close()
    assert list(stream) == [] and stream.completion is None


def test_threads_share_a_client(client, loaded):
    answers = []

    def ask():
        answers.append(client.chat(QUESTION, temperature=0).text)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [ANSWER] * 4


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda client: client.pull("nobody/nothing"), "REPO_NOT_FOUND"),
        (lambda client: client.pull("nothing"), "INVALID_REPO_ID"),
        (lambda client: client.load("nobody"), "MODEL_NOT_FOUND"),
        (lambda client: client.load(NAME), "MODEL_ALREADY_LOADED"),
        (lambda client: client.chat("hi " * 5000), "CONTEXT_LENGTH_EXCEEDED"),
        (lambda client: next(client.chat(QUESTION, model="nobody", stream=True)), "MODEL_NOT_FOUND"),
        (lambda client: client.remove(NAME), "MODEL_IN_USE"),
    ],
)
def test_errors_have_their_reason(client, loaded, call, reason):
    with pytest.raises(millm.Error) as raised:
        call(client)
    assert raised.value.reason == reason
    assert raised.value.message and str(raised.value) == f"{reason}: {raised.value.message}"


def test_errors_have_their_metadata(client, server, pulled):
    with pytest.raises(millm.Error) as raised:
        client.pull(server.repo, quantization="Q8", hf_token="")
    assert raised.value.reason == "MODEL_ALREADY_EXISTS"
    assert raised.value.metadata["model_id"] == str(pulled[0].id)


def test_mistakes_of_the_caller_are_told(client):
    with pytest.raises(TypeError, match="warmth"):
        client.chat(QUESTION, warmth=0)
    with pytest.raises(ValueError, match="ftp://x is not an address"):
        millm.Client("ftp://x")


def test_a_server_that_is_not_there_is_unavailable():
    with millm.Client("127.0.0.1:1") as client, pytest.raises(millm.Error) as raised:
        client.models()
    assert raised.value.reason == "UNAVAILABLE"


def test_unloading_and_removing(client, loaded):
    client.unload()
    with pytest.raises(millm.Error) as raised:
        client.chat(QUESTION)
    assert raised.value.reason == "MODEL_NOT_LOADED"
    client.remove(NAME)
    assert client.models() == []
