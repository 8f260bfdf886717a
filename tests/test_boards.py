"""Which batch fits which board, as tt-metal's BERT-large demo spreads it: 8 x batch or batch x 8 cores."""

from __future__ import annotations

import pytest

from ttbert.boards import BOARDS, check_batch
from ttbert.errors import BoardError

LARGEST = {"e150": 12, "n150": 8, "n300": 8, "t3000": 8, "p100": 11, "p150": 11, "p300": 11}


def test_largest_batch_of_each_board() -> None:
    assert {name: board.largest_batch for name, board in BOARDS.items()} == LARGEST


@pytest.mark.parametrize("name", BOARDS)
@pytest.mark.parametrize("batch", range(1, 15))
def test_batch_fits_a_board_up_to_its_largest(name: str, batch: int) -> None:
    board = BOARDS[name]
    # A grid of 8 x batch or of batch x 8 cores has to lie within the board's.
    fits = any(w <= board.grid.columns and h <= board.grid.rows for w, h in ((8, batch), (batch, 8)))
    if fits:
        check_batch(board, batch)
    else:
        with pytest.raises(BoardError, match=f"batch {batch} does not fit the board {name}") as caught:
            check_batch(board, batch)
        assert caught.value.hint == f"pass --batch {LARGEST[name]} or less"


def test_batch_of_seven_fits_every_board() -> None:
    for board in BOARDS.values():
        check_batch(board, 7)
