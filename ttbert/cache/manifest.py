"""The manifest: everything that one conversion made, and from what.

Tensors lie in packs: one blob holds several of them back to back, in the order in which the manifest lists them, with
nothing before, between or after them. So a tensor's place follows from the sizes before it, and no manifest can make
two tensors overlap. Each tensor has a digest of its own, which is checked when it is loaded; the pack's digest is the
name of the blob, which is checked when the blob is stored, copied or verified.

A model is cached when its manifest is valid and every blob in it is there. The runtime needs nothing else: the
configuration and the tokenizer are blobs beside the packs.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

from ..frozen import Frozen
from .digest import Digest
from .document import Fields, canonical

SCHEMA = "ttbert.manifest/2"

DTYPES = ("bfloat16", "bfloat8_b", "bfloat4_b")
LAYOUTS = ("tile", "row_major")
_Kind = TypeVar("_Kind", bound="Outline")
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}")
_LARGEST_FILE = 256 << 20
"""Bytes that a file beside the packs may have, which is read into memory: the tokenizers of BERTs have 1 to 5 MB."""


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One device tensor: its name in the runtime, its logical shape, how it is stored, and the digest of its bytes."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    layout: str
    tile: tuple[int, int] | None
    memory: str
    digest: Digest
    size: int

    def document(self) -> dict[str, object]:
        return {
            "name": self.name,
            "shape": list(self.shape),
            "dtype": self.dtype,
            "layout": self.layout,
            "tile": list(self.tile) if self.tile else None,
            "memory": self.memory,
            "digest": str(self.digest),
            "size": self.size,
        }


@dataclass(frozen=True, slots=True)
class PackEntry:
    """A blob of one or more tensors, one after another."""

    name: str
    blob: Digest
    tensors: tuple[TensorEntry, ...]

    @property
    def size(self) -> int:
        """Bytes of the blob: those of its tensors."""
        return sum(tensor.size for tensor in self.tensors)

    def document(self) -> dict[str, object]:
        tensors = [{**tensor.document(), "offset": offset} for tensor, offset in self.places()]
        return {"name": self.name, "blob": str(self.blob), "size": self.size, "tensors": tensors}

    def places(self) -> Iterator[tuple[TensorEntry, int]]:
        """Each tensor with its offset in the blob."""
        end = 0
        for tensor in self.tensors:
            yield tensor, end
            end += tensor.size


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file that the runtime needs besides the tensors."""

    name: str
    blob: Digest
    size: int

    def document(self) -> dict[str, object]:
        return {"name": self.name, "blob": str(self.blob), "size": self.size}


@dataclass(frozen=True, slots=True)
class SourceEntry:
    """A file of the checkpoint that was read."""

    name: str
    digest: Digest
    size: int

    def document(self) -> dict[str, object]:
        return {"name": self.name, "digest": str(self.digest), "size": self.size}


class Provenance(Frozen):
    """Where a model came from: the repository or folder, its commit, the files read, and the versions that converted it."""

    repo: str
    commit: str | None
    sources: tuple[SourceEntry, ...]
    versions: Mapping[str, str]

    def document(self) -> dict[str, object]:
        return {
            "repo": self.repo,
            "commit": self.commit,
            "sources": [each.document() for each in self.sources],
            "versions": dict(self.versions),
        }


class Outline(Frozen):
    """What a manifest says of its blobs and of where they came from: all that looking after a cache needs.

    The tensors, nearly all of a manifest, are left unread: a cache of many models is looked over in a third of the time.
    """

    action: Digest
    architecture: str
    policy: str
    packs: Sequence[PackEntry | FileEntry]
    files: tuple[FileEntry, ...]
    provenance: Provenance

    @classmethod
    def parse(cls, content: bytes, where: str) -> Outline:
        """Read the canonical form; IntegrityError, naming `where`, for anything else, as far as it is read."""
        return _parse(Outline, content, where, _outline)

    @property
    def size(self) -> int:
        """Bytes of all packs and files, each blob counted once."""
        return sum(self.blobs.values())

    @cached_property
    def blobs(self) -> Mapping[Digest, int]:
        """Every blob that must be there, each once, with its size."""
        return {each.blob: each.size for each in self.entries()}

    def entries(self) -> Iterator[PackEntry | FileEntry]:
        """Everything that is a blob: packs, then files."""
        yield from self.packs
        yield from self.files

    def file(self, name: str) -> FileEntry | None:
        return next((each for each in self.files if each.name == name), None)


