"""Headers of `.tensorbin` files that lie, are cut off or do not belong: one named error each, before TT-NN reads a byte."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ttbert.cache.digest import blake3_of
from ttbert.cache.manifest import TensorEntry
from ttbert.convert.codec import Codec, choose_codec
from ttbert.convert.tensorbin import head
from ttbert.errors import IntegrityError
from ttbert.recipe.recipe import payload_size
from ttbert.recipe.tensorbin import HEADER_SIZE, check_header, header

FORMATS = [("bfloat16", "tile"), ("bfloat8_b", "tile"), ("bfloat4_b", "tile"), ("bfloat16", "row_major")]
OUTER = [(), (2,), (2, 3), (2, 1, 3), (1, 2, 1, 3), (3, 1, 1, 2, 1), (1, 1, 1, 2, 1, 2)]
SHAPES = [(5,), (96,), *(outer + inner for outer in OUTER for inner in ((64, 96), (1, 1), (33, 7)))]


def entry_of(shape: tuple[int, ...], dtype: str = "bfloat8_b", layout: str = "tile") -> TensorEntry:
    tile = (32, 32) if layout == "tile" else None
    size = HEADER_SIZE + payload_size(shape, dtype, layout)
    return TensorEntry("weight", shape, dtype, layout, tile, "dram_interleaved", blake3_of(b""), size)


ENTRY = entry_of((1, 1, 64, 96))
SOUND = header(ENTRY.shape, ENTRY.dtype, ENTRY.layout)


def refuse(content: bytes, entry: TensorEntry = ENTRY) -> str:
    start = time.monotonic()
    with pytest.raises(IntegrityError) as caught:
        check_header(content, entry, "the/place")
    assert time.monotonic() - start < 1
    assert caught.value.message.startswith("the/place") and entry.name in caught.value.message and caught.value.hint
    assert caught.value.message.isprintable() and len(caught.value.message) < 500
    return caught.value.message


@pytest.fixture(scope="module")
def codec() -> Codec:
    return choose_codec()


@pytest.mark.parametrize("dtype,layout", FORMATS)
def test_the_header_is_the_one_that_ttnn_writes(codec: Codec, dtype: str, layout: str) -> None:
    for shape in SHAPES:
        packed = codec.pack(np.zeros(shape, np.float32), dtype, layout)
        assert packed[:HEADER_SIZE] == header(shape, dtype, layout), shape
        assert len(packed) == HEADER_SIZE + payload_size(shape, dtype, layout)
        check_header(packed, entry_of(shape, dtype, layout), "here")


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, (1 << 31) - 1), min_size=1, max_size=8).map(tuple), st.sampled_from(FORMATS))
def test_the_header_is_the_one_that_conversions_write(shape: tuple[int, ...], form: tuple[str, str]) -> None:
    """Which is made in another way, of the schema."""
    if payload_size(shape, *form) < 1 << 63:
        assert header(shape, *form) == head(shape, *form)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_bytes_are_taken(kind: type) -> None:
    check_header(kind(SOUND), ENTRY, "here")


def test_every_flipped_bit_is_refused() -> None:
    for position, bit in itertools.product(range(HEADER_SIZE), range(8)):
        content = bytearray(SOUND)
        content[position] ^= 1 << bit
        assert f"from byte {position} on" in refuse(bytes(content))


def test_a_header_cut_off_anywhere_is_refused() -> None:
    for length in range(HEADER_SIZE):
        refuse(SOUND[:length])


@pytest.mark.parametrize("length", [0, 8, 375, 377, 1 << 20, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
def test_a_length_that_lies_is_refused(length: int) -> None:
    refuse(length.to_bytes(8, "little") + SOUND[8:])


@pytest.mark.parametrize("size", [0, 1, 6527, 6529, 1 << 40, (1 << 63) - 1, (1 << 64) - 1])
def test_a_payload_size_that_lies_is_refused(size: int) -> None:
    """In the header, in the manifest, and in both alike."""
    lying = SOUND[:208] + size.to_bytes(8, "little") + SOUND[216:]
    refuse(lying)
    refuse(SOUND, replace(ENTRY, size=HEADER_SIZE + size))
    refuse(lying, replace(ENTRY, size=HEADER_SIZE + size))


@pytest.mark.parametrize("count", [0, 3, 5, 1 << 16, (1 << 32) - 1])
def test_a_rank_that_lies_is_refused(count: int) -> None:
    assert SOUND[348:352] == (4).to_bytes(4, "little")
    refuse(SOUND[:348] + count.to_bytes(4, "little") + SOUND[352:])


def test_a_sound_header_of_another_tensor_is_refused() -> None:
    entries = [entry_of(shape, *each) for each in FORMATS for shape in [(1, 1, 64, 96), (1, 1, 96, 64), (64, 96), (1, 64, 96)]]
    for one, other in itertools.permutations(entries, 2):
        refuse(header(one.shape, one.dtype, one.layout), other)


@pytest.mark.parametrize(
    "changes",
    [
        {"tile": None},
        {"tile": (16, 32)},
        {"tile": (32, 16)},
        {"memory": "l1"},
        {"memory": ""},
        {"layout": "row_major"},
        {"layout": "row_major", "tile": None},
        {"dtype": "bfloat4_b"},
        {"shape": (1,) * 9},
        {"shape": (1 << 30,) * 8},
        {"shape": (1 << 32,)},
        {"shape": ()},
        {"shape": (1, 1, 64, 97)},
        {"shape": (1, 64, 96)},
    ],
    ids=str,
)
def test_an_entry_that_ttnn_has_no_such_tensor_for_is_refused(changes: dict[str, object]) -> None:
    refuse(SOUND, replace(ENTRY, **changes))  # type: ignore[arg-type]


def test_what_is_no_header_is_refused() -> None:
    for content in (b"", b"\0", bytes(HEADER_SIZE), b"\xff" * HEADER_SIZE, bytes(1 << 20), b"\x93NUMPY", SOUND[8:], SOUND * 2):
        if content[:HEADER_SIZE] != SOUND:
            refuse(content)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400), st.integers(0, HEADER_SIZE))
def test_bytes_at_random_are_refused_or_change_nothing(noise: bytes, position: int) -> None:
    content = SOUND[:position] + noise + SOUND[position + len(noise) :]
    if content[:HEADER_SIZE] == SOUND:
        check_header(content, ENTRY, "here")
    else:
        refuse(content)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.integers(1, (1 << 31) - 1), min_size=1, max_size=8).map(tuple),
    st.sampled_from(FORMATS),
    st.integers(0, (1 << 50) - 1),
)
def test_whatever_a_manifest_says_takes_no_memory(shape: tuple[int, ...], form: tuple[str, str], size: int) -> None:
    entry = entry_of(shape, *form)
    if entry.size < 1 << 63:
        check_header(header(shape, *form), entry, "here")
        refuse(header(shape, *form), replace(entry, size=entry.size + size + 1))
    else:
        refuse(SOUND, entry)
