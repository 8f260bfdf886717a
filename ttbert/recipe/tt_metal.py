"""The weight cache of tt-metal's BERT-large demo: which file it looks for holds which of our tensors.

The demo (models/demos/metal_BERT_large_11, configuration BFLOAT8_B-SHARDED) loads each weight from a file that
`ttnn.dump_tensor` wrote, in a folder of its own. The names are those of the checkpoint, with the data type behind them, but
for Q, K and V, which are fused and interleaved over 8 cores as here, and for one `beta`. The name of their bias ends in `_v2`,
since tt-metal changed its shape from (1, 1, 32, n) to (1, 1, 1, n) in tenstorrent/tt-metal#43063 and its name in #43637.

All of that was read in tt-metal's source of May 2026, but for the answer head, of which an older one was at hand. That one
writes its bias as (1, 1, 32, 32); here it is (1, 1, 1, 32), which differs in one number of the header, and in no value.
"""

from __future__ import annotations

import re

from ..cache.manifest import TensorEntry
from ..errors import InputError
from ..model import BertShape

GRID = 8
"""Over so many cores the demo interleaves Q, K and V."""

_LAYER = re.compile(r"layers\.([0-9]+)\.(.+)")
_TOP = {
    "embeddings.word": "bert.embeddings.word_embeddings.weight",
    "embeddings.position": "bert.embeddings.position_embeddings.weight",
    "embeddings.token_type": "bert.embeddings.token_type_embeddings.weight",
    "embeddings.norm.weight": "bert.embeddings.LayerNorm.weight",
    "embeddings.norm.bias": "bert.embeddings.LayerNorm.beta",
    "answer.weight": "qa_outputs.weight",
    "answer.bias": "qa_outputs.bias",
}
_IN_LAYER = {
    "qkv": f"attention.self.qkv.{{part}}_interleaved_{GRID}",
    "out": "attention.output.dense.{part}",
    "attention_norm": "attention.output.LayerNorm.{part}",
    "up": "intermediate.dense.{part}",
    "down": "output.dense.{part}",
    "norm": "output.LayerNorm.{part}",
}
_LARGE = (1024, 4096, 24)


def check_for_demo(shape: BertShape, policy: str) -> str | None:
    """InputError for a model whose tensors the demo cannot read; a remark on one that it does not run, as far as we know."""
    if policy != "bfp8":
        raise InputError(
            f"tt-metal's demo reads matmul weights in bfloat8_b, and this model was converted with the policy {policy}",
            "convert it with --policy bfp8",
        )
    if not shape.has_answer_head:
        raise InputError("tt-metal's demo answers questions, and this model has no head for that", "choose one that has")
    if shape.spread != GRID:
        raise InputError(
            f"tt-metal's demo interleaves Q, K and V over {GRID} cores, and this model, with its {shape.heads} heads, has them "
            f"over {shape.spread}",
            "there are no files of it that the demo could read",
        )
    if (shape.hidden, shape.intermediate, shape.layers) != _LARGE:
        return "its sizes are not those of BERT-large, which are the only ones that tt-metal's demo is written for"
    return None


def file_name(tensor: TensorEntry) -> str:
    """The name of the demo's file for a tensor."""
    match = _LAYER.fullmatch(tensor.name)
    if match:
        kind, _, part = match[2].rpartition(".")
        name = f"bert.encoder.layer.{match[1]}.{_IN_LAYER[kind].format(part=part)}"
    else:
        name = _TOP[tensor.name]
    version = "_v2" if tensor.name.endswith(".qkv.bias") else ""
    return f"{name}_{tensor.dtype.upper()}{version}.tensorbin"
