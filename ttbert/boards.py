"""Tenstorrent boards, as far as planning needs them: chips, the grid of worker cores of a chip, and their memory.

A batch is spread over one dimension of a chip's core grid: 8 x batch, or batch x 8, as tt-metal's BERT-large demo does.
What a board holds is worked out in `runtime.plan`; at run time the grid of the device that is open decides, not this table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field

from .errors import BoardError
from .frozen import Frozen

AUTO, CPU = "auto", "cpu"
"""Choices beside the boards: the device that is there or else the processor, and the processor."""

SPREAD = 8
"""Cores over which the hidden dimension of BERT-large is split, in the dimension that the batch does not take."""

GIB = 1 << 30


class Grid(Frozen):
    """Cores in columns and rows, TT-NN's x and y."""

    columns: int
    rows: int

    @property
    def cores(self) -> int:
        return self.columns * self.rows

    def __str__(self) -> str:
        return f"{self.columns} x {self.rows}"


class Arch(Frozen):
    """A generation of chips; `l1` is bytes of a core's memory, of which `l1_base` belong to firmware and kernels."""

    name: str
    l1: int
    l1_base: int
    adds_in_packer: bool = True
    """Whether a matmul may accumulate in L1, through the packer."""

    @property
    def l1_usable(self) -> int:
        """Bytes of a core that a program may use, for buffers and circular buffers together."""
        return self.l1 - self.l1_base


GRAYSKULL = Arch("grayskull", 1 << 20, 105_824, adds_in_packer=False)
WORMHOLE = Arch("wormhole_b0", 1464 << 10, 105_824)
BLACKHOLE = Arch("blackhole", 1536 << 10, 111_744)
"""L1 is that of the SoC descriptors in tt-metal (`tt_metal/soc_descriptors`: `worker_l1_size`). The base is what TT-NN 0.81
reports on mock devices (`get_allocator_base_address`); that of Grayskull is Wormhole's, since no TT-NN of today runs there."""


class Chip(Frozen):
    """What a plan needs to know of a chip: one of a board in the table, or of a device that is open."""

    arch: Arch
    grid: Grid
    dram: int
    dram_banks: int

    @property
    def l1(self) -> int:
        return self.arch.l1_usable


class Board(Frozen):
    """A board by name, or several in one machine. `grids` are the worker cores of one chip by where dispatch runs.

    Dispatch takes a row (Wormhole) or a column (Blackhole) of worker cores, unless it runs on Ethernet cores; `grids` has
    the usual one first. Sources: e150, the grid of tt-metal's BERT-large demo in releases up to v0.55, and 8 GB of DRAM on
    its product page. All others, the grid that TT-NN 0.81 reports on mock devices, made of the harvesting in the example
    cluster descriptors of tenstorrent/tt-umd: n150 has 72 worker cores, n300 64 a chip, p100, p150 and p300 120 a chip
    (a p150 that has all its 140 gives 13 x 10). DRAM banks are TT-NN's too, and their size: 1 GiB each on Wormhole, 4 GiB
    on Blackhole. T3000 is four n300 in a mesh of 2 x 4 chips.
    """

    name: str
    arch: Arch
    grids: Mapping[str, Grid] = field(hash=False)
    dram: int
    dram_banks: int
    mesh: tuple[int, int] = (1, 1)
    runs: bool = True

    @property
    def chips(self) -> int:
        return self.mesh[0] * self.mesh[1]

    @property
    def grid(self) -> Grid:
        """Worker cores of one chip, with the usual dispatch."""
        return next(iter(self.grids.values()))

    @property
    def chip(self) -> Chip:
        return Chip(self.arch, self.grid, self.dram, self.dram_banks)

    @property
    def largest_batch(self) -> int:
        """The most inputs that one chip can take at once, by its grid and for a model that is split over 8 cores."""
        return largest_batch(self.grid, SPREAD)


def largest_batch(grid: Grid, spread: int) -> int:
    """The most inputs a grid takes, one in each row or column, where the other dimension has `spread` cores for it."""
    by_row = grid.rows if grid.columns >= spread else 0
    by_column = grid.columns if grid.rows >= spread else 0
    return max(by_row, by_column)


_WORMHOLE_72 = {"worker": Grid(8, 8), "ethernet": Grid(8, 9)}
_WORMHOLE_64 = {"ethernet": Grid(8, 8), "worker": Grid(8, 7)}
_BLACKHOLE_120 = {"worker": Grid(11, 10)}

BOARDS = {
    board.name: board
    for board in (
        Board("e150", GRAYSKULL, {"worker": Grid(12, 9)}, 8 * GIB, 8, runs=False),
        Board("n150", WORMHOLE, _WORMHOLE_72, 12 * GIB, 12),
        Board("n300", WORMHOLE, _WORMHOLE_64, 12 * GIB, 12, mesh=(1, 2)),
        Board("t3000", WORMHOLE, _WORMHOLE_64, 12 * GIB, 12, mesh=(2, 4)),
        Board("p100", BLACKHOLE, _BLACKHOLE_120, 28 * GIB, 7),
        Board("p150", BLACKHOLE, _BLACKHOLE_120, 32 * GIB, 8),
        Board("p300", BLACKHOLE, _BLACKHOLE_120, 32 * GIB, 8, mesh=(1, 2)),
    )
}


def check_batch(board: Board, batch: int) -> None:
    """BoardError if a chip of the board cannot take so many inputs at once."""
    if batch > board.largest_batch:
        raise BoardError(
            f"batch {batch} does not fit the board {board.name}: its {board.grid} cores hold at most {board.largest_batch}",
            f"pass --batch {board.largest_batch} or less",
        )
