"""Room is asked for as a whole, before the first byte; and a mount that tells lies about it can be overruled."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import tiny
from forks import Forks
from models import TINY, files, open_local, publish
from program import ttbert

from ttbert.cache.cache import open_cache
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


def test_a_collection_that_cannot_write_down_what_it_deletes_says_what_to_do(small_disk: Path) -> None:
    cache = open_local(small_disk / "cache")
    publish(cache)
    cache.remove_ref(TINY)
    with (small_disk / "full").open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(bytes(4096))
    before = files(small_disk)
    done = ttbert("cache", "gc", "--grace", "0", "--yes", "--json", "--cache", cache.store.url)
    assert done.exit_code == 10 and "free a few kB of that disk in another way" in done.document["error"]["hint"]
    assert files(small_disk) == before
    (small_disk / "full").unlink()
    assert (
        ttbert("cache", "gc", "--grace", "0", "--yes", "--json", "--cache", cache.store.url).succeeded().document["freed"] > 0
    )


def test_what_is_full_is_not_always_the_bytes(small_disk: Path) -> None:
    store = LocalStore(small_disk / "cache")
    store.put("blobs/aa/one", b"1")
    subprocess.run(["mount", "-o", f"remount,nr_inodes={len(list(small_disk.rglob('*'))) + 1}", small_disk], check=True)
    with pytest.raises(NoSpaceError, match="all inodes are in use"):
        store.put("blobs/aa/two", b"2")


def test_a_model_that_is_there_needs_no_room(small_disk: Path, tmp_path: Path, forks: Forks) -> None:
    folder = tiny.write(tmp_path / "tiny", tiny.checkpoint())
    cache = tmp_path / "cache"
    forks.ttbert("convert", folder, cache=cache).succeeded()
    (small_disk / "cache").symlink_to(cache)
    forks.ttbert("convert", folder, cache=small_disk / "cache").succeeded()


def test_what_says_nothing_of_its_space_is_not_asked(tmp_path: Path) -> None:
    require_space(open_cache("memory://x").store, 1 << 60, "a model")
    store = LocalStore(tmp_path)
    free = store.free()
    assert free is not None
    require_space(store, free // 2, "a model")
    with pytest.raises(NoSpaceError, match=f"{free * 2:,} bytes needed") as caught:
        require_space(store, free * 2, "a model")
    assert f"`ttbert cache gc --cache {tmp_path}`" in caught.value.hint
