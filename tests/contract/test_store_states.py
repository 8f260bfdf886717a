"""The same contract, as any sequence of calls: a store behaves like a dict that refuses to overwrite."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from s3_server import MotoServer

from ttbert.cache.stores.foreign import FsspecStore
from ttbert.cache.stores.local import LocalStore
from ttbert.cache.stores.objects import ObjectStore
from ttbert.cache.stores.store import Store

KEYS = st.sampled_from(["blobs/aa/1", "blobs/aa/2", "blobs/ab/1", "blobs-old/1", "manifests/aa/1", "refs/a%2Fb:c/00000001"])
PREFIXES = st.sampled_from(["", "blobs", "blobs/aa", "refs", "nothing"])
CONTENTS = st.binary(max_size=20)


class StoreMachine(RuleBasedStateMachine):
    """`expected` holds every object that must be there, quarantined ones too."""

    store: Store

    def __init__(self) -> None:
        super().__init__()
        self.expected: dict[str, bytes] = {}

    @rule(key=KEYS, content=CONTENTS)
    def put(self, key: str, content: bytes) -> None:
        assert self.store.put(key, content) is (key not in self.expected)
        self.expected.setdefault(key, content)

    @rule(key=KEYS)
    def read(self, key: str) -> None:
        if key not in self.expected:
            with pytest.raises(KeyError):
                self.store.get(key)
            with pytest.raises(KeyError):
                self.store.open(key)
            return
        with self.store.open(key) as stream:
            assert stream.read() == self.store.get(key) == self.expected[key]

    @rule(key=KEYS, start=st.integers(0, 25), length=st.none() | st.integers(0, 25))
    def read_part(self, key: str, start: int, length: int | None) -> None:
        if key in self.expected:
            end = None if length is None else start + length
            assert self.store.get(key, start, length) == self.expected[key][start:end]

    @rule(key=KEYS)
    def delete(self, key: str) -> None:
        assert self.store.delete(key) is (key in self.expected)
        self.expected.pop(key, None)

    @rule(key=KEYS)
    def quarantine(self, key: str) -> None:
        if key not in self.expected:
            with pytest.raises(KeyError):
                self.store.quarantine(key)
            return
        moved = self.store.quarantine(key)
        assert moved not in self.expected
        self.expected[moved] = self.expected.pop(key)

    @rule(key=KEYS)
    def touch(self, key: str) -> None:
        self.store.touch(key)

    @rule(key=KEYS)
    def head(self, key: str) -> None:
        entry = self.store.head(key)
        assert (entry.size if entry else None) == (len(self.expected[key]) if key in self.expected else None)

    @rule(prefix=PREFIXES)
    def list_below(self, prefix: str) -> None:
        found = [(entry.key, entry.size) for entry in self.store.list(prefix)]
        below = f"{prefix}/" if prefix else ""
        assert found == sorted((key, len(content)) for key, content in self.expected.items() if key.startswith(below))

    @invariant()
    def leaves_nothing_behind(self) -> None:
        assert list(self.store.debris()) == []


class LocalMachine(StoreMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.mkdtemp(prefix="ttbert-tests-")
        self.store = LocalStore(Path(self.folder, "store"))

    def teardown(self) -> None:
        shutil.rmtree(self.folder)


class MemoryMachine(StoreMachine):
    def __init__(self) -> None:
        super().__init__()
        self.store = FsspecStore(f"memory://{uuid.uuid4().hex}")


_SETTINGS = settings(max_examples=60, stateful_step_count=30, deadline=None)

TestLocalStates = LocalMachine.TestCase
TestLocalStates.settings = _SETTINGS
TestMemoryStates = MemoryMachine.TestCase
TestMemoryStates.settings = _SETTINGS


class ObjectMachine(StoreMachine):
    url: str

    def __init__(self) -> None:
        super().__init__()
        self.store = ObjectStore(f"{self.url}/{uuid.uuid4().hex}")


def test_states_of_an_object_store(moto: MotoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in moto.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(ObjectMachine, "url", f"s3://{moto.bucket()}", raising=False)
    run_state_machine_as_test(ObjectMachine, settings=settings(_SETTINGS, max_examples=20))
