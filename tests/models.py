"""Models of a few small blobs, published through the cache's own interface: for tests that need a cache and no BERT."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from ttbert.cache.cache import Cache, Cached, blob_key
from ttbert.cache.digest import blake3_of
from ttbert.cache.manifest import FileEntry, Manifest, PackEntry, Provenance, SourceEntry, TensorEntry
from ttbert.cache.places import Places
from ttbert.cache.refs import Ref

TENSORS = {"embeddings": b"e" * 3000, "layer": b"l" * 2000, "head": b"h" * 1000}
"""The bytes of each pack, which are those of a weight and, the last quarter, of a bias."""
FILES = {"config.json": b'{"hidden_size": 64}', "tokenizer.json": b"{}"}
TINY = Ref("local/tiny", None, "bfp8")
OTHER = Ref("someone/other", "main", "bfp8")
OTHER_TENSORS = {"embeddings": TENSORS["embeddings"], "other": b"o" * 4000}
"""A model that shares one pack, and its files, with the usual one."""
COMMIT = "0123456789abcdef" * 2 + "01234567"

HOUR = 3600.0
DAY = 24 * HOUR


def build(
    cache: Cache, tensors: Mapping[str, bytes] = TENSORS, recipe: bytes = b"recipe", repo: str = "someone/tiny"
) -> Manifest:
    """Publish the blobs of a model; its manifest, not yet published."""
    return Manifest(
        action=blake3_of(recipe),
        architecture="BertModel",
        policy="bfp8",
        packs=tuple(_pack(cache, name, data) for name, data in tensors.items()),
        files=tuple(FileEntry(name, cache.publish_blob(data), len(data)) for name, data in FILES.items()),
        provenance=Provenance(repo, COMMIT, (SourceEntry("model.safetensors", blake3_of(b"w"), 1),), {"ttbert": "0"}),
    )


def _pack(cache: Cache, name: str, content: bytes) -> PackEntry:
    cut = len(content) * 3 // 4
    parts = {f"{name}.weight": content[:cut], f"{name}.bias": content[cut:]}
    return PackEntry(
        name,
        cache.publish_blob(content),
        tuple(
            TensorEntry(part, (32, 32), "bfloat8_b", "tile", (32, 32), "dram_interleaved", blake3_of(data), len(data))
            for part, data in parts.items()
        ),
    )


def publish(
    cache: Cache,
    ref: Ref = TINY,
    tensors: Mapping[str, bytes] = TENSORS,
    recipe: bytes = b"recipe",
    repo: str = "someone/tiny",
) -> Cached:
    """Publish a model as a conversion does: blobs, manifest and action, ref."""
    cached = cache.publish_manifest(build(cache, tensors, recipe, repo))
    cache.move_ref(ref, cached, repo, COMMIT)
    return cached


def publish_other(cache: Cache) -> Cached:
    return publish(cache, OTHER, OTHER_TENSORS, b"other recipe", "someone/other")


def load(cache: Cache, entry: PackEntry | FileEntry) -> bytes:
    """The bytes of a manifest's entry, through the check of each of its digests."""
    if isinstance(entry, FileEntry):
        return cache.load(entry)
    content = b""
    for _, blob in cache.load_pack(entry):
        with blob:
            content += blob.bytes()
    return content


def open_local(root: Path) -> Cache:
    return Places(str(root)).open()


def blob_path(root: Path, content: bytes) -> Path:
    """Where a local cache keeps a blob."""
    return root / blob_key(blake3_of(content))


def age(root: Path, seconds: float = 2 * DAY) -> None:
    """Make everything in a local cache look that much older than it is."""
    for path in root.rglob("*"):
        if path.is_file():
            then = path.stat().st_mtime - seconds
            os.utime(path, (then, then))


def files(root: Path) -> dict[str, bytes]:
    """Every file in a folder by its path in it, temporary ones too."""
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def flip_bit(path: Path, position: int = 0) -> bytes:
    """Damage a file by one bit; what it holds now."""
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
    return bytes(content)
