"""A file or a tensor in memory, checked on its way there.

The bytes are copied out of the store piece by piece, and each piece is hashed and written to an anonymous memory file
while the processor's cache holds it. Then that file is sealed. So what was checked is exactly what is used: nobody can
change it between the check and the use, and it is not read a second time.

Writing to a memory file takes two thirds of the time of reading into a mapping of it: the kernel neither clears the
pages first nor maps them one by one.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import weakref
from types import TracebackType
from typing import BinaryIO

import blake3

from ..errors import IntegrityError
from ..threads import check_wanted
from .digest import Digest
from .stores.pieces import PIECE, Take, pieces_of

_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class Blob:
    """Checked bytes in a sealed memory file. Close it when done; mappings made of it stay valid.

    One that nobody holds any more is closed, too: what was read ahead is not left open when reading ends early.
    """

    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor = descriptor
        self.size = size
        self._close = weakref.finalize(self, os.close, descriptor)

    @property
    def path(self) -> str:
        """A path that this process can open for reading, while the blob is open."""
        return f"/proc/{os.getpid()}/fd/{self._descriptor}"

    def stand_at(self, descriptor: int) -> None:
        """Make another open descriptor of this process one for these bytes."""
        os.dup2(self._descriptor, descriptor, inheritable=False)

    def bytes(self, length: int | None = None) -> bytes:
        """All of it, or the first `length` bytes."""
        parts: list[bytes] = []
        position, end = 0, self.size if length is None else length
        while position < end and (part := os.pread(self._descriptor, end - position, position)):  # one gives 2 GiB at most
            parts.append(part)
            position += len(part)
        return b"".join(parts)

    def view(self) -> memoryview:
        """The bytes without a copy, valid for as long as somebody holds on to them."""
        return memoryview(mmap.mmap(self._descriptor, self.size, prot=mmap.PROT_READ) if self.size else b"")

    def close(self) -> None:
        self._close()

    def __enter__(self) -> Blob:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def read_blob(take: Take, digest: Digest, size: int, where: str) -> Blob:
    """Copy the next `size` bytes of a stream into memory and check them.

    IntegrityError, naming `where`, if they cannot be read or are not `digest`.
    """
    descriptor = os.memfd_create(f"ttbert-{digest.short}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        found = _copy(take, descriptor, size, where)
        if found != digest.hex:
            raise damaged(where, f"its digest is blake3:{found[:12]}..., not {digest.algorithm}:{digest.short}...")
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(descriptor)
        raise
    return Blob(descriptor, size)


def skip(stream: BinaryIO, count: int, where: str) -> None:
    """Read over the next bytes of a stream, or to its end; IntegrityError, naming `where`, if they cannot be read."""
    while count and (part := _read(stream, min(count, PIECE), where)):
        count -= len(part)


def check_end(stream: BinaryIO, where: str) -> None:
    """IntegrityError, naming `where`, if the stream goes on after what was read of it, or nobody can tell."""
    if _read(stream, 1, where):
        raise damaged(where, "it has more bytes than the manifest says")


def hash_stream(stream: BinaryIO) -> tuple[Digest, int]:
    """The BLAKE3 digest and the length of a stream, read to its end."""
    hasher = blake3.blake3()
    size = 0
    with pieces_of(stream) as take:
        while piece := take(PIECE):
            hasher.update(piece)
            size += len(piece)
            check_wanted()
    return Digest("blake3", hasher.hexdigest()), size


def damaged(where: str, what: str) -> IntegrityError:
    """The error for stored bytes that are not what they should be."""
    return IntegrityError(
        f"{where} is damaged: {what}; nothing of it was used",
        "`ttbert cache verify --repair` moves it to quarantine and says what makes it anew; if it is a copy in a local tier, "
        "`ttbert cache pull REF` fetches it again",
    )


def _read(stream: BinaryIO, count: int, where: str) -> bytes:
    try:
        return stream.read(count)
    except OSError as error:
        raise damaged(where, f"it cannot be read: {error}") from error


def _copy(take: Take, descriptor: int, size: int, where: str) -> str:
    """Fill the memory file from a stream; the hex digest of what came."""
    hasher = blake3.blake3()
    left = size
    while left:
        try:
            piece = take(left)
        except OSError as error:
            raise damaged(where, f"it cannot be read: {error}") from error
        if not piece:
            raise damaged(where, f"it ends after {size - left:,} bytes of {size:,}")
        left -= len(piece)
        hasher.update(piece)
        while piece:
            piece = piece[os.write(descriptor, piece) :]
    return hasher.hexdigest()
