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
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import blake3
import platformdirs

from ..cache.digest import Digest, blake3_of, sha256_of_file

_LARGE = 16 << 20
_CHUNK = 4 << 20


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
    for chunk in _chunks(path):
        hasher.update(chunk)
    return _read_note(_note(size, hasher.hexdigest()))


def compute_sha256(path: Path) -> Digest:
    """The SHA-256 of a file by reading it, which is noted if it is large."""
    fast, slow, size = blake3.blake3(), hashlib.sha256(), 0
    for chunk in _chunks(path):
        # One reading for both: the file might change between two.
        fast.update(chunk)
        slow.update(chunk)
        size += len(chunk)
    digest = Digest("sha256", slow.hexdigest())
    if size >= _LARGE:
        _write_note(_note(size, fast.hexdigest()), digest)
    return digest


def _chunks(path: Path) -> Iterator[memoryview]:
    """A file's content, piece by piece, each to be used before the next is asked for, which is being read meanwhile."""
    buffers = [memoryview(bytearray(_CHUNK)) for _ in range(2)]
    with path.open("rb", buffering=0) as file, ThreadPoolExecutor(1) as reader:
        coming = reader.submit(file.readinto, buffers[0])
        while count := coming.result():
            buffers.reverse()
            coming = reader.submit(file.readinto, buffers[0])
            yield buffers[1][:count]


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
