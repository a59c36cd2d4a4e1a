"""Python's grpcio with reflection alone, as a program written in any language would do it: look, download, load,
generate."""

import grpc
import pytest
from reflected import CATALOG, DOWNLOADER, RUNTIME

QUESTION = "What is the capital of Japan?"
ANSWER = "The capital of Japan is Tokyo."
HANDLE = "clients-tiny-fp16"


@pytest.fixture(scope="module")
def pulled(api, server):
    """What was told while the model came, quantized to FP16."""
    try:
        return api.pull(server.repo, HANDLE, "QUANTIZATION_FP16")
    except grpc.RpcError as error:
        assert api.reason_of(error) == "MODEL_ALREADY_EXISTS"
        api.downloader("RemoveModel", name=HANDLE)
        return api.pull(server.repo, HANDLE, "QUANTIZATION_FP16")


@pytest.fixture(scope="module")
def loaded(api, pulled):
    """What was told while it was loaded."""
    return list(api.runtime("LoadModel", model=HANDLE))


def ask(text: str, **more) -> dict:
    messages = {"messages": [{"role": "user", "content": text}]}
    return {"messages": messages, "sampling": {"temperature": 0}, **more}


def test_services_are_found_by_reflection(api):
    assert {CATALOG, DOWNLOADER, RUNTIME, "grpc.health.v1.Health"} <= set(api.services())
    serving = api.call("grpc.health.v1.Health", "Check", service=RUNTIME)
    assert api.enum("grpc.health.v1.HealthCheckResponse.ServingStatus", serving.status) == "SERVING"


def test_preview(api, server):
    preview = api.downloader("PreviewModel", repo_id=server.repo)
    assert preview.supported
    assert (preview.architecture.name, preview.architecture.layers) == ("LlamaForCausalLM", 4)
    assert preview.parameter_count == 3_672_320
    assert len(preview.commit) == 40
    estimates = {e.quantization: e.disk_size_bytes for e in preview.estimates}
    assert len(estimates) >= 4 and all(size > 0 for size in estimates.values())
    assert any(file.path == "model.safetensors" and file.selected for file in preview.files)


def test_a_watched_download_only_goes_forward(api, pulled):
    fractions = [download.fraction for download in pulled]
    assert fractions == sorted(fractions) and fractions[-1] == 1
    last = pulled[-1]
    assert last.downloaded_bytes == last.total_bytes > 0
    model = api.catalog("GetModel", name=HANDLE)
    assert api.enum("millm.catalog.v1.Model.State", model.state) == "STATE_READY"
    assert api.enum("millm.catalog.v1.Quantization", model.actual_quantization) == "QUANTIZATION_FP16"


def test_a_load_tells_its_progress(api, loaded):
    assert [p.fraction for p in loaded] == sorted(p.fraction for p in loaded)
    assert api.load_state_of(loaded[-1]) == "LOAD_STATE_LOADED"
    assert loaded[-1].estimate.total_bytes > 0 and loaded[-1].estimate.fits
    (model,) = api.runtime("GetStatus").models
    assert (model.handle, api.load_state_of(model)) == (HANDLE, "LOAD_STATE_LOADED")


def test_generate_streams(api, loaded):
    told = list(api.runtime("Generate", **ask(QUESTION, model=HANDLE)))
    assert told[0].start.handle == HANDLE
    assert "".join(message.text for message in told) == ANSWER
    end = told[-1].end
    assert api.enum("millm.runtime.v1.FinishReason", end.finish_reason) == "FINISH_REASON_STOP"
    assert end.prompt_tokens == len(told[0].start.prompt_token_ids) == 15
    assert end.total_time.ToNanoseconds() >= end.time_to_first_token.ToNanoseconds() > 0


def test_leaving_stops_the_generation(api, loaded):
    answers = api.runtime("Generate", **ask("Tell me a happy story about Mia.", ignore_eos=True))
    next(answers)
    answers.cancel()
    for status in api.runtime("WatchStatus"):
        if status.models[0].running_requests == 0:
            assert status.models[0].generated_tokens < 2000
            break


def test_tokens_both_ways(api, loaded):
    ids = api.runtime("Tokenize", text=QUESTION).token_ids
    assert len(ids) > 5
    assert api.runtime("Detokenize", token_ids=ids).text == QUESTION


@pytest.mark.parametrize(
    ("service", "method", "fields", "code", "reason"),
    [
        (DOWNLOADER, "PreviewModel", {"repo_id": "nobody/nothing"}, "NOT_FOUND", "REPO_NOT_FOUND"),
        (DOWNLOADER, "PreviewModel", {"repo_id": "nothing"}, "INVALID_ARGUMENT", "INVALID_REPO_ID"),
        (RUNTIME, "LoadModel", {"model": "nobody"}, "NOT_FOUND", "MODEL_NOT_FOUND"),
        (RUNTIME, "LoadModel", {"model": HANDLE}, "FAILED_PRECONDITION", "MODEL_ALREADY_LOADED"),
        (RUNTIME, "Generate", {"text": "hi " * 5000}, "INVALID_ARGUMENT", "CONTEXT_LENGTH_EXCEEDED"),
        (RUNTIME, "Generate", {"token_ids": {"ids": [99_999]}}, "INVALID_ARGUMENT", "INVALID_ARGUMENT"),
        (DOWNLOADER, "RemoveModel", {"name": HANDLE}, "FAILED_PRECONDITION", "MODEL_IN_USE"),
    ],
)
def test_errors_have_their_reason(api, loaded, service, method, fields, code, reason):
    with pytest.raises(grpc.RpcError) as raised:
        answer = api.call(service, method, **fields)
        for _ in answer if hasattr(answer, "__next__") else ():
            pass
    assert raised.value.code().name == code, raised.value.details()
    assert api.reason_of(raised.value) == reason


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
@pytest.mark.parametrize("service, field", [(CATALOG, "GetModel"), (DOWNLOADER, "WatchDownload")])
def test_messages_without_measure_are_refused(server, service, field, compression):
    """A large one, and one that is small only until it is unpacked."""
    channel = grpc.insecure_channel(server.grpc, options=[("grpc.max_send_message_length", -1)])
    name = b"a" * (20 << 20)
    message = b"\x0a" + bytes([0x80, 0x80, 0x80, 0x0A]) + name
    call = channel.unary_unary(f"/{service}/{field}")
    with pytest.raises(grpc.RpcError) as raised:
        call(message, timeout=60, compression=compression)
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED, raised.value.details()


def test_unloading_frees_and_is_told(api, loaded):
    told = list(api.runtime("UnloadModel"))
    assert api.load_state_of(told[-1]) == "LOAD_STATE_UNLOADED"
    with pytest.raises(grpc.RpcError) as raised:
        next(api.runtime("Generate", **ask(QUESTION)))
    assert api.reason_of(raised.value) == "MODEL_NOT_LOADED"
