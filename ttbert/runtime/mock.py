"""Mock devices: TT-NN's real host code for a board that is not there.

On a mock device TT-NN opens, allocates, checks every op, builds every program and captures graphs as on a card; only the
kernels do not run, so what is read back is zero. Which devices a process has is decided by its environment before its
first use of TT-NN and cannot change, so a mock device lives in a process of its own, started in the environment that
`mock_environment` makes. In it `device.open_device` opens the mock board as it would a card.

What an environment puts into its folder; TT-NN's own files are linked, never changed:

    n300/stand-in/           the board; and sfpi/ or stand-in/, since the stand-in's kernels do nothing
      root/                  what TT-NN takes for its installation
        tt_metal/  ttnn/     the wheel's, but for one table of core_descriptors (see `_link_core_descriptors`)
        runtime/hw           the wheel's
        runtime/sfpi/        the compiler: SFPI where it is installed, else the stand-in
      cache/                 kernels
      logs/                  what TT-NN would write into the working folder
"""

from __future__ import annotations

import importlib.util
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ..errors import BoardError, DeviceError
from .stand_in import write_stand_in

_DESCRIPTORS = Path(__file__).parents[1] / "mock"

MOCK_BOARDS = tuple(sorted(path.stem for path in _DESCRIPTORS.glob("*.yaml")))
"""Boards that can be mocked, by name."""

_SYSTEM_SFPI = Path("/opt/tenstorrent/sfpi")
"""Where TT-NN looks for SFPI if its own folder has none."""

_COMPILER = "compiler/bin/riscv-tt-elf-g++"

_CORES = Path("tt_metal", "core_descriptors")

_OF_WORKERS, _OF_ETHERNET = "wormhole_b0_80_arch.yaml", "wormhole_b0_80_arch_eth_dispatch.yaml"
"""Wormhole's core grids when it dispatches from worker cores, and from Ethernet cores."""

_ETHERNET_DISPATCH = ("n300", "t3000")
"""Boards that TT-NN dispatches from Ethernet cores unless told otherwise."""

_SHELL_SAFE = re.compile(r"[\w@%+=:,./-]+")
"""Paths that TT-NN can pass to its compiler: it joins a command line and quotes nothing."""

_SETTINGS = ("TT_METAL_", "TT_LOGGER_", "TT_MESH_", "TT_VISIBLE_", "TTNN_")
"""How TT-NN's own settings begin. A mock device inherits none of them: they are about the user's devices."""


def mock_environment(board: str, folder: Path, inherit: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a process whose devices are those of `board`, a name of MOCK_BOARDS; files go to `folder`.

    `folder` may be used again, by any board and by several processes at once: kernels in its cache are used again.
    `inherit` is this process's environment unless given. BoardError for a board that cannot be mocked; DeviceError
    where TT-NN was not installed from a wheel, or cannot use the folder.
    """
    if board not in MOCK_BOARDS:
        raise BoardError(f"TT-NN has no mock device of a board {board}", f"choose one of {', '.join(MOCK_BOARDS)}")
    if not _SHELL_SAFE.fullmatch(str(folder.absolute())):
        raise DeviceError(f"TT-NN cannot compile in {folder}: its path has a space or the like", "set TMPDIR to another")
    wheel = _wheel()
    sfpi = _installed_sfpi(wheel)
    folder = folder.absolute() / board / ("sfpi" if sfpi else "stand-in")
    root = folder / "root"
    settings = {
        "TT_METAL_MOCK_CLUSTER_DESC_PATH": str(_DESCRIPTORS / f"{board}.yaml"),
        "TT_METAL_RUNTIME_ROOT": str(root),
        "TT_METAL_CACHE": str(folder / "cache"),
        "TT_METAL_LOGS_PATH": str(folder / "logs"),
        "TT_METAL_INSPECTOR": "0",  # else every mock device listens on the same port
        "TT_METAL_LOGGER_LEVEL": "off",
        "LOGURU_LEVEL": "ERROR",
    }
    _link_root(root, wheel, sfpi)
    _link_core_descriptors(wheel / _CORES, root / _CORES, board in _ETHERNET_DISPATCH)
    for name in ("cache", "logs"):
        (folder / name).mkdir(exist_ok=True)
    inherited = os.environ if inherit is None else inherit
    return {name: value for name, value in inherited.items() if not name.startswith(_SETTINGS)} | settings


@contextmanager
def temporary_mock_environment(board: str) -> Iterator[dict[str, str]]:
    """`mock_environment` in a folder that is removed at the end."""
    with tempfile.TemporaryDirectory(prefix="ttbert-mock-") as folder:
        yield mock_environment(board, Path(folder))


def _link_root(root: Path, wheel: Path, sfpi: Path | None) -> None:
    """Make at `root` what TT-NN takes for its installation, but for the tables of core grids."""
    _link_entries(wheel / "tt_metal", root / "tt_metal", but=_CORES.name)
    _link(wheel / "ttnn", root / "ttnn")
    _link(wheel / "runtime" / "hw", root / "runtime" / "hw")
    if sfpi:
        _link(sfpi, root / "runtime" / "sfpi")
    else:
        write_stand_in(root / "runtime" / "sfpi" / _COMPILER)


def _link_core_descriptors(wheel: Path, mine: Path, ethernet_dispatch: bool) -> None:
    """Link the tables of core grids; on a board that dispatches from Ethernet cores, the table of those for both.

    On a mock device, ops of TT-NN's newer kind (embedding, add) check the cores they chose against the grid of a device
    that dispatches from worker cores, whatever this one does (tenstorrent/tt-metal#54475). A chip of an n300 has 8 x 8
    worker cores to offer, as it dispatches from Ethernet cores, and such a check would refuse the last row. A card is
    checked against its own dispatch. So the table that the check looks into becomes the one that the device uses.
    """
    _link_entries(wheel, mine, but=_OF_WORKERS)
    _link(wheel / (_OF_ETHERNET if ethernet_dispatch else _OF_WORKERS), mine / _OF_WORKERS)


def _installed_sfpi(wheel: Path) -> Path | None:
    """The folder of TT-NN's own compiler, where it is installed."""
    return next((sfpi for sfpi in (wheel / "runtime" / "sfpi", _SYSTEM_SFPI) if (sfpi / _COMPILER).exists()), None)


def _wheel() -> Path:
    """Where the ttnn wheel is installed, found without importing it."""
    found = importlib.util.find_spec("ttnn")
    for location in (found.submodule_search_locations or []) if found else []:
        if Path(location, "tt_metal", "core_descriptors").is_dir():
            return Path(location)
    raise DeviceError("mock devices need TT-NN as its wheel installs it", "install it: pip install ttnn")


def _link_entries(source: Path, folder: Path, *, but: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for entry in source.iterdir():
        if entry.name != but:
            _link(entry, folder / entry.name)


def _link(source: Path, link: Path) -> None:
    """Make `link` lead to `source`, also if another process is doing the same or an older TT-NN was linked before."""
    if link.is_symlink() and link.readlink() == source:
        return
    link.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".link-", dir=link.parent) as scratch:
        fresh = Path(scratch, "link")
        fresh.symlink_to(source)
        fresh.replace(link)
