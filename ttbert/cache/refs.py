"""Refs: names for manifests.

A ref is written `NAME@REVISION:POLICY` for a model of the hub and `local/NAME:POLICY` for one converted from a
folder. Its entries are numbered files, each created once: the highest number is the present meaning, the others are
its history. So two machines that move a ref at once cannot overwrite each other, and nothing needs a lock.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
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
    numbers = _numbers(store, ref)
    return _read(store, ref, numbers[-1]) if numbers else None


def move_ref(
    store: Store,
    ref: Ref,
    manifest: Digest,
    repo: str,
    commit: str | None,
    before_writing: Callable[[], None] = lambda: None,
) -> RefEntry | None:
    """Make `ref` mean `manifest` from now on; what it meant before. Writes nothing where nothing changes."""
    for _ in range(_TRIES):
        numbers = _numbers(store, ref)
        try:
            before = _read(store, ref, numbers[-1]) if numbers else None
        except IntegrityError:
            before = None  # the next entry supersedes the damaged one
        if before and (before.manifest, before.repo, before.commit) == (manifest, repo, commit):
            return before
        before_writing()
        entry = RefEntry(manifest, repo, commit, datetime.now(timezone.utc).isoformat(timespec="seconds"))
        content = entry.to_bytes()
        RefEntry.parse(content, f"the new entry of {ref}")  # what could not be read back is not published
        # Creating the next number is a compare-and-swap: it fails exactly when somebody else moved the ref meanwhile.
        if store.put(_key(ref, (numbers[-1] if numbers else 0) + 1), content):
            return before
    raise CacheError(f"{ref} could not be moved: others kept moving it, {_TRIES} times", "try again")


def remove_ref(store: Store, ref: Ref) -> bool:
    """Forget `ref` and its history; False if it was not known. What it meant is left to pruning."""
    numbers = _numbers(store, ref)
    for number in numbers:  # the oldest first, so that a reader sees the present meaning to the last
        store.delete(_key(ref, number))
    return bool(numbers)


def list_refs(store: Store) -> Iterator[Ref]:
    """Every ref in the store."""
    last = None
    for entry in store.list("refs"):
        folder, _, name = entry.key.removeprefix("refs/").partition("/")
        if folder != last and _NUMBER.fullmatch(name):
            last = folder
            match = _TEXT.fullmatch(unquote(folder, errors="surrogateescape"))
            if match and match["policy"]:
                yield Ref(match["name"], match["revision"], match["policy"])


def _numbers(store: Store, ref: Ref) -> list[int]:
    names = (entry.key.rpartition("/")[2] for entry in store.list(ref.folder))
    return sorted(int(name) for name in names if _NUMBER.fullmatch(name))


def _key(ref: Ref, number: int) -> str:
    return f"{ref.folder}/{number:08d}"


def _read(store: Store, ref: Ref, number: int) -> RefEntry | None:
    key = _key(ref, number)
    try:
        return RefEntry.parse(store.get(key, 0, LARGEST + 1), f"{store.url}/{key}")
    except KeyError:
        return None  # removed between the listing and now
    except IntegrityError as error:
        raise IntegrityError(
            error.message, f"`ttbert cache rm {ref}` forgets the name; convert the model again to restore it"
        ) from error
