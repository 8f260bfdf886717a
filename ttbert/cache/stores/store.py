"""The contract of a store: named, immutable objects that appear whole or not at all.

A store knows nothing of models, manifests or digests; `Cache` builds those on it. What lies in one:

    blobs/3f/3f9a…        a pack of tensors, or a file, named by the BLAKE3 digest of its bytes
    manifests/b0/b07c…    what one conversion made, named likewise
    actions/77/77e1…      action key -> manifest: "this recipe over these source files is done"
    refs/NAME/00000001    a name's history, one small entry a change; the highest number is what it means now
    signatures/KIND/…     who vouches for a manifest or for an entry of a ref
    leases/WORK/…         who is at work on what, or has found that it cannot be done
    used/MANIFEST/DAY     a model was loaded on that day
    gc/RECORD/…           what is to be deleted, and who objects
    probes/…              somebody is finding out what the store keeps of its promises
    quarantine/…          damaged objects, kept for inspection

Nothing is ever overwritten. `put` is put-if-absent, so the first writer wins, every later one finds the same bytes, and
no lock is needed.
"""

from __future__ import annotations

import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, TypeVar

from ...errors import StoreUnavailable
from ...frozen import Frozen
from ...threads import map_ahead

if TYPE_CHECKING:
    from .access import Access

_KEY = re.compile(r"(?:[A-Za-z0-9_%@:+=~,-][A-Za-z0-9._%@:+=~,-]*/)*[A-Za-z0-9_%@:+=~,-][A-Za-z0-9._%@:+=~,-]*")
_TEMPORARY = re.compile(r"\.tmp-[0-9a-f]{32}")
_READINGS = 10
_TOLD = 200
"""Characters of a key that its name in quarantine has: a part of a key may have 255."""
_LOOKS = 32
"""Questions to a store at a time. Each is mostly waiting for the network, and a BERT-large has 53 blobs."""
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Entry:
    """An object in a store: its size in bytes and when it was published, in seconds since the epoch."""

    key: str
    size: int
    modified: float


class Capabilities(Frozen):
    """What a store promises beyond reading back what was written."""

    creates_atomically: bool
    """Of several writers of one key exactly one succeeds, and no reader sees a part of the object."""
    survives_crash: bool
    """What `put` returned for is still there after a power cut."""
    seen_within: float = 0.0
    """Seconds after which a listing on any machine shows what another one has published, or deleted."""
    done_within: float = 60.0
    """Seconds after which a deletion that was begun is done, or never will be."""


class Store(ABC):
    """Named immutable objects; a key is one or more plain names joined by `/`, none of which begins with a dot."""

    url: str
    capabilities: Capabilities
    access: Access | None = None
    """How it is reached, where that takes an endpoint and credentials."""
    streams: int = 4
    """Objects that are best read at a time."""

    def creates_exactly_once(self) -> bool:
        """Whether of several writers of one key exactly one succeeds: as declared, or tried out where that is possible."""
        return self.capabilities.creates_atomically

    @abstractmethod
    def put(self, key: str, content: bytes | memoryview) -> bool:
        """Publish `content` under `key` unless the key is taken; True if this call published it.

        Afterwards the object is there, whole, whoever wrote it. Raises StoreReadOnly, NoSpaceError or
        StoreUnavailable, and then nothing of this call is visible.
        """

    @abstractmethod
    def open(self, key: str) -> BinaryIO:
        """A stream over the whole object; KeyError if there is none. The caller closes it.

        The stream raises OSError where the disk does not give what is on it, and StoreUnavailable where what is between here
        and the store does not bring it.
        """

    @abstractmethod
    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """The object's bytes from `start`, `length` of them or all that follow; KeyError if there is none."""

    @abstractmethod
    def head(self, key: str) -> Entry | None:
        """The object's size and age, or None; always asked of the store itself."""

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """What a function that asks the store gives for each, in their order; of a store in a network, several at once."""
        return map_ahead(_LOOKS, function, items)

    @abstractmethod
    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Every published object below the folder `prefix`, in the order of the keys; no file that is not a key."""

    @abstractmethod
    def delete(self, key: str) -> bool:
        """Remove an object; False if there was none."""

    @abstractmethod
    def quarantine(self, key: str) -> str:
        """Move a damaged object out of the way, keeping its bytes; the key it has now. KeyError if there is none."""

    @abstractmethod
    def touch(self, key: str) -> None:
        """Restart the object's age, so that pruning leaves it alone; does nothing where that is not possible."""

    def free(self) -> int | None:
        """Bytes that this user can still store there, as the system says; None where nobody can say."""
        return None

    def endpoint(self) -> tuple[str, int] | None:
        """The host and port at which it is reached; None where there is none, or nobody can say."""
        return None

    def debris(self) -> Iterator[Entry]:
        """What killed writers left behind: never visible as an object, only as used space. Of servers, that is their own."""
        return iter(())

    def remove_debris(self, entry: Entry) -> bool:
        """Remove what `debris` gave; False if it is gone already, or was written to since. ValueError for anything else."""
        raise ValueError(f"not a temporary file: {entry.key!r:.100}")


def is_key(text: str) -> bool:
    """Whether this can name an object: it leads nowhere else, and is no temporary file's name."""
    if len(text) > 700 or not _KEY.fullmatch(text):
        return False
    return len(text) <= 255 or all(len(part) <= 255 for part in text.split("/"))


def quarantine_key(key: str) -> str:
    """A new key in quarantine for a damaged object: with the end of its own key, all of which might be too long."""
    return f"quarantine/{key.replace('/', '_')[-_TOLD:].lstrip('.')}@{time.time_ns()}"


def is_temporary(key: str) -> bool:
    """Whether a file is one that a store makes on the way to publishing; its folder must be one that keys can lead to."""
    folder, slash, name = key.rpartition("/")
    return _TEMPORARY.fullmatch(name) is not None and (not slash or is_key(folder))


def read_twice(store: Store, key: str, length: int) -> bytes:
    """The first `length` bytes of an object when two readings agree; KeyError if there is none.

    For what no digest protects, before something is done by it that stays: bytes may be damaged on their way here, differently
    each time. StoreUnavailable where no two readings agree.
    """
    before = store.get(key, 0, length)
    for _ in range(_READINGS):
        again = store.get(key, 0, length)
        if again == before:
            return again
        before = again
    raise StoreUnavailable(
        f"{store.url}/{key}: other bytes come each time it is read", "look at the network and the memory here"
    )


def check_key(key: str) -> str:
    """The key itself; ValueError where it is none."""
    if not is_key(key):
        raise ValueError(f"not a key: {key!r:.100}")
    return key
