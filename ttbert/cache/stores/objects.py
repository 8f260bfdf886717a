"""A store in a bucket of an object store: S3 and what speaks its protocol, GCS, Azure.

Objects are published by one conditional PUT each (`If-None-Match: *`, or its like), which has one winner and shows
nothing before the whole object is there; never in several parts, since some servers forget the condition then. A write
whose answer is lost may have been done all the same: the store is asked what it holds, and if those are the bytes that
were to be written, they are published. Listings and sizes are never remembered.

Not every server keeps the condition. `creates_exactly_once` finds out by writing.
"""

from __future__ import annotations

import contextlib
import logging
import math
import random
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar, cast
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError, UnauthenticatedError

from ...errors import StoreReadOnly, StoreUnavailable, TtbertError
from ...threads import Threads, check_wanted
from .access import PATIENCE, Access, Connector, Patience
from .pieces import PieceStream
from .store import Capabilities, Entry, Store, check_key, is_key, quarantine_key

if TYPE_CHECKING:
    from obstore.store import ObjectStore as Client

_log = logging.getLogger(__name__)

TRIES = 6
CONNECTS = 3
"""Attempts to reach a host when nothing comes back at all: it is gone, or something on the way swallows what is sent to it."""
_DELETING = 20.0
"""Seconds after which no request of a deletion is sent any more, answered or not. It can be begun again at any time."""
_DONE_WITHIN = _DELETING + PATIENCE.connect + 25.0
"""The last request of a deletion may still wait for its connection, and then the server has so long to carry it out."""
_FIRST_PAUSE = 0.1
_PIECE = 1 << 16
"""Bytes of a piece at least: fewer are joined, which costs a copy of them, since each piece costs a call."""
_SMALL = 1 << 20
_SLOWEST = 250_000
"""Bytes a second of an upload that is still waited for."""
_PROBES, _WRITERS = 3, 8

_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"(?:<Code>|\(code: )(\w+)")
_MESSAGE = re.compile(r"<Message>([^<]+)</Message>")
_UNCONNECTED = re.compile(r"\b(ConnectError\(|Error\(\s*Connect,)")
"""Two clocks run while a connection is made. The outer one, which wins on a busy machine, says less."""
_CAUSE = re.compile(r'message: "([^"]+)"')
_NO_ANSWER = "no answer in time"
_IN_FLIGHT = ("ConditionalRequestConflict", "OperationAborted")
"""Codes of S3 for a create-only write that met another one that is not done: neither has won yet."""
_DAMAGED = ("XAmzContentSHA256Mismatch", "BadDigest")
"""Codes of S3 for a write of which other bytes arrived than were sent; nothing was written."""

T = TypeVar("T")


