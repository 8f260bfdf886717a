"""A model of one core's L1 over the ops of a plan.

TT-NN puts a buffer into the highest gap of L1 that it fits, and there at the top, at the same address on every core. The
circular buffers of the program that runs grow from the bottom. A program is refused where the two would meet, so what an op
needs is its circular buffers and everything from the lowest live buffer to the top, gaps included.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..boards import Chip
from ..frozen import Frozen
from ..model import REGISTERS, TILE
from .ops import Add, Embed, Linear, Move, Norm, Op, Softmax, SplitHeads, ToShards, tile_bytes

if TYPE_CHECKING:
    from .plan import Plan

_FREED_AFTER: dict[str, tuple[str, ...]] = {
    "summed": ("word", "token_type"),
    "embedded": ("summed",),
    "sharded": ("embedded",),
    "heads": ("qkv",),
    "scores": ("query", "key"),
    "context": ("scores", "value"),
    "joined": ("context",),
    "out": ("joined",),
    "attention_norm": ("out",),
    "down": ("up",),
    "norm": ("down",),
    "unsharded": ("sharded",),
    "answer": ("unsharded",),
}
"""Buffers that `bert` frees after each op, by the name of the op that made them; softmax and norms work in place."""


_T16 = tile_bytes("bfloat16")


class Buffer(Frozen):
    """A live buffer on one core: the op that made it, its first byte counted from the start of usable L1, and its size."""

    name: str
    start: int
    size: int


class Usage(Frozen):
    """L1 of one core while an op runs: its circular buffers, the live buffers, and how far down the lowest of those lies."""

    op: str
    circular: int
    held: tuple[Buffer, ...]
    depth: int

    @property
    def buffers(self) -> int:
        return sum(each.size for each in self.held)

    @property
    def needed(self) -> int:
        return self.circular + self.depth


def usage(plan: Plan) -> list[Usage]:
    """For each op in the order it runs, first layer; later layers find L1 as the first one does."""
    heap = _Heap(plan.chip.l1)
    heap.allocate("mask", _pages(plan.batch * plan.tokens // TILE, 2 * TILE, plan.chip))
    found = []
    for op in plan.ops():
        if isinstance(op, Move):
            heap.free("sharded")
        for name, size in _made(op, plan.chip):
            heap.allocate("sharded" if isinstance(op, Move) else name, size)
        found.append(Usage(op.name, circular_buffers(op, plan), heap.held, heap.depth))
        for name in _FREED_AFTER.get(op.name, ()):
            heap.free(name)
    return found


def circular_buffers(op: Op, plan: Plan) -> int:
    """Bytes on one core of the circular buffers that an op's program allocates for itself, those over its tensors not counted.

    As TT-NN 0.81 allocates them, which the tests measure: `tests/test_l1.py`.
    """
    width = plan.shape.hidden // TILE
    if isinstance(op, Embed):
        return 4 * width * _T16 + TILE * 4  # rows in and tiles out, both twice; the ids of one tile
    if isinstance(op, Add):
        return 6 * _T16  # two tiles of each operand and of the sum
    if isinstance(op, Norm):
        return _sharded_norm(op, plan) if op.blocks else (5 * (-(-width // REGISTERS) * REGISTERS) + 10 * REGISTERS) * _T16
    if isinstance(op, ToShards):
        assert op.memory.shard
        return op.memory.shard.tiles * _T16 if op.dtype != "bfloat16" else 0  # the shard once more, before its conversion
    if isinstance(op, Linear):
        return _linear(op)
    if isinstance(op, SplitHeads):
        assert op.key_memory.shard
        # Tiles of K on their way to be transposed: two columns, or all of them.
        tiles = 2 * plan.tokens // TILE if op.in_pairs else op.key_memory.shard.tiles
        return tiles * op.tile_bytes
    if isinstance(op, Softmax):
        return (3 * op.blocks[1] + 4) * _T16  # a row of the mask, of scaled scores, of exponentials; sums and constants
    return 0


def _linear(op: Linear) -> int:
    """Blocks of both operands, twice where there are several; the bias; partial sums in another format than the output's."""
    blocks = op.blocks
    count = op.inner // TILE // blocks.inner
    copies = 2 if count > 1 else 1
    left = blocks.rows * blocks.inner * tile_bytes("bfloat8_b" if op.input_dtype == "bfloat8_b" else "bfloat16") * copies
    right = blocks.columns * blocks.inner * tile_bytes(op.weight_dtype) * copies
    bias = blocks.columns * tile_bytes(op.bias_dtype)
    out = blocks.rows * blocks.columns
    partial = out * _T16 if op.kernel.adds_in_packer and count > 1 and op.dtype != "bfloat16" else 0
    own_output = out * op.tile_bytes if op.memory.shard is None else 0
    return left + right + bias + partial + own_output


def _sharded_norm(op: Norm, plan: Plan) -> int:
    assert op.blocks
    rows, width, _ = op.blocks
    spread = plan.shape.spread
    tiles = 2 * rows * width + 2 * width + 5 * rows + 2 * spread + -(-rows // spread) + 3
    return tiles * _T16


def _made(op: Op, chip: Chip) -> Iterator[tuple[str, int]]:
    """The buffers that an op makes, with their bytes on one core."""
    if isinstance(op, SplitHeads):
        assert op.memory.shard and op.key_memory.shard
        for name, shard in (("query", op.memory.shard), ("key", op.key_memory.shard), ("value", op.memory.shard)):
            yield name, shard.tiles * op.tile_bytes
    elif op.memory.shard is None:
        yield op.name, _pages(op.tiles, op.tile_bytes, chip)
    elif not isinstance(op, Softmax | Norm):
        yield op.name, op.memory.shard.tiles * op.tile_bytes


def _pages(count: int, size: int, chip: Chip) -> int:
    """Bytes of one core of an interleaved buffer."""
    return -(-count // chip.grid.cores) * size


class _Heap:
    """The buffers of a core: each in the highest gap that it fits, and there from the top."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._held: dict[str, tuple[int, int]] = {}

    @property
    def held(self) -> tuple[Buffer, ...]:
        return tuple(Buffer(name, start, size) for name, (start, size) in self._held.items())

    @property
    def depth(self) -> int:
        """Bytes from the lowest buffer to the top."""
        return self._size - min((start for start, _ in self._held.values()), default=self._size)

    def allocate(self, name: str, size: int) -> None:
        """May go below zero: the caller sees that in `depth`."""
        end = next((end for start, end in self._gaps() if end - start >= size), self._size - self.depth)
        self._held[name] = (end - size, size)

    def free(self, name: str) -> None:
        del self._held[name]

    def _gaps(self) -> Iterator[tuple[int, int]]:
        end = self._size
        for start, size in sorted(self._held.values(), reverse=True):
            if end > start + size:
                yield start + size, end
            end = start
        if end > 0:
            yield 0, end
