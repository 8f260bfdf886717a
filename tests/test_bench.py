"""What `ttbert bench` makes of logits."""

from __future__ import annotations

import numpy as np
import pytest

from ttbert.runtime.bench import correlate
from ttbert.runtime.tokens import Batch

SHAPE = (2, 8)


def batch(lengths: tuple[int, int]) -> Batch:
    mask = (np.arange(8) < np.array(lengths)[:, None]).astype(np.int32)
    return Batch((), 0 * mask, 0 * mask, mask)


@pytest.fixture
def logits() -> list[tuple[np.ndarray, np.ndarray]]:
    random = np.random.default_rng(0)
    return [tuple(random.standard_normal(SHAPE).astype(np.float32) for _ in range(2)) for _ in range(2)]


def test_padding_does_not_count(logits: list[tuple[np.ndarray, np.ndarray]]) -> None:
    batches = [batch((8, 5)), batch((3, 1))]
    found = [(2 * start + 1, 3 * end) for start, end in logits]
    for each, (start, end) in zip(batches, found, strict=True):
        start[each.attention_mask == 0] = 1e6
        end[each.attention_mask == 0] = -1e6
    assert correlate(batches, found, logits) == pytest.approx((1, 1))


def test_swapped_batches_rows_and_sides_are_noticed(logits: list[tuple[np.ndarray, np.ndarray]]) -> None:
    batches = [batch((8, 8)), batch((8, 8))]
    for wrong in (
        logits[::-1],
        [(start[::-1], end[::-1]) for start, end in logits],
        [(end, start) for start, end in logits],
    ):
        assert max(correlate(batches, wrong, logits)) < 0.9


def test_logits_that_are_all_zero_or_no_numbers_correlate_with_nothing(logits: list[tuple[np.ndarray, np.ndarray]]) -> None:
    batches = [batch((8, 8)), batch((8, 8))]
    assert correlate(batches, [(0 * start, end * np.nan) for start, end in logits], logits) == (0, 0)
