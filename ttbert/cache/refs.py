"""Refs: names for manifests.

A ref is written `NAME@REVISION:POLICY` for a model of the hub and `local/NAME:POLICY` for one converted from a
folder. Its entries are numbered files, each created once: the highest number is the present meaning, the others are
its history. So two machines that move a ref at once cannot overwrite each other, and nothing needs a lock.

Each entry holds the digest of the one before it, so the last vouches for all of them. Removing a ref is an entry, too:
a history only ever grows, and one that is shorter than it was has been tampered with.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import datetime, timezone
from functools import lru_cache
from urllib.parse import quote, unquote

from ..errors import CacheError, IncompatibleError, InputError, IntegrityError
from ..frozen import Frozen
from .digest import Digest, blake3_of
from .document import Fields, canonical
from .stores.store import Store, read_twice

SCHEMA = "ttbert.ref/2"
_STEERING = r"\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff"
"""What would steer the terminal that a name is printed on, or cannot be printed: no name holds any of it."""

_TEXT = re.compile(rf"(?P<name>[^@:\s{_STEERING}]+)(?:@(?P<revision>[^:\s{_STEERING}]+))?(?::(?P<policy>[a-z0-9_]+))?")
_NUMBER = re.compile(r"[0-9]{8}|[1-9][0-9]{8,11}")
"""An entry's number as its key has it: with more digits than any history gets, it would be the last for ever."""
LARGEST_ENTRY = 64 << 10
"""Bytes that an entry may have."""
_TRIES = 100


class Ref(Frozen):
    """A name, the revision it was asked for (None for a folder) and the precision policy."""

    name: str
    revision: str | None
    policy: str

    def __str__(self) -> str:
        return f"{self.name}{f'@{self.revision}' if self.revision else ''}:{self.policy}"

    @property
    def folder(self) -> str:
        """The folder of its entries in a store."""
        return f"refs/{self.quoted}"

    @property
    def quoted(self) -> str:
        """The name as a plain file name; InputError for one that cannot be any."""
        text = str(self)
        if parse_ref(text) != (self.name, self.revision, self.policy) or text.startswith("."):
            raise InputError(f"{text!r:.60} cannot be a ref", "give the model a plain name: `ttbert convert MODEL --name NAME`")
        quoted = quote(text, safe="@:")
        if len(quoted) > 250:
            raise InputError(
                f"the name {text[:60]!r}... is too long for a ref", "give it a shorter one: `ttbert convert MODEL --name NAME`"
            )
        return quoted

    def check(self) -> None:
        """InputError for a name under which nothing can be filed."""
        _ = self.quoted


class RefEntry(Frozen):
    """What a ref means: the manifest, and the repository and commit it was asked for."""

    manifest: Digest
    repo: str
    commit: str | None
    created: str


class LogEntry(Frozen):
    """One change of a ref: from then on it means `means`, or nothing where that is None, since it was removed.

    `ref` is the name of its folder; `before` is the digest of the entry before it, None in the first.
    """

    ref: str
    number: int
    before: Digest | None
    means: RefEntry | None
    created: str

    def to_bytes(self) -> bytes:
        means = self.means and {
            "manifest": str(self.means.manifest),
            "repo": self.means.repo,
            "commit": self.means.commit,
        }
        return canonical(
            {
                "schema": SCHEMA,
                "ref": self.ref,
                "number": self.number,
                "before": str(self.before) if self.before else None,
                "means": means,
                "created": self.created,
            }
        )

    @property
    def digest(self) -> Digest:
        return blake3_of(self.to_bytes())

    @classmethod
    def parse(cls, content: bytes, where: str) -> LogEntry:
        """Read the canonical form; IntegrityError, naming `where`, for anything else."""
        fields = Fields.parse(content, where)
        fields.schema(SCHEMA)
        created = _time(fields)
        entry = cls(
            ref=fields.take("ref", str),
            number=fields.size("number"),
            before=None if fields.take_null("before") else fields.blake3("before"),
            means=None if fields.take_null("means") else _meaning(fields.object("means"), created),
            created=created,
        )
        fields.done()
        if entry.number < 1 or (entry.number == 1) != (entry.before is None):
            raise fields.wrong("every entry but the first names the one before it")
        return entry


