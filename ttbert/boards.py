"""Tenstorrent boards, as far as planning needs them: the grid of worker cores, and the batches that it can hold.

A batch is spread over one dimension of the core grid: 8 x batch, or batch x 8, as tt-metal's BERT-large demo does.
"""

from __future__ import annotations

from dataclasses import dataclass

from .errors import BoardError, DeviceError

AUTO, CPU = "auto", "cpu"
"""Choices beside the boards: the device that is there or else the processor, and the processor."""

SPREAD = 8
"""Cores over which the hidden dimension is split, in the dimension that the batch does not take."""


@dataclass(frozen=True)
class Board:
    """A board by name, with the columns and rows of worker cores that one of its chips offers to a program.

    Sources: the e150's 12 x 9 is the grid of tt-metal's BERT-large demo, in releases up to v0.55; 8 x 8 of n150 and
    n300 and 11 x 10 of p100 and p150 are what TT-NN 0.81 reports on mock devices of these boards (n300 with dispatch
    on its Ethernet cores).
    """

    name: str
    columns: int
    rows: int
    chips: int = 1

    @property
    def largest_batch(self) -> int:
        """The most inputs a chip can take at once."""
        by_row = self.rows if self.columns >= SPREAD else 0
        by_column = self.columns if self.rows >= SPREAD else 0
        return max(by_row, by_column)


BOARDS = {
    board.name: board
    for board in (
        Board("e150", 12, 9),
        Board("n150", 8, 8),
        Board("n300", 8, 8, chips=2),
        Board("p100", 11, 10),
        Board("p150", 11, 10),
    )
}


def check_batch(board: Board, batch: int) -> None:
    """BoardError if a chip of the board cannot take so many inputs at once."""
    if batch > board.largest_batch:
        raise BoardError(
            f"batch {batch} does not fit an {board.name}: its {board.columns} x {board.rows} cores hold at most "
            f"{board.largest_batch}",
            f"pass --batch {board.largest_batch} or less",
        )


def choose_board(name: str, batch: int) -> str:
    """The board that a run uses: `cpu`, the reference on this machine's processor, also for `auto`.

    BoardError for a batch that the named board cannot hold. DeviceError for a board that cannot be used: this version
    runs on no device.
    """
    if name in (AUTO, CPU):
        return CPU
    board = BOARDS[name]
    check_batch(board, batch)
    if name == "e150":
        raise DeviceError(
            "no TT-NN since v0.55 supports Grayskull, so nothing can be run on an e150",
            "pass --board cpu to run the reference",
        )
    raise DeviceError(
        f"batch {batch} fits an {name}, but this version of ttbert has no device runtime yet",
        "pass --board cpu to run the reference",
    )
