"""What the local tier promises: read once, used only as it should be, never in the way."""

from __future__ import annotations

import errno
import io
import itertools
import multiprocessing
import os
import subprocess
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import BinaryIO, cast

import pytest
from fault_proxy import FaultProxy, after, reset_before, truncated, unavailable, wrong_bytes
from killed import killed_processes
from models import COMMIT, FILES, OTHER, TENSORS, TINY, blob_path, files, flip_bit, load, open_local, publish
from test_local_store import kill_at_every_step, read_only

from ttbert.cache.cache import Cache, Cached, blob_key, manifest_key
from ttbert.cache.census import find_model, take_census
from ttbert.cache.condemned import condemn
from ttbert.cache.digest import blake3_of
from ttbert.cache.keys import PrivateKey, find_signer, make_key, trust
from ttbert.cache.lock import machine_lock
from ttbert.cache.places import Places
from ttbert.cache.stores.local import LocalStore
from ttbert.cache.stores.store import Entry
from ttbert.cache.tiered_cache import TieredCache
from ttbert.cache.transfer import push
from ttbert.cache.verify import verify
from ttbert.errors import IntegrityError, NoSpaceError, NotCached, StoreReadOnly, StoreUnavailable, UntrustedError

BLOBS = len(TENSORS) + len(FILES)


