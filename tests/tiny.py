"""Checkpoints of a few kilobytes, as files by name, for tests of everything but the answers.

They are made by hand, name by name as transformers names them, and not of the recipe that the tests are to check.
"""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

Arrays = dict[str, NDArray[Any]]
Files = dict[str, bytes]

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz", *(f"##{c}" for c in "etaoinshr")]
VOCAB_TXT = "".join(f"{word}\n" for word in WORDS).encode()

HIDDEN, INNER, LAYERS, WORDS_HELD, POSITIONS = 64, 128, 2, 48, 96


def config(**changes: object) -> dict[str, Any]:
    """A `config.json`; a change to None leaves the setting out."""
    settings = {
        "architectures": ["BertForQuestionAnswering"],
        "model_type": "bert",
        "hidden_act": "gelu",
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": POSITIONS,
        "num_attention_heads": 2,
        "num_hidden_layers": LAYERS,
        "type_vocab_size": 2,
        "vocab_size": WORDS_HELD,
        **changes,
    }
    return {name: value for name, value in settings.items() if value is not None}


def arrays(seed: int = 0, layers: int = LAYERS, prefix: str = "bert.") -> Arrays:
    """The tensors of a BertForQuestionAnswering of that shape; with no prefix and no `qa_outputs`, of a BertModel."""
    shapes: dict[str, tuple[int, ...]] = {
        f"{prefix}embeddings.word_embeddings.weight": (WORDS_HELD, HIDDEN),
        f"{prefix}embeddings.position_embeddings.weight": (POSITIONS, HIDDEN),
        f"{prefix}embeddings.token_type_embeddings.weight": (2, HIDDEN),
        f"{prefix}embeddings.LayerNorm.weight": (HIDDEN,),
        f"{prefix}embeddings.LayerNorm.bias": (HIDDEN,),
    }
    linears = {
        "attention.self.query": (HIDDEN, HIDDEN),
        "attention.self.key": (HIDDEN, HIDDEN),
        "attention.self.value": (HIDDEN, HIDDEN),
        "attention.output.dense": (HIDDEN, HIDDEN),
        "intermediate.dense": (INNER, HIDDEN),
        "output.dense": (HIDDEN, INNER),
    }
    for i in range(layers):
        layer = f"{prefix}encoder.layer.{i}"
        for name, (outer, inner) in linears.items():
            shapes[f"{layer}.{name}.weight"], shapes[f"{layer}.{name}.bias"] = (outer, inner), (outer,)
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes[f"{layer}.{name}.weight"], shapes[f"{layer}.{name}.bias"] = (HIDDEN,), (HIDDEN,)
    shapes |= {"qa_outputs.weight": (2, HIDDEN), "qa_outputs.bias": (2,)}
    random = np.random.default_rng(seed)
    return {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def checkpoint(weights: Arrays | None = None, **changes: object) -> Files:
    """A whole checkpoint in one safetensors file; `changes` are of its configuration."""
    return {
        "config.json": json.dumps(config(**changes)).encode(),
        "vocab.txt": VOCAB_TXT,
        "model.safetensors": save(arrays() if weights is None else weights),
    }


def sharded(weights: Arrays) -> Files:
    """The weights in two shards and an index."""
    names = sorted(weights)
    shards = {
        "model-00001-of-00002.safetensors": names[: len(names) // 2],
        "model-00002-of-00002.safetensors": names[len(names) // 2 :],
    }
    index = {"metadata": {}, "weight_map": {name: shard for shard, held in shards.items() for name in held}}
    files = {shard: save({name: weights[name] for name in held}) for shard, held in shards.items()}
    return {**files, "model.safetensors.index.json": json.dumps(index).encode()}


def pickled(weights: Arrays) -> bytes:
    """The weights as `torch.save` writes them."""
    import torch

    stream = io.BytesIO()
    torch.save({name: torch.from_numpy(array) for name, array in weights.items()}, stream)
    return stream.getvalue()


def overlapping_safetensors() -> bytes:
    """A safetensors file of which two tensors share bytes."""
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    header = json.dumps({"a": entry, "b": {**entry, "data_offsets": [4, 12]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(12)


def write(folder: Path, files: Files) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder
