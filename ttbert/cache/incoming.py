"""A blob on its way from the shared store: hashed, and copied to this machine, as its reader takes it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import BinaryIO

import blake3

from .blob import damaged
from .digest import Digest
from .stores.pieces import PIECE, PieceStream, pieces_of


class Incoming(PieceStream):
    """Another stream as it comes. Each piece of its first `size` bytes is given to `keep`; after the last, `finish` is called.

    Instead of that there is IntegrityError, naming `where`, if they are not those of `digest`. `held` is closed when the blob
    is whole, or the stream is closed.
    """

    def __init__(
        self,
        stream: BinaryIO,
        digest: Digest,
        size: int,
        where: str,
        keep: Callable[[memoryview], None],
        finish: Callable[[], None],
        held: ExitStack,
    ) -> None:
        self._taking = ExitStack()
        self._take = self._taking.enter_context(pieces_of(stream))
        self._stream, self._held = stream, held
        self._digest, self._where = digest, where
        self._keep, self._finish = keep, finish
        self._hasher = blake3.blake3()
        self._left, self._is_whole = size, False

    def take(self, most: int) -> memoryview:
        piece = self._take(min(most, self._left) if self._left else most)  # what is too much, its reader is to see
        if self._left:
            self._hasher.update(piece)
            self._keep(piece)
            self._left -= len(piece)
        if not self._left and not self._is_whole:
            self._check()
            self._finish()
            self._is_whole = True
            self._held.close()
        return piece

    def drain(self) -> None:
        """Take all that was to come. IntegrityError also where it ends before, or cannot be read."""
        while not self._is_whole:
            try:
                piece = self.take(PIECE)
            except OSError as error:
                raise damaged(self._where, f"it cannot be read: {error}") from error
            if not piece and self._left:
                raise damaged(self._where, f"it ends {self._left:,} bytes early")

    def close(self) -> None:
        self._held.close()
        self._stream.close()
        self._taking.close()
        super().close()

    def _check(self) -> None:
        if self._hasher.hexdigest() != self._digest.hex:
            found = (
                f"its digest is blake3:{self._hasher.hexdigest()[:12]}..., not {self._digest.algorithm}:{self._digest.short}..."
            )
            raise damaged(self._where, found)
