"""The SHA-256 of large local files, noted under the BLAKE3 of their pieces.

A file of a checkpoint is identified by its SHA-256, since that is what the hub tells. BLAKE3 takes a quarter of the time, and
pieces can be hashed side by side. Both tell of the whole content: so what was noted once holds for ever, wherever the file is
moved and whatever becomes of it. Size, times and inode prove nothing and are not asked; of the size a note only tells whether
reading the file for its sake is worth it.

Notes belong to one user. In a shared cache somebody could write a false one, and so put one model for another.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import CancelledError, as_completed
from functools import partial
from pathlib import Path
from threading import Event, Lock
from typing import BinaryIO

import blake3
import platformdirs

from ..cache.digest import Digest, blake3_of, sha256_of_file
from ..files import replace_file
from ..memory import page_aligned
from ..threads import Threads, processors
from .mapped import Look, MappedFile

_LARGE = 16 << 20
_PIECE = 4 << 20
"""Bytes read at once: few enough for a processor's cache, and so many that threads rarely wait for each other."""

_PART = 1 << 20
"""Bytes of a piece that are read at once where it is only hashed: they stay nearer to the processor."""

_TRIED = 24
"""Pieces that are hashed in each of two ways, before the quicker one is known."""

_READERS = 16
"""Threads that recall a file, at most: memory gives no more."""


def notes_folder() -> Path:
    """Where notes are: ~/.cache/ttbert-digests on Linux, or below $XDG_CACHE_HOME."""
    return platformdirs.user_cache_path("ttbert-digests")


def recall_sha256(path: Path) -> Digest | None:
    """The SHA-256 of a file as far as it can be told quickly: of a large one, from a note."""
    size = path.stat().st_size
    if size < _LARGE:
        return sha256_of_file(path)
    if not _is_noted(size):
        return None
    return _read_note(_note(size, _hash_pieces(path, size)))


def compute_sha256(path: Path, stop: Event | None = None) -> Digest:
    """The SHA-256 of a file by reading it, which is noted if it is large. CancelledError soon after somebody sets `stop`."""
    pieces: list[bytes] = []
    whole = hashlib.sha256()
    # One reading for both, since the file might change between two.
    size = _read_through(path, lambda piece: pieces.append(_hash_piece(piece)), whole.update, stop=stop or Event())
    digest = Digest("sha256", whole.hexdigest())
    if size >= _LARGE:
        _write_note(_note(size, pieces), digest)
    return digest


def _hash_piece(piece: memoryview) -> bytes:
    return blake3.blake3(piece).digest()


def _hash_pieces(path: Path, size: int) -> list[bytes]:
    """BLAKE3 of each piece of a file, by as many threads as there are processors.

    Some are looked at where they lie in the page cache, some are read, and then all others in the way that took less: to look
    takes three quarters of the time of reading on one machine, and a quarter more on another.
    """
    starts = range(0, size, _PIECE)
    digests: list[bytes] = []
    seconds = {}
    with path.open("rb", buffering=0) as file:
        ways = (partial(_look_at_pieces, file, path, size), partial(_read_pieces, file))
        for way in ways:
            some, starts = starts[:_TRIED], starts[_TRIED:]
            before = time.perf_counter()
            digests += way(some)
            seconds[way] = time.perf_counter() - before
        return digests + min(ways, key=seconds.__getitem__)(starts)


def _look_at_pieces(file: BinaryIO, path: Path, size: int, starts: Sequence[int]) -> list[bytes]:
    try:
        with MappedFile(path, size).leased() as look:
            return _each(starts, partial(_look_at_piece, file, look, size))
    except OSError:  # of a disk that does not give it, reading tells
        return _read_pieces(file, starts)


def _read_pieces(file: BinaryIO, starts: Sequence[int]) -> list[bytes]:
    return _each(starts, partial(_read_piece, file))