@pytest.fixture
def places(proxy: FaultProxy, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    """A model in a bucket, and an empty folder in front of it."""
    for name, value in proxy.env.items():
        monkeypatch.setenv(name, value)
    proxy.calm()
    places = Places(f"s3://{bucket}/{uuid.uuid4().hex}", str(tmp_path / "local"))
    publish(Places(places.cache).open())
    proxy.calm()
    return places


def fetched(cache: Cache) -> Cached:
    cached = cache.resolve(TINY)
    assert cached is not None
    cache.fetch(cached, TINY)
    return cached


def read(cache: Cache, cached: Cached) -> dict[str, bytes]:
    """Every pack and file, through the checks."""
    return {entry.name: load(cache, entry) for entry in cached.manifest.entries()}


def counts(cache: Cache) -> tuple[object, ...]:
    document = cache.counters.document()
    return document["hits"], document["misses"], document["damaged"]


def blob_gets(proxy: FaultProxy) -> int:
    return proxy.count("GET", "/blobs/")


def test_a_model_is_read_once_over_the_network(places: Places, proxy: FaultProxy) -> None:
    cache = places.open()
    assert read(cache, fetched(cache)) == {**TENSORS, **FILES}
    assert blob_gets(proxy) == cache.counters.document()["misses"]
    proxy.calm()
    again = places.open()
    assert read(again, fetched(again)) == {**TENSORS, **FILES}
    assert blob_gets(proxy) == proxy.count("GET", "/manifests/") == 0 and again.counters.document()["misses"] == 0


def test_the_local_tier_alone_is_a_cache_that_holds_the_model(places: Places) -> None:
    cached = fetched(places.open())
    assert places.local
    local = open_local(Path(places.local))
    assert local.resolve(TINY) == cached and local.find(cached.manifest.action) == cached
    assert verify(local, take_census(local)).sound


def test_blobs_are_fetched_on_the_way_where_nobody_fetched_before(places: Places) -> None:
    cache = places.open()
    cached = cache.resolve(TINY)
    assert cached and read(cache, cached) == {**TENSORS, **FILES} and not cache.near.missing(cached.manifest)  # type: ignore[union-attr]


def test_a_model_that_is_read_is_copied_here_on_its_way(places: Places, proxy: FaultProxy) -> None:
    cache = places.open()
    cached = cache.resolve(TINY)
    assert cached and places.local
    arrived: list[int] = []
    cache.fetch_as_read(cached, TINY, lambda blobs: arrived.append)
    assert blob_gets(proxy) == 0
    assert read(cache, cached) == {**TENSORS, **FILES} and sorted(arrived) == sorted(cached.manifest.blobs.values())
    cache.flush()
    document = cache.counters.document()
    assert blob_gets(proxy) == BLOBS and document["bytes"] == {"local": 0, "cache": sum(arrived)}
    local = open_local(Path(places.local))
    assert local.resolve(TINY) == cached and verify(local, take_census(local)).sound and list(local.store.debris()) == []


def test_a_model_that_is_here_is_read_before_it_is_asked_what_leads_to_it(places: Places, proxy: FaultProxy) -> None:
    fetched(places.open())
    publish(Places(places.cache).open(), recipe=b"another", ref=OTHER)  # of the same blobs
    cache = places.open()
    cached = cache.resolve(OTHER)
    is_read = Event()
    assert cached and not cache.to_fetch(cached.manifest)
    proxy.meet(after(is_read), "GET", times=1000)
    cache.fetch_as_read(cached, OTHER)
    assert read(cache, cached) == {**TENSORS, **FILES}
    is_read.set()
    cache.flush()
    assert open_local(Path(places.local or "")).resolve(OTHER) == cached


def test_nothing_leads_to_a_model_here_before_all_of_it_was_read(places: Places) -> None:
    cache = places.open()
    cached = cache.resolve(TINY)
    assert cached
    cache.fetch_as_read(cached, TINY)
    for entry in list(cached.manifest.entries())[1:]:
        load(cache, entry)
    cache.flush()
    assert open_local(Path(places.local or "")).resolve(TINY) is None


def test_a_reader_that_leaves_early_leaves_nothing(places: Places) -> None:
    cache = places.open()
    cached = cache.resolve(TINY)
    assert cached
    pack = next(each for each in cached.manifest.packs if each.name == "layer")
    found = cache.load_pack(pack)
    next(found)[1].close()
    found.close()  # type: ignore[attr-defined]
    near = open_local(Path(places.local or "")).store
    assert list(near.list("blobs")) == list(near.debris()) == []
    assert read(cache, cached) == {**TENSORS, **FILES}


def test_bytes_damaged_on_their_way_to_a_reader_are_fetched_again(
    places: Places, proxy: FaultProxy, caplog: pytest.LogCaptureFixture
) -> None:
    cache = places.open()
    cached = cache.resolve(TINY)
    assert cached
    cache.fetch_as_read(cached, TINY)
    proxy.meet(wrong_bytes, "GET", "/blobs/")
    assert read(cache, cached) == {**TENSORS, **FILES}
    cache.flush()
    assert [each for each in caplog.messages if places.cache in each and "fetching it again" in each] == caplog.messages
    assert len(caplog.messages) == 1 and verify(cache.near or cache, take_census(cache.near or cache)).sound


def test_a_name_is_asked_of_the_shared_store(places: Places) -> None:
    """So a model converted anew on another machine is seen at once, whatever lies here."""
    fetched(places.open())
    newer = publish(Places(places.cache).open(), tensors={"new": b"new" * 100}, recipe=b"newer")
    cache = places.open()
    assert cache.resolve(TINY) == newer
    fetched(cache)
    assert open_local(Path(places.local or "")).resolve(TINY) == newer


def test_a_damaged_manifest_here_is_passed_over_and_replaced(places: Places) -> None:
    cached = fetched(places.open())
    path = Path(places.local or "", manifest_key(cached.digest))
    flip_bit(path)
    cache = places.open()
    assert read(cache, fetched(cache)) == {**TENSORS, **FILES}
    assert places.open(offline=True).resolve(TINY) == cached


@pytest.mark.parametrize("how", ["flipped", "longer", "truncated", "empty", "zeroed"])
def test_a_damaged_copy_is_never_used_and_fetched_again(
    places: Places, proxy: FaultProxy, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    cached = fetched(places.open())
    path = Path(places.local or "", "blobs", cached.manifest.packs[0].blob.hex[:2], cached.manifest.packs[0].blob.hex)
    content = path.read_bytes()
    if how == "flipped":
        damaged = flip_bit(path, len(content) - 1)
    else:
        # The last three are what a power cut may leave of a copy that was not fsynced yet.
        others = {"longer": content + b"x", "truncated": content[:-1], "empty": b"", "zeroed": bytes(len(content))}
        damaged = others[how]
        path.write_bytes(damaged)
    proxy.calm()
    cache = places.open()
    assert read(cache, fetched(cache)) == {**TENSORS, **FILES}
    assert (
        len(caplog.messages) == 1
        and str(path) in caplog.messages[0]
        and "damaged" in caplog.messages[0]
        and "fetching it again" in caplog.messages[0]
    )
    assert path.read_bytes() == content and blob_gets(proxy) == 1
    assert damaged in [each.read_bytes() for each in Path(places.local or "", "quarantine").iterdir()]


@pytest.mark.parametrize("how", ["moved", "fetched again", "fetched again by this process", "cannot be moved"])
def test_all_readers_of_a_damaged_copy_go_on_with_the_bytes_of_the_shared_store(places: Places, how: str) -> None:
    """Each is in the middle of it, and one is the first to find the damage, which is in the second of two tensors."""
    cached = fetched(places.open())
    pack = next(each for each in cached.manifest.packs if each.name == "layer")
    root = Path(places.local or "")
    path = blob_path(root, TENSORS["layer"])
    flip_bit(path, pack.size - 1)
    cache = places.open()
    readers = [(cache if how != "fetched again" else places.open()).load_pack(pack) for _ in range(4)]
    firsts = [next(reader)[1].bytes() for reader in readers]
    with read_only(root) if how == "cannot be moved" else nullcontext():
        if how == "moved":
            assert cache.near
            cache.near.store.quarantine(blob_key(pack.blob))
        for first, reader in zip(firsts, readers, strict=True):
            assert first + b"".join(blob.bytes() for _, blob in reader) == TENSORS["layer"]
    if how != "cannot be moved":
        assert path.read_bytes() == TENSORS["layer"]
        assert len(list((root / "quarantine").iterdir())) == 1, "no sound copy is moved away"


def test_a_copy_that_is_damaged_in_the_process_that_fetched_it_is_fetched_again(places: Places) -> None:
    cache = places.open()
    cached = fetched(cache)
    path = Path(places.local or "", "blobs", cached.manifest.packs[0].blob.hex[:2], cached.manifest.packs[0].blob.hex)
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    fetched(cache)
    assert path.read_bytes() == content


def test_a_damaged_copy_that_cannot_be_moved_away_is_passed_over(
    places: Places, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cached = fetched(places.open())
    root = Path(places.local or "")
    flip_bit(root / "blobs" / cached.manifest.packs[0].blob.hex[:2] / cached.manifest.packs[0].blob.hex)
    with read_only(root):
        cache = places.open()
        assert read(cache, fetched(cache)) == {**TENSORS, **FILES}
    assert len(caplog.messages) == 1 and "cannot be moved away" in caplog.messages[0]


def test_a_local_tier_on_a_read_only_disk_is_used_as_far_as_it_goes(
    places: Places, proxy: FaultProxy, caplog: pytest.LogCaptureFixture
) -> None:
    cached = fetched(places.open())
    root = Path(places.local or "")
    (root / "blobs" / cached.manifest.packs[0].blob.hex[:2] / cached.manifest.packs[0].blob.hex).unlink()
    proxy.calm()
    with read_only(root):
        cache = places.open()
        assert read(cache, fetched(cache)) == {**TENSORS, **FILES}
    assert len(caplog.messages) == 1 and "read-only file system" in caplog.messages[0]
    hits, misses, _ = counts(cache)
    assert misses == 1 and hits == len(cached.manifest.blobs) - 1


def test_a_full_local_disk_is_said_with_a_way_out(places: Places, small_disk: Path) -> None:
    publish(Places(places.cache).open(), tensors={"large": os.urandom(200_000)}, recipe=b"large")
    cache = replace(places, local=str(small_disk / "local")).open()
    with pytest.raises(NoSpaceError, match=str(small_disk)) as caught:
        fetched(cache)
    assert "--no-local" in caught.value.hint and f"`ttbert cache gc --cache {small_disk}/local`" in caught.value.hint
    streamed = replace(places, local=None).open()
    cached = streamed.resolve(TINY)
    assert cached and len(read(streamed, cached)["large"]) == 200_000


def test_without_a_local_tier_nothing_is_written_here(places: Places, proxy: FaultProxy, tmp_path: Path) -> None:
    cache = replace(places, local=None).open()
    assert read(cache, fetched(cache)) == {**TENSORS, **FILES} and list(tmp_path.iterdir()) == []
    assert proxy.count("PUT") == 0


def test_a_fetch_through_faults_gives_the_right_bytes(places: Places, proxy: FaultProxy) -> None:
    for fault in (unavailable, reset_before, truncated):
        proxy.meet(fault, "GET", "/blobs/", times=2)
    cache = places.open()
    assert read(cache, fetched(cache)) == {**TENSORS, **FILES} and cache.counters.document()["retries"] == 6


def test_bytes_damaged_on_the_way_are_fetched_again_and_never_kept(
    places: Places, proxy: FaultProxy, caplog: pytest.LogCaptureFixture
) -> None:
    proxy.meet(wrong_bytes, "GET", "/blobs/")
    cache = places.open()
    assert read(cache, fetched(cache)) == {**TENSORS, **FILES}
    assert len(caplog.messages) == 1 and places.cache in caplog.messages[0] and "damaged" in caplog.messages[0]


def test_a_blob_that_is_damaged_in_the_shared_store_is_not_kept(places: Places) -> None:
    store = Places(places.cache).open().store
    cached = Places(places.cache).open().resolve(TINY)
    assert cached
    key = f"blobs/{cached.manifest.packs[0].blob.hex[:2]}/{cached.manifest.packs[0].blob.hex}"
    size = len(store.get(key))
    store.delete(key)
    store.put(key, bytes(size))
    cache = places.open()
    with pytest.raises(IntegrityError, match=f"{places.cache}/{key} is damaged"):
        fetched(cache)
    assert not Path(places.local or "", key).exists() and open_local(Path(places.local or "")).resolve(TINY) is None


def test_a_blob_that_is_nowhere_is_named(places: Places) -> None:
    cached = Places(places.cache).open().resolve(TINY)
    assert cached
    pack = cached.manifest.packs[0]
    Places(places.cache).open().store.delete(f"blobs/{pack.blob.hex[:2]}/{pack.blob.hex}")
    with pytest.raises(IntegrityError, match=f"{pack.blob.hex} is missing; {pack.name} needs it"):
        fetched(places.open())


def test_an_interrupted_fetch_goes_on_where_it_was(places: Places, proxy: FaultProxy) -> None:
    cached = Places(places.cache).open().resolve(TINY)
    assert cached
    last = list(cached.manifest.blobs)[-1]
    proxy.meet(unavailable, "GET", last.hex, times=100)
    with pytest.raises(StoreUnavailable):
        fetched(places.open())
    assert open_local(Path(places.local or "")).resolve(TINY) is None
    proxy.calm()
    fetched(places.open())
    assert blob_gets(proxy) == 1


def _child(places: Places, barrier: object) -> None:
    barrier.wait()  # type: ignore[attr-defined]
    cache = places.open()
    assert read(cache, fetched(cache)) == {**TENSORS, **FILES}


def test_processes_that_miss_at_once_fetch_each_blob_once(places: Places, proxy: FaultProxy) -> None:
    spawn = multiprocessing.get_context("spawn")
    barrier = spawn.Barrier(4)
    children = [spawn.Process(target=_child, args=(places, barrier)) for _ in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0] * 4
    cached = Places(places.cache).open().resolve(TINY)
    assert cached and blob_gets(proxy) == len(cached.manifest.blobs)


def test_a_stopped_process_that_holds_a_lock_does_not_stop_others(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    from ttbert.cache import local_tier

    monkeypatch.setattr(local_tier, "_PATIENCE", 0.2)
    cached = Places(places.cache).open().resolve(TINY)
    assert cached
    locks = LocalStore(Path(places.local or "")).lock_file(local_tier.LOCKS)
    with ExitStack() as stack:
        for number in map(local_tier.lock_number, cached.manifest.blobs):
            assert stack.enter_context(machine_lock(locks, number, patience=0))
            assert not stack.enter_context(machine_lock(locks, number, patience=0))
        cache = places.open()
        assert read(cache, fetched(cache)) == {**TENSORS, **FILES}


def test_two_blobs_that_come_at_once_do_not_wait_for_each_other(tmp_path: Path) -> None:
    """Even where their digests begin alike, and one thread reads both. All locks are one file."""
    alike: dict[str, bytes] = {}
    for number in itertools.count():
        content = b"%d" % number * 5000
        if (start := blake3_of(content).hex[:2]) in alike:
            break
        alike[start] = content
    publish(open_local(tmp_path / "share"), tensors={"one": alike[start], "other": content})
    cache = Places(str(tmp_path / "share"), str(tmp_path / "local")).open()
    cached = cache.resolve(TINY)
    assert cached
    started = time.monotonic()
    one, other = (cache.load_pack(pack) for pack in cached.manifest.packs)
    firsts = next(one)[1].bytes(), next(other)[1].bytes()
    assert time.monotonic() - started < 60, "half as long as one waits for another who fetches"
    assert firsts[0] + next(one)[1].bytes() == alike[start] and firsts[1] + next(other)[1].bytes() == content
    assert [path.stat().st_size for path in (tmp_path / "local/.locks").iterdir()] == [0]


def test_threads_share_one_tier(places: Places, proxy: FaultProxy) -> None:
    cache = places.open()
    with ThreadPoolExecutor(8) as threads:
        for found in threads.map(lambda _: read(cache, fetched(cache)), range(8)):
            assert found == {**TENSORS, **FILES}
    assert blob_gets(proxy) == BLOBS and cache.counters.document()["misses"] == BLOBS


def test_a_fetch_killed_at_any_step_is_finished_by_the_next(tmp_path: Path) -> None:
    """And until then nothing here is wrong, nor leads to what is not here."""
    published = publish(open_local(tmp_path / "far"))
    with killed_processes() as run:

        def check(root: Path) -> None:
            near = open_local(root)
            census = take_census(near)
            assert [model.problem for model in census.models if model.problem] == []
            assert not census.blobs or verify(near, census).sound
            cache = Places(str(tmp_path / "far"), str(root)).open()
            assert read(cache, fetched(cache)) == {**TENSORS, **FILES}
            assert near.resolve(TINY) == published

        kill_at_every_step(run, "fetch", tmp_path, check, least=60)


# Read-only, offline, push


def test_a_read_only_cache_is_never_written_to(places: Places, proxy: FaultProxy) -> None:
    cache = replace(places, read_only=True).open()
    cached = fetched(cache)
    assert read(cache, cached) == {**TENSORS, **FILES}
    cache.move_ref(TINY, cached, "someone/tiny", COMMIT)
    for write in (
        lambda: publish(cache, tensors={"new": b"new"}, recipe=b"new"),
        lambda: cache.remove_ref(TINY),
        lambda: cache.store.quarantine("blobs/aa/x"),
        lambda: cache.store.delete("blobs/aa/x"),
        lambda: cache.store.remove_debris(Entry("x", 1, 0.0)),
    ):
        with pytest.raises(StoreReadOnly, match="for reading only"):
            write()
    assert proxy.count("PUT") == proxy.count("DELETE") == proxy.count("POST") == 0


def test_offline_the_local_tier_stands_for_the_cache(places: Places, proxy: FaultProxy) -> None:
    fetched(places.open())
    proxy.calm()
    cache = places.open(offline=True)
    cached = cache.resolve(TINY)
    assert cached and read(cache, cached) == {**TENSORS, **FILES} and proxy.seen == []
    with pytest.raises(NotCached, match="no local tier"):
        replace(places, local=None).open(offline=True)


def test_a_model_is_pushed_whole_and_checked(places: Places) -> None:
    assert places.local
    near = open_local(Path(places.local))
    published = publish(near, tensors={"mine": b"mine" * 1000}, recipe=b"mine")
    model = find_model(take_census(near), str(TINY))
    far = replace(places, cache=places.cache + "-other").open().authority
    assert model.entry
    push(near, far, model.ref, model.entry, published)
    assert far.resolve(TINY) == published and verify(far, take_census(far)).sound


def test_what_is_condemned_in_the_shared_store_is_read_once(places: Places, proxy: FaultProxy) -> None:
    """However often somebody asks for the store itself; each record is read twice, to be sure of it."""
    cache = places.open()
    condemn(cache.store, [], {blob_key(blake3_of(TENSORS["layer"])): "waste"})
    proxy.calm()
    for content in TENSORS.values():
        cache.authority.publish_blob(content)
    assert proxy.count("GET", "/condemned") == 2


@pytest.mark.parametrize(("happens", "says"), [(flip_bit, "is damaged"), (Path.unlink, "is missing; config.json needs it")])
def test_a_damaged_model_is_not_pushed(places: Places, happens: Callable[[Path], object], says: str) -> None:
    """Nor one of which somebody deletes a blob meanwhile."""
    assert places.local
    near = open_local(Path(places.local))
    published = publish(near)
    happens(blob_path(Path(places.local), FILES["config.json"]))
    model = find_model(take_census(near), str(TINY))
    far = replace(places, cache=places.cache + "-other").open().authority
    assert model.entry
    with pytest.raises(IntegrityError, match=says):
        push(near, far, model.ref, model.entry, published)
    assert far.resolve(TINY) is None and list(far.store.list("manifests")) == []


def test_a_folder_in_front_of_a_folder_is_a_tier_too(tmp_path: Path) -> None:
    """As a local disk in front of NFS."""
    publish(open_local(tmp_path / "share"))
    cache = Places(str(tmp_path / "share"), str(tmp_path / "local")).open()
    assert read(cache, fetched(cache)) == {**TENSORS, **FILES}
    shared = {key for key in files(tmp_path / "share") if not key.startswith("used/")}
    assert files(tmp_path / "local").keys() >= shared


class BadSector(io.RawIOBase):
    """A file of a disk that reads nothing."""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))


class BadDisk(LocalStore):
    """Blobs are listed, and the first `bad` that are opened cannot be read."""

    bad = 0

    def open(self, key: str) -> BinaryIO:
        if key.startswith("blobs/") and self.bad:
            self.bad -= 1
            return cast(BinaryIO, BadSector())
        return super().open(key)


@pytest.mark.parametrize(("bad", "comes"), [(1, True), (1000, False)])
def test_a_blob_that_cannot_be_read_there_is_asked_for_again_and_then_is_damaged(tmp_path: Path, bad: int, comes: bool) -> None:
    publish(open_local(tmp_path / "share"))
    far, near = BadDisk(tmp_path / "share"), LocalStore(tmp_path / "local")
    cache = TieredCache(far, near)
    far.bad = bad
    if comes:
        assert read(cache, fetched(cache)) == {**TENSORS, **FILES}
    else:
        with pytest.raises(IntegrityError, match=r"it cannot be read: .*Input/output error"):
            fetched(cache)
    assert list(near.debris()) == []


def test_a_copy_that_cannot_be_read_here_does_not_stop_a_repair(tmp_path: Path) -> None:
    publish(open_local(tmp_path / "share"))
    near = BadDisk(tmp_path / "local")
    cache = TieredCache(LocalStore(tmp_path / "share"), near)
    cached = fetched(cache)
    damaged = blob_path(tmp_path / "share", TENSORS[cached.manifest.packs[0].name])
    flip_bit(damaged)
    near.bad = 1000
    (finding,) = verify(cache, take_census(cache.authority), repair=True).findings
    assert finding.moved and not finding.restored and not damaged.exists()


@pytest.mark.parametrize("there", [True, False], ids=["there", "not there yet"])
def test_a_folder_is_not_its_own_local_tier_however_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    """Or loading would move what is damaged in the shared store out of it."""
    folder = tmp_path / "cache"
    (tmp_path / "work").mkdir()
    (tmp_path / "link").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path / "work")
    if there:
        cached = publish(open_local(folder))
        flip_bit(blob_path(folder, TENSORS["layer"]))
        before = files(folder)
    for other in (str(folder), "../cache", f"file://{folder}", str(tmp_path / "work/../cache"), str(tmp_path / "link/cache")):
        for cache in (Places(other, str(folder)).open(), Places(str(folder), other).open()):
            assert cache.near is None
            if there:
                with pytest.raises(IntegrityError):
                    read(cache, cached)
                assert files(folder) == before


def test_a_folder_that_is_mounted_twice_is_not_its_own_local_tier(small_disk: Path, tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    subprocess.run(["mount", "--bind", small_disk, tmp_path / "again"], check=True)
    try:
        assert Places(str(tmp_path / "again"), str(small_disk)).open().near is None
    finally:
        subprocess.run(["umount", "--lazy", tmp_path / "again"], check=True)


# Signatures


@pytest.fixture
def signer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PrivateKey:
    """A key of this user, which is the only one trusted here."""
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    trust(make_key("alice"))
    key = find_signer("alice")
    assert key
    return key


def test_an_unsigned_model_is_refused_before_any_blob_is_fetched(places: Places, proxy: FaultProxy, signer: PrivateKey) -> None:
    with pytest.raises(UntrustedError):
        places.open().resolve(TINY)
    assert blob_gets(proxy) == 0


def test_signatures_come_along_and_hold_offline(places: Places, signer: PrivateKey) -> None:
    shared = places.open(signer=signer)
    for number in range(3):
        newer = publish(shared, tensors={"new": b"%d" % number * 100}, recipe=b"%d" % number)
    fetched(places.open())
    offline = places.open(offline=True)
    assert offline.resolve(TINY) == newer and load(offline, newer.manifest.packs[0]) == b"2" * 100
    last = publish(shared, tensors={"new": b"last" * 100}, recipe=b"last")
    fetched(places.open())
    assert places.open(offline=True).resolve(TINY) == last
    assert files(Path(places.local or "")).keys() >= {f"{TINY.folder}/{number:08d}" for number in range(1, 6)}


def test_the_history_of_a_folder_that_is_a_cache_of_its_own_goes_on(places: Places) -> None:
    near = open_local(Path(places.local or ""))
    mine = publish(near, tensors={"mine": b"mine" * 100}, recipe=b"mine")
    theirs = fetched(places.open())
    assert near.resolve(TINY) == theirs != mine
    assert files(Path(places.local or "")).keys() >= {f"{TINY.folder}/00000001", f"{TINY.folder}/00000002"}
    assert verify(near, take_census(near)).sound


def test_absolute_places_are_the_same_from_another_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    places = Places("cache", local="copies").absolute
    monkeypatch.chdir("/")
    cache = places.open()
    assert cache.near and (cache.store.url, cache.near.store.url) == (str(tmp_path / "cache"), str(tmp_path / "copies"))
    assert Places("memory://place").absolute == Places("memory://place")
