"""Draw docs/layer.svg and docs/l1.svg: the plan of one encoder layer of BERT-large, batch 8 of 384 tokens on an n150.

    python scripts/draw_layer.py

All sizes are the plan's own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("agg")
from matplotlib import pyplot
from matplotlib.patches import FancyArrowPatch, Rectangle

from ttbert.boards import BOARDS
from ttbert.model import TILE, BertShape
from ttbert.picture import draw_l1
from ttbert.runtime.ops import Linear, Matmul, Op, SplitHeads
from ttbert.runtime.plan import Plan, plan_bert

DOCS = Path(__file__).parents[1] / "docs"
LARGE = BertShape("BertForQuestionAnswering", 24, 1024, 16, 4096, 30522, 512, 2, 1e-12)

STATES, HEADS, MINE, SENT = "#9ecae1", "#fdc086", "#de2d26", "0.35"
"""Colours: block-sharded, height-sharded, the core that is followed, what moves between cores."""

COLUMN, ROW = 2, 1
"""The core that is followed."""


def main() -> None:
    plan = plan_bert(LARGE, 8, 384, BOARDS["n150"].chip)
    draw_layer(plan, DOCS / "layer.svg")
    draw_l1(plan, DOCS / "l1.svg", "BERT-large on n150, batch 8 of 384 tokens, bfp8")


def draw_layer(plan: Plan, path: Path) -> None:
    mpl.rcParams.update({"svg.hashsalt": "layer", "font.size": 9})
    figure = pyplot.figure(figsize=(12, 9), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(1, 0.98))
    left, middle, right = top.subplots(1, 3)
    _draw_states(left, plan)
    _draw_grid(middle, plan)
    _draw_heads(right, plan)
    _draw_ops(bottom.subplots(), plan)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def _draw_states(axes: Any, plan: Plan) -> None:
    """The states as a matrix, cut into the blocks of the cores."""
    across, down = plan.grid.columns, plan.grid.rows
    for x in range(across):
        for y in range(down):
            axes.add_patch(Rectangle((x, y), 1, 1, facecolor=_colour(x, y, STATES), edgecolor="white"))
    _frame(axes, across, down)
    _title(axes, "States, block-sharded", f"{plan.batch} x {plan.tokens} rows, {plan.shape.hidden} columns")
    axes.set_xticks([each + 0.5 for each in range(across)], [str(plan.shape.hidden // across)] * across)
    axes.set_yticks([each + 0.5 for each in range(down)], [f"input {each}" for each in range(down)])
    axes.set_xlabel("columns of the hidden dimension")


def _draw_grid(axes: Any, plan: Plan) -> None:
    """The cores, and what they send each other in a matmul."""
    across, down = plan.grid.columns, plan.grid.rows
    for x in range(across):
        for y in range(down):
            axes.add_patch(Rectangle((x + 0.12, y + 0.12), 0.76, 0.76, facecolor=_colour(x, y, "0.88"), edgecolor="0.6"))
    for start, end in (((0.1, ROW + 0.5), (across - 0.1, ROW + 0.5)), ((COLUMN + 0.5, 0.1), (COLUMN + 0.5, down - 0.1))):
        axes.add_patch(FancyArrowPatch(start, end, arrowstyle="<|-|>", mutation_scale=12, color=SENT, linewidth=1.4))
    box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5, "alpha": 0.9}
    axes.text(across - 0.3, ROW + 1.02, "its input's rows, from\neach core of the row", ha="right", va="top", bbox=box)
    axes.text(COLUMN + 0.75, down - 0.35, "weights for its columns,\nread once for the column", va="bottom", bbox=box)
    _frame(axes, across, down)
    _title(axes, f"{plan.grid} cores in a matmul", "two multicasts a block; sums stay where they are")
    axes.set_xticks([each + 0.5 for each in range(across)], range(across))
    axes.set_yticks([each + 0.5 for each in range(down)], range(down))
    axes.set_xlabel("one column of cores: one part of the hidden dimension")
    axes.set_ylabel("one row of cores: one input")


def _draw_heads(axes: Any, plan: Plan) -> None:
    """Q, K, V and scores as matrices: heads below each other, each core with its own."""
    across, down = plan.grid.columns, 2
    each = plan.shape.heads // across
    for y in range(down * across):
        own = divmod(y, across) == (ROW, COLUMN)
        axes.add_patch(Rectangle((0, y), 8, 1, facecolor=MINE if own else HEADS, edgecolor="white", alpha=0.75 if own else 1))
        if y % across in (0, COLUMN, across - 1):
            first = y % across * each
            heads = f"head {first}" if each == 1 else f"heads {first} to {first + each - 1}"
            axes.text(4, y + 0.5, f"input {y // across}, {heads}", ha="center", va="center", fontsize=8)
    _frame(axes, 8, down * across)
    axes.set_aspect("auto")
    _title(axes, "Q, K, V, scores, context, height-sharded", f"{each} heads a core: nothing is sent between cores")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel(f"and so on to input {plan.batch - 1}")


def _draw_ops(axes: Any, plan: Plan) -> None:
    """What one core makes in each op, to scale, with how its matmul is blocked."""
    at, gap, narrowest = 0.0, 1.6, 5.6
    for op in plan.layer_ops:
        parts = _parts(op)
        width = sum(columns for _, _, columns in parts) + 0.6 * (len(parts) - 1)
        at += max(0, narrowest - width) / 2
        middle = at + width / 2
        for label, rows, columns in parts:
            colour = STATES if op.memory.shard and op.memory.shard.layout == "block" else HEADS
            axes.add_patch(Rectangle((at, 0), columns, rows, facecolor=colour, edgecolor="0.3"))
            axes.text(at + columns / 2, rows / 2, label, ha="center", va="center", fontsize=9)
            at += columns + 0.6
        axes.text(middle, -1.0, _label(op), ha="center", va="bottom", fontsize=8.5, linespacing=1.25)
        axes.text(middle, max(rows for _, rows, _ in parts) + 0.8, _blocking(op), ha="center", va="top", fontsize=7.5)
        at += gap - 0.6 + max(0, narrowest - width) / 2
    axes.set_xlim(-1, at - gap + 1)
    axes.set_ylim(33.5, -7)
    axes.set_aspect("equal")
    axes.axis("off")
    axes.set_title(
        "What the red core makes in one layer, in its L1, to scale (one tile of 32 x 32 is a unit)\n"
        "blue: block-sharded, orange: height-sharded; op, rows x columns, dtype above; how its matmul goes below",
        fontsize=10,
    )


def _parts(op: Op) -> list[tuple[str, int, int]]:
    """(label, rows, columns) of what one core makes, in tiles."""
    shard = op.memory.shard
    assert shard
    rows, columns = shard.height // TILE, shard.width // TILE
    if isinstance(op, SplitHeads):
        key = op.key_memory.shard
        assert key
        return [("Q", rows, columns), ("$K^T$", key.height // TILE, key.width // TILE), ("V", rows, columns)]
    if op.name == "qkv":
        return [(label, rows, columns // 3) for label in ("Q", "K", "V")]
    return [("", rows, columns)]


def _label(op: Op) -> str:
    assert op.memory.shard
    return f"{op.name.replace('_', chr(10))}\n{op.memory.shard.height} x {op.memory.shard.width}\n{op.dtype}"


def _blocking(op: Op) -> str:
    if not isinstance(op, Linear | Matmul):
        return ""
    inner, blocks = op.inner // TILE, op.blocks
    times = f"{inner // blocks.inner} x" if inner > blocks.inner else "whole"
    height, width = blocks.subblock
    return f"{op.kernel.fidelity}\ninner {inner}:\n{times} {blocks.inner}\nsubblock\n{height} x {width}"


def _colour(x: int, y: int, other: str) -> str:
    return MINE if (x, y) == (COLUMN, ROW) else other


def _frame(axes: Any, across: int, down: int) -> None:
    axes.set_xlim(0, across)
    axes.set_ylim(down, 0)
    axes.set_aspect("equal")
    axes.tick_params(length=0, labelsize=8)
    axes.spines[:].set_visible(False)


def _title(axes: Any, what: str, more: str) -> None:
    axes.set_title(f"{what}\n", fontsize=11)
    axes.text(0.5, 1.02, more, transform=axes.transAxes, ha="center", va="bottom", fontsize=8.5)


if __name__ == "__main__":
    main()