class Manifest(Outline):
    """The result of a conversion. `action` is the digest of the recipe together with the digests of the source files."""

    packs: tuple[PackEntry, ...]

    def to_bytes(self) -> bytes:
        """The canonical form, whose BLAKE3 digest is the manifest's name."""
        return canonical(
            {
                "schema": SCHEMA,
                "action": str(self.action),
                "architecture": self.architecture,
                "policy": self.policy,
                "packs": [each.document() for each in self.packs],
                "files": [each.document() for each in self.files],
                "provenance": self.provenance.document(),
            }
        )

    @classmethod
    def parse(cls, content: bytes, where: str) -> Manifest:
        """Read the canonical form; IntegrityError, naming `where`, for anything else."""
        manifest = _parse(Manifest, content, where, _pack)
        names = [each.name for each in manifest.tensors]
        if len(names) != len(set(names)):
            raise Fields({}, where).wrong("a name appears twice")
        return manifest

    @property
    def tensors(self) -> tuple[TensorEntry, ...]:
        """The tensors of all packs."""
        return tuple(tensor for pack in self.packs for tensor in pack.tensors)


def _parse(kind: Callable[..., _Kind], content: bytes, where: str, pack: Callable[[Fields], PackEntry | FileEntry]) -> _Kind:
    fields = Fields.parse(content, where)
    fields.schema(SCHEMA)
    outline = kind(
        action=fields.blake3("action"),
        architecture=fields.take("architecture", str),
        policy=fields.take("policy", str),
        packs=tuple(pack(each) for each in fields.objects("packs")),
        files=tuple(_file(each) for each in fields.objects("files")),
        provenance=_provenance(fields.object("provenance")),
    )
    fields.done()
    entries = list(outline.entries())
    if len({each.name for each in entries}) < len(entries):
        raise fields.wrong("a name appears twice")
    sizes = outline.blobs
    if any(each.size != sizes[each.blob] for each in entries):
        raise fields.wrong("a blob has two sizes")
    for file in outline.files:
        if file.size > _LARGEST_FILE:
            raise fields.wrong(f"{file.name} has {file.size:,} bytes, which is no file that goes beside tensors")
    return outline


def _outline(fields: Fields) -> FileEntry:
    """A pack's place among the blobs, whatever its tensors are."""
    fields.take("tensors", list)
    return _file(fields)


def _pack(fields: Fields) -> PackEntry:
    tensors: list[TensorEntry] = []
    end = 0
    for each in fields.objects("tensors"):
        if each.size("offset") != end:
            raise each.wrong(f"'offset' is not {end}, where the tensor before it ends")
        tensors.append(_tensor(each))
        end += tensors[-1].size
    if not tensors or fields.size("size") != end:
        raise fields.wrong(f"'size' is not the {end} bytes of its tensors")
    pack = PackEntry(_name(fields), fields.blake3("blob"), tuple(tensors))
    fields.done()
    return pack


def _tensor(fields: Fields) -> TensorEntry:
    entry = TensorEntry(
        name=_name(fields),
        shape=_integers(fields, fields.take("shape", list), "shape"),
        dtype=_one_of(fields, "dtype", DTYPES),
        layout=_one_of(fields, "layout", LAYOUTS),
        tile=_tile(fields),
        memory=fields.take("memory", str),
        digest=fields.blake3("digest"),
        size=fields.size("size"),
    )
    fields.done()
    return entry


def _file(fields: Fields) -> FileEntry:
    entry = FileEntry(_name(fields), fields.blake3("blob"), fields.size("size"))
    fields.done()
    return entry


def _provenance(fields: Fields) -> Provenance:
    provenance = Provenance(
        repo=fields.take("repo", str),
        commit=fields.maybe("commit", str),
        sources=tuple(_source(each) for each in fields.objects("sources")),
        versions=fields.strings("versions"),
    )
    fields.done()
    return provenance


def _source(fields: Fields) -> SourceEntry:
    entry = SourceEntry(fields.take("name", str), fields.digest("digest"), fields.size("size"))
    fields.done()
    return entry


def _name(fields: Fields) -> str:
    name = fields.take("name", str)
    if not _NAME.fullmatch(name):
        raise fields.wrong(f"{name!r:.60} is not a plain name")
    return sys.intern(name)  # thousands of models have the same few


def _one_of(fields: Fields, name: str, allowed: tuple[str, ...]) -> str:
    value = fields.take(name, str)
    if value not in allowed:
        raise fields.wrong(f"{name} {value!r:.60} is none of {', '.join(allowed)}")
    return value


def _tile(fields: Fields) -> tuple[int, int] | None:
    value = fields.maybe("tile", list)
    if value is None:
        return None
    height, *width = _integers(fields, value, "tile")
    if len(width) != 1:
        raise fields.wrong("a tile has a height and a width")
    return height, width[0]


def _integers(fields: Fields, value: list[object], name: str) -> tuple[int, ...]:
    numbers = tuple(each for each in value if type(each) is int and 0 < each < 1 << 31)
    if not 0 < len(value) <= 8 or len(numbers) != len(value):
        raise fields.wrong(f"{name!r} is not a short list of positive numbers")
    return numbers
