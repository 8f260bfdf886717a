"""What a store in a folder promises of its own: to killed writers, to racing ones, on full and on read-only disks."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from killed import CONTENT, KEY, RunKilled, killed_processes
from models import TENSORS, TINY, age, blob_path, files, load, open_local, publish
from users import as_nobody

from ttbert.cache.cache import Cache, blob_key, manifest_key
from ttbert.cache.census import take_census
from ttbert.cache.stores.local import LocalStore
from ttbert.cache.verify import verify
from ttbert.errors import CacheError, NoSpaceError, StoreReadOnly, StoreUnavailable


@pytest.fixture(scope="module")
def run_killed() -> Iterator[RunKilled]:
    with killed_processes() as run:
        yield run


def kill_at_every_step(run: RunKilled, work: str, folder: Path, check: Callable[[Path], None], least: int) -> None:
    """Do a work on a fresh folder, killed at its first step, its second, and so on until it survives."""
    for step in range(1, 200):
        root = folder / str(step)
        exit_code = run(work, root, step)
        check(root)
        if exit_code == 0:
            assert step > least, f"only {step - 1} steps were seen"
            return
        assert exit_code == -signal.SIGKILL
    raise AssertionError("it never survives")


def test_killed_writer_leaves_no_visible_object_or_a_whole_one(tmp_path: Path, run_killed: RunKilled) -> None:
    seen = set()

    def check(root: Path) -> None:
        store = LocalStore(root)
        visible = {entry.key: store.get(entry.key) for entry in store.list()}
        assert visible in ({}, {KEY: CONTENT})
        debris = list(store.debris())
        seen.add((bool(visible), bool(debris)))
        assert store.put(KEY, CONTENT) is not bool(visible)
        assert store.get(KEY) == CONTENT
        assert [store.remove_debris(entry) for entry in debris] == [True] * len(debris)
        assert files(root) == {KEY: CONTENT}

    # mkdir and fsync of three folders, open, fsync, link, unlink, fsync
    kill_at_every_step(run_killed, "put", tmp_path, check, least=11)
    assert seen == {(False, False), (False, True), (True, True), (True, False)}


def test_killed_publisher_leaves_a_cache_that_the_next_run_completes(tmp_path: Path, run_killed: RunKilled) -> None:
    whole = files(_published(tmp_path / "whole"))
    states = set()

    def check(root: Path) -> None:
        cache = open_local(root)
        census = take_census(cache)
        assert not census.blobs or verify(cache, census).sound, "damage is visible"
        assert not any(model.problem for model in census.models)
        for model in census.models:  # a name leads to a whole model, or is not there
            assert model.cached is not None and cache.missing(model.cached.manifest) == []
        states.add((len(census.blobs), len(census.manifests), len(census.actions), len(census.models)))
        publish(cache)
        for entry in list(cache.store.debris()):
            cache.store.remove_debris(entry)
        left = files(root)
        assert _without_times(left) == _without_times(whole)

    kill_at_every_step(run_killed, "publish", tmp_path, check, least=40)
    # Blobs before the manifest, the manifest before the action, the action before the name.
    ladder = sorted(states)
    assert ladder == [*((blobs, 0, 0, 0) for blobs in range(6)), (5, 1, 0, 0), (5, 1, 1, 0), (5, 1, 1, 1)]


def _published(root: Path) -> Path:
    publish(open_local(root))
    return root


def _without_times(found: dict[str, bytes]) -> dict[str, bytes]:
    return {key: content for key, content in found.items() if not key.startswith("refs/")} | {
        key: b"" for key in found if key.startswith("refs/")
    }


def test_killed_repair_keeps_the_damaged_bytes_and_completes(tmp_path: Path, run_killed: RunKilled) -> None:
    """A publisher that finds a damaged blob is killed between moving it away and writing it anew, too."""
    content = b"e" * 3000
    damaged = b"E" + content[1:]

    for step in range(1, 60):
        root = tmp_path / str(step)
        cache = open_local(root)
        publish(cache)
        path = next(path for path in root.rglob("blobs/*/*") if path.read_bytes() == content)
        path.write_bytes(damaged)
        exit_code = run_killed("publish", root, step)
        publish(cache)
        found = list(files(root).items())
        if ("quarantine" in {key.split("/")[0] for key, _ in found}) or exit_code == 0:
            assert damaged in [value for key, value in found if key.startswith("quarantine/")]
        assert damaged in [value for _, value in found], "the damaged bytes are gone"
        assert verify(cache, take_census(cache)).sound
        if exit_code == 0:
            assert step > 15
            return
    raise AssertionError("it never survives")


WRITER = """
import os, sys, time
from pathlib import Path
from ttbert.cache.stores.local import LocalStore
root, key, start = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
content = bytes([int(sys.argv[4])]) * 300_000
store = LocalStore(root)
time.sleep(max(0, start - time.time()))
won = store.put(key, content)
sys.stdout.write(str(won))
"""


def test_of_racing_writers_exactly_one_wins(tmp_path: Path) -> None:
    start = time.time() + 1.0
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), KEY, str(start), str(n)], stdout=subprocess.PIPE)
        for n in range(8)
    ]
    results = [writer.communicate(timeout=60)[0] for writer in writers]
    assert sorted(results) == [b"False"] * 7 + [b"True"]
    winner = results.index(b"True")
    assert files(tmp_path) == {KEY: bytes([winner]) * 300_000}


CHURN = """
import sys, time
from pathlib import Path
from ttbert.cache.stores.local import LocalStore
store, key, end = LocalStore(Path(sys.argv[1])), sys.argv[2], time.time() + 1.5
while time.time() < end:
    store.put(key, b"x")
    store.delete(key)
