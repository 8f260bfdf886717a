"""Streams that hand out their bytes as these come, in pieces that nobody has to copy first."""

from __future__ import annotations

import io
from abc import abstractmethod
from collections.abc import Callable
from typing import BinaryIO

from ...memory import page_aligned

PIECE = 1 << 20
"""Bytes of a piece at most, where it is read into a buffer: few enough for the processor's cache."""

Take = Callable[[int], memoryview]
"""The next bytes, at least one and at most so many; none at the end. They hold until the next call."""


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


def pieces_of(stream: BinaryIO | PieceStream, size: int = PIECE) -> Take:
    """How to take pieces from any stream; from a usual one through a buffer that is no larger than `size`."""
    if isinstance(stream, PieceStream):
        return stream.take
    buffer = page_aligned(min(size, PIECE) or 1)

    def take(most: int) -> memoryview:
        return buffer[: _fill(stream, buffer[:most])]

    return take


def _fill(stream: BinaryIO, buffer: memoryview) -> int:
    """Read until the buffer is full or the stream ends; how many bytes were read."""
    count = 0
    while count < len(buffer):
        part = stream.readinto(buffer[count:])  # type: ignore[attr-defined]
        if not part:
            break
        count += part
    return count
