"""TT-NN, for host work and for devices: which of the two a process does is decided here.

TT-NN packs block formats only in the context of a device, and takes the first card it finds. In mock mode it needs
none and leaves any card to others. The mode of a process is decided by its first call and cannot change, so a process
that is to use a device must not come to `host_ttnn` first; a conversion therefore runs in a process of its own. Once a
process has its device, what it packs is packed in that device's context, to the same bytes.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

_DESCRIPTOR = Path(__file__).parent / "mock" / "n150.yaml"

_MOCK = "TT_METAL_MOCK_CLUSTER_DESC_PATH"

_without_device: list[str] = []
"""The descriptor that `host_ttnn` has put into this process's environment, if it has."""


@functools.cache
def host_ttnn() -> Any:
    """The ttnn module, in mock mode unless this process has a device, and quiet. Takes some seconds the first time."""
    if not device_ttnn.cache_info().currsize and _MOCK not in os.environ:
        _without_device.append(os.environ.setdefault(_MOCK, str(_DESCRIPTOR)))
    return _quiet_ttnn()


@functools.cache
def device_ttnn() -> Any:
    """The ttnn module, with the devices that the environment gives it. RuntimeError after `host_ttnn` went without."""
    if _without_device:
        raise RuntimeError("this process packs tensors with no device, and can have none any more")
    return _quiet_ttnn()


def device_environment() -> dict[str, str]:
    """This process's environment as a process with a device should inherit it."""
    return {name: value for name, value in os.environ.items() if not (name == _MOCK and value in _without_device)}


def first_line(error: BaseException | str) -> str:
    """What TT-NN says is wrong, without its backtrace."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    after = lines.index("info:") + 1 if "info:" in lines else 0
    return lines[after] if after < len(lines) else "" if isinstance(error, str) else type(error).__name__


def _quiet_ttnn() -> Any:
    os.environ.setdefault("TT_METAL_LOGGER_LEVEL", "off")  # its errors reach the user as one line of ours
    os.environ.setdefault("LOGURU_LEVEL", "ERROR")
    import ttnn

    return ttnn