"""


def test_a_writer_and_a_deleter_in_one_folder_do_not_disturb_each_other(tmp_path: Path) -> None:
    """Deleting the last object of a folder removes the folder, which another writer may have found just before."""
    keys = ["blobs/aa/one", "blobs/aa/two", "blobs/aa/three"]
    children = [subprocess.Popen([sys.executable, "-c", CHURN, str(tmp_path), key], stderr=subprocess.PIPE) for key in keys]
    errors = [child.communicate(timeout=60)[1].decode() for child in children]
    assert errors == ["", "", ""]
    assert files(tmp_path) == {}


# Disks that are full, read-only, or somebody else's


@contextlib.contextmanager
def mounted(folder: Path, *options: str) -> Iterator[Path]:
    """A file system of its own on `folder`; the test is skipped where this may not be made."""
    folder.mkdir(exist_ok=True)
    if shutil.which("mount") is None:
        pytest.skip("there is no mount command here")
    done = subprocess.run(["mount", *options, str(folder)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a file system cannot be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "small", "-t", "tmpfs", "-o", "size=64k", "tmpfs") as folder:
        yield folder


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    with mounted(folder, "--bind", str(folder)):
        subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)
        yield


def test_a_full_disk_is_reported_with_numbers_and_leaves_nothing(small_disk: Path) -> None:
    store = LocalStore(small_disk / "cache")
    store.put("blobs/aa/small", b"s" * 100)
    with pytest.raises(NoSpaceError, match=r"100,000 bytes needed, [\d,]+ free") as caught:
        store.put("blobs/aa/big", b"b" * 100_000)
    assert str(small_disk) in caught.value.message and f"`ttbert cache gc --cache {store.url}`" in caught.value.hint
    assert files(small_disk) == {"cache/blobs/aa/small": b"s" * 100}
    assert store.put("blobs/aa/small2", b"s" * 100) is True


def test_a_model_that_does_not_fit_is_not_visible(small_disk: Path) -> None:
    cache = open_local(small_disk / "cache")
    with pytest.raises(NoSpaceError):
        publish(cache, tensors={"fits": b"1" * 10_000, "does not": b"2" * 80_000})
    assert list(cache.list_refs()) == [] and list(cache.store.list("manifests")) == [] and list(cache.store.debris()) == []


def test_a_read_only_mount_is_read_and_never_written_to(tmp_path: Path) -> None:
    root = tmp_path / "cache"
    cached = publish(open_local(root))
    with read_only(root):
        cache = open_local(root)
        _read_everything(cache)
        assert cache.find(cached.manifest.action) == cached
        assert verify(cache, take_census(cache)).sound
        cache.store.touch(next(cache.store.list("blobs")).key)
        for write in (
            lambda: cache.store.put(KEY, b"new"),
            lambda: cache.store.put("new/folder/one", b"new"),
            lambda: cache.store.delete(next(cache.store.list("blobs")).key),
            lambda: cache.store.quarantine(next(cache.store.list("blobs")).key),
        ):
            with pytest.raises(StoreReadOnly, match="is on a read-only file system") as caught:
                write()
            assert "mounted for writing" in caught.value.hint


def test_a_read_only_cache_takes_a_model_that_it_has(tmp_path: Path) -> None:
    """Converting a model that is there already, under the name it has already, writes nothing."""
    root = tmp_path / "cache"
    cached = publish(open_local(root))
    with read_only(root):
        assert publish(open_local(root)) == cached


def _read_everything(cache: Cache) -> None:
    cached = cache.resolve(TINY)
    assert cached is not None
    for entry in cached.manifest.entries():
        assert len(load(cache, entry)) == entry.size


def test_somebody_elses_cache_is_read_and_its_owner_named(shared_folder: Path) -> None:
    root = shared_folder / "cache"
    publish(open_local(root))
    if os.geteuid() != 0:
        root.chmod(0o555)
        (root / "blobs").chmod(0o555)
    with as_nobody():
        cache = open_local(root)
        _read_everything(cache)
        with pytest.raises(StoreReadOnly, match=r"permission denied: .*/blobs belongs to ") as caught:
            cache.store.put("blobs/zz/one", b"1")
    assert "--cache" in caught.value.hint
    if os.geteuid() != 0:
        (root / "blobs").chmod(0o755)
        root.chmod(0o755)


def test_what_may_not_be_read_is_found_and_not_moved(shared_folder: Path) -> None:
    """Its bytes may be sound: somebody else can read them."""
    root = shared_folder / "cache"
    publish(open_local(root))
    path = blob_path(root, TENSORS["layer"])
    path.chmod(0)
    with as_nobody():
        cache = open_local(root)
        (finding,) = verify(cache, take_census(cache), repair=True).findings
    assert finding.key.endswith(path.name) and finding.moved is None and "permission denied" in finding.problem
    assert finding.models == (str(TINY),) and path.exists()


def test_a_folder_that_may_not_be_looked_into_is_reported(shared_folder: Path) -> None:
    closed = shared_folder / "closed"
    publish(open_local(closed / "cache"))
    closed.chmod(0)
    try:
        with as_nobody():
            store = open_local(closed / "cache").store
            for call in (
                lambda: store.put(KEY, b"1"),
                lambda: store.get(KEY),
                lambda: store.head(KEY),
                lambda: list(store.list("blobs")),
                lambda: list(store.debris()),
            ):
                with pytest.raises(StoreReadOnly, match=r"permission denied: .*/closed belongs to "):
                    call()
    finally:
        closed.chmod(0o755)


def test_a_cache_on_a_whole_disk_has_a_lost_and_found(shared_folder: Path) -> None:
    root = shared_folder / "disk"
    publish(open_local(root))
    before = [entry.key for entry in open_local(root).store.list()]
    for name in ("lost+found", ".Trash-0"):
        (root / name).mkdir()
        (root / name / "file").write_bytes(b"of the disk")
        (root / name).chmod(0)
    with as_nobody():
        cache = open_local(root)
        assert list(cache.store.debris()) == []
        assert [entry.key for entry in cache.store.list()] == before
        assert [str(ref) for ref in cache.list_refs()] == [str(TINY)]
    for name in ("lost+found", ".Trash-0"):
        (root / name).chmod(0o755)


# Things in the way


@pytest.mark.parametrize("place", ["", "blobs", "blobs/aa"])
def test_a_file_where_a_folder_should_be_is_named(tmp_path: Path, place: str) -> None:
    root = tmp_path / "cache"
    file = root / place if place else root
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"mine")
    with pytest.raises(CacheError, match=f"{file} is a file"):
        LocalStore(root).put(KEY, CONTENT)
    assert file.read_bytes() == b"mine"


def test_a_cache_below_a_file_is_refused_when_it_is_opened(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_bytes(b"mine")
    for root in (file, file / "cache", file / "deeper" / "cache"):
        with pytest.raises(CacheError, match=f"{file} is a file"):
            open_local(root)


def test_a_link_that_leads_to_nothing_is_refused(tmp_path: Path) -> None:
    link = tmp_path / "cache"
    link.symlink_to(tmp_path / "unmounted" / "cache")
    with pytest.raises(CacheError, match=f"{link} leads to nothing"):
        open_local(link)
    with pytest.raises(CacheError, match=f"{link} leads to nothing"):
        LocalStore(link).put(KEY, CONTENT)


def test_a_link_to_a_folder_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "cache").symlink_to(tmp_path / "real")
    publish(open_local(tmp_path / "cache"))
    assert open_local(tmp_path / "real").resolve(TINY) is not None


def test_links_that_lead_nowhere_for_this_user_are_no_objects(shared_folder: Path) -> None:
    root, closed = shared_folder / "cache", shared_folder / "closed"
    publish(open_local(root))
    before = sorted(files(root))
    (closed / "inside").mkdir(parents=True)
    for name, target in (("loop", "loop"), ("gone", "nothing"), ("in_a_file", "/etc/passwd/x"), ("closed", closed / "inside")):
        (root / name).symlink_to(target)
    closed.chmod(0)
    try:
        with as_nobody():
            assert sorted(take_census(open_local(root)).entries) == before
    finally:
        closed.chmod(0o755)


def test_opening_and_reading_make_no_folder(tmp_path: Path) -> None:
    cache = open_local(tmp_path / "cache")
    assert cache.resolve(TINY) is None and list(cache.list_refs()) == [] and take_census(cache).size == 0
    assert list(tmp_path.iterdir()) == []


def test_files_of_others_are_no_objects_and_no_debris(tmp_path: Path) -> None:
    """A cache in a folder that is used for other things, too."""
    theirs = {
        ".tmp-notes": b"1",
        "project/.tmp-build": b"2",
        "my project/.tmp-" + "0" * 32: b"3",
        "blobs/.DS_Store": b"4",
        "blobs/aa/copy of it": b"5",
        "blobs/.git/config": b"6",
        "refs/readme": b"7",
        "refs/local%2Ftiny:bfp8/notes": b"8",
    }
    for name, content in theirs.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    cache = open_local(tmp_path)
    assert list(cache.store.debris()) == [] and list(cache.store.list("blobs")) == [] and list(cache.list_refs()) == []
    publish(cache)
    assert verify(cache, take_census(cache)).sound
    assert theirs.items() <= files(tmp_path).items()


def test_debris_is_told_from_a_writer_at_work_by_its_age(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.put("blobs/aa/one", b"1")
    left = tmp_path / "blobs/aa" / (".tmp-" + "0" * 32)
    left.write_bytes(b"half")
    age(tmp_path)
    (entry,) = store.debris()
    assert entry.key == f"blobs/aa/{left.name}" and entry.size == 4 and entry.modified < time.time() - 3600
    left.write_bytes(b"more")
    assert store.remove_debris(entry) is False, "its writer is alive"
    (entry,) = store.debris()
    assert store.remove_debris(entry) is True and store.remove_debris(entry) is False
    assert files(tmp_path) == {"blobs/aa/one": b"1"}


def test_a_disk_that_fails_is_reported(tmp_path: Path) -> None:
    """A name that the disk refuses stands for a disk that refuses: the error is one of ours, and says where."""
    with pytest.raises(StoreUnavailable, match="File name too long"):
        LocalStore(tmp_path / ("x" * 300)).put(KEY, CONTENT)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_no_object_and_nothing_waits_for_it(make: Callable[[Path], None], tmp_path: Path) -> None:
    cache = open_local(tmp_path)
    cached = publish(cache)
    for key in (manifest_key(cached.digest), blob_key(cached.manifest.packs[0].blob)):
        (tmp_path / key).unlink()
        make(tmp_path / key)
        assert cache.store.head(key) is None and cache.find(cached.manifest.action) is None
        with pytest.raises(KeyError):
            cache.store.open(key)
