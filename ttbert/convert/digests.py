"""The SHA-256 of large local files, noted under their BLAKE3.

A file of a checkpoint is identified by its SHA-256, since that is what the hub tells. BLAKE3 takes a quarter of the time,
and both are digests of the whole content: so what was noted once holds for ever, wherever the file is moved and whatever
becomes of it. Size, times and inode prove nothing and are not asked; of the size a note only tells whether reading the
file for its sake is worth it.

Notes belong to one user. In a shared cache somebody could write a false one, and so put one model for another.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from threading import Lock
from uuid import uuid4

import blake3
import platformdirs

from ..cache.digest import Digest, blake3_of, sha256_of_file

_LARGE = 16 << 20
_PIECE = 1 << 20
"""Bytes read at once: so few that they stay in the cache of a core until they are hashed."""


def notes_folder() -> Path:
    """Where notes are: ~/.cache/ttbert-digests on Linux, or below $XDG_CACHE_HOME."""
    return platformdirs.user_cache_path("ttbert-digests")


def recall_sha256(path: Path) -> Digest | None:
    """The SHA-256 of a file as far as it can be told quickly: of a large one, from a note."""
    size = path.stat().st_size
    if size < _LARGE:
        return sha256_of_file(path)
    if not any(notes_folder().glob(f"{size}-*")):
        return None
    hasher = blake3.blake3()
    _read_through(path, hasher.update)
    return _read_note(_note(size, hasher.hexdigest()))


def compute_sha256(path: Path) -> Digest:
    """The SHA-256 of a file by reading it, which is noted if it is large."""
    fast, slow = blake3.blake3(), hashlib.sha256()
    size = _read_through(path, fast.update, slow.update)  # one reading for both: the file might change between two
    digest = Digest("sha256", slow.hexdigest())
    if size >= _LARGE:
        _write_note(_note(size, fast.hexdigest()), digest)
    return digest


def _read_through(path: Path, *takers: Callable[[memoryview], object]) -> int:
    """Give a file's content to each of the takers, piece by piece in its order; its size.

    Two threads do so in turn: while one has a piece taken, which is in the cache of its own core since it was read there, the
    other one reads the next. Whoever has read waits to be next before it lets the other one read.
    """
    reading, taking = Lock(), Lock()
    size, is_over = 0, False

    def work() -> None:
        nonlocal size
        buffer = memoryview(bytearray(_PIECE))
        count = len(buffer)
        while count and not is_over:
            with reading:
                count = file.readinto(buffer)
                taking.acquire()
            try:
                size += count
                for take in takers:
                    take(buffer[:count])
            finally:
                taking.release()

    with path.open("rb", buffering=0) as file, ThreadPoolExecutor(2) as threads:
        try:
            for each in as_completed([threads.submit(work), threads.submit(work)]):
                each.result()
        finally:
            is_over = True
    return size


def _note(size: int, blake3_hex: str) -> Path:
    return notes_folder() / f"{size}-{blake3_hex}"


def _text(note: Path, digest: Digest) -> str:
    """A note's content: the digest, and a digest of the whole note, so that a damaged one is none."""
    return f"{digest}\n{blake3_of(f'{note.name} {digest}'.encode())}\n"


def _read_note(note: Path) -> Digest | None:
    try:
        text = note.read_text()
        digest = Digest.parse(text.partition("\n")[0])
    except (OSError, ValueError):
        return None
    return digest if text == _text(note, digest) else None


def _write_note(note: Path, digest: Digest) -> None:
    temporary = note.with_name(f".{uuid4().hex}")
    with contextlib.suppress(OSError):  # where nothing can be noted, it is computed again
        note.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(_text(note, digest))
        temporary.replace(note)
