"""What this user has seen of refs, so that no store can show an older state of one unnoticed.

A reader remembers the last entry of each ref that it used, in a folder of the user's, outside of every cache. A history only
ever grows, and each entry holds the digest of the one before it. So what is read next must be what was seen, or go on from
there. An older meaning matters, a lost history alone does not: people delete caches.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from ..errors import IncompatibleError, IntegrityError
from ..files import replace_file
from ..frozen import Frozen
from ..text import count_text
from .digest import Digest, blake3_of
from .document import Fields, canonical
from .refs import LogEntry, Ref, entry_numbers, parse_entry, read_content, read_entry
from .stores.store import Store

SCHEMA = "ttbert.seen/1"
_FARTHEST = 1000
"""New entries that are followed back to the one that was seen."""


class Seen(Frozen):
    """The last entry of a ref that was used here: its number and digest, and the manifest it meant, if any."""

    number: int
    entry: Digest
    manifest: Digest | None


class Doubt(Frozen):
    """What is odd about a history. `rewritten` unless it merely says, as it may, what it said before."""

    what: str
    rewritten: bool


class Memory:
    """The last entry seen of each ref in each store, a small file each; without a folder nothing is remembered."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder

    def recall(self, store: Store, ref: Ref) -> Seen | None:
        """What was seen last; None where that is nothing, or cannot be read."""
        if self._folder is None:
            return None
        path = self._path(self._folder, store, ref)
        try:
            fields = Fields.parse(path.read_bytes(), str(path))
            fields.schema(SCHEMA)
            fields.take("cache", str)
            fields.take("ref", str)
            return Seen(
                number=fields.size("number"),
                entry=fields.blake3("entry"),
                manifest=None if fields.take_null("manifest") else fields.blake3("manifest"),
            )
        except (OSError, IntegrityError, IncompatibleError):
            return None

    def remember(self, store: Store, ref: Ref, entry: LogEntry) -> None:
        """Take an entry as seen. Where the folder cannot be written to, nothing is remembered, which harms no use."""
        manifest = entry.means.manifest if entry.means else None
        if self._folder is None or self.recall(store, ref) == Seen(entry.number, entry.digest, manifest):
            return
        content = canonical(
            {
                "schema": SCHEMA,
                "cache": store.url,
                "ref": ref.quoted,
                "number": entry.number,
                "entry": str(entry.digest),
                "manifest": str(manifest) if manifest else None,
            }
        )
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            replace_file(self._path(self._folder, store, ref), content)

    def _path(self, folder: Path, store: Store, ref: Ref) -> Path:
        return folder / blake3_of(f"{store.url}\n{ref.quoted}".encode("utf-8", "surrogateescape")).hex


class LogLine(Frozen):
    """One entry as `read_log` finds it, with what is wrong with it, if anything; `entry` is None where it cannot be read."""

    number: int
    entry: LogEntry | None
    problem: str | None


def read_log(store: Store, ref: Ref) -> list[LogLine]:
    """A ref's whole history, the oldest entry first."""
    lines: list[LogLine] = []
    before: Digest | None = None
    for number in entry_numbers(store, ref):
        entry, problem = None, None
        try:
            content = read_content(store, ref, number)
            entry = parse_entry(store, ref, number, content)
            problem = None if entry.before == before else "does not follow the entry before it"
            before = entry.digest
        except (IntegrityError, IncompatibleError) as error:
            problem, before = error.message, blake3_of(content)
        except KeyError:
            continue  # deleted between the listing and now
        lines.append(LogLine(number, entry, problem))
    return lines


def doubt(store: Store, ref: Ref, latest: LogEntry, seen: Seen | None) -> Doubt | None:
    """What is odd about a ref whose last entry is `latest` to somebody who has seen `seen`; None if nothing is."""
    means = latest.means.manifest if latest.means else None
    if seen is None or means is None or means == seen.manifest:
        return None
    if latest.number < seen.number:
        entries = count_text(latest.number, "entry", "entries")
        return Doubt(f"its history has {entries}, and had {seen.number} when it was last used here", True)
    if latest.number > seen.number + _FARTHEST:
        return Doubt(f"more than {_FARTHEST:,} entries were added since it was last used here", True)
    entry = latest
    while entry.number > seen.number:
        before = _read(store, ref, entry.number - 1)
        if before is None or before.digest != entry.before:
            return Doubt(f"entry {entry.number - 1} of its history is gone, damaged or another than it was", True)
        entry = before
    if entry.digest != seen.entry:
        return Doubt(f"entry {seen.number} of its history is another than when it was last used here", True)
    return _going_back(store, ref, latest)


def _going_back(store: Store, ref: Ref, latest: LogEntry) -> Doubt | None:
    """Whether a ref means again what it meant before something else; having been removed in between does not count."""
    changed = False
    for number in range(latest.number - 1, max(0, latest.number - _FARTHEST), -1):
        entry = _read(store, ref, number)
        if entry is None:
            return None
        if entry.means is None:
            continue
        same = latest.means is not None and entry.means.manifest == latest.means.manifest
        if changed and same:
            return Doubt(f"it means again what it meant as of entry {number}, of {entry.created[:10]}", False)
        changed = changed or not same
    return None


def _read(store: Store, ref: Ref, number: int) -> LogEntry | None:
    try:
        return read_entry(store, ref, number)
    except (IntegrityError, IncompatibleError):
        return None
