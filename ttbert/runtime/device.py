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
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..child import python_command
from ..errors import DeviceError
from ..frozen import Frozen
from ..tt import device_environment, device_ttnn, first_line, is_of_devices

_BOARDS = {"N150": "n150", "N300": "n300", "T3K": "t3000", "P100": "p100", "P150": "p150", "P300": "p300"}
"""Boards by TT-NN's name for the type of a cluster."""

_DRIVER = Path("/dev/tenstorrent")
"""Where the kernel driver lists cards."""

_HELD_HERE = r"Waiting for lock '(?:\w*CHIP_IN_USE\w*)' which is currently held by thread TID: -?\d+, PID: (\d+)"
_HELD_ELSEWHERE = r"Waiting for KMD lock 20 on (\S+), which is currently held by another handle"
_HELD = re.compile(f"{_HELD_HERE}|{_HELD_ELSEWHERE}")
"""TT-NN logs this, and then waits until the other process has ended. Of one that does not share /dev/shm, as in another
container, it knows nothing but the driver's lock, of which number 20 is for a chip in use (TT-NN 0.80 and 0.81)."""

_LOGGERS = ("TT_LOGGER_LEVEL", "TT_METAL_LOGGER_LEVEL")
"""Settings of how much TT-NN logs; the first one wins."""

_ANSWER_SECONDS = 120.0
"""How long a device may take to start and tell what it is."""

_RESET = "reset the card: tt-smi -r"

_ONE_CARD = "use one card alone: TT_VISIBLE_DEVICES=0 for the first one, 1 for the next"

_NONE = re.compile("No chips detected|no chips were detected")

