#!/usr/bin/env python3
"""What llama.cpp's converter makes of the fixtures: metadata, and each tensor's shape and SHA-256, without the bytes.

For each family in tests/fixtures/families the converter of a llama.cpp checkout writes an F32 file; what is in it goes to
`converted.json` beside the config. The vocabulary is left out: the fixtures' tokenizers are no family's.

    pip install torch transformers safetensors gguf
    tests/tools/converted.py path/to/llama.cpp [family ...]
"""

import hashlib
import importlib
import json
import pkgutil
import sys
import tempfile
from pathlib import Path

LLAMA_CPP = Path(sys.argv[1])
sys.path[:0] = [str(LLAMA_CPP), str(LLAMA_CPP / "gguf-py")]

import conversion  # noqa: E402
import convert_hf_to_gguf  # noqa: E402
import gguf  # noqa: E402
from conversion.base import ModelBase, TextModel  # noqa: E402

FAMILIES = Path(__file__).parent.parent / "fixtures" / "families"


def leave_out_vocabularies(cls):
    if "set_vocab" in cls.__dict__:
        cls.set_vocab = lambda self: None
    for child in cls.__subclasses__():
        leave_out_vocabularies(child)


def read_old_keys():
    """Some converters read keys that transformers has since moved elsewhere."""
    load = ModelBase.load_hparams

    def with_old_keys(folder, is_mistral_format):
        raw = json.loads((folder / "config.json").read_text())
        raw.setdefault("n_ctx", raw.get("n_positions"))
        raw.setdefault("rotary_pct", 1.0)
        return raw | {key: value for key, value in load(folder, is_mistral_format).items() if value is not None}

    ModelBase.load_hparams = staticmethod(with_old_keys)


def value_of(field):
    value = field.contents()
    return value if not isinstance(value, float) else float(f"{value:.7g}")


def describe(path):
    reader = gguf.GGUFReader(path)
    metadata = {name: value_of(field) for name, field in reader.fields.items() if "." in name and not name.startswith("GGUF")}
    architecture = metadata["general.architecture"]
    metadata = {
        name: value
        for name, value in metadata.items()
        if name.startswith(architecture + ".") or name == "general.architecture"
    }
    tensors = {
        tensor.name: [[int(n) for n in reversed(tensor.shape)], hashlib.sha256(tensor.data.tobytes()).hexdigest()]
        for tensor in reader.tensors
    }
    return metadata, tensors


def convert(folder):
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch) / "made.gguf"
        sys.argv = ["convert", "--outtype", "f32", "--outfile", str(made), str(folder)]
        convert_hf_to_gguf.main()
        metadata, tensors = describe(made)
    lines = [f"    {json.dumps(name)}: {json.dumps(tensor)}" for name, tensor in sorted(tensors.items())]
    text = json.dumps({"metadata": metadata}, indent=2)[:-2] + ',\n  "tensors": {\n' + ",\n".join(lines) + "\n  }\n}\n"
    (folder / "converted.json").write_text(text)


if __name__ == "__main__":
    for module in pkgutil.iter_modules(conversion.__path__):
        try:
            importlib.import_module(f"conversion.{module.name}")
        except ImportError:
            pass
    leave_out_vocabularies(ModelBase)
    TextModel.set_vocab = lambda self: None
    read_old_keys()
    for name in sys.argv[2:] or sorted(folder.name for folder in FAMILIES.iterdir()):
        convert(FAMILIES / name)
