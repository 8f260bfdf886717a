"""What each board holds of BERT-large: every plan judged by TT-NN on a mock device, with weights loaded from a cache.

    python -m benchmarks.chart             # all of it
    python -m benchmarks.chart --tables    # only the tables, from the last run's record

For each board and batch a mock device is opened, all 24 layers are loaded from a cache entry (checked blobs; random
weights, since none of the values matters here) and run once, 384 tokens, bfp8. A batch beyond the board's grid is planned
for a larger grid, to have TT-NN's own refusal. The e150 has no mock, as no TT-NN of today knows its chip: there the model
of L1 alone decides, the one that is exact on the others. Last, the values of a batch of two are compared with the
reference in a shadow run.

What was found goes to docs/chart.json, and from there, as tables, into README.md and docs/mock-devices.md. It takes some
minutes, 4 GB of disk in the folder for temporary files, and no card.
"""

from __future__ import annotations

import datetime
import json
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ttbert.boards import BOARDS, Board, largest_batch
from ttbert.cache.places import Places
from ttbert.convert.convert import convert, plan_conversion
from ttbert.convert.wanted import Wanted
from ttbert.demo.inputs import built_in_questions
from ttbert.errors import BoardError
from ttbert.model import BertShape
from ttbert.runtime.checker import Request, compare_on, judge_on
from ttbert.runtime.l1 import usage
from ttbert.runtime.loader import CachedModel
from ttbert.runtime.plan import plan_bert

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "docs" / "chart.json"
TOKENS, POLICY = 384, "bfp8"
BATCHES = range(1, 13)

PLACES = {ROOT / "README.md": ("e150", "n150", "n300", "p100", "p150"), ROOT / "docs" / "mock-devices.md": tuple(BOARDS)}
"""Files with a table, and the boards in it."""

BEGIN, END = "<!-- made by benchmarks/chart.py -->", "<!-- end -->"


def main() -> None:
    if "--tables" not in sys.argv[1:]:
        with tempfile.TemporaryDirectory(prefix="ttbert-chart-") as folder:
            RECORD.write_text(json.dumps(run(Path(folder)), indent=1) + "\n")
    record = json.loads(RECORD.read_text())
    for place, boards in PLACES.items():
        before, _, rest = place.read_text().partition(BEGIN)
        _, _, after = rest.partition(END)
        place.write_text(f"{before}{BEGIN}\n{table(record, boards)}\n{END}{after}")


def run(
    folder: Path, names: tuple[str, ...] = tuple(BOARDS), *, hidden: int = 1024, heads: int = 16, layers: int = 24
) -> dict[str, Any]:
    """Everything that the tables say, found out now; of BERT-large, unless another size is given."""
    sys.path.insert(0, str(ROOT / "tests"))
    from checkpoints import make_checkpoint

    # As transformers initializes BERT: with larger weights the states of all tokens become one, and the logits flat.
    size = {"hidden": hidden, "heads": heads, "layers": layers, "vocabulary": 30522}
    checkpoint = make_checkpoint(folder / "bert", **size, deviation=0.02)
    places = Places(str(folder / "cache"))
    cache = places.open()
    cached = convert(plan_conversion(Wanted(str(checkpoint), policy=POLICY)), cache).cached
    shape = CachedModel(cache, cached).shape
    entry = {"places": places, "manifest": str(cached.digest)}
    boards = {}
    for board in (BOARDS[name] for name in names):
        print(f"{board.name}: batch {BATCHES[0]} to {BATCHES[-1]}", file=sys.stderr, flush=True)
        found = judge(board, shape, entry) if board.runs else model(board, shape)
        boards[board.name] = {"chips": board.chips, "mock": board.runs, "batches": list(found)}
    print("values", file=sys.stderr, flush=True)
    comparison = compare_on("n150", Request(shape, 2, TOKENS, POLICY, **entry, questions=built_in_questions()))
    lowest = min(comparison.ops, key=lambda each: each.pcc)
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "ttnn": version("ttnn"),
        "boards": boards,
        "values": {**comparison.outputs, "lowest": {"op": lowest.op, "layer": lowest.layer, "pcc": lowest.pcc}},
    }


