"""Streams that hand out their bytes as these come, in pieces that nobody has to copy first."""

from __future__ import annotations

import io
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO

from ...memory import page_aligned

PIECE = 1 << 20
"""Bytes of a piece at most, where it is read into a buffer: few enough for the processor's cache."""

Take = Callable[[int], memoryview]
"""The next bytes, at least one and at most so many; none at the end. They hold until the next call."""

_spare: list[memoryview] = []
"""Buffers that nobody uses now. With a fresh one for each blob, to be mapped, touched and unmapped, loads took a tenth more."""


class PieceStream(io.RawIOBase):
    """A stream of bytes that are in memory already when they are asked for."""

    @abstractmethod
    def take(self, most: int) -> memoryview:
        """See `Take`."""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        part = self.take(len(buffer))
        buffer[: len(part)] = part
        return len(part)


@contextmanager
def pieces_of(stream: BinaryIO | PieceStream) -> Iterator[Take]:
    """Inside of `with`, how to take pieces from any stream. After it none of a usual one holds any more, and no other comes."""
    if isinstance(stream, PieceStream):
        yield stream.take
        return
    try:
        buffer = _spare.pop()
    except IndexError:
        buffer = page_aligned(PIECE)
    try:
        yield lambda most: buffer[: _fill(stream, buffer[:most])]
    finally:
        spare, buffer = buffer, memoryview(b"")  # for who takes too late, and must not write into what is another's by then
        _spare.append(spare)


def _fill(stream: BinaryIO, buffer: memoryview) -> int:
    """Read until the buffer is full or the stream ends; how many bytes were read."""
    count = 0
    while count < len(buffer):
        part = stream.readinto(buffer[count:])  # type: ignore[attr-defined]
        if not part:
            break
        count += part
    return count
