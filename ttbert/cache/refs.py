"""Refs: names for manifests.

A ref is written `NAME@REVISION:POLICY` for a model of the hub and `local/NAME:POLICY` for one converted from a
folder. Its entries are numbered files, each created once: the highest number is the present meaning, the others are
its history. So two machines that move a ref at once cannot overwrite each other, and nothing needs a lock.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from urllib.parse import quote, unquote

from ..errors import CacheError, InputError, IntegrityError
from .digest import Digest
from .document import LARGEST, Fields, canonical
from .store import Store

SCHEMA = "ttbert.ref/1"
_TEXT = re.compile(r"(?P<name>[^@:\s]+)(?:@(?P<revision>[^:\s]+))?(?::(?P<policy>[a-z0-9_]+))?")
_NUMBER = re.compile(r"[0-9]{8}|[1-9][0-9]{8,}")
_TRIES = 100


@dataclass(frozen=True, order=True)
class Ref:
    """A name, the revision it was asked for (None for a folder) and the precision policy."""

    name: str
    revision: str | None
    policy: str

    def __str__(self) -> str:
        return f"{self.name}{f'@{self.revision}' if self.revision else ''}:{self.policy}"

    @property
    def folder(self) -> str:
        """The folder of its entries in a store."""
        text = str(self)
        if parse_ref(text) != (self.name, self.revision, self.policy) or text.startswith("."):
            raise InputError(f"{text!r:.60} cannot be a ref", "give the model a plain name with --name")
        folder = quote(text, safe="@:", errors="surrogateescape")
        if len(folder) > 250:
            raise InputError(f"the name {text[:60]!r}... is too long for a ref", "give a shorter one with --name")
        return f"refs/{folder}"


@dataclass(frozen=True)
class RefEntry:
    """What a ref meant from one moment on: the manifest, and the repository and commit it was asked for."""

    manifest: Digest
    repo: str
    commit: str | None
    created: str

    def to_bytes(self) -> bytes:
        return canonical(
            {
                "schema": SCHEMA,
                "manifest": str(self.manifest),
                "repo": self.repo,
                "commit": self.commit,
                "created": self.created,
            }
        )

    @classmethod
    def parse(cls, content: bytes, where: str) -> RefEntry:
        fields = Fields.parse(content, where)
        fields.schema(SCHEMA)
        entry = cls(
            manifest=fields.blake3("manifest"),
            repo=fields.take("repo", str),
            commit=fields.maybe("commit", str),
            created=fields.take("created", str),
        )
        fields.done()
        return entry


def parse_ref(text: str) -> tuple[str, str | None, str | None]:
    """The name, revision and policy in `NAME[@REVISION][:POLICY]`; InputError for anything else."""
    match = _TEXT.fullmatch(text)
    if match is None:
        raise InputError(f"{text!r} is not a ref", "write NAME, NAME@REVISION or NAME@REVISION:POLICY; see `ttbert cache ls`")
    return match["name"], match["revision"], match["policy"]


def read_ref(store: Store, ref: Ref) -> RefEntry | None:
    """What `ref` means now, or None where it is not known."""
    numbers = _numbers(store, ref.folder)
    return _read(store, ref, numbers[-1]) if numbers else None


def move_ref(store: Store, ref: Ref, manifest: Digest, repo: str, commit: str | None) -> RefEntry | None:
    """Make `ref` mean `manifest` from now on; what it meant before. Writes nothing where nothing changes."""
    for _ in range(_TRIES):
        numbers = _numbers(store, ref.folder)
        try:
            before = _read(store, ref, numbers[-1]) if numbers else None
        except IntegrityError:
            before = None  # the next entry supersedes the damaged one
        if before and (before.manifest, before.repo, before.commit) == (manifest, repo, commit):
            return before
        entry = RefEntry(manifest, repo, commit, datetime.now(timezone.utc).isoformat(timespec="seconds"))
        content = entry.to_bytes()
        RefEntry.parse(content, f"the new entry of {ref}")  # what could not be read back is not published
        # Creating the next number is a compare-and-swap: it fails exactly when somebody else moved the ref meanwhile.
        if store.put(entry_key(ref.folder, (numbers[-1] if numbers else 0) + 1), content):
            return before
    raise CacheError(f"{ref} could not be moved: others kept moving it, {_TRIES} times", "try again")


def read_history(store: Store, ref: Ref) -> Iterator[RefEntry]:
    """What `ref` meant, the present meaning first; entries that cannot be read are left out."""
    for number in reversed(_numbers(store, ref.folder)):
        with contextlib.suppress(IntegrityError):
            entry = _read(store, ref, number)
            if entry:
                yield entry


def remove_ref(store: Store, ref: Ref) -> bool:
    """Forget `ref` and its history; False if it was not known. What it meant is left to pruning."""
    numbers = _numbers(store, ref.folder)
    if numbers:
        remove_entries(store, ref.folder, numbers[-1])
    return bool(numbers)


def remove_entries(store: Store, folder: str, last: int) -> None:
    """Remove the entries of a ref up to number `last`, the oldest first, so that a reader sees the present meaning longest."""
    for number in _numbers(store, folder):
        if number <= last:
            store.delete(entry_key(folder, number))


def list_refs(store: Store) -> Iterator[Ref]:
    """Every ref in the store."""
    last = None
    for entry in store.list("refs"):
        folder, _, name = entry.key.removeprefix("refs/").partition("/")
        if folder != last and is_number(name):
            last = folder
            match = _TEXT.fullmatch(unquote(folder, errors="surrogateescape"))
            if match and match["policy"]:
                yield Ref(match["name"], match["revision"], match["policy"])


def entry_key(folder: str, number: int) -> str:
    """The key of the entry with that number of the ref in that folder."""
    return f"{folder}/{number:08d}"


def is_number(name: str) -> bool:
    """Whether this is the name of a ref's entry."""
    return _NUMBER.fullmatch(name) is not None


def _numbers(store: Store, folder: str) -> list[int]:
    names = (entry.key.rpartition("/")[2] for entry in store.list(folder))
    return sorted(int(name) for name in names if is_number(name))


def _read(store: Store, ref: Ref, number: int) -> RefEntry | None:
    key = entry_key(ref.folder, number)
    try:
        return RefEntry.parse(store.get(key, 0, LARGEST + 1), f"{store.url}/{key}")
    except KeyError:
        return None  # removed between the listing and now
    except IntegrityError as error:
        raise IntegrityError(
            error.message, f"`ttbert cache rm {ref}` forgets the name; convert the model again to restore it"
        ) from error