class ObjectStore(Store):
    """Objects below a prefix of a bucket."""

    capabilities = Capabilities(creates_atomically=True, survives_crash=True, done_within=_DONE_WITHIN)
    access: Access

    def __init__(
        self,
        url: str,
        patience: Patience = PATIENCE,
        on_retry: Callable[[], None] = lambda: None,
    ) -> None:
        """Nothing is sent yet."""
        self._connector = connector = Connector(url)
        self.url = url.rstrip("/")
        self.access = connector.access
        self._client = connector.open(patience)
        self._patience, self._on_retry = patience, on_retry
        self._lock = threading.Lock()
        self._exact: bool | None = None

    def put(self, key: str, content: bytes | memoryview) -> bool:
        check_key(key)
        client = self._client if len(content) <= _SMALL else self._patient_client(len(content))
        may_be_done = False
        for attempt in range(1, TRIES + 1):
            try:
                obstore.put(client, key, content, mode="create", use_multipart=False)
                return True
            except (BaseError, FileNotFoundError) as error:
                if isinstance(error, AlreadyExistsError) and _code(error) not in _IN_FLIGHT:
                    return may_be_done and self._holds(key, content)
                may_be_done |= not _is_unsent(error)
                if attempt >= _tries(error):
                    if _is_transient(error) and may_be_done and self._holds(key, content):
                        return True
                    raise self._explain(error, writing=True) from error
                self._pause(attempt, error)
        raise AssertionError

    def creates_exactly_once(self) -> bool:
        """Whether of several create-only writes of one key exactly one succeeds here: tried out once, with small objects.

        Writers race, since there are servers that refuse a second write that comes later, and lose a race.
        """
        with self._lock:
            if self._exact is None:
                self._exact = all(self.map(self._race, [f"probes/{uuid.uuid4().hex}" for _ in range(_PROBES)]))
            return self._exact

    def open(self, key: str) -> BinaryIO:
        check_key(key)
        found = self._try(key, lambda: obstore.get(self._client, key))
        return cast(BinaryIO, _ObjectStream(found, f"{self.url}/{key}", partial(self._go_on, key)))

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        check_key(key)
        if length == 0:
            return self._nothing(key)
        span: Any = {"offset": start} if length is None else (start, start + length)
        options: Any = {"range": span} if start or length is not None else {}
        try:
            return self._try(key, lambda: obstore.get(self._client, key, options=options).buffer().to_bytes())
        except _OutOfRange:
            return self._nothing(key)

    def head(self, key: str) -> Entry | None:
        check_key(key)
        try:
            return replace(_entry(self._head(key)), key=key)  # before obstore 0.12, the prefix is in its path
        except KeyError:
            return None

    def list(self, prefix: str = "") -> Iterator[Entry]:
        if prefix:
            check_key(prefix)
        found = self._try(prefix, lambda: [each for page in obstore.list(self._client, prefix or None) for each in page])
        return iter(sorted((_entry(each) for each in found if is_key(each["path"])), key=lambda entry: entry.key))

    def delete(self, key: str) -> bool:
        check_key(key)
        until = time.monotonic() + _DELETING
        try:
            self._head(key, until)
            self._try(key, lambda: obstore.delete(self._client, key), writing=True, until=until)
        except KeyError:
            return False
        return True

    def quarantine(self, key: str) -> str:
        check_key(key)
        moved = quarantine_key(key)
        self._try(key, lambda: obstore.copy(self._client, key, moved, overwrite=True), writing=True)
        self.delete(key)
        return moved

    def touch(self, key: str) -> None:
        """The age of an object cannot be restarted without writing it again."""

    def endpoint(self) -> tuple[str, int] | None:
        access = self.access
        hosts = {"S3": f"s3.{access.region}.amazonaws.com", "GCS": "storage.googleapis.com"}
        url = urlsplit(access.endpoint or f"https://{hosts.get(access.kind, '')}")
        return (url.hostname, url.port or (80 if url.scheme == "http" else 443)) if url.hostname else None

    def _patient_client(self, size: int) -> Client:
        """A client for an upload: until all of it is sent, no answer comes, and that is not silence."""
        seconds = 2 * self._patience.silence + size / _SLOWEST
        return self._connector.open(replace(self._patience, silence=seconds, total=seconds))

    def _race(self, key: str) -> bool:
        with Threads(_WRITERS) as writers:
            won = list(writers.map(lambda number: self.put(key, b"%d" % number), range(_WRITERS)))
        with contextlib.suppress(StoreReadOnly):  # one who may publish need not have the right to delete
            self.delete(key)
        return won.count(True) == 1

    def _head(self, key: str, until: float = math.inf) -> Any:
        return self._try(key, lambda: obstore.head(self._client, key), until=until)

    def _holds(self, key: str, content: bytes | memoryview) -> bool:
        """Whether these very bytes are stored there."""
        try:
            return self.get(key) == content
        except KeyError:
            return False

    def _go_on(self, key: str, start: int, attempt: int, error: BaseError) -> Any:
        """The rest of an object, after an error of that attempt to read on from there."""
        if attempt == TRIES or not _is_transient(error):
            raise self._explain(error) from error
        self._pause(attempt, error)
        try:
            return self._try(key, lambda: obstore.get(self._client, key, options={"range": {"offset": start}}))
        except (KeyError, _OutOfRange):
            raise _changed(f"{self.url}/{key}") from None

    def _nothing(self, key: str) -> bytes:
        """The empty part of an object that is there."""
        if self.head(key) is None:
            raise KeyError(key)
        return b""

    def _try(self, key: str, call: Callable[[], T], writing: bool = False, until: float = math.inf) -> T:
        """What the call gives, tried again a bounded number of times; KeyError where there is no such object.

        No attempt is begun after `until`, by the clock of `time.monotonic`.
        """
        for attempt in range(1, TRIES + 1):
            if time.monotonic() > until:
                raise self._explain(TimeoutError("timed out"), writing)
            try:
                return call()
            except FileNotFoundError as error:
                if _code(error) == "NoSuchBucket":
                    raise self._explain(error, writing) from error
                raise KeyError(key) from None
            except BaseError as error:
                if _status(error) == 416:
                    raise _OutOfRange from error
                if attempt >= _tries(error):
                    raise self._explain(error, writing) from error
                self._pause(attempt, error)
        raise AssertionError

    def _pause(self, attempt: int, error: Exception) -> None:
        self._on_retry()
        reason = _reason(error)
        if attempt > 1 or reason == _NO_ANSWER:
            _log.warning("%s: %s; trying again (%d of %d)", self.url, reason, attempt, _tries(error) - 1)
        time.sleep(min(self._patience.pause, _FIRST_PAUSE * 2**attempt) * random.uniform(0.5, 1.0))
        check_wanted()

    def _explain(self, error: Exception, writing: bool = False) -> TtbertError:
        """The error a user can act on, without what the server repeats of the request."""
        reason = _reason(error)
        refused = isinstance(error, PermissionDeniedError | UnauthenticatedError) or _status(error) in (401, 403)
        if writing and (_code(error) == "AccessDenied" or (refused and not _code(error))):
            return StoreReadOnly(
                f"{self.url} may not be written to with the credentials from {self.access.credentials}: {reason}",
                "ask for the right to write there, or choose another place with --cache or TTBERT_CACHE",
            )
        where = f"{self.url} at {self.access.endpoint}" if self.access.endpoint else self.url
        if refused:
            return StoreUnavailable(
                f"{where} refuses the credentials from {self.access.credentials}: {reason}",
                "check the key, its rights, the endpoint and this machine's clock",
            )
        if _code(error) == "NoSuchBucket":
            return StoreUnavailable(f"{where}: there is no bucket {self.access.bucket}", "create it, or correct the URL")
        return StoreUnavailable(f"{where}: {reason}", "check the endpoint, the region and the network, then try again")


