"""What a run uses, chosen by name: the device that is here, or the processor."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import Timer
from typing import TYPE_CHECKING

from ..boards import BOARDS, CPU, check_batch
from ..errors import DeviceError, InputError
from ..frozen import Frozen
from ..recipe.policy import FLOAT32
from ..text import count_text
from ..tt import device_ttnn, devices_are_mock, dispatches_slowly
from .device import Found, find_device, open_device

if TYPE_CHECKING:
    from .loader import CachedModel
    from .runtime import Runtime

_log = logging.getLogger(__name__)

_PATIENCE = 20.0
"""Seconds after which it is told why a device is not ready yet."""

_NOT_READY = "the device is not ready yet; TT-NN compiles what it has not run on this machine before, which can take minutes"

_USE_CPU = "--board cpu runs the reference on this machine's processor, in demo and squad"


class Target(Frozen):
    """What a run uses: a device, `board` being its name, or the processor, `cpu`. A mock device computes nothing."""

    board: str
    arch: str = ""
    chips: int = 1
    is_mock: bool = False
    traces: bool = False
    """Whether forward passes are recorded as a trace, where the device does that."""
    precision: str = FLOAT32
    """Of what goes into matmuls on the processor."""

    @property
    def is_device(self) -> bool:
        return self.board != CPU

    @property
    def cpu_precision(self) -> str | None:
        """The precision where this is the processor; a device has that of the model's policy."""
        return None if self.is_device else self.precision

    @property
    def name(self) -> str:
        """The board's name, which says so where it is a mock."""
        return f"mock {self.board}" if self.is_mock else self.board


def choose_target(name: str, batch: int, trace: bool | None = None, precision: str = FLOAT32) -> Target:
    """The device of this name, or for `auto` the one that is here, else the processor, which computes in `precision`.

    `trace` asks for a trace, or for none; by default there is one on every device but mock devices. DeviceError for a
    device that is not here or cannot be started; BoardError first, for a batch that could not be run on it anyway.
    InputError for a choice that is not one of the target's.
    """
    found = None if name == CPU else _look_for(name, batch)
    if found is None:
        if trace:
            raise InputError("--trace is for devices, and this would run on cpu", "leave it out")
        return Target(CPU, precision=precision)
    if precision != FLOAT32:
        raise InputError(f"--precision is for cpu, and this would run on the board {found.board}", "choose a --policy instead")
    is_mock = devices_are_mock()
    if trace and is_mock and not dispatches_slowly():
        raise DeviceError("TT-NN records no trace on a mock device: it crashes", "leave --trace out")
    return Target(found.board, found.arch, found.chips, is_mock, not is_mock if trace is None else trace)


def _look_for(name: str, batch: int) -> Found | None:
    board = BOARDS.get(name)
    if board and not board.runs:
        check_batch(board, batch)
        raise DeviceError(f"no TT-NN since v0.55 supports Grayskull, so nothing can be run on the board {name}", _USE_CPU)
    try:
        found = find_device()
    except DeviceError as error:
        error.hint += f"; {_USE_CPU}"
        raise
    if board is None:
        return found
    if found is None:
        check_batch(board, batch)
        raise DeviceError(f"batch {batch} fits the board {name}, but no Tenstorrent device is here", _USE_CPU)
    if found.board != name:
        chips = count_text(found.chips, "chip")
        raise DeviceError(
            f"the device here is no {name}, but what TT-NN calls {found.board}: {chips} of {found.arch}",
            "pass --board auto to use the device that is here",
        )
    return found


@contextmanager
def open_runtime(target: Target, model: CachedModel, batch: int, tokens: int) -> Iterator[Runtime]:
    """The model loaded on the target, ready to run; `batch` is inputs of `tokens` on each chip. Errors as of loading, and
    of opening a device."""
    if not target.is_device:
        with model.reading():
            from .reference import Reference  # and torch, which takes longer than reading most models

            reference = Reference(model, target.precision)
        yield reference
        return
    from .on_device import OnDevice

    with ExitStack() as opened:
        with model.reading(), _told_if_slow():
            started = time.perf_counter()
            ttnn = device_ttnn()
            device = opened.enter_context(open_device(command_queues=2 if target.traces else 1))
            opening = time.perf_counter() - started
            runtime = OnDevice(ttnn, device, model, batch, tokens, trace=target.traces, opening=opening)
        yield runtime
        runtime.close()  # after an error the device alone is closed: it frees everything, and hides no reason behind another


@contextmanager
def _told_if_slow() -> Iterator[None]:
    """So that nobody takes a first run for a device that hangs."""
    told = Timer(_PATIENCE, _log.warning, [_NOT_READY])
    told.daemon = True
    told.start()
    try:
        yield
    finally:
        told.cancel()


def describe(target: Target, runtime: Runtime) -> str:
    """What a model runs on, and how, in a line or two for people."""
    if not target.is_device:
        what = "the reference" if target.precision == FLOAT32 else f"in {target.precision}, not the reference,"
        return f"cpu, {what} on this machine's processor; no device is used"
    from .on_device import OnDevice

    assert isinstance(runtime, OnDevice)
    plan = runtime.plan
    chips = count_text(runtime.chips, "chip")
    spread = f"batch {plan.batch} on each, {runtime.rows} in all" if runtime.chips > 1 else f"batch {plan.batch}"
    traced = ", as a trace" if runtime.is_traced else ""
    said = f"{target.name}: {chips} of {target.arch} with {plan.chip.grid} cores, {spread}{traced}"
    if runtime.untraced:
        said += f"\nno trace, as TT-NN records none here ({runtime.untraced}): each op is dispatched on its own"
    if target.is_mock:
        said += "\na mock device computes nothing: its logits are all zero, and times are those of the host alone"
    return said
