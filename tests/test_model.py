"""What a `config.json` may say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from ttbert.errors import CheckpointError
from ttbert.model import BertShape, parse_config

QA = "BertForQuestionAnswering"


def parse(**changes: object) -> BertShape:
    return parse_config(json.dumps(tiny.config(**changes)).encode(), "m/config.json")


def test_shape_is_what_the_configuration_says() -> None:
    assert parse() == BertShape(QA, 2, 64, 2, 128, 48, 96, 2, 1e-12)


def test_transformers_own_configurations_are_read(tmp_path: Path) -> None:
    from transformers import BertConfig

    config = BertConfig(architectures=[QA], vocab_size=28996)
    config.save_pretrained(tmp_path)
    shape = parse_config((tmp_path / "config.json").read_bytes(), "config.json")
    assert shape == BertShape(QA, 12, 768, 12, 3072, 28996, 512, 2, 1e-12)
    assert shape.head_size == 64 and shape.has_answer_head


def test_an_encoder_may_have_one_token_type_and_few_positions() -> None:
    shape = parse(architectures=["BertModel"], type_vocab_size=1, max_position_embeddings=8)
    assert (shape.token_types, shape.positions) == (1, 8)


@pytest.mark.parametrize(("positions", "window"), [(512, 384), (384, 384), (383, 352), (100, 96), (32, 32), (8, 8)])
def test_an_input_is_as_many_whole_tiles_as_there_are_positions_for(positions: int, window: int) -> None:
    assert parse(architectures=["BertModel"], max_position_embeddings=positions).window == window


def test_norm_epsilon_may_be_absent() -> None:
    assert parse(layer_norm_eps=None).norm_epsilon == 1e-12
    assert parse(layer_norm_eps=1e-5).norm_epsilon == 1e-5


@pytest.mark.parametrize(
    ("hidden", "heads", "spread"), [(1024, 16, 8), (768, 12, 6), (384, 12, 6), (64, 2, 2), (320, 10, 5), (352, 11, 1)]
)
def test_hidden_dimension_is_spread_over_the_most_cores_that_get_whole_heads(hidden: int, heads: int, spread: int) -> None:
    assert parse(hidden_size=hidden, num_attention_heads=heads).spread == spread


@given(heads=st.integers(1, 64), tiles=st.integers(1, 4))
def test_each_core_has_whole_heads_and_whole_tiles(heads: int, tiles: int) -> None:
    shape = BertShape(QA, 1, 32 * tiles * heads, heads, 32, 9, 9, 2, 1e-12)
    assert shape.heads % shape.spread == 0 and shape.hidden // shape.spread % 32 == 0 and 1 <= shape.spread <= 8


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model_type": "roberta"}, "model type 'roberta'"),
        ({"model_type": None}, "model type None"),
        ({"architectures": ["BertForMaskedLM"]}, "BertForMaskedLM"),
        ({"architectures": [QA, "BertModel"]}, f"{QA}, BertModel"),
        ({"architectures": []}, "architecture"),
        ({"architectures": QA}, QA),
        ({"architectures": [["BertModel"]]}, "BertModel"),
        ({"position_embedding_type": "relative_key"}, "relative_key"),
        ({"hidden_act": "gelu_new"}, "gelu_new"),
        ({"hidden_act": ["gelu"]}, "hidden_act"),
        ({"is_decoder": True}, "is_decoder"),
        ({"add_cross_attention": True}, "add_cross_attention"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"hidden_size": 100, "num_attention_heads": 5}, "hidden size 100"),
        ({"hidden_size": 96, "num_attention_heads": 2}, "head size 48"),
        ({"hidden_size": 64, "num_attention_heads": 3}, "64 wide is not a multiple of its 3 heads"),
        ({"intermediate_size": 130}, "intermediate size 130"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"num_hidden_layers": 1001}, "num_hidden_layers is 1001, not a whole number from 1 to 1,000"),
        ({"num_hidden_layers": True}, "num_hidden_layers is True"),
        ({"num_hidden_layers": 2.0}, "num_hidden_layers is 2.0"),
        ({"vocab_size": "48"}, "vocab_size is '48'"),
        ({"vocab_size": 1 << 40}, "vocab_size is 1099511627776, not a whole number from 1 to 16,777,215"),
        ({"max_position_embeddings": None}, "max_position_embeddings is None"),
        ({"type_vocab_size": -2}, "type_vocab_size is -2"),
        ({"type_vocab_size": 1}, "type_vocab_size 1 is not supported"),
        ({"max_position_embeddings": 31}, "max_position_embeddings 31 is not supported"),
        ({"layer_norm_eps": "1e-12"}, "layer_norm_eps is '1e-12'"),
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps is nan"),
        ({"layer_norm_eps": 0}, "layer_norm_eps is 0"),
    ],
)
def test_other_models_are_refused_by_name_with_the_file(changes: dict[str, object], says: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        parse(**changes)
    assert says in caught.value.message and caught.value.message.startswith("m/config.json: ") and caught.value.hint


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\xfd", b"[]", b"3", b"[" * 100_000, b"{'a': 1}"])
def test_what_is_no_json_object_is_refused(content: bytes) -> None:
    with pytest.raises(CheckpointError, match=r"m/config\.json is not"):
        parse_config(content, "m/config.json")


@given(
    name=st.sampled_from(sorted(tiny.config())),
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8), lambda inner: st.lists(inner, max_size=2)
    ),
)
def test_any_value_in_any_place_is_read_or_refused(name: str, value: object) -> None:
    content = json.dumps({**tiny.config(), name: value}).encode()
    try:
        shape = parse_config(content, "config.json")
    except CheckpointError as error:
        assert error.hint and "\n" not in error.message
    else:
        assert shape.hidden % 32 == shape.head_size % 32 == shape.intermediate % 32 == 0