class _ObjectStream(PieceStream):
    """An object as one answer of the server brings it; an answer that breaks off is gone on with by another one."""

    def __init__(self, found: Any, where: str, go_on: Callable[[int, int, BaseError], Any]) -> None:
        """`go_on` gives another answer, from a position on, for the attempt that failed there."""
        self._size: int = found.meta["size"]
        self._where = where
        self._go_on = go_on
        self._position = 0
        self._part = memoryview(b"")
        self._parts = found.stream(min_chunk_size=_PIECE)

    def take(self, most: int) -> memoryview:
        if not self._part and self._position < self._size:
            self._part = self._next()
            self._position += len(self._part)
        part, self._part = self._part[:most], self._part[most:]
        return part

    def close(self) -> None:
        self._parts = self._part = memoryview(b"")  # and with them the connection's buffers
        super().close()

    def _next(self) -> memoryview:
        for attempt in range(1, TRIES + 1):
            try:
                return memoryview(next(self._parts))
            except StopIteration:
                raise StoreUnavailable(
                    f"{self._where}: the answer ends after {self._position:,} bytes of {self._size:,}",
                    "look at the server, and at what is between, then try again",
                ) from None
            except BaseError as error:
                found = self._go_on(self._position, attempt, error)
            if found.meta["size"] != self._size:
                raise _changed(self._where)
            self._parts = found.stream(min_chunk_size=_PIECE)
        raise AssertionError


class _OutOfRange(Exception):
    """The object has no byte where one was asked for."""


def _changed(where: str) -> StoreUnavailable:
    return StoreUnavailable(f"{where} was replaced or deleted while it was being read", "try again")


def _entry(found: Any) -> Entry:
    # In whole seconds, as HTTP has it: a listing may be finer, and must not seem to tell of a later write.
    return Entry(found["path"], found["size"], float(int(found["last_modified"].timestamp())))


def _status(error: Exception) -> int | None:
    match = _STATUS.search(str(error))
    return int(match[1]) if match else None


def _code(error: Exception) -> str | None:
    match = _CODE.search(str(error))
    return match[1] if match else None


def _is_transient(error: Exception) -> bool:
    """Whether another attempt may go better: no answer, a part of one, or one that says so."""
    if isinstance(error, FileNotFoundError | PermissionDeniedError | UnauthenticatedError):
        return False
    status, code = _status(error), _code(error)
    if status is None:
        return code is None or code in ("InternalError", "SlowDown", "ServiceUnavailable")
    return status in (408, 409, 425, 429) or status >= 500 or code in ("RequestTimeout", *_DAMAGED)


def _tries(error: Exception) -> int:
    """How many attempts may end so."""
    if not _is_transient(error):
        return 1
    return CONNECTS if _is_unsent(error) and _reason(error) == _NO_ANSWER else TRIES


def _is_unsent(error: Exception) -> bool:
    """Whether there was no connection, so that the server has not met the request."""
    return _UNCONNECTED.search(str(error)) is not None


def _reason(error: Exception) -> str:
    """What is wrong, in a few words."""
    text = str(error)
    status, code, message = _status(error), _code(error), _MESSAGE.search(text)
    if status is not None:
        said = ": ".join(filter(None, [code, message[1] if message else None]))
        return f"the server says {status}{f' ({said})' if said else ''}"
    if "kind: Timeout" in text or "TimedOut" in text or "timed out" in text:
        return _NO_ANSWER
    causes = _CAUSE.findall(text)
    if causes:
        return str(causes[-1]).lower()
    if "dns error" in text:
        return "its name cannot be resolved"
    if code:
        return f"the server says {code}"
    return "no connection" if "kind: Connect" in text else text.partition("\n")[0].rpartition(" - ")[2][:200]
