"""Machines that share a store, and are killed and cut off at random; `python -m tests.soak` does it for as long as you like."""

from __future__ import annotations

from pathlib import Path

import pytest
from machines import Lab
from soak.trial import soak


def test_whatever_is_killed_or_fails_nothing_is_lost_torn_or_wrong(tmp_path: Path) -> None:
    why_not = Lab.why_not()
    if why_not:
        pytest.skip(why_not)
    result = soak(tmp_path, minutes=0.5, count=3, seed=4)
    print(result.report())
    assert not result.failures, "\n".join([result.report(), *result.failures])
    assert result.history.served() and result.faults and any(each.was_killed for each in result.history.operations)
