"""What a check in a process of its own says when it cannot be done."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from shapes import SHAPES

from ttbert.errors import DeviceError, ReportedError
from ttbert.runtime import checker
from ttbert.runtime.checker import Request, ask, judge_on

REQUEST = Request(SHAPES["tiny"], 1, 32, "bfp8")


@pytest.mark.skipif(Path("/dev/tenstorrent").exists(), reason="there is a card, so its absence cannot be tested")
def test_an_error_of_any_kind_comes_through_and_was_told_to_nobody() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TT_")}
    with pytest.raises(ReportedError, match="no Tenstorrent device is here") as caught:
        ask(environment, "the check", "judge", [REQUEST])
    assert (caught.value.kind, caught.value.exit_code, caught.value.told) == ("NoDevice", 12, False) and caught.value.hint


def test_a_check_that_does_not_end_is_a_device_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checker, "_SECONDS", 0.01)
    with pytest.raises(DeviceError, match=r"the check on a mock n150 did not end within 0\.01 seconds"):
        list(judge_on("n150", [REQUEST]))
