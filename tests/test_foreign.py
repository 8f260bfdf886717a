"""Stores at fsspec URLs: whatever a file system fails with is told as every store tells it, and is no empty cache."""

from __future__ import annotations

import io
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from program import ttbert

from ttbert.cache.stores.foreign import FsspecStore
from ttbert.errors import InputError, StoreUnavailable

KEY = "blobs/aa/one"


class ClientError(Exception):
    """As the packages have them that speak a protocol: no OSError."""


class File(io.RawIOBase):
    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        raise Elsewhere.error or AssertionError


class Elsewhere(MemoryFileSystem):  # type: ignore[misc]
    """A file system that cannot be reached below `gone`, and then fails with `error`."""

    protocol = "elsewhere"
    error: Exception | None = None
    gone = ""
    reads = False

    def _reach(self, path: str) -> None:
        if self.error and self.gone in path:
            raise self.error

    def ls(self, path: str, detail: bool = True, **others: Any) -> Any:
        self._reach(path)
        return super().ls(path, detail, **others)

    def info(self, path: str, **others: Any) -> Any:
        self._reach(path)
        return super().info(path, **others)

    def cat_file(self, path: str, **others: Any) -> Any:
        self._reach(path)
        return super().cat_file(path, **others)

    def rm_file(self, path: str) -> None:
        self._reach(path)
        super().rm_file(path)

    def open(self, path: str, *arguments: Any, **others: Any) -> Any:
        if self.reads:
            return File()
        self._reach(path)
        return super().open(path, *arguments, **others)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[FsspecStore]:
    fsspec.register_implementation("elsewhere", Elsewhere, clobber=True)
    store = FsspecStore(f"elsewhere://{uuid.uuid4().hex}")
    store.put(KEY, b"1")
    monkeypatch.setattr(Elsewhere, "error", None)
    yield store
    Elsewhere.error = None
    for entry in store.list():
        store.delete(entry.key)


CALLS: dict[str, Callable[[FsspecStore], object]] = {
    "list": lambda store: list(store.list()),
    "list a folder": lambda store: list(store.list("blobs")),
    "head": lambda store: store.head(KEY),
    "get": lambda store: store.get(KEY),
    "open": lambda store: store.open(KEY),
    "put": lambda store: store.put("blobs/aa/two", b"2"),
    "delete": lambda store: store.delete(KEY),
    "quarantine": lambda store: store.quarantine(KEY),
}
ERRORS = [
    ClientError("Connection refused"),
    ConnectionResetError(104, "reset"),
    TypeError("None"),
    KeyError("size"),
    EOFError(),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_whatever_it_fails_with_is_a_store_that_cannot_be_reached(
    store: FsspecStore, monkeypatch: pytest.MonkeyPatch, call: Callable[[FsspecStore], object], error: Exception
) -> None:
    monkeypatch.setattr(Elsewhere, "error", error)
    with pytest.raises(StoreUnavailable, match=store.url) as caught:
        call(store)
    assert caught.value.__cause__ is error and not caught.value.message.endswith(": ")


@pytest.mark.parametrize("gone", ["", "blobs", "blobs/aa"])
def test_a_folder_that_cannot_be_listed_is_not_an_empty_one(
    store: FsspecStore, monkeypatch: pytest.MonkeyPatch, gone: str
) -> None:
    monkeypatch.setattr(Elsewhere, "gone", gone)
    monkeypatch.setattr(Elsewhere, "error", ConnectionResetError(104, "reset"))
    with pytest.raises(StoreUnavailable, match="reset"):
        list(store.list())


def test_a_folder_that_is_not_there_is_an_empty_one(store: FsspecStore) -> None:
    assert list(store.list("manifests")) == []


@pytest.mark.parametrize("error", ERRORS[:2], ids=lambda error: type(error).__name__)
def test_a_reading_that_breaks_off_is_told_of(store: FsspecStore, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    monkeypatch.setattr(Elsewhere, "reads", True)
    monkeypatch.setattr(Elsewhere, "error", error)
    with store.open(KEY) as stream, pytest.raises(StoreUnavailable, match=store.url):
        stream.read(1)


def test_an_object_without_a_size_is_an_error_and_no_crash(store: FsspecStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def info(self: Elsewhere, path: str, **others: Any) -> Any:
        return {"name": path, "type": "file", "size": None}

    monkeypatch.setattr(Elsewhere, "info", info)
    with pytest.raises(StoreUnavailable, match=f"does not tell the size of {KEY}"):
        store.head(KEY)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_web_server_is_refused_before_anything_is_sent(scheme: str) -> None:
    with pytest.raises(InputError, match="cannot be a cache: a web server"):
        FsspecStore(f"{scheme}://127.0.0.1:1/x")


@pytest.mark.parametrize("arguments", [("cache", "ls"), ("cache", "info"), ("cache", "verify"), ("cache", "gc")])
def test_a_server_that_is_not_there_is_not_an_empty_cache(arguments: tuple[str, ...]) -> None:
    ttbert(*arguments, TTBERT_CACHE="ftp://127.0.0.1:1/x", TTBERT_LOCAL="none").failed(11, "ftp://127.0.0.1:1/x", "refused")
    ttbert(*arguments, TTBERT_CACHE="http://127.0.0.1:1/x", TTBERT_LOCAL="none").failed(2, "a web server")
