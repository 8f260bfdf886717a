"""Which device a run uses, by name, where there is none."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from ttbert.boards import BOARDS, CPU
from ttbert.errors import BoardError, DeviceError, InputError
from ttbert.runtime.device import find_device
from ttbert.runtime.target import Target, choose_target

pytestmark = pytest.mark.skipif(Path("/dev/tenstorrent").exists(), reason="there is a card, so its absence cannot be tested")


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in [name for name in os.environ if name.startswith("TT_")]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize("name", ["auto", "cpu"])
def test_cpu_takes_any_batch(name: str) -> None:
    assert choose_target(name, 512) == Target(CPU)


def test_looking_for_a_device_starts_no_process_where_nothing_points_to_one(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[object] = []
    monkeypatch.setattr(subprocess, "Popen", started.append)
    assert find_device() is None and started == []


def test_settings_for_tt_nn_that_give_no_device_leave_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TT_METAL_CACHE", "/nowhere")
    assert choose_target("auto", 8) == Target(CPU)


def test_simulator_that_cannot_start_is_a_device_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The user has named one, so it is not passed over."""
    monkeypatch.setenv("TT_METAL_SIMULATOR", "/no/simulator")
    with pytest.raises(DeviceError) as caught:
        choose_target("auto", 8)
    assert "--board cpu" in caught.value.hint


@pytest.mark.parametrize("name", BOARDS)
def test_board_that_is_not_here_says_so_after_its_batch_was_checked(name: str) -> None:
    with pytest.raises(BoardError):
        choose_target(name, 13)
    with pytest.raises(DeviceError, match="v0.55" if name == "e150" else "no Tenstorrent device is here") as caught:
        choose_target(name, 8)
    assert "--board cpu" in caught.value.hint


def test_trace_on_the_cpu_is_refused() -> None:
    with pytest.raises(InputError, match="this would run on cpu"):
        choose_target("auto", 8, trace=True)
