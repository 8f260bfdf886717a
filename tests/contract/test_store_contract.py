"""What every store promises, asked of each of them."""

from __future__ import annotations

import functools
import random
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest
from s3_server import S3Server

from ttbert.cache.stores.foreign import FsspecStore
from ttbert.cache.stores.local import LocalStore
from ttbert.cache.stores.objects import ObjectStore
from ttbert.cache.stores.store import Entry, Store

bucket_of = functools.cache(S3Server.bucket)

ESCAPES = [
    "",
    ".",
    "..",
    "/",
    "/etc/passwd",
    "../outside",
    "blobs/../../outside",
    "blobs/./x",
    "blobs//x",
    "blobs/x/",
    "blobs/.hidden",
    ".tmp-0123",
    "blobs/.tmp-" + "0" * 32,
    "blobs\\..\\x",
    "c:\\x",
    "blobs/x\n",
    "blobs/x\0",
    "blobs/a b",
    "blobs/\N{LATIN SMALL LETTER E WITH ACUTE}",
    "blobs/*",
    "blobs/" + "x" * 256,
    "x/" * 400 + "x",
]


@pytest.fixture(params=["local", "file", "memory", "dir", "moto", "ceph"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    root = tmp_path / "store"
    memory = f"memory://{uuid.uuid4().hex}"
    match request.param:
        case "local":
            yield LocalStore(root)
        case "moto" | "ceph" as name:
            server: S3Server = request.getfixturevalue(name)
            for variable, value in server.env.items():
                monkeypatch.setenv(variable, value)
            yield ObjectStore(f"s3://{bucket_of(server)}/{uuid.uuid4().hex}/store")
        case "file":
            yield FsspecStore(root.as_uri())
        case "dir":
            yield FsspecStore(f"dir::{root.as_uri()}")
        case "memory":
            yield FsspecStore(memory)
            fs, path = fsspec.core.url_to_fs(memory)
            if fs.exists(path):
                fs.rm(path, recursive=True)


def read(store: Store, key: str) -> bytes:
    with store.open(key) as stream:
        return stream.read()


def test_what_was_put_is_read_back(store: Store) -> None:
    content = bytes(range(256)) * 300
    assert store.put("blobs/aa/one", content) is True
    assert read(store, "blobs/aa/one") == store.get("blobs/aa/one") == content


def test_an_empty_object_is_an_object(store: Store) -> None:
    assert store.put("blobs/aa/empty", b"") is True
    assert store.put("blobs/aa/empty", b"not") is False
    assert store.get("blobs/aa/empty") == read(store, "blobs/aa/empty") == b""
    assert store.head("blobs/aa/empty").size == 0  # type: ignore[union-attr]


def test_memory_views_are_content_too(store: Store) -> None:
    store.put("blobs/aa/view", memoryview(b"0123456789")[2:5])
    assert store.get("blobs/aa/view") == b"234"


def test_nothing_is_overwritten(store: Store) -> None:
    assert store.put("blobs/aa/one", b"first") is True
    assert store.put("blobs/aa/one", b"second") is False
    assert store.get("blobs/aa/one") == b"first"


@pytest.mark.parametrize(
    "start,length,expected",
    [
        (0, None, b"0123456789"),
        (3, None, b"3456789"),
        (0, 0, b""),
        (2, 3, b"234"),
        (8, 100, b"89"),
        (10, None, b""),
        (50, 5, b""),
    ],
)
def test_a_part_is_read_as_a_slice_is(store: Store, start: int, length: int | None, expected: bytes) -> None:
    store.put("blobs/aa/one", b"0123456789")
    assert store.get("blobs/aa/one", start, length) == expected


def test_streams_fill_buffers(store: Store) -> None:
    store.put("blobs/aa/one", b"0123456789")
    buffer = bytearray(4)
    with store.open("blobs/aa/one") as stream:
        assert stream.readinto(buffer) == 4 and buffer == b"0123"  # type: ignore[attr-defined]
        assert stream.read(100) == b"456789" and stream.read(1) == b""


def test_head_tells_size_and_age(store: Store) -> None:
    before = time.time()
    store.put("blobs/aa/one", b"12345")
    entry = store.head("blobs/aa/one")
    assert entry is not None and (entry.key, entry.size) == ("blobs/aa/one", 5)
    assert before - 2 <= entry.modified <= time.time() + 2


def test_what_is_not_there_is_a_key_error_or_none(store: Store) -> None:
    for key in ("blobs/aa/nothing", "nothing"):
        with pytest.raises(KeyError):
            store.open(key)
        with pytest.raises(KeyError):
            store.get(key)
        with pytest.raises(KeyError):
            store.quarantine(key)
        assert store.head(key) is None
        assert store.delete(key) is False
        store.touch(key)
    assert list(store.list()) == list(store.list("blobs")) == list(store.debris()) == []


def test_a_folder_is_no_object(store: Store) -> None:
    store.put("blobs/aa/one", b"1")
    for folder in ("blobs", "blobs/aa"):
        assert store.head(folder) is None and store.delete(folder) is False
        with pytest.raises(KeyError):
            store.get(folder)
        with pytest.raises(KeyError):
            store.open(folder)
        with pytest.raises(KeyError):
            store.quarantine(folder)
    assert store.get("blobs/aa/one") == b"1"


def test_an_object_is_no_folder(store: Store) -> None:
    store.put("blobs/aa/one", b"1")
    key = "blobs/aa/one/below"
    assert store.head(key) is None and store.delete(key) is False and list(store.list("blobs/aa/one")) == []
    with pytest.raises(KeyError):
        store.get(key)
    with pytest.raises(KeyError):
        store.open(key)


def test_listing_is_complete_and_in_order(store: Store) -> None:
    keys = ["a/x", "a-b/y", "a/b/z", "a.c/w", "blobs/ff/2", "blobs/00/1", "blobs/0a/3", "refs/n%2Fm@main:bfp8/00000001"]
    for number, key in enumerate(keys):
        store.put(key, b"." * number)
    found = [(entry.key, entry.size) for entry in store.list()]
    assert found == sorted((key, number) for number, key in enumerate(keys))
    assert [entry.key for entry in store.list("blobs")] == ["blobs/00/1", "blobs/0a/3", "blobs/ff/2"]
    assert [entry.key for entry in store.list("a")] == ["a/b/z", "a/x"]
    assert [entry.key for entry in store.list("blo")] == []


def test_many_are_looked_at_in_their_order(store: Store) -> None:
    keys = [f"blobs/aa/{number}" for number in range(20)]
    for key in keys[::2]:
        store.put(key, key.encode())
    assert list(store.map(store.head, iter(keys))) == [store.head(key) for key in keys]
    assert list(store.map(store.head, [])) == []
    with pytest.raises(KeyError):
        list(store.map(store.get, keys))


def test_a_listing_agrees_with_head(store: Store) -> None:
    store.put("blobs/aa/one", b"1")
    (listed,) = store.list("blobs")
    head = store.head("blobs/aa/one")
    assert head is not None and (listed.key, listed.size) == (head.key, head.size)
    assert listed.modified == pytest.approx(head.modified, abs=1e-3)


def test_another_store_sees_a_write_at_once(store: Store) -> None:
    """A second machine that has looked before is not told what it knew then."""
    other = LocalStore(store.root) if isinstance(store, LocalStore) else type(store)(store.url)
    assert other.head("blobs/aa/one") is None and list(other.list("blobs")) == []
    store.put("blobs/aa/one", b"1")
    assert other.head("blobs/aa/one") is not None and [entry.key for entry in other.list("blobs")] == ["blobs/aa/one"]
    assert other.put("blobs/aa/one", b"2") is False
    store.delete("blobs/aa/one")
    assert other.head("blobs/aa/one") is None and list(other.list("blobs")) == []


def test_what_was_deleted_can_be_published_again(store: Store) -> None:
    store.put("blobs/aa/one", b"1")
    store.put("blobs/aa/two", b"2")
    assert store.delete("blobs/aa/one") is True
    assert store.delete("blobs/aa/one") is False
    assert store.head("blobs/aa/one") is None and store.get("blobs/aa/two") == b"2"
    assert store.put("blobs/aa/one", b"again") is True
    assert store.get("blobs/aa/one") == b"again"


@pytest.mark.parametrize("key", ["blobs/aa/one", f"refs/local%2F{'%D0%B6' * 40}:bfp8/00000001", "/".join(["x.y"] * 170)])
def test_quarantine_keeps_the_bytes_and_frees_the_key(store: Store, key: str) -> None:
    places = set()
    for content in (b"damaged", b"damaged again"):
        store.put(key, content)
        moved = store.quarantine(key)
        places.add(moved)
        assert moved.startswith("quarantine/") and store.get(moved) == content
        assert store.head(key) is None
    assert {entry.key for entry in store.list("quarantine")} == places and len(places) == 2


@pytest.mark.parametrize("key", ESCAPES)
def test_keys_that_lead_elsewhere_are_refused(store: Store, key: str) -> None:
    store.put("blobs/aa/one", b"1")
    for call in (store.open, store.get, store.head, store.delete, store.quarantine):
        with pytest.raises(ValueError, match="not a key"):
            call(key)
    with pytest.raises(ValueError, match="not a key"):
        store.put(key, b"escaped")
    if key:
        with pytest.raises(ValueError, match="not a key"):
            list(store.list(key))
    assert [entry.key for entry in store.list()] == ["blobs/aa/one"]


@pytest.mark.parametrize("key", ["../outside/.tmp-" + "0" * 32, "blobs/aa/one", ".tmp-", "blobs/.tmp-x", "/.tmp-" + "0" * 32])
def test_only_debris_is_removed_as_debris(store: Store, key: str) -> None:
    store.put("blobs/aa/one", b"1")
    with pytest.raises(ValueError, match="not a temporary file"):
        store.remove_debris(Entry(key, 1, 0.0))
    assert store.get("blobs/aa/one") == b"1"


def test_capabilities_are_declared(store: Store) -> None:
    assert store.capabilities.creates_atomically is not isinstance(store, FsspecStore)
    assert store.capabilities.survives_crash is not isinstance(store, FsspecStore)


def test_whether_a_key_is_created_exactly_once_is_known(store: Store) -> None:
    assert store.creates_exactly_once() is not isinstance(store, FsspecStore)
    assert list(store.list()) == []


def test_of_racing_writers_exactly_one_wins(store: Store) -> None:
    if not store.capabilities.creates_atomically:
        pytest.skip("this store does not promise it")
    for key in ("blobs/aa/one", "blobs/aa/two"):
        contents = [b"%d" % number * 1000 for number in range(16)]
        with ThreadPoolExecutor(16) as writers:
            won = list(writers.map(lambda content, key=key: store.put(key, content), contents))  # type: ignore[misc]
        assert won.count(True) == 1
        assert store.get(key) == contents[won.index(True)]


def test_an_object_of_many_ranges_is_read_in_order(store: Store) -> None:
    content = random.Random(1).randbytes((24 << 20) + 12345)
    store.put("blobs/aa/large", content)
    assert read(store, "blobs/aa/large") == store.get("blobs/aa/large") == content
    with store.open("blobs/aa/large") as stream:  # and a reader may leave early
        assert stream.read(10) == content[:10]