def parse_ref(text: str) -> tuple[str, str | None, str | None]:
    """The name, revision and policy in `NAME[@REVISION][:POLICY]`; InputError for anything else."""
    match = _TEXT.fullmatch(text)
    if match is None:
        raise InputError(f"{text!r} is not a ref", "write NAME, NAME@REVISION or NAME@REVISION:POLICY; see `ttbert cache ls`")
    return match["name"], match["revision"], match["policy"]


def match_refs(refs: Iterable[Ref], text: str) -> list[Ref]:
    """The refs that `NAME[@REVISION][:POLICY]` may mean; a name may be shortened to what follows a `/` in it."""
    name, revision, policy = parse_ref(text)
    alike = [ref for ref in refs if revision in (None, ref.revision) and policy in (None, ref.policy)]
    return [ref for ref in alike if ref.name == name] or [ref for ref in alike if ref.name.endswith(f"/{name}")]


def find_ref(refs: Iterable[Ref], text: str) -> Ref:
    """The one ref that a text means; InputError where it means none or several."""
    found = match_refs(refs, text)
    if not found:
        raise InputError(f"no model in the cache is or was called {text!r}", "see `ttbert cache ls`")
    if len(found) > 1:
        raise InputError(f"{text!r} could be {', '.join(map(str, found))}", "write the whole name")
    return found[0]


def read_ref(store: Store, ref: Ref) -> RefEntry | None:
    """What `ref` means now, or None where it is not known."""
    latest = read_latest(store, ref)
    return latest.means if latest else None


def read_latest(store: Store, ref: Ref) -> LogEntry | None:
    """The entry that counts, which is the one with the highest number; None where there is none."""
    numbers = entry_numbers(store, ref)
    return read_entry(store, ref, numbers[-1]) if numbers else None


def entry_numbers(store: Store, ref: Ref) -> list[int]:
    """The numbers of a ref's entries, in order."""
    names = (entry.key.rpartition("/")[2] for entry in store.list(ref.folder))
    return sorted(int(name) for name in names if _NUMBER.fullmatch(name))


def read_entry(store: Store, ref: Ref, number: int) -> LogEntry | None:
    """One entry of a ref's history; None where there is none.

    IntegrityError where it is damaged or of another place, IncompatibleError for one of another version of ttbert.
    """
    try:
        return parse_entry(store, ref, number, read_content(store, ref, number))
    except KeyError:
        return None


def read_content(store: Store, ref: Ref, number: int) -> bytes:
    """The bytes of an entry, which may be damaged; KeyError where there is none."""
    return store.get(entry_key(ref, number), 0, LARGEST_ENTRY + 1)


def parse_entry(store: Store, ref: Ref, number: int, content: bytes) -> LogEntry:
    """The entry in these bytes; errors as of `read_entry`."""
    where = f"{store.url}/{entry_key(ref, number)}"
    try:
        entry = LogEntry.parse(content, where)
        if (entry.ref, entry.number) != (ref.quoted, number):
            raise IntegrityError(f"{where}: it is entry {entry.number} of {entry.ref}")
        return entry
    except IntegrityError as error:
        raise IntegrityError(
            error.message, f"`ttbert cache rm {ref}` forgets the name; convert the model again to restore it"
        ) from error


