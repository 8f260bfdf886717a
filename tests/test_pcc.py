"""The correlation of two runs' values, and what has none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ttbert.runtime.check import LEAST_PCC, Comparison
from ttbert.runtime.pcc import pcc

VALUES = np.random.default_rng(0).standard_normal((2, 3, 8)).astype(np.float32)


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
def test_scale_and_offset_do_not_matter_and_order_does(kind: type) -> None:
    assert pcc(kind(VALUES), kind(3 * VALUES + 1)) == pytest.approx(1)
    assert pcc(kind(VALUES), kind(-VALUES)) == pytest.approx(-1)
    assert pcc(kind(VALUES), kind(VALUES[::-1].copy())) < 0.9


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
@pytest.mark.parametrize("value", [0, 0.1, np.nan, np.inf])
def test_what_is_all_the_same_or_no_number_correlates_with_nothing(kind: type, value: float) -> None:
    flat = np.full_like(VALUES, value)
    assert pcc(kind(VALUES), kind(flat)) == pcc(kind(flat), kind(VALUES)) == pcc(kind(flat), kind(flat)) == 0
    partly = np.where(VALUES > 1, value, VALUES).astype(np.float32)
    assert np.isfinite(value) or pcc(kind(VALUES), kind(partly)) == 0


def test_one_flat_output_is_below_the_bound_whatever_the_other_is() -> None:
    flat = pcc(0 * VALUES, VALUES)
    for outputs in ({"start": 0.999, "end": flat}, {"start": flat, "end": 0.999}):
        assert not Comparison(outputs, (), ()).pcc >= LEAST_PCC
