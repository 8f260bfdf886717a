"""Digests: what ttbert names its bytes by, beside what else could have been taken, one thread, from warm memory.

Two threads show what a second processor is worth. Also what a digest costs on the way of a copy, as when a tensor is loaded,
next to the copy alone: the limit.
"""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import blake3
import numpy as np

from .measure import Case, Clock, compare
from .report import Limit, Report, Table

_PIECE = 1 << 20


def run(folder: Path, small: bool, rounds: int) -> Report:
    size = (4 if small else 400) << 20
    cases = [
        Case("BLAKE3, one thread (ttbert)", "hash:digest", {"name": "blake3", "size": size}),
        Case("BLAKE3 of pieces, two threads", "hash:digest_pieces", {"size": size}),
        Case("SHA-256", "hash:digest", {"name": "sha256", "size": size}),
        Case("BLAKE2b", "hash:digest", {"name": "blake2b", "size": size}),
        Case("MD5", "hash:digest", {"name": "md5", "size": size}),
        Case("copied, and BLAKE3 of the pieces", "hash:copy", {"name": "blake3", "size": size}),
        Case("copied, and SHA-256 of the pieces", "hash:copy", {"name": "sha256", "size": size}),
        Case("copied into warm memory", "hash:copy", {"name": "", "size": size}),
    ]
    *rows, limit = compare(cases, rounds)
    return Report("hash", (Table(f"digests of {size >> 20} MiB in memory", tuple(rows), Limit(limit.name, limit.seconds)),))


def digest(clock: Clock, name: str, size: int) -> Any:
    content = _content(size)
    with clock:
        hasher = _hasher(name)
        for place in range(0, size, _PIECE):
            hasher.update(content[place : place + _PIECE])
        hasher.hexdigest()
    return size


def digest_pieces(clock: Clock, size: int) -> Any:
    content = _content(size)
    with clock, ThreadPoolExecutor(2) as threads:
        digests = threads.map(lambda place: blake3.blake3(content[place : place + _PIECE]).digest(), range(0, size, _PIECE))
        blake3.blake3(b"".join(digests)).hexdigest()
    return size


def copy(clock: Clock, name: str, size: int) -> Any:
    content, target = _content(size), memoryview(bytearray(size))
    with clock:
        hasher = _hasher(name) if name else None
        for place in range(0, size, _PIECE):
            piece = target[place : place + _PIECE]
            piece[:] = content[place : place + _PIECE]
            if hasher:
                hasher.update(piece)
    return size


def _content(size: int) -> memoryview:
    return memoryview(np.random.default_rng(0).bytes(size))


def _hasher(name: str) -> Any:
    return blake3.blake3() if name == "blake3" else hashlib.new(name)