def move_ref(
    store: Store,
    ref: Ref,
    means: RefEntry | None,
    sign: Callable[[Digest], None] = lambda digest: None,
    accept: Callable[[LogEntry], bool] = lambda latest: True,
    after: int | None = None,
) -> LogEntry | None:
    """Make `ref` mean something, or nothing, from now on; the entry that counts then, None for a ref never known.

    With `after`, nothing is done, and None given, unless that is the number of its last entry.

    Where the last entry says so already, and `accept` takes it, nothing is written. `sign` is called with the digest of a
    new entry before it is published: so nobody meets one of ours without its signature.
    """
    taken = 0  # the number that somebody else was faster to create, whether a listing that is behind shows it or not
    for attempt in range(_TRIES):
        last = max([*entry_numbers(store, ref), taken], default=0)
        if after is not None and last != after:
            return None
        latest, before, number = None, None, last + 1
        if not _NUMBER.fullmatch(f"{number:08d}"):
            raise CacheError(
                f"{ref} cannot be moved: after {store.url}/{entry_key(ref, last)} there is no number for another entry",
                "look who put that there, and remove it",
            )
        if last:
            try:
                content = read_twice(store, entry_key(ref, last), LARGEST_ENTRY + 1)  # its digest goes into the next entry
            except KeyError:  # deleted between the look and now, or not seen yet
                taken = 0
                time.sleep(min(1.0, 0.01 * 2**attempt))
                continue
            before = blake3_of(content)
            with contextlib.suppress(IntegrityError, IncompatibleError):  # the next entry supersedes it
                latest = parse_entry(store, ref, last, content)
        elif means is None:
            return None
        if latest and accept(latest) and _undated(latest.means) == _undated(means):
            return latest
        created = datetime.now(timezone.utc).isoformat(timespec="seconds")
        entry = LogEntry(ref.quoted, number, before, means and replace(means, created=created), created)
        sign(entry.digest)
        # Creating the next number is a compare-and-swap: it fails exactly when somebody else moved the ref meanwhile.
        if store.put(entry_key(ref, number), entry.to_bytes()):
            return entry
        taken = number
    raise CacheError(f"{ref} could not be moved: others kept moving it, {_TRIES} times", "try again")


def read_meanings(store: Store, ref: Ref) -> Iterator[RefEntry]:
    """What `ref` meant, the present meaning first; entries that cannot be read are left out."""
    for number in reversed(entry_numbers(store, ref)):
        with contextlib.suppress(IntegrityError, IncompatibleError):
            entry = read_entry(store, ref, number)
            if entry and entry.means:
                yield entry.means


def list_refs(store: Store) -> Iterator[Ref]:
    """Every ref that has a history in the store, those that were removed among them."""
    last = None
    for entry in store.list("refs"):
        found = parse_key(entry.key)
        if found and found[0] != last:
            last = found[0]
            yield last


def parse_key(key: str) -> tuple[Ref, int] | None:
    """The ref, and the number of the entry of its history, that lies there; None for everything else."""
    folder, _, name = key.removeprefix("refs/").partition("/")
    ref = _ref_of(folder) if key.startswith("refs/") and _NUMBER.fullmatch(name) else None
    return (ref, int(name)) if ref else None


@lru_cache(maxsize=1)  # the entries of one history follow one another
def _ref_of(quoted: str) -> Ref | None:
    """The ref whose entries lie in a folder of that name; None for what is no ref's."""
    match = _TEXT.fullmatch(unquote(quoted))
    if match is None or match["policy"] is None:
        return None
    ref = Ref(match["name"], match["revision"], match["policy"])
    with contextlib.suppress(InputError):
        return ref if ref.quoted == quoted else None
    return None


def entry_key(ref: Ref, number: int) -> str:
    """Where an entry of a ref's history lies."""
    return key_in(ref.folder, number)


def key_in(folder: str, number: int) -> str:
    """Where an entry of the history in a ref's folder lies."""
    return f"{folder}/{number:08d}"


def _time(fields: Fields) -> str:
    """The field `created`: a second in UTC, as `move_ref` writes it."""
    text = fields.take("created", str)
    with contextlib.suppress(ValueError):
        if text.endswith("+00:00") and datetime.fromisoformat(text).isoformat(timespec="seconds") == text:
            return text
    raise fields.wrong(f"'created' is {text!r:.60}, not a date and time in UTC")


def _meaning(fields: Fields, created: str) -> RefEntry:
    entry = RefEntry(fields.blake3("manifest"), fields.take("repo", str), fields.maybe("commit", str), created)
    fields.done()
    return entry


def _undated(means: RefEntry | None) -> RefEntry | None:
    return means and replace(means, created="")
