"""Opening and closing what TT-NN runs on: a card, several, a simulator or a mock device, all by the same calls.

Which of them is there is TT-NN's business: it looks at the machine and at its own settings in the environment. What it
says when it cannot have one is many lines long, and partly in its log alone; here it becomes one line and what to do.

Each question has a price: `find_device` costs nothing on a machine that has no device, and else starts it once in a process of
its own, which can be ended where TT-NN waits for ever (`probe`); `open_device` has the device for this process.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..child import python_command
from ..errors import DeviceError
from ..tt import device_environment, device_ttnn, first_line

_BOARDS = {"N150": "n150", "N300": "n300", "T3K": "t3000", "P100": "p100", "P150": "p150", "P300": "p300"}
"""Boards by TT-NN's name for the type of a cluster."""

_DRIVER = Path("/dev/tenstorrent")
"""Where the kernel driver lists cards."""

_HELD = re.compile(r"Waiting for lock '(?:\w*CHIP_IN_USE\w*)' which is currently held by thread TID: -?\d+, PID: (\d+)")
"""TT-NN logs this, and then waits until the other process has ended."""

_ANSWER_SECONDS = 120.0
"""How long a device may take to start and tell what it is."""

_RESET = "reset the card: tt-smi -r"

_NONE = re.compile("No chips detected|no chips were detected")

_CAUSES = [
    (
        _HELD.pattern,
        "the device is held by process {0}",
        "wait for that process or end it, then try again",
    ),
    (
        r"already holding the sysmem|stale process holding sysmem",
        "the device is held by another process, perhaps one left over",
        "end the processes that /proc/driver/tenstorrent/*/pids lists, then try again",
    ),
    (
        r"no huge page mount|Insufficient NumHugepages|IOMMU is required for sysmem without hugepages"
        r"|Mapping a hugepage failed|creating hugepage mapping file failed|get_num_hugepages - Cannot open",
        "the host has no hugepages for the device",
        "set them up: systemctl enable --now tenstorrent-hugepages.service, and reboot if that does not help",
    ),
    (
        r"Running UMD requires KMD version (\S+) or newer",
        "the kernel driver is too old: TT-NN needs {0} or newer",
        "update tt-kmd, then reboot",
    ),
    (
        r"tt_device_open failed with error code|Failed to open device (?!.*harvest)",
        "the kernel driver does not open the device",
        "check that it is loaded (modinfo tenstorrent) and that you may use /dev/tenstorrent",
    ),
    (
        r"is older than the minimum (?:compatible|supported) version (\S+?)\.?\s|Firmware update is required. Minimum"
        r" tt-firmware version is (\S+)",
        "the device's firmware is too old: TT-NN needs {0} or newer",
        "update it with tt-flash",
    ),
    (
        r"Firmware startup error|eth base firmware|ARC firmware on device",
        "the device's firmware does not answer",
        _RESET,
    ),
    (r"TIMEOUT: device timeout", "the device does not answer", _RESET),
    (
        r"sfpi not found at",
        "SFPI, the compiler of TT-NN's kernels, is not installed",
        "install it: python -m ttnn.download_sfpi",
    ),
]
"""What TT-NN says (tt-metal and tt-umd, 0.81), what it means, and what to do; braces take what the pattern caught."""


@dataclass(frozen=True)
class Found:
    """What a process has when it opens its devices: the board, or TT-NN's name for what is there (such as `p150_x4`), the
    chips of all boards, and their arch."""

    board: str
    chips: int
    arch: str


class NoDevice(DeviceError):
    """There is no device at all."""

    def __init__(self) -> None:
        super().__init__(
            "no Tenstorrent device is here", "check that the driver lists it (ls /dev/tenstorrent), or pass --board cpu"
        )


def device_error(said: BaseException | str) -> DeviceError:
    """What TT-NN said, in an exception or its log, as one line and what to do about it."""
    text = str(said)
    if _NONE.search(text):
        return NoDevice()
    for pattern, message, hint in _CAUSES:
        if found := re.search(pattern, text):
            caught = [group for group in found.groups() if group is not None]
            return DeviceError(message.format(*caught), hint)
    return DeviceError(f"TT-NN cannot use the device: {first_line(said)}", "see what TT-NN logs: TT_METAL_LOGGER_LEVEL=info")


def find_device() -> Found | None:
    """The device that is here, or None. DeviceError where one is here that cannot be started, with the reason.

    TT-NN is asked only where the driver lists something, or where the user has settings for TT-NN, which may name a device
    that no driver lists.
    """
    settings = (name for name in device_environment() if name.startswith("TT_METAL_") and "_LOGGER_" not in name)
    if not _DRIVER.exists() and not any(settings):
        return None
    try:
        return probe()
    except NoDevice:
        return None


def probe() -> Found:
    """Which board this machine has, after starting it once in another process.

    DeviceError if there is none, or it cannot be started, with the reason; one that is held by another process is
    refused here, while TT-NN would wait for it for ever.
    """
    cluster, chips, arch = _ask(
        "[ttnn.cluster.get_cluster_type().name, ttnn.get_num_devices(), ttnn._ttnn.device.get_arch_name()]", _ANSWER_SECONDS
    )
    return Found(_BOARDS.get(cluster, cluster.lower()), chips, arch)


@contextmanager
def open_device(command_queues: int = 1) -> Iterator[Any]:
    """A mesh, one row, of all chips that are here; closed at the end, whatever happens.

    No DRAM is set aside for traces: TT-NN then allocates a trace once it is recorded, at the end of DRAM where tensors are last
    put, and refuses one that would lie where the recorded ops had any (tenstorrent/tt-metal#36999, in 0.80 and 0.81). The grid
    of cores is the device's own to tell. DeviceError if it cannot be had; call `probe` first, as this waits while another
    process holds it.
    """
    ttnn = device_ttnn()
    try:
        shape = ttnn.MeshShape(1, ttnn.get_num_devices())
        device = ttnn.open_mesh_device(shape, num_command_queues=command_queues, trace_region_size=0)
    except RuntimeError as error:
        raise device_error(error) from error
    try:
        yield device
    finally:
        ttnn.close_mesh_device(device)


def _ask(expression: str, seconds: float) -> Any:
    """The value of an expression of TT-NN, found in a process of its own with this one's devices."""
    # TT-NN waits for a device in a way that only SIGKILL ends. And it loads torch where that is installed, which takes ten
    # times as long as all the rest.
    program = (
        f"import json, sys\nfrom ttbert.child import end_with\nend_with({os.getpid()}, {int(signal.SIGKILL)})\n"
        f"sys.modules['torch'] = None\nimport ttnn\nprint('\\nanswer:' + json.dumps({expression}))"
    )
    settings = {"TT_METAL_LOGGER_LEVEL": "warning", "LOGURU_LEVEL": "ERROR"}  # some causes are in the log alone
    process = subprocess.Popen(
        python_command(program),
        env={**device_environment(), **settings},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    clock = threading.Timer(seconds, process.kill)
    clock.start()
    said: list[str] = []
    try:
        with process:
            for line in process.stdout or ():
                if line.startswith("answer:"):
                    return json.loads(line.removeprefix("answer:"))
                said.append(line)
                if _HELD.search(line):
                    process.kill()
        text = "".join(said)
        if clock.finished.is_set() and not _HELD.search(text):
            raise DeviceError(f"the device did not answer within {seconds:.0f} seconds", _RESET)
        raise device_error(text.rpartition("RuntimeError: ")[2] if "RuntimeError: " in text else text)
    finally:
        clock.cancel()
        process.kill()  # nothing where it has ended
