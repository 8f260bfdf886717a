"""The shape of a BERT model, read from its `config.json`.

What is not a BERT that ttbert knows is refused here by name, so that no model is ever converted or run as something
that it is not.
"""

from __future__ import annotations

import json
from typing import Any

from .errors import CheckpointError
from .frozen import Frozen

TILE = 32
"""Rows and columns of a tile, the unit in which Tenstorrent's cores hold matrices."""

TOKENS = 384
"""Tokens of an input as SQuAD is usually read, and by tt-metal's BERT demos."""

REGISTERS = 8
"""Tiles of 16 bits that a core's destination registers hold, half of them being packed while the other half is computed."""

WIDEST_GRID = 8
"""Most cores over which the hidden dimension is split: what every supported board has in one dimension."""

ARCHITECTURES = ("BertForQuestionAnswering", "BertModel")

_MOST_LAYERS = 1000
"""More than any model has. For each of them there are tensors to be planned, before one of the checkpoint is looked at."""

_MOST = (1 << 24) - 1
"""More words or units than any model has."""

_ABSENT: dict[str, Any] = {
    "position_embedding_type": "absolute",
    "hidden_act": "gelu",
    "is_decoder": False,
    "add_cross_attention": False,
    "quantization_config": None,
}
"""Settings that change the computation, each with the one value that is supported; absent means this value."""


_ANSWERING = "choose a model that was trained to answer questions, such as phiyodr/bert-large-finetuned-squad2"


class BertShape(Frozen):
    """The dimensions of a BERT encoder; every width is a multiple of 32."""

    architecture: str
    layers: int
    hidden: int
    heads: int
    intermediate: int
    vocabulary: int
    positions: int
    token_types: int
    norm_epsilon: float

    @property
    def head_size(self) -> int:
        return self.hidden // self.heads

    @property
    def has_answer_head(self) -> bool:
        return self.architecture == "BertForQuestionAnswering"

    @property
    def window(self) -> int:
        """Tokens of an input where nobody says otherwise: 384, or as many whole tiles as the model has positions for."""
        return min(TOKENS, self.positions // TILE * TILE or self.positions)

    def require_answer_head(self, model: str) -> None:
        """CheckpointError for a model that cannot answer questions; `model` is what it is called."""
        if not self.has_answer_head:
            raise CheckpointError(f"{model} is a {self.architecture}, which has no question-answering head", _ANSWERING)

    def require_pairs(self, model: str) -> None:
        """CheckpointError for an encoder that cannot tell a question from a passage; `model` is what it is called."""
        if self.token_types < 2:
            raise CheckpointError(f"{model} has one token type, so it takes no question with a passage", _ANSWERING)

    @property
    def spread(self) -> int:
        """Cores over which the hidden dimension is split, each with whole heads and whole tiles: 8 for 1024 wide, 6 for 384.

        It follows from the model alone, so that one conversion serves every board.
        """
        return max(cores for cores in range(1, WIDEST_GRID + 1) if self.heads % cores == 0)

    @property
    def qkv_groups(self) -> int:
        """Groups of heads in the fused QKV, each with its Q, its K and its V side by side; a core has whole groups.

        TT-NN reads a core's columns in two ways: as one group of two heads (`split_query_key_value_and_split_heads`, the
        op of tt-metal's BERT-large demo), or as any number of groups of one head (`create_qkv_heads`).
        """
        return self.spread if self.heads == 2 * self.spread else self.heads


def parse_config(content: bytes, where: str) -> BertShape:
    """The shape that `config.json` describes. CheckpointError, naming `where`, for any model that is not supported."""
    try:
        config = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{where} is not JSON: {error}", "download the checkpoint again") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{where} is not a JSON object", "download the checkpoint again")
    shape = BertShape(
        architecture=_architecture(config, where),
        layers=_count(config, "num_hidden_layers", where, _MOST_LAYERS),
        hidden=_count(config, "hidden_size", where),
        heads=_count(config, "num_attention_heads", where),
        intermediate=_count(config, "intermediate_size", where),
        vocabulary=_count(config, "vocab_size", where),
        positions=_count(config, "max_position_embeddings", where),
        token_types=_count(config, "type_vocab_size", where),
        norm_epsilon=_epsilon(config, where),
    )
    _check_widths(shape, where)
    if shape.has_answer_head:
        _check_takes_pairs(shape, where)
    return shape


def _architecture(config: dict[str, Any], where: str) -> str:
    supported = " and ".join(ARCHITECTURES)
    model_type, named = config.get("model_type"), config.get("architectures")
    if model_type != "bert":
        raise CheckpointError(f"{where}: model type {model_type!r:.80} is not supported", f"ttbert converts {supported}")
    if not isinstance(named, list) or len(named) != 1 or named[0] not in ARCHITECTURES:
        names = ", ".join(map(_plain, named[:3])) if isinstance(named, list) else _plain(named)
        raise CheckpointError(f"{where}: architecture {names} is not supported", f"ttbert converts {supported}")
    for setting, supported_value in _ABSENT.items():
        value = config.get(setting, supported_value)
        if value != supported_value:
            raise CheckpointError(
                f"{where}: {setting} {value!r:.80} is not supported",
                f"ttbert converts models with {supported_value!r} there",
            )
    return str(named[0])


def _plain(value: object) -> str:
    """A value as it can be printed in a line, whatever it is."""
    return value[:60] if isinstance(value, str) and value.isprintable() else f"{value!r:.60}"


def _check_widths(shape: BertShape, where: str) -> None:
    if shape.hidden % shape.heads:
        raise CheckpointError(
            f"{where}: {shape.hidden} wide is not a multiple of its {shape.heads} heads", "is it the config.json of a BERT?"
        )
    for name, width in (
        ("hidden size", shape.hidden),
        ("head size", shape.head_size),
        ("intermediate size", shape.intermediate),
    ):
        if width % TILE:
            raise CheckpointError(
                f"{where}: {name} {width} is not supported",
                f"a tile is {TILE} wide, so it must be a multiple of {TILE}",
            )


def _check_takes_pairs(shape: BertShape, where: str) -> None:
    """A question and a passage are one input, and told apart by their token types."""
    if shape.token_types < 2:
        raise CheckpointError(
            f"{where}: type_vocab_size {shape.token_types} is not supported",
            "a question is told from its passage by token types 0 and 1, so it must be 2 or more",
        )
    if shape.positions < TILE:
        raise CheckpointError(
            f"{where}: max_position_embeddings {shape.positions} is not supported",
            f"a question and a passage are one input, so it must be {TILE} or more",
        )


def _count(config: dict[str, Any], name: str, where: str, most: int = _MOST) -> int:
    value = config.get(name)
    if type(value) is not int or not 0 < value <= most:
        what = f"{name} is {value!r:.80}, not a whole number from 1 to {most:,}"
        raise CheckpointError(f"{where}: {what}", "is it the config.json of a BERT?")
    return value


def _epsilon(config: dict[str, Any], where: str) -> float:
    value = config.get("layer_norm_eps", 1e-12)
    if type(value) not in (int, float) or not 0 < value < 1:
        raise CheckpointError(
            f"{where}: layer_norm_eps is {value!r:.80}, not a small positive number", "is it the config.json of a BERT?"
        )
    return float(value)
