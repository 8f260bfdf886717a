"""Room is asked for as a whole, before the first byte; and a mount that tells lies about it can be overruled."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
from forks import Forks
from models import HOUR, OTHER, TINY, age, files, open_local, publish, publish_other
from program import Done, ttbert

from ttbert.cache.cache import Cache, blob_key
from ttbert.cache.census import take_census
from ttbert.cache.digest import blake3_of
from ttbert.cache.gc import GRACE
from ttbert.cache.lease import leased
from ttbert.cache.places import Places
from ttbert.cache.space import require_space
from ttbert.cache.stores.local import LocalStore
from ttbert.errors import NoSpaceError


def test_a_conversion_that_does_not_fit_writes_nothing_at_all(small_disk: Path, tmp_path: Path, forks: Forks) -> None:
    folder = tiny.write(tmp_path / "tiny", tiny.checkpoint())
    done = forks.ttbert("convert", folder, cache=small_disk / "cache")
    done.failed(10, "bytes needed", "free; nothing was written", str(small_disk), "--no-space-check", "TTBERT_NO_SPACE_CHECK")
    assert not (small_disk / "cache").exists()


def test_the_check_can_be_overruled_and_then_the_disk_decides(small_disk: Path, tmp_path: Path, forks: Forks) -> None:
    folder = tiny.write(tmp_path / "tiny", tiny.checkpoint())
    done = forks.ttbert("convert", folder, "--no-space-check", cache=small_disk / "cache")
    done.failed(10, "no space left in")
    left = files(small_disk / "cache")
    assert left and not [key for key in left if key.startswith(("manifests", "refs"))]


def test_what_an_interrupted_conversion_left_needs_no_room_again(small_disk: Path, tmp_path: Path, forks: Forks) -> None:
    folder, cache = tiny.write(tmp_path / "tiny", tiny.checkpoint()), small_disk / "cache"
    forks.ttbert("convert", folder, cache=tmp_path / "whole").succeeded()
    subprocess.run(["mount", "-o", "remount,size=132k", small_disk], check=True)
    forks.ttbert("convert", folder, cache=cache).failed(10, "bytes needed", "nothing was written")

    blobs = sorted((tmp_path / "whole" / "blobs").glob("*/*"), key=lambda path: path.stat().st_size)
    subprocess.run(["mount", "-o", "remount,size=236k", small_disk], check=True)
    for blob in blobs[-3:]:
        assert LocalStore(cache).put(f"blobs/{blob.parent.name}/{blob.name}", blob.read_bytes())
    free = LocalStore(cache).free()
    assert free is not None and free <= 132 << 10
    forks.ttbert("convert", folder, cache=cache).succeeded()
    forks.ttbert("cache", "verify", cache=cache).succeeded()
    other = tiny.write(tmp_path / "other", tiny.checkpoint(tiny.arrays(seed=1)))
    forks.ttbert("convert", other, cache=cache).failed(10, "bytes needed", "nothing was written")


def test_what_is_left_of_a_damaged_model_needs_no_room_again(small_disk: Path, tmp_path: Path, forks: Forks) -> None:
    folder, cache = tiny.write(tmp_path / "tiny", tiny.checkpoint()), small_disk / "cache"
    subprocess.run(["mount", "-o", "remount,size=400k", small_disk], check=True)
    forks.ttbert("convert", folder, cache=cache).succeeded()
    max((cache / "blobs").glob("*/*"), key=lambda path: path.stat().st_size).unlink()
    used = 400 - LocalStore(small_disk).free() // 1024  # type: ignore[operator]
    subprocess.run(["mount", "-o", f"remount,size={used + 100}k", small_disk], check=True)
    forks.ttbert("convert", folder, cache=cache).succeeded()
    forks.ttbert("cache", "verify", cache=cache).succeeded()


def fill(disk: Path) -> Path:
    """A file that takes every byte that is free on a disk."""
    with (disk / "full").open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(bytes(4096))
    return disk / "full"


def take_all_inodes(disk: Path) -> None:
    subprocess.run(["mount", "-o", f"remount,nr_inodes={len(list(disk.rglob('*'))) + 1}", disk], check=True)


def gc(cache: Cache, *options: str) -> Done:
    return ttbert("cache", "gc", "--yes", "--json", *options, "--cache", cache.store.url)


@pytest.mark.parametrize("take_all", [fill, take_all_inodes])
def test_a_collection_frees_a_disk_on_which_it_can_write_nothing(take_all: Callable[[Path], object], small_disk: Path) -> None:
    cache = open_local(small_disk / "cache")
    publish(cache, tensors={f"layers.{i}": bytes([i]) * 1000 for i in range(6)})
    kept = publish_other(cache)
    cache.remove_ref(TINY)
    take_all(small_disk)
    with pytest.raises(NoSpaceError):
        cache.store.put("blobs/ee/one", b"1")
    found = gc(cache, "--grace", "0").succeeded().document
    assert found["freed"] == sum(each["bytes"] for each in found["delete"]) > 0
    census = take_census(cache)
    assert {blob_key(digest) for digest in kept.manifest.blobs} == set(census.blobs) and not census.below("gc")
    ttbert("cache", "verify", "--cache", cache.store.url).succeeded()


def test_a_full_disk_is_freed_of_what_was_condemned_and_of_models_that_are_given_up(small_disk: Path) -> None:
    cache = open_local(small_disk / "cache")
    publish(cache)
    publish_other(cache)
    cache.remove_ref(TINY)
    gc(cache).succeeded()
    fill(small_disk)
    age(small_disk / "cache", 2 * GRACE)
    assert gc(cache).succeeded().document["freed"] > 0
    assert [model.ref for model in take_census(cache).models] == [OTHER]
    ttbert("cache", "verify", "--cache", cache.store.url).succeeded()

    for day in (small_disk / "cache" / "used").glob("*/*"):
        day.rename(day.with_name("2020-01-01"))
    (small_disk / "full").unlink()
    fill(small_disk)
    assert gc(cache, "--older-than", "1d", "--grace", "0").succeeded().document["freed"] > 0
    assert not take_census(cache).models and not take_census(cache).blobs


def test_nothing_makes_room_on_a_full_disk_while_somebody_converts(small_disk: Path) -> None:
    cache = open_local(small_disk / "cache")
    publish(cache)
    cache.remove_ref(TINY)
    with leased(cache.store, blake3_of(b"another"), lambda: None):
        fill(small_disk)
        before = files(small_disk)
        assert gc(cache, "--grace", "0").exit_code == 10
        assert {key for key in before if "leases" not in key} <= set(files(small_disk))


def test_a_collection_that_cannot_write_down_what_it_deletes_says_what_to_do(small_disk: Path) -> None:
    cache = open_local(small_disk / "cache")
    publish(cache)
    cache.remove_ref(TINY)
    publish_other(cache)
    full = fill(small_disk)
    before = sorted(small_disk.rglob("*"))
    done = gc(cache)
    assert done.exit_code == 10 and "--grace 0" in done.document["error"]["hint"]
    assert "free a few kB of that disk in another way" in done.document["error"]["hint"]
    ttbert("cache", "rm", "other", "--yes", "--cache", cache.store.url).failed(10, "cache gc --grace 0", "in another way")
    assert sorted(small_disk.rglob("*")) == before
    gc(cache, "--grace", "0").succeeded()
    ttbert("cache", "rm", "other", "--yes", "--cache", cache.store.url).succeeded()
    assert full.exists()


def test_what_a_clock_that_was_wrong_keeps_from_being_deleted_is_told_of(tmp_path: Path) -> None:
    cache = open_local(tmp_path)
    publish(cache)
    cache.remove_ref(TINY)
    age(tmp_path, -HOUR)
    done = gc(cache, "--grace", "0").succeeded()
    assert done.document["freed"] == 0 and "note: the rest stays" in done.err
    age(tmp_path, 2 * HOUR)
    done = gc(cache, "--grace", "0").succeeded()
    assert done.document["freed"] > 0 and "note" not in done.err


def test_what_is_full_is_not_always_the_bytes(small_disk: Path) -> None:
    store = LocalStore(small_disk / "cache")
    store.put("blobs/aa/one", b"1")
    take_all_inodes(small_disk)
    with pytest.raises(NoSpaceError, match="all inodes are in use"):
        store.put("blobs/aa/two", b"2")


def test_a_model_that_is_there_needs_no_room(small_disk: Path, tmp_path: Path, forks: Forks) -> None:
    folder = tiny.write(tmp_path / "tiny", tiny.checkpoint())
    cache = tmp_path / "cache"
    forks.ttbert("convert", folder, cache=cache).succeeded()
    (small_disk / "cache").symlink_to(cache)
    forks.ttbert("convert", folder, cache=small_disk / "cache").succeeded()


def test_what_says_nothing_of_its_space_is_not_asked(tmp_path: Path) -> None:
    require_space(Places("memory://x").open().store, 1 << 60, "a model")
    store = LocalStore(tmp_path)
    free = store.free()
    assert free is not None
    require_space(store, free // 2, "a model")
    with pytest.raises(NoSpaceError, match=f"{free * 2:,} bytes needed") as caught:
        require_space(store, free * 2, "a model")
    assert f"`ttbert cache gc --cache {tmp_path}`" in caught.value.hint
