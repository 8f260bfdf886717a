"""Shapes of models that plans are tested with."""

from __future__ import annotations

from ttbert.model import BertShape


def shape(layers: int, hidden: int, heads: int, intermediate: int) -> BertShape:
    return BertShape("BertForQuestionAnswering", layers, hidden, heads, intermediate, 30522, 512, 2, 1e-12)


SHAPES = {
    "large": shape(24, 1024, 16, 4096),
    "base": shape(12, 768, 12, 3072),
    "minilm": shape(6, 384, 12, 1536),
    "tiny": shape(2, 128, 2, 512),
    "tiny, four heads": shape(2, 128, 4, 512),
    "one head": shape(2, 64, 1, 256),
    "five cores": shape(2, 640, 10, 2560),
    "seven heads": shape(2, 448, 7, 1792),
}

MANY_HEADS = {
    "three a core": shape(2, 768, 24, 3072),
    "eight a core": shape(2, 2048, 64, 8192),
    "eleven on one core": shape(2, 352, 11, 1408),
}
"""Models with more than two heads a core, of which L1 does not hold every batch and length."""
