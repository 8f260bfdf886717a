"""Loading reads ahead, in threads, and yet gives each tensor in its turn, checked, in memory that nobody can change."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
from models import flip_bit

from ttbert.cache.cache import Cache, Cached, blob_key
from ttbert.cache.places import Places
from ttbert.cache.stores.local import LocalStore
from ttbert.convert.convert import convert, plan_conversion
from ttbert.convert.wanted import BUNDLED, Wanted
from ttbert.errors import IntegrityError
from ttbert.recipe.tensorbin import HEADER_SIZE
from ttbert.runtime.loader import CachedModel
from ttbert.tt import host_ttnn

MOST_AHEAD = 13
"""Packs that may have been opened when the first tensor is given: of 14, the one that it is in, and twelve more."""


class CountingStore(LocalStore):
    """A local store that knows what was opened."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.opened: list[str] = []
        self._more = threading.Condition()

    def open(self, key: str) -> BinaryIO:
        with self._more:
            self.opened.append(key)
            self._more.notify_all()
        return super().open(key)

    def wait_for(self, count: int) -> None:
        """Until so many were opened, by whatever thread."""
        with self._more:
            assert self._more.wait_for(lambda: len(self.opened) >= count, timeout=100), self.opened


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Cached]:
    root = tmp_path_factory.mktemp("cache")
    return root, convert(plan_conversion(Wanted(BUNDLED)), Places(str(root)).open()).cached


@pytest.fixture
def root(converted: tuple[Path, Cached], tmp_path: Path) -> Path:
    """A copy of the cache, to be damaged."""
    return Path(shutil.copytree(converted[0], tmp_path / "cache"))


@pytest.fixture
def model(converted: tuple[Path, Cached], root: Path) -> CachedModel:
    return CachedModel(Cache(CountingStore(root)), converted[1])


def payload(tensor: object) -> bytes:
    shard = tensor.host_buffer().get_shard(host_ttnn().MeshCoordinate(0, 0))  # type: ignore[attr-defined]
    return np.from_dlpack(shard).tobytes()


def stored(root: Path, model: CachedModel) -> Iterator[tuple[str, bytes]]:
    """Each tensor's packed bytes, cut out of the packs by what the manifest says."""
    for pack in model.manifest.packs:
        content = (root / blob_key(pack.blob)).read_bytes()
        for tensor, offset in pack.places():
            yield tensor.name, content[offset + HEADER_SIZE : offset + tensor.size]


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


def test_every_tensor_comes_in_its_turn_with_the_bytes_that_are_stored(model: CachedModel, root: Path) -> None:
    before = descriptors()
    found = [(entry.name, payload(tensor)) for entry, tensor in model.tensors()]
    assert found == list(stored(root, model)) and len(found) == len(model.manifest.tensors)
    assert descriptors() == before


def test_only_some_packs_are_read_before_they_are_asked_for(model: CachedModel) -> None:
    store = model.cache.store
    assert isinstance(store, CountingStore)
    packs = model.manifest.packs
    turn = {tensor.name: number for number, pack in enumerate(packs) for tensor in pack.tensors}
    store.opened.clear()
    assert len(packs) > MOST_AHEAD
    for entry, _ in model.tensors():
        ahead = min(turn[entry.name] + MOST_AHEAD, len(packs))
        store.wait_for(ahead)
        assert len(store.opened) == ahead
    assert sorted(store.opened) == sorted(blob_key(pack.blob) for pack in packs), "each once"


def test_a_load_that_is_given_up_leaves_no_thread_and_no_open_file(model: CachedModel) -> None:
    host_ttnn()
    threads, files = threading.active_count(), descriptors()
    tensors = model.tensors()
    next(tensors)
    tensors.close()  # type: ignore[attr-defined]
    del tensors
    assert threading.active_count() == threads and descriptors() == files


def test_damage_ends_the_load_at_its_pack(model: CachedModel, root: Path) -> None:
    pack = model.manifest.packs[9]
    flip_bit(root / blob_key(pack.blob), pack.size - 1)
    seen: list[str] = []
    with pytest.raises(IntegrityError, match=rf"{pack.blob.hex} \({pack.tensors[-1].name}\) is damaged"):
        seen.extend(entry.name for entry, _ in model.tensors())
    assert seen == [tensor.name for before in model.manifest.packs[:9] for tensor in before.tensors]


def test_a_file_that_is_changed_after_the_load_changes_no_tensor(model: CachedModel, root: Path) -> None:
    pack = model.manifest.packs[0]
    expected = dict(stored(root, model))
    loaded = {entry.name: tensor for entry, tensor in model.tensors()}
    path = root / blob_key(pack.blob)
    path.write_bytes(bytes(pack.size))
    for tensor in pack.tensors:
        assert payload(loaded[tensor.name]) == expected[tensor.name]