_CAUSES = [
    (
        _HELD_HERE,
        "the device is held by process {0}",
        "wait for that process or end it, then try again",
    ),
    (
        _HELD_ELSEWHERE,
        "the device {0} is held by another process, perhaps in another container",
        "wait for that process or end it: /proc/driver/tenstorrent/*/pids lists all that have a device open",
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
    (
        r"TIMEOUT: device timeout|NOC\d appears hung|waiting for physical cores to finish|Timeout waiting for Ethernet core"
        r"|for ARC to respond|Timeout waiting for ARC|Memory barrier timed out",
        "the device does not answer",
        _RESET,
    ),
    (
        r"shm_open\(\) failed for mutex (\S+) errno: 13",
        "the lock {0}, in /dev/shm, is another user's",
        "remove /dev/shm/TT_UMD_LOCK.* once nobody uses a device",
    ),
    (
        r"mesh graph descriptor path must be specified for CUSTOM cluster type",
        "the cards here are none that TT-NN uses together",
        _ONE_CARD,
    ),
    (
        r"filesystem error: cannot create director\w+: (.+?) \[(.+?)\]",
        "TT-NN cannot make the folder {1}: {0}",
        "choose others with TT_METAL_CACHE, for its kernels, and TT_METAL_LOGS_PATH",
    ),
    (
        r"sfpi not found at",
        "SFPI, the compiler of TT-NN's kernels, is not installed",
        "install it from https://github.com/tenstorrent/sfpi/releases, the version that ttnn/tt_metal/sfpi-version names",
    ),
]
"""What TT-NN says (tt-metal and tt-umd, 0.81), what it means, and what to do; braces take what the pattern caught."""


class Found(Frozen):
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
    return _known_error(str(said)) or _unknown_error(first_line(said))


def _known_error(text: str) -> DeviceError | None:
    if _NONE.search(text):
        return NoDevice()
    for pattern, message, hint in _CAUSES:
        if found := re.search(pattern, text):
            caught = [group for group in found.groups() if group is not None]
            return DeviceError(message.format(*caught), hint)
    return None


def _unknown_error(what: str) -> DeviceError:
    return DeviceError(f"TT-NN cannot use the device: {what}", "see what TT-NN logs: TT_LOGGER_LEVEL=info")


def find_device() -> Found | None:
    """The device that is here, or None. DeviceError where one is here that cannot be started, with the reason.

    TT-NN is asked only where the driver lists something, or where the user has settings for TT-NN, which may name a device
    that no driver lists. It passes over what it may not open, and what it does not know, without a word; here that is an
    error, since who has a card does not want to go on without it unaware.
    """
    settings = (name for name in device_environment() if is_of_devices(name))
    if not _DRIVER.exists() and not any(settings):
        return None
    try:
        return probe()
    except NoDevice:
        listed = sorted(str(each) for each in _DRIVER.glob("*") if each.name.isdecimal())
        if listed:
            raise _passed_over(listed[0]) from None
        return None


def _passed_over(node: str) -> DeviceError:
    """Why TT-NN finds nothing although the driver lists this device."""
    try:
        os.close(os.open(node, os.O_RDWR))
    except OSError as error:
        return DeviceError(
            f"the driver lists {node}, but it cannot be opened: {error.strerror}",
            "check that you may read and write it (ls -l /dev/tenstorrent), and that its driver runs (lsmod)",
        )
    return DeviceError(
        f"the driver lists {node}, but TT-NN finds no device that it knows",
        f"if it is a Grayskull, no TT-NN since v0.55 supports it; if it is not, {_RESET}",
    )


def probe() -> Found:
    """Which board this machine has, after starting it once in another process.

    DeviceError if there is none, or it cannot be started, with the reason; one that is held by another process is
    refused here, while TT-NN would wait for it for ever.
    """
    cluster, chips, arch, linked = _ask(
        "[ttnn.cluster.get_cluster_type().name, ttnn.get_num_devices(), ttnn._ttnn.device.get_arch_name(),"
        " ttnn._ttnn.multi_device.SystemMeshDescriptor().shape().mesh_size()]",
        _ANSWER_SECONDS,
    )
    if linked < chips:
        raise DeviceError(f"of the {chips} chips here, TT-NN finds no more than {linked} linked to each other", _ONE_CARD)
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
    except BaseException:
        with suppress(RuntimeError):  # what has failed may not close any more, and why it failed is what is to be told
            ttnn.close_mesh_device(device)
        raise
    try:
        ttnn.close_mesh_device(device)
    except RuntimeError as error:
        raise device_error(error) from error


def _ask(expression: str, seconds: float) -> Any:
    """The value of an expression of TT-NN, found in a process of its own with this one's devices.

    DeviceError, with the reason, if there is none within so many seconds. What TT-NN logs goes to stderr for users who want it.
    """
    # TT-NN waits for a device in a way that only SIGKILL ends. And it loads torch where that is installed, which takes ten
    # times as long as all the rest.
    program = (
        f"import json, sys\nfrom ttbert.child import end_with\nend_with({os.getpid()}, {int(signal.SIGKILL)})\n"
        f"sys.modules['torch'] = None\nimport ttnn\nprint('\\nanswer:' + json.dumps({expression}))"
    )
    environment = device_environment()
    level = next((environment[name] for name in _LOGGERS if name in environment), "").lower()
    wants_log = level in ("trace", "debug", "info")
    environment |= dict.fromkeys(_LOGGERS, level if wants_log else "warning")  # some causes are in the log alone
    environment.pop("TT_LOGGER_FILE", None)
    process = subprocess.Popen(
        python_command(program),
        env=environment | {"LOGURU_LEVEL": "ERROR"},
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
                if wants_log:
                    sys.stderr.write(line)
                if _HELD.search(line):
                    process.kill()
        text = "".join(said)
        if clock.finished.is_set() and not _HELD.search(text):
            raise DeviceError(
                f"the device did not answer within {seconds:.0f} seconds",
                f"if no other process has it open (/proc/driver/tenstorrent/*/pids), {_RESET}",
            )
        if "RuntimeError: " in text:
            raise device_error(text.rpartition("RuntimeError: ")[2])
        code = process.returncode
        raise _known_error(text) or _unknown_error(
            f"it ended by {signal.Signals(-code).name}" if code < 0 else text.strip().rpartition("\n")[2]
        )
    finally:
        clock.cancel()
        process.kill()  # nothing where it has ended
