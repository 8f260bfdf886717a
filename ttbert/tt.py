"""TT-NN for host work: packing and unpacking tensors with no device.

TT-NN packs block formats only in the context of a device, and takes the first card it finds. In mock mode it needs
none and leaves any card to others. The mode of a process is decided by its first call and cannot change, so a process
that is to use a device must not come here first; a conversion therefore runs in a process of its own.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

_DESCRIPTOR = Path(__file__).parent / "mock" / "n150.yaml"


@functools.cache
def host_ttnn() -> Any:
    """The ttnn module, in mock mode and quiet. Takes some seconds the first time."""
    os.environ.setdefault("TT_METAL_MOCK_CLUSTER_DESC_PATH", str(_DESCRIPTOR))
    os.environ.setdefault("TT_METAL_LOGGER_LEVEL", "off")  # its errors reach the user as one line of ours
    os.environ.setdefault("LOGURU_LEVEL", "ERROR")
    import ttnn

    return ttnn


def first_line(error: BaseException) -> str:
    """What TT-NN says is wrong, without its backtrace."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    after = lines.index("info:") + 1 if "info:" in lines else 0
    return lines[after] if after < len(lines) else type(error).__name__
