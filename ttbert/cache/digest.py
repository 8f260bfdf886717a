"""Digests: the names of blobs (BLAKE3) and the identity of source files (SHA-256).

BLAKE3 names everything that ttbert writes, since it is several times as fast; SHA-256 identifies the files of a
checkpoint, since that is what the hub's metadata gives without a download.
"""

from __future__ import annotations

import hashlib
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import blake3

Algorithm = Literal["blake3", "sha256"]

_TEXT = re.compile(r"(blake3|sha256):([0-9a-f]{64})")
_CHUNK = 1 << 20


@dataclass(frozen=True, order=True, slots=True)
class Digest:
    """A digest by name and value, written `blake3:<64 hex digits>`."""

    algorithm: Algorithm
    hex: str

    @classmethod
    def parse(cls, text: object) -> Digest:
        """Read the written form; ValueError for anything else."""
        match = _TEXT.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise ValueError(f"not a digest: {text!r:.100}")
        return cls(sys.intern(match[1]), match[2])  # type: ignore[arg-type]

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"

    @property
    def short(self) -> str:
        """The first twelve digits, enough for people."""
        return self.hex[:12]


def blake3_of(content: bytes | bytearray | memoryview) -> Digest:
    """The BLAKE3 digest of bytes in memory."""
    return Digest("blake3", blake3.blake3(content).hexdigest())


def sha256_of_file(path: Path) -> Digest:
    """The SHA-256 digest of a file, read once in pieces of 1 MiB."""
    hasher = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            hasher.update(chunk)
    return Digest("sha256", hasher.hexdigest())
