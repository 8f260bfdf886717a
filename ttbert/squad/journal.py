"""The journal of a run: the logits of every finished batch, in one file that only grows.

A run that was interrupted or killed goes on from it: what is in the journal is read instead of computed, so that the
result is the same to the last bit. The file is

    ttbert squad journal 1\\n
    {"identity": ...}\\n              all that decides the logits, in canonical JSON
    record record record ...

A record is its batch number, the length of its payload and the BLAKE3 digest of number and payload (16 bytes of it),
then the payload: the number of rows; example, window and tokens of each; all start logits; all end logits. A record
that was cut off or damaged ends the journal: it and what comes after it are computed again.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import blake3
import numpy as np

from ..cache.document import canonical
from ..errors import FULL, InputError, NoSpaceError, StoreReadOnly, TtbertError
from ..runtime.runtime import Logits

Place = tuple[int, int, int]
"""Example, number of the window in it, tokens."""

_MAGIC = b"ttbert squad journal 1\n"
_HEAD = struct.Struct("<II16s")

_NO_LOCKS = {errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK}
"""What a file system without locks answers."""


@dataclass(frozen=True, eq=False)
class Record:
    """The logits of a batch: for each row its place, its start logits and its end logits, (tokens,) each."""

    number: int
    places: tuple[Place, ...]
    starts: tuple[Logits, ...]
    ends: tuple[Logits, ...]

    def to_bytes(self) -> bytes:
        places = np.array(self.places, "<u4").tobytes()
        payload = struct.pack("<I", len(self.places)) + places + b"".join(each.tobytes() for each in (*self.starts, *self.ends))
        return _HEAD.pack(self.number, len(payload), _digest(self.number, payload)) + payload

    @classmethod
    def parse(cls, number: int, payload: bytes) -> Record:
        """The record of a payload, whose digest is right."""
        (rows,) = struct.unpack_from("<I", payload)
        places = tuple((int(a), int(b), int(c)) for a, b, c in np.frombuffer(payload, "<u4", 3 * rows, 4).reshape(rows, 3))
        cuts = np.cumsum([tokens for _, _, tokens in places] * 2)[:-1]
        logits = np.split(np.frombuffer(payload, "<f4", offset=4 + 12 * rows), cuts)
        return cls(number, places, tuple(logits[:rows]), tuple(logits[rows:]))


class Journal:
    """The journal in a file, locked while it is open. `done` are the records that were in it, by batch number."""

    def __init__(self, path: Path, identity: Mapping[str, object], resume: bool) -> None:
        """Open the journal at `path`, or begin one.

        Without `resume` the journal of a finished run gives way to a new one, and that of an unfinished run is an
        InputError, as is one of another run with `resume`, and one that a process is using.
        """
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise StoreReadOnly(f"{path} cannot be written: {error.strerror}", "choose another folder with --output") from error
        try:
            self._lock()
            self.done: dict[int, Record] = {}
            content = path.read_bytes()
            head = _MAGIC + canonical({"identity": dict(identity)}) + b"\n"
            if resume and content:
                self._go_on(content, head)
            elif content and not _is_finished(path):
                raise InputError(
                    f"an unfinished run is in {path.parent}",
                    "pass --resume to go on with it, or another folder with --output, or remove that one",
                )
            else:
                marker = _finished_marker(path)
                marker.unlink(missing_ok=True)
                os.ftruncate(self._file, 0)
                self._write(head)
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.close(self._file)

    def add(self, record: Record) -> None:
        """Append a record; when this returns, it survives the end of this process, however that comes."""
        self._write(record.to_bytes())

    def finish(self) -> None:
        """Note that nothing is missing any more."""
        with self._told():
            os.fsync(self._file)
            _finished_marker(self._path).touch()

    def _go_on(self, content: bytes, head: bytes) -> None:
        if not content.startswith(_MAGIC) or b"\n" not in content[len(_MAGIC) :]:
            raise InputError(f"{self._path} is not the journal of a run", "choose another folder with --output")
        if not content.startswith(head):
            raise InputError(
                f"the run in {self._path.parent} is another one: {_difference(content, head)}",
                "give the same options and data as when it began, or another folder with --output",
            )
        position = len(head)
        while position + _HEAD.size <= len(content):
            number, size, digest = _HEAD.unpack_from(content, position)
            payload = content[position + _HEAD.size : position + _HEAD.size + size]
            if len(payload) < size or _digest(number, payload) != digest:
                break
            self.done[number] = Record.parse(number, payload)
            position += _HEAD.size + size
        os.ftruncate(self._file, position)
        os.lseek(self._file, position, os.SEEK_SET)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"another process is running in {self._path.parent}", "wait for it, or choose another folder with --output"
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise

    def _write(self, content: bytes) -> None:
        view = memoryview(content)
        with self._told():
            while view:
                view = view[os.write(self._file, view) :]

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            kind = NoSpaceError if error.errno in FULL else TtbertError
            raise kind(f"{self._path} cannot be written: {error.strerror}", "make room, then go on with --resume") from error


def _digest(number: int, payload: bytes) -> bytes:
    return blake3.blake3(struct.pack("<I", number) + payload).digest(16)


def _finished_marker(path: Path) -> Path:
    return path.with_name(path.name + ".finished")


def _is_finished(path: Path) -> bool:
    return _finished_marker(path).exists()


def _difference(content: bytes, head: bytes) -> str:
    """The first thing in which two identities differ."""
    found, wanted = (each[len(_MAGIC) :].split(b"\n", 1)[0] for each in (content, head))
    try:
        name, old, new = "", json.loads(found)["identity"], json.loads(wanted)["identity"]
        while isinstance(old or new, dict):
            old, new = old or {}, new or {}
            name = next(each for each in sorted({*old, *new}) if old.get(each) != new.get(each))
            old, new = old.get(name), new.get(name)
        return f"its {name} is {_text(old)}, not {_text(new)}"
    except (ValueError, LookupError, TypeError, AttributeError, StopIteration):
        return "its options cannot be read"


def _text(value: object) -> str:
    return "unset" if value is None else f"{value!s:.90}"
