"""Inputs: a checkpoint of BERT-large's exact shapes with seeded random weights, and a cache with it. Made once a folder."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from ttbert.convert.wanted import BUNDLED_FOLDER
from ttbert.model import BertShape
from ttbert.recipe.bert import bert_recipe
from ttbert.recipe.policy import POLICIES

_QA = "BertForQuestionAnswering"
LARGE = BertShape(_QA, 24, 1024, 16, 4096, 30522, 512, 2, 1e-12)
SMALL = BertShape(_QA, 2, 128, 4, 512, 9032, 512, 2, 1e-12)


def shape_of(small: bool, layers: int | None = None) -> BertShape:
    """The shape to measure; with another number of layers if one is given."""
    shape = SMALL if small else LARGE
    return replace(shape, layers=layers) if layers else shape


def make_checkpoint(folder: Path, shape: BertShape) -> Path:
    """A folder as transformers' save_pretrained writes it, in float32: below `folder`, named by the shape."""
    made = folder / f"bert-{shape.layers}x{shape.hidden}"
    if (made / "config.json").exists():
        return made
    made.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(BUNDLED_FOLDER / name, made / name)
    sources = bert_recipe(shape, POLICIES["bfp8"]).sources
    _write_weights(made / "model.safetensors", {stored_name(name): size for name, size in sources.items()})
    config = {
        "architectures": [shape.architecture],
        "model_type": "bert",
        "hidden_act": "gelu",
        "hidden_size": shape.hidden,
        "initializer_range": 0.02,
        "intermediate_size": shape.intermediate,
        "layer_norm_eps": shape.norm_epsilon,
        "max_position_embeddings": shape.positions,
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "type_vocab_size": shape.token_types,
        "vocab_size": shape.vocabulary,
    }
    (made / "config.json").write_text(json.dumps(config, indent=2))  # last: it says that all is there
    return made


def make_cache(folder: Path, checkpoint: Path) -> Path:
    """A cache that holds the checkpoint, converted with the default policy."""
    cache = folder / f"cache-{checkpoint.name}"
    command = [sys.executable, "-m", "ttbert", "convert", str(checkpoint), "--cache", str(cache)]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return cache


def stored_name(name: str) -> str:
    """The name that transformers gives a tensor, for the canonical one."""
    return name if name.startswith("qa_outputs.") else f"bert.{name}"


def _write_weights(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """A safetensors file, written a tensor at a time, so that it takes no memory to speak of."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        size = 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    random = np.random.default_rng(0)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in shapes.items():
            values = 0.02 * random.standard_normal(shape, np.float32)
            file.write((values + 1 if name.endswith("LayerNorm.weight") else values).tobytes())
