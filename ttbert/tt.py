"""TT-NN, for host work and for devices: which of the two a process does is decided here.

TT-NN packs and unpacks block formats only in the context of a device, and takes the first card it finds. In mock mode it
needs none and leaves any card to others. The mode of a process is decided by its first call and cannot change, so a process
that is to use a device must not come to `host_ttnn` first; a conversion therefore runs in a process of its own. Once a
process has its device, what it packs is packed in that device's context, to the same bytes.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import gettempdir
from typing import Any

_DESCRIPTOR = Path(__file__).parent / "mock" / "n150.yaml"

_MOCK = "TT_METAL_MOCK_CLUSTER_DESC_PATH"

_HOME = os.path.expanduser("~")  # noqa: PTH111 - what Path has for it fails for a user who is in no database

_PLACES = {"HOME": _HOME, "TT_METAL_LOGS_PATH": str(Path(gettempdir(), f"tt-metal-logs-{os.getuid()}"))}
"""Where TT-NN keeps files of the user's. With no HOME, as in a system service, importing it kills the process; and what it
found of the machine it writes, whenever it looks for devices, into the working folder unless told otherwise (0.81.1). A
home may be one that nobody can write to."""

_without_device: list[dict[str, str]] = []
"""Once this process has decided to have no device: the user's settings of devices, which it does without."""


@functools.cache
def host_ttnn() -> Any:
    """The ttnn module, in mock mode unless this process has a device, and quiet. Takes some seconds the first time."""
    if not device_ttnn.cache_info().currsize and _MOCK not in os.environ:
        _without_device.append({name: os.environ.pop(name) for name in list(os.environ) if is_of_devices(name)})
        os.environ[_MOCK] = str(_DESCRIPTOR)
    return import_ttnn()


@functools.cache
def device_ttnn() -> Any:
    """The ttnn module, with the devices that the environment gives it. RuntimeError after `host_ttnn` went without."""
    if _without_device:
        raise RuntimeError("this process uses TT-NN with no device, for packing or for the CPU, and can have none any more")
    return import_ttnn()


def import_ttnn() -> Any:
    """The ttnn module, quiet, for what is no matter of devices, such as reading a file: that decides nothing."""
    os.environ.setdefault("TT_METAL_LOGGER_LEVEL", "off")  # its errors reach the user as one line of ours
    os.environ.setdefault("LOGURU_LEVEL", "ERROR")
    os.environ.update({**_PLACES, **os.environ})
    with _without_torch():
        import ttnn

    return ttnn


def device_environment() -> dict[str, str]:
    """The environment for another process that is to have the user's devices, whatever this one has."""
    here = {**_PLACES, **os.environ}
    if not _without_device:
        return here
    return {name: value for name, value in here.items() if name != _MOCK} | _without_device[0]


def is_of_devices(setting: str) -> bool:
    """Whether a setting of the environment may be about which devices TT-NN is to have."""
    return setting.startswith("TT_METAL_") and "_LOG" not in setting


def devices_are_mock() -> bool:
    """Whether the devices of this process are mock devices, which compute nothing and give zeros."""
    return _MOCK in device_environment()


def dispatches_slowly() -> bool:
    """Whether the user has told TT-NN to start each program from the host itself, without its command queues."""
    return "TT_METAL_SLOW_DISPATCH_MODE" in os.environ


def first_line(error: BaseException | str) -> str:
    """What TT-NN says is wrong, without its backtrace."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    after = lines.index("info:") + 1 if "info:" in lines else 0
    return lines[after] if after < len(lines) else "" if isinstance(error, str) else type(error).__name__


@contextmanager
def _without_torch() -> Iterator[None]:
    """While TT-NN is imported: it imports torch for its tracer where it can, which takes ten times as long as all the rest."""
    if "torch" in sys.modules:
        yield
        return
    sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["torch"]
