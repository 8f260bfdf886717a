"""What the fuzzer runs for an hour, for a second: every seed, and every seed with some bytes changed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1] / "fuzz"))

from targets import TARGETS, seeds, target

SEEDS = list(seeds())


@pytest.mark.parametrize("number", range(len(TARGETS)))
def test_every_target_takes_its_seeds_and_refuses_others(number: int) -> None:
    assert {target(seed) for seed in SEEDS if seed[0] == number} == {True, False}


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(SEEDS), st.data())
def test_a_changed_seed_raises_nothing_unknown(seed: bytes, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(seed)))
    length = data.draw(st.integers(0, 8))
    target(seed[:start] + data.draw(st.binary(max_size=8)) + seed[start + length :])


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_bytes_at_random_raise_nothing_unknown(content: bytes) -> None:
    target(content)
