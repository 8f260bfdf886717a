"""Keys and bytes written out: a change of any of them makes every cache out there useless, and must be on purpose.

If one of these fails and the result really is to change, give the step, the serialization or the schema that changed
another version, and record the new values here.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from ttbert.cache.digest import Digest, blake3_of
from ttbert.cache.document import canonical
from ttbert.convert.codec import Codec, choose_codec
from ttbert.model import BertShape
from ttbert.recipe.bert import bert_recipe
from ttbert.recipe.policy import POLICIES
from ttbert.recipe.recipe import Action
from ttbert.tt import host_ttnn

QA = "BertForQuestionAnswering"
SHAPES = {
    "bundled": BertShape(QA, 6, 384, 12, 1536, 9032, 512, 2, 1e-12),
    "minilm": BertShape(QA, 12, 384, 12, 1536, 30522, 512, 2, 1e-12),
    "bert-base": BertShape(QA, 12, 768, 12, 3072, 28996, 512, 2, 1e-12),
    "bert-large": BertShape(QA, 24, 1024, 16, 4096, 30522, 512, 2, 1e-12),
}
PACK_SIZES = {"common": 4_777_984, "feed_forward": 8_912_896}
SOURCES = tuple((role, Digest("sha256", f"{i:064x}")) for i, role in enumerate(("weights", "config", "tokenizer"), 1))


@pytest.mark.parametrize(
    ("policy", "key"),
    [
        ("bfp8", "4dc70a43b82bfbe126e48f5e7821db9677024e00db89fef917b7c02a0f1c4fc2"),
        ("bf16", "9d82bb80a25d0caa9e7a4147f9d9eec660fa69055644a545472a23dc60a55d10"),
        ("bfp4", "a1d614ab2e3ea970d62371bd84f557da62f1a8f7650da4386ecb353ccc9735c8"),
    ],
)
def test_action_key_of_the_bundled_shape_over_certain_sources_stays(policy: str, key: str) -> None:
    assert Action(bert_recipe(SHAPES["bundled"], POLICIES[policy]), SOURCES).key == Digest("blake3", key)


@pytest.mark.parametrize(
    ("name", "tensors", "spread", "payload", "digest"),
    [
        ("minilm", 151, 6, 47_859_008, "582ddf376eb1fd8faa3d3b324fb6f4ad6b2adf560f7642462a26028b7501265c"),
        ("bert-base", 151, 6, 138_494_528, "e742bd3b9a6ec79346fef6c2316e39cb713071905faeaae1b46b08f10a85d3c5"),
        ("bert-large", 295, 8, 392_182_848, "1182a90c76acbd78dd255e3de40cc461303447c87759cf147d68db97986a82f6"),
    ],
)
def test_recipe_of_a_known_shape_stays(name: str, tensors: int, spread: int, payload: int, digest: str) -> None:
    recipe = bert_recipe(SHAPES[name], POLICIES["bfp8"])
    assert len(recipe.tensors) == tensors and recipe.shape.spread == spread
    assert sum(each.payload for each in recipe.tensors) == payload
    assert blake3_of(canonical(recipe.document())).hex == digest


def test_packs_of_a_bert_large_stay() -> None:
    recipe = bert_recipe(SHAPES["bert-large"], POLICIES["bfp8"])
    sizes = {pack.name: sum(each.payload for each in pack.tensors) for pack in recipe.packs}
    layers = {f"layers.{i}.{part}": size for i in range(24) for part, size in PACK_SIZES.items()}
    assert sizes == {"embeddings": 63_565_824, **layers, "answer": 35_904}
    assert [each.name for each in recipe.packs[1].tensors] == [
        *("layers.0.qkv.weight", "layers.0.qkv.bias", "layers.0.out.weight", "layers.0.out.bias"),
        *("layers.0.attention_norm.weight", "layers.0.attention_norm.bias", "layers.0.up.bias", "layers.0.down.bias"),
        *("layers.0.norm.weight", "layers.0.norm.bias"),
    ]
    assert [each.name for each in recipe.packs[2].tensors] == ["layers.0.up.weight", "layers.0.down.weight"]


def test_recipe_says_of_a_fused_weight_all_that_decides_its_bytes() -> None:
    document = bert_recipe(SHAPES["bert-large"], POLICIES["bfp8"]).document()
    assert document["schema"] == "ttbert.recipe/2" and document["serialization"] == "tensorbin/1"
    assert document["tokenizer"] == "tokenizers/1" and document["grid"] == 8
    assert document["steps"] == {"transpose": 1, "interleave": 1, "pad_columns": 1, "to_matrix": 1, "to_norm": 1}
    packs = document["packs"]
    assert isinstance(packs, list) and packs[1]["tensors"][0] == {
        "name": "layers.0.qkv.weight",
        "sources": [f"encoder.layer.0.attention.self.{part}.weight" for part in ("query", "key", "value")],
        "steps": [{"step": "transpose"}, {"step": "interleave", "grid": 8}, {"step": "to_matrix"}],
        "shape": [1, 1, 1024, 3072],
        "dtype": "bfloat8_b",
        "layout": "tile",
        "tile": [32, 32],
        "memory": "dram_interleaved",
    }


def test_every_part_of_the_recipe_and_every_source_is_in_the_key() -> None:
    def key(shape: BertShape, policy: str, sources: tuple[tuple[str, Digest], ...]) -> Digest:
        return Action(bert_recipe(shape, POLICIES[policy]), sources).key

    shape = SHAPES["bundled"]
    shapes = [
        shape,
        BertShape("BertModel", 6, 384, 12, 1536, 9032, 512, 2, 1e-12),
        *(BertShape(QA, *numbers, 1e-12) for numbers in [(5, 384, 12, 1536, 9032, 512, 2), (6, 384, 6, 1536, 9032, 512, 2)]),
        BertShape(QA, 6, 384, 12, 1536, 9032, 512, 2, 1e-5),
    ]
    keys = [key(each, policy, SOURCES) for each in shapes for policy in POLICIES]
    keys += [
        key(shape, "bfp8", (*SOURCES[:i], (SOURCES[i][0], Digest("sha256", "f" * 64)), *SOURCES[i + 1 :])) for i in range(3)
    ]
    assert len(set(keys)) == len(keys)
    assert key(shape, "bfp8", SOURCES[::-1]) == keys[0], "the order in which sources were found does not matter"


# Tiles

HEADER = 8 + 376
"""Bytes of a .tensorbin before the tensor: the length of the flatbuffer, then the flatbuffer."""

RAMP = np.arange(1024, dtype=np.float32).reshape(1, 1, 32, 32)
"""Row r, column c: 32 r + c."""


@pytest.fixture(scope="module")
def codec() -> Codec:
    return choose_codec()


@pytest.mark.parametrize(
    ("dtype", "layout", "digest", "begins"),
    [
        # Rows of 32 values, one after another: 0, 1, 2 as the upper halves of their float32s, 0x0000, 0x3f80, 0x4000.
        ("bfloat16", "row_major", "832575094a2d53f71f7ce5d7fef2a7ce9fa2c4c1ad07e7a7a402993cd3b320d0", "0000803f00404040"),
        ("bfloat16", "tile", "1b13ca67afea0464ffbc0c8dfdcc2f16d7188f3449e537ceac05bf5f63a1fffb", "0000803f00404040"),
        # 64 exponents first, one for 16 values. Rows 0 to 3 of the first face go up to 15, 47, 79 and 111, which lie in
        # [2^3, 2^4), [2^5, 2^6), [2^6, 2^7) and [2^6, 2^7): 127 + 3 = 0x82, 0x84, 0x85, 0x85.
        ("bfloat8_b", "tile", "af29aefbc9f11763f15516b3d3df4e6d07bf45b33bec97ada340722038183262", "82848585"),
        ("bfloat4_b", "tile", "bac7c97667468e099bbceb4ed832cf0850d4b02127221b0236de3a413ba0aa8e", "82848585"),
    ],
)
def test_packed_bytes_stay_and_are_those_that_ttnn_writes(
    codec: Codec, tmp_path: Path, dtype: str, layout: str, digest: str, begins: str
) -> None:
    import torch

    ttnn = host_ttnn()
    packed = codec.pack(RAMP, dtype, layout)
    assert struct.unpack("<Q", packed[:8]) == (HEADER - 8,)
    assert packed[HEADER:].hex().startswith(begins)
    assert blake3_of(packed).hex == digest

    layouts = {"tile": ttnn.TILE_LAYOUT, "row_major": ttnn.ROW_MAJOR_LAYOUT}
    tensor = ttnn.from_torch(torch.from_numpy(RAMP), dtype=getattr(ttnn, dtype), layout=layouts[layout])
    ttnn.dump_tensor(str(tmp_path / "theirs.tensorbin"), tensor)
    assert packed == (tmp_path / "theirs.tensorbin").read_bytes()


def test_bfloat8_b_tile_of_a_ramp_worked_out_by_hand(codec: Codec) -> None:
    packed = codec.pack(RAMP, "bfloat8_b", "tile")[HEADER:]
    exponents, mantissas = packed[:64], packed[64:]
    assert len(packed) == 64 + 1024
    # The first face, rows and columns 0 to 15. Row 0 is 0 to 15, exponent 3: a mantissa counts 2^3 / 64, so 1 is 8.
    assert list(mantissas[:16]) == list(range(0, 128, 8))
    # Row 1 is 32 to 47, exponent 5: it counts 1/2, so 32 is 64.
    assert list(mantissas[16:32]) == list(range(64, 96, 2))
    # Row 4 is 128 to 143, exponent 7: it counts 2. 129 is 64.5, which goes to the even 64; 131 is 65.5 and goes to 66.
    assert list(mantissas[64:72]) == [64, 64, 65, 66, 66, 66, 67, 68]
    # The second face, columns 16 to 31. Its row 0 is 16 to 31, exponent 4: it counts 1/4, so 16 is 64.
    assert exponents[16] == 127 + 4 and list(mantissas[256:272]) == list(range(64, 128, 4))
    # The last value, 1023, exponent 9, counts 8: 127.875 would be 128, which seven bits cannot hold; it stays at 127.
    assert exponents[63] == 127 + 9 and mantissas[-1] == 127


@pytest.mark.parametrize(("dtype", "bits"), [("bfloat8_b", 7), ("bfloat4_b", 3)])
def test_block_formats_round_to_even_and_saturate_in_blocks_of_sixteen(codec: Codec, dtype: str, bits: int) -> None:
    signs = np.where(np.arange(1024) % 3 == 0, np.float32(-1), np.float32(1)).reshape(RAMP.shape)
    packed = codec.pack(RAMP * signs, dtype, "tile")[HEADER:]
    exponents, packed = packed[:64], packed[64:]
    # Two values of four bits are in a byte, the first one in its lower half.
    found = list(packed) if bits == 7 else [half for byte in packed for half in (byte & 15, byte >> 4)]
    expected = []
    for face in range(4):
        top, left = 16 * (face // 2), 16 * (face % 2)
        for row in range(16):
            values = [32 * (top + row) + left + column for column in range(16)]
            exponent = values[-1].bit_length() - 1
            assert exponents[16 * face + row] == 127 + exponent
            for value in values:
                mantissa = min(round(value / 2.0 ** (exponent - bits + 1)), 2**bits - 1)  # round() goes to even
                negative = value % 3 == 0 and mantissa > 0
                expected.append(mantissa | negative << bits)
    assert found == expected


def test_tiles_are_padded_with_zeros(codec: Codec) -> None:
    packed = codec.pack(np.ones((1, 1, 1, 40), np.float32), "bfloat16", "tile")
    values = np.frombuffer(packed[HEADER:], "<u2").reshape(2, 4, 16, 16)  # tiles, faces, rows, columns
    assert len(packed) == HEADER + 2 * 2048
    assert (values[0, :2, 0] == 0x3F80).all() and (values[1, 0, 0, :8] == 0x3F80).all()
    assert np.count_nonzero(values) == 40
