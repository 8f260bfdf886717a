"""That ttbert packs as TT-NN does, byte for byte: both implementations against TT-NN itself, in its mock mode."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from shapes import SHAPES

from ttbert.convert.codec import EXTENSION, KNOWN_TTNN, NUMPY, Codec, TtnnCodec, choose_codec
from ttbert.convert.packing import has_extension, pack_with_extension
from ttbert.convert.tensorbin import file_bytes
from ttbert.recipe.bert import bert_recipe
from ttbert.recipe.policy import POLICIES
from ttbert.recipe.recipe import payload_size
from ttbert.recipe.steps import Array, run_steps

FORMS = [("bfloat16", "row_major"), ("bfloat16", "tile"), ("bfloat8_b", "tile"), ("bfloat4_b", "tile")]

needs_extension = pytest.mark.skipif(not has_extension(), reason="the C extension was not built: no compiler?")
both = [pytest.param(EXTENSION, marks=needs_extension), NUMPY]
codecs = pytest.mark.parametrize("codec", both, ids=lambda codec: codec.name)


@pytest.fixture(scope="module")
def ttnn() -> TtnnCodec:
    return TtnnCodec()


# Values, as the bits of float32, that bring out one thing each.

Bits = NDArray[np.uint32]


def any_bits(random: np.random.Generator, shape: tuple[int, ...]) -> Bits:
    """Every sign, exponent and mantissa, from denormals to the largest number."""
    bits = random.integers(0, 1 << 32, shape, dtype=np.uint32)
    return np.where(bits >> 23 & 0xFF == 0xFF, bits & 0xBFFFFFFF, bits)


def with_exponents(low: int, high: int) -> Callable[[np.random.Generator, tuple[int, ...]], Bits]:
    def make(random: np.random.Generator, shape: tuple[int, ...]) -> Bits:
        exponents = random.integers(low, high, shape, dtype=np.uint32)
        return any_bits(random, shape) & 0x807FFFFF | exponents << 23

    return make


def near_ties(random: np.random.Generator, shape: tuple[int, ...]) -> Bits:
    """Mantissas that end in ones, zeros or half of what is kept, next to others that are a few powers of two larger."""
    cut = random.choice(np.array([14, 15, 16, 17, 18, 20, 21, 22], np.uint32), shape)
    ending = random.choice(np.array([0, 1, -1], np.int64), shape)
    values = with_exponents(120, 132)(random, shape).astype(np.int64)
    return ((values >> cut << cut) + ending).astype(np.uint32)


def few_values(random: np.random.Generator, shape: tuple[int, ...]) -> Bits:
    """Both zeros, both ones, the smallest and the largest of normal and denormal numbers."""
    ends = [0, 0x3F800000, 1, 0x007FFFFF, 0x00800000, 0x7F7FFFFF, 0x7F000000, 0x3FFFFFFF]
    return random.choice(np.array([*ends, *(each | 0x80000000 for each in ends)], np.uint32), shape)


def mostly_zero(random: np.random.Generator, shape: tuple[int, ...]) -> Bits:
    return np.where(
        random.random(shape) < 0.95, random.choice(np.array([0, 1 << 31], np.uint32), shape), any_bits(random, shape)
    )


KINDS = [any_bits, with_exponents(0, 4), with_exponents(100, 130), with_exponents(250, 255), near_ties, few_values, mostly_zero]


@st.composite
def arrays(draw: st.DrawFn, ranks: tuple[int, int] = (1, 4)) -> Array:
    """Any shape, its last two dimensions in any order of memory."""
    outer = draw(st.lists(st.integers(1, 3), min_size=max(0, ranks[0] - 2), max_size=max(0, ranks[1] - 2)))
    edges = st.one_of(st.integers(1, 70), st.sampled_from([16, 31, 32, 33, 64, 96]))
    inner = draw(st.lists(edges, min_size=1 if not outer and ranks[0] < 2 else 2, max_size=2))
    random = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    bits = draw(st.sampled_from(KINDS))(random, (*outer, *inner)).astype(np.uint32)
    if len(inner) == 2 and draw(st.booleans()):
        bits = np.ascontiguousarray(np.swapaxes(bits, -1, -2)).swapaxes(-1, -2)
    return bits.view(np.float32)


def the_same(codec: Codec, ttnn: TtnnCodec, array: Array, dtype: str, layout: str) -> bool:
    """Compared with the array as TT-NN takes it, in C order."""
    return codec.pack(array, dtype, layout) == ttnn.pack(np.ascontiguousarray(array), dtype, layout)


@codecs
@pytest.mark.parametrize(("dtype", "layout"), FORMS)
def test_an_array_that_may_not_be_written_to_is_packed_as_any(codec: Codec, dtype: str, layout: str, ttnn: TtnnCodec) -> None:
    array = np.random.default_rng(3).standard_normal((64, 96)).astype(np.float32)
    packed = ttnn.pack(array, dtype, layout)
    array.flags.writeable = False
    assert codec.pack(array, dtype, layout) == ttnn.pack(array, dtype, layout) == packed


@codecs
@pytest.mark.parametrize(("dtype", "layout"), FORMS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(array=arrays())
def test_any_array_is_packed_as_ttnn_packs_it(codec: Codec, dtype: str, layout: str, ttnn: TtnnCodec, array: Array) -> None:
    assert the_same(codec, ttnn, array, dtype, layout)


@codecs
@pytest.mark.parametrize(("dtype", "layout"), FORMS)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__qualname__)
def test_many_values_are_packed_as_ttnn_packs_them(
    codec: Codec, dtype: str, layout: str, kind: Callable[[np.random.Generator, tuple[int, ...]], Bits], ttnn: TtnnCodec
) -> None:
    bits = kind(np.random.default_rng(5), (1, 1, 512, 1024)).astype(np.uint32)
    assert the_same(codec, ttnn, bits.view(np.float32), dtype, layout)


@codecs
@pytest.mark.parametrize(("dtype", "layout"), FORMS)
@pytest.mark.parametrize("rank", range(1, 9))
def test_head_of_the_file_is_that_of_ttnn_for_every_rank(
    codec: Codec, dtype: str, layout: str, rank: int, ttnn: TtnnCodec
) -> None:
    array = np.ones((2, 1, 3, 1, 2, 2, 33, 40)[-rank:], np.float32)
    packed = codec.pack(array, dtype, layout)
    assert packed == ttnn.pack(array, dtype, layout)
    assert len(packed) == file_bytes(array.shape, dtype, layout)


@codecs
@pytest.mark.parametrize("policy", POLICIES)
def test_every_tensor_of_a_recipe_is_packed_as_ttnn_packs_it(codec: Codec, policy: str, ttnn: TtnnCodec) -> None:
    random = np.random.default_rng(3)
    for tensor in bert_recipe(SHAPES["seven heads"], POLICIES[policy]).tensors[:24]:
        sources = [random.standard_normal(shape, np.float32) for shape in tensor.sources.values()]
        assert the_same(codec, ttnn, run_steps(tensor.steps, sources), tensor.dtype, tensor.layout), tensor.name


@codecs
def test_codec_knows_the_array_with_all_kinds_of_rounding(codec: Codec) -> None:
    assert codec.is_right()


def test_ttnn_that_is_tested_here_is_among_the_known_versions() -> None:
    assert version("ttnn") in KNOWN_TTNN


@codecs
@pytest.mark.parametrize(("dtype", "layout"), FORMS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_noticed_wherever_it_is(codec: Codec, dtype: str, layout: str, bad: float) -> None:
    largest = np.full((2, 40, 70), np.finfo(np.float32).max)
    target = memoryview(bytearray(file_bytes(largest.shape, dtype, layout)))
    for place in [(0, 0, 0), (0, 31, 15), (0, 31, 16), (1, 32, 63), (1, 39, 69)]:
        array = largest.copy()
        assert codec.pack_into(target, array, dtype, layout) is True
        array[place] = bad
        assert codec.pack_into(target, array, dtype, layout) is False, place
        transposed = np.ascontiguousarray(array.swapaxes(1, 2)).swapaxes(1, 2)
        assert codec.pack_into(target, transposed, dtype, layout) is False, place


# The extension alone


@needs_extension
def test_extension_is_chosen_where_it_is_built() -> None:
    assert choose_codec().name == "extension"


@needs_extension
def test_two_threads_pack_what_one_packs() -> None:
    array = np.random.default_rng(0).standard_normal((1024, 1024), np.float32)
    codec = EXTENSION
    with ThreadPoolExecutor(2) as workers:
        packed = set(workers.map(lambda _: codec.pack(array.T, "bfloat8_b", "tile"), range(8)))
    assert packed == {NUMPY.pack(array.T, "bfloat8_b", "tile")}


@needs_extension
@pytest.mark.parametrize("wrong", [-1, 1])
def test_extension_refuses_a_buffer_of_another_size(wrong: int) -> None:
    array = np.zeros((40, 40), np.float32)
    buffer = memoryview(bytearray(payload_size(array.shape, "bfloat8_b", "tile") + wrong))
    with pytest.raises(ValueError, match="size"):
        pack_with_extension(array, "bfloat8_b", "tile", buffer)


@needs_extension
def test_extension_refuses_what_is_no_float32() -> None:
    with pytest.raises(ValueError, match="float32"):
        pack_with_extension(np.zeros((32, 32)), "bfloat8_b", "tile", memoryview(bytearray(1088)))  # type: ignore[arg-type]
    with pytest.raises(BufferError):
        pack_with_extension(np.zeros((32, 32), np.float32), "bfloat8_b", "tile", memoryview(bytes(1088)))
