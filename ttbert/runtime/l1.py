"""A model of one core's L1 over the ops of a plan.

TT-NN puts buffers at the top of L1, best fit, at the same address on every core, and the circular buffers of the program
that runs at the bottom. A program is refused where the two would meet, so what an op needs is its circular buffers and
everything from the lowest live buffer to the top, gaps included.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..boards import Chip
from ..model import TILE
from .ops import Add, Embed, JoinHeads, Linear, Matmul, Norm, Op, Softmax, SplitHeads, ToInterleaved, ToShards, tile_bytes

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


@dataclass(frozen=True)
class Usage:
    """L1 of one core while an op runs: its circular buffers, the live buffers, and how far down the lowest of those lies."""

    op: str
    circular: int
    buffers: int
    depth: int

    @property
    def needed(self) -> int:
        return self.circular + self.depth


def usage(plan: Plan) -> list[Usage]:
    """For each op in the order it runs, first layer; later layers find L1 as the first one does."""
    heap = _Heap(plan.chip.l1)
    heap.allocate("mask", _pages(plan.batch * plan.tokens // TILE, 2 * TILE, plan.chip))
    found = []
    for op in plan.ops():
        for name, size in _made(op, plan.chip):
            heap.allocate(name, size)
        found.append(Usage(op.name, circular_buffers(op, plan), heap.used, heap.depth))
        for name in _FREED_AFTER.get(op.name, ()):
            heap.free(name)
    return found


def circular_buffers(op: Op, plan: Plan) -> int:
    return 0


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
    """The buffers of a core: best fit, and from the top."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._held: dict[str, tuple[int, int]] = {}

    @property
    def used(self) -> int:
        return sum(size for _, size in self._held.values())

    @property
    def depth(self) -> int:
        """Bytes from the lowest buffer to the top."""
        return self._size - min((start for start, _ in self._held.values()), default=self._size)

    def allocate(self, name: str, size: int) -> None:
        """May go below zero: the caller sees that in `depth`."""
        gaps = [(end - start, end) for start, end in self._gaps() if end - start >= size]
        end = min(gaps)[1] if gaps else self._size - self.depth
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