def judge(board: Board, shape: BertShape, entry: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """By TT-NN, on a mock device."""
    most = largest_batch(board.grid, shape.spread)
    requests = [
        Request(shape, batch, TOKENS, POLICY, **entry, grid=None if batch <= most else _larger(board, batch))
        for batch in BATCHES
    ]
    for batch, verdict in zip(BATCHES, judge_on(board.name, requests), strict=True):
        yield {"batch": batch, "accepted": verdict.accepted, "op": verdict.op, "reason": verdict.reason, "ops": verdict.ops}


def _larger(board: Board, batch: int) -> tuple[int, int]:
    """The board's grid with as many rows, or else columns, as the batch needs."""
    columns, rows = board.grid.columns, board.grid.rows
    return (columns, batch) if rows >= columns else (batch, rows)


def model(board: Board, shape: BertShape) -> Iterator[dict[str, Any]]:
    """By the model of L1."""
    for batch in BATCHES:
        try:
            plan = plan_bert(shape, batch, TOKENS, board.chip, POLICY)
        except BoardError as error:
            yield {"batch": batch, "accepted": False, "op": "the plan", "reason": error.message}
            continue
        peak = max(usage(plan), key=lambda each: each.needed)
        yield {"batch": batch, "accepted": True, "op": peak.op, "peak": peak.needed, "usable": plan.chip.l1}


def table(record: dict[str, Any], names: tuple[str, ...]) -> str:
    """Rows of batches, columns of boards, and below what was run and each refusal in TT-NN's words."""
    boards = {name: record["boards"][name] for name in names}
    lines = [
        "| batch a chip | " + " | ".join(_title(name, board) for name, board in boards.items()) + " |",
        "|---|" + "---|" * len(boards),
    ]
    cells = {name: [_cell(board, each) for each in board["batches"]] for name, board in boards.items()}
    rows = list(zip(*cells.values(), strict=True))
    first = 0
    for i, row in enumerate(rows):
        if i + 1 == len(rows) or rows[i + 1] != row or i + 1 in (6, 7, 8):  # 7, 8 and 12 are tt-metal's own
            batches = f"{first + 1} to {i + 1}" if first < i else str(i + 1)
            lines.append(f"| {batches} | {' | '.join(row)} |")
            first = i + 1
    refusals: dict[str, list[str]] = {}
    for name, board in boards.items():
        for each in board["batches"]:
            if board["mock"] and not each["accepted"]:
                said = each["reason"].partition(". ")[0]
                refusals.setdefault(f"`{said}`", []).append(name)
    e150 = boards["e150"]["batches"]
    peak = max((each for each in e150 if each["accepted"]), key=lambda each: each["peak"])
    lines += [
        "",
        "BERT-large, 24 layers, 384 tokens, bfp8. "
        f"*accepted* is by TT-NN {record['ttnn']} on a mock device ({record['date']}): all layers, loaded from a cache entry.",
        "*refused* is by TT-NN too, asked to use more cores than the board has; in its words:",
        "",
        *(f"- {', '.join(dict.fromkeys(where))}: {said}" for said, where in refusals.items()),
        "",
        f"*fits* is by the model of L1 only, since no TT-NN of today runs an e150: at most {peak['peak']:,} of "
        f"{peak['usable']:,} bytes a core.",
    ]
    return "\n".join(lines)


def _title(name: str, board: dict[str, Any]) -> str:
    return f"{name}, {board['chips']} chips" if board["chips"] > 1 else name


def _cell(board: dict[str, Any], found: dict[str, Any]) -> str:
    if board["mock"]:
        return "accepted" if found["accepted"] else "refused"
    return "fits" if found["accepted"] else "does not fit"


if __name__ == "__main__":
    main()
