"""Every plan of many models put to TT-NN, on a mock device of each board: what is refused would be a fault of the planner.

    python -m benchmarks.plans                             # all: hours
    python -m benchmarks.plans --board n150 --sample 200   # of some of them, others for another --seed

Models have 1 to 64 heads of 32, 64 or 96, up to 2,048 wide, and feed-forward layers two to four times as wide; inputs have
32 to 512 tokens; batches are one, the most that the plan holds, and one between. Prints what is refused, and a count.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
from collections.abc import Iterator

from ttbert.boards import BOARDS
from ttbert.model import BertShape
from ttbert.recipe.policy import POLICIES
from ttbert.runtime.checker import Request, judge_on
from ttbert.runtime.plan import largest_fitting_batch

HEADS = (*range(1, 17), 18, 20, 22, 24, 28, 32, 40, 48, 64)
HEAD_SIZES = (32, 64, 96)
WIDEST = 2048
TOKENS = (32, 96, 128, 256, 384, 512)
CHUNK = 200
"""Plans judged in one process."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--board", action="append", choices=[name for name, board in BOARDS.items() if board.runs])
    parser.add_argument("--sample", type=int, help="how many models and lengths, by chance")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    refused = 0
    for board in arguments.board or [name for name, board in BOARDS.items() if board.runs]:
        cases = list(itertools.product(HEADS, HEAD_SIZES, (2, 3, 4), TOKENS, POLICIES))
        if arguments.sample:
            cases = random.Random(arguments.seed).sample(cases, min(arguments.sample, len(cases)))
        plans = [request for case in cases for request in requests(board, *case)]
        found = 0
        for first in range(0, len(plans), CHUNK):
            chunk = plans[first : first + CHUNK]
            for request, verdict in zip(chunk, judge_on(board, chunk), strict=True):
                if not verdict.accepted:
                    found += 1
                    print(f"{board}: {request}\n  {verdict.op}: {verdict.reason}", flush=True)
        print(f"{board}: {len(plans)} plans, {found} refused", flush=True)
        refused += found
    sys.exit(bool(refused))


def requests(board: str, heads: int, size: int, times: int, tokens: int, policy: str) -> Iterator[Request]:
    """Plans of a model that fit the board, with two layers: more are planned alike."""
    hidden = heads * size
    if hidden > WIDEST:
        return
    shape = BertShape("BertForQuestionAnswering", 2, hidden, heads, times * hidden, 30522, 512, 2, 1e-12)
    most = largest_fitting_batch(shape, tokens, BOARDS[board].chip, policy)
    for batch in sorted({1, (most + 1) // 2, most} if most else set()):
        yield Request(shape, batch, tokens, policy)


if __name__ == "__main__":
    main()
