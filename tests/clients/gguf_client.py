"""Files that miLLM wrote, read by the `gguf` package of llama.cpp's authors: the types that are claimed, the whole
vocabulary, and weights near the published ones."""

from collections import Counter
from pathlib import Path

import numpy
import pytest
from conftest import FIXTURES
from gguf import GGUFReader
from gguf.quants import dequantize

LAYERS = 4

# Per scheme: what llama.cpp's mix of this name holds for a tied model of four layers, and the largest relative error.
SCHEMES = {
    "Q2": ({"Q2_K", "Q3_K", "Q6_K", "F32"}, 0.35),
    "Q4": ({"Q4_K", "Q6_K", "F32"}, 0.12),
    "Q8": ({"Q8_0", "F32"}, 0.01),
}


@pytest.fixture(scope="module", params=SCHEMES)
def written(request, api, server):
    """The scheme, and its file as the reader sees it."""
    handle = f"gguf-{request.param.lower()}"
    api.pull(server.repo, handle, f"QUANTIZATION_{request.param}")
    try:
        model = api.catalog("GetModel", name=handle)
        yield request.param, GGUFReader(Path(model.storage_path) / "model.gguf")
    finally:
        api.downloader("RemoveModel", name=handle)


def published(name: str) -> numpy.ndarray:
    """A tensor of the safetensors fixture, as f32."""
    import json
    import struct

    raw = (FIXTURES / "tiny-millm/model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    entry = json.loads(raw[8 : 8 + length])[name]
    begin, end = (8 + length + offset for offset in entry["data_offsets"])
    bits = numpy.frombuffer(raw[begin:end], dtype="<u2").astype(numpy.uint32) << 16
    return bits.view(numpy.float32).reshape(entry["shape"])


def test_types_are_those_claimed(written):
    scheme, reader = written
    types = Counter(tensor.tensor_type.name for tensor in reader.tensors)
    assert set(types) <= SCHEMES[scheme][0], types
    assert types["F32"] == 2 * LAYERS + 1, "norms stay as they are"
    assert len(reader.tensors) == 9 * LAYERS + 2


def test_the_file_alone_is_a_whole_model(written):
    _, reader = written
    fields = reader.fields
    assert fields["general.architecture"].contents() == "llama"
    assert fields["llama.block_count"].contents() == LAYERS
    assert len(fields["tokenizer.ggml.tokens"].contents()) == 2048
    assert "<|im_start|>" in fields["tokenizer.chat_template"].contents()


def test_weights_are_near_the_published(written):
    scheme, reader = written
    names = {
        "token_embd.weight": "model.embed_tokens.weight",
        "blk.1.ffn_up.weight": "model.layers.1.mlp.up_proj.weight",
        "blk.2.ffn_down.weight": "model.layers.2.mlp.down_proj.weight",
    }
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    for name, original in names.items():
        tensor, wanted = tensors[name], published(original)
        got = dequantize(tensor.data, tensor.tensor_type).reshape(wanted.shape)
        error = numpy.linalg.norm(got - wanted) / numpy.linalg.norm(wanted)
        assert error <= SCHEMES[scheme][1], f"{name} as {tensor.tensor_type.name}: {error:.4f}"