def _each(starts: Iterable[int], hash_piece: Callable[[int], bytes]) -> list[bytes]:
    """What is made of the piece at each start, in their order, by as many threads as there are processors."""
    # With a future for each piece, as `map_ahead` has it, this takes a twentieth longer.
    ahead = iter(starts)
    digests: dict[int, bytes] = {}
    stop = Event()

    def work() -> None:
        for start in ahead:  # the threads share it
            if stop.is_set():
                return
            digests[start] = hash_piece(start)

    _run(work, min(_READERS, max(2, processors())), stop)
    return [digests[start] for start in starts]


def _look_at_piece(file: BinaryIO, look: Look, size: int, start: int) -> bytes:
    """BLAKE3 of a piece where it lies in the page cache."""
    try:
        with look(start, min(_PIECE, size - start)) as piece:
            return _hash_piece(piece)
    except BlockingIOError:
        return _read_piece(file, start)


def _read_piece(file: BinaryIO, start: int) -> bytes:
    piece, end = blake3.blake3(), start + _PIECE
    while start < end and (part := os.pread(file.fileno(), min(_PART, end - start), start)):
        piece.update(part)
        start += len(part)
    return piece.digest()


def _read_through(path: Path, *takers: Callable[[memoryview], object], stop: Event) -> int:
    """Give a file's content to each of the takers, piece by piece in its order; its size.

    Two threads take turns: each reads a piece and goes from taker to taker with it, while it is in the cache of its own core.
    A taker's lock is got before that of the one before it is given back, so a piece cannot overtake another one.
    """
    reading, *taking = [Lock() for _ in (path, *takers)]
    size = 0

    def work() -> None:
        nonlocal size
        buffer = page_aligned(_PIECE)
        while not stop.is_set():
            held = reading
            held.acquire()
            try:
                count = _fill(file.fileno(), buffer, size)
                if not count:
                    return
                size += count
                for lock, take in zip(taking, takers, strict=True):
                    lock.acquire()
                    held.release()
                    held = lock
                    take(buffer[:count])
            finally:
                held.release()

    with path.open("rb", buffering=0) as file:
        _run(work, 2, stop)
    if stop.is_set():
        raise CancelledError(f"{path} was not read to its end")
    return size


def _fill(descriptor: int, buffer: memoryview, start: int) -> int:
    """Read as much of a file, from a position on, as there is and the buffer takes."""
    count = 0
    while count < len(buffer) and (read := os.preadv(descriptor, [buffer[count:]], start + count)):
        count += read
    return count


def _run(work: Callable[[], None], count: int, stop: Event) -> None:
    """Do the same in several threads. The first error, or an interrupt, sets `stop`, and ends all of them."""
    with Threads(count) as threads:
        try:
            for each in as_completed([threads.submit(work) for _ in range(count)]):
                each.result()
        except BaseException:
            stop.set()
            raise


def _note(size: int, pieces: Iterable[bytes]) -> Path:
    """Where a file is noted: under its size and the BLAKE3 of the digests of its pieces."""
    return notes_folder() / f"{size}-{blake3.blake3(b''.join(pieces)).hexdigest()}"


def _text(note: Path, digest: Digest) -> str:
    """A note's content: the digest, and a digest of the whole note, so that a damaged one is none."""
    return f"{digest}\n{blake3_of(f'{note.name} {digest}'.encode())}\n"


def _is_noted(size: int) -> bool:
    """Whether a file of that size is noted. Nothing is where notes may not be looked at."""
    with contextlib.suppress(OSError):
        return any(notes_folder().glob(f"{size}-*"))
    return False


def _read_note(note: Path) -> Digest | None:
    try:
        text = note.read_text()
        digest = Digest.parse(text.partition("\n")[0])
    except (OSError, ValueError):
        return None
    return digest if text == _text(note, digest) else None


def _write_note(note: Path, digest: Digest) -> None:
    with contextlib.suppress(OSError):  # where nothing can be noted, it is computed again
        replace_file(note, _text(note, digest).encode())
