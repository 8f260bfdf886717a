"""Precision policies: which data type each kind of tensor has."""

from __future__ import annotations

from ..frozen import Frozen


class Policy(Frozen):
    """The precision of each kind of tensor. Embeddings and norms are bfloat16 in all of them."""

    name: str
    attention: str
    feed_forward: str
    bias: str
    help: str


POLICIES = {
    each.name: each
    for each in (
        Policy("bfp8", "bfloat8_b", "bfloat8_b", "bfloat8_b", "matmul weights and biases in bfloat8_b, as tt-metal's demo"),
        Policy("bf16", "bfloat16", "bfloat16", "bfloat16", "everything in bfloat16"),
        Policy("bfp4", "bfloat8_b", "bfloat4_b", "bfloat8_b", "feed-forward weights in bfloat4_b, the rest as bfp8"),
    )
}

DEFAULT_POLICY = "bfp8"

FLOAT32, BFLOAT16 = "float32", "bfloat16"
PRECISIONS = (FLOAT32, BFLOAT16)
"""Of what goes into the matmuls of a model on the CPU, whatever its policy. FLOAT32 is the reference."""
