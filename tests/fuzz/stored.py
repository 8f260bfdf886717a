"""Targets that read through a store, as everything does that many machines write: records of collections, leases, names.

Each is given the bytes of one object, and puts it where it belongs in a store in memory.
"""

from __future__ import annotations

from dataclasses import replace

import fsspec
from models import TINY

from ttbert.cache import lease
from ttbert.cache.cache import Cache, action_key
from ttbert.cache.census import take_census
from ttbert.cache.condemned import Condemned, CondemnedRef, Objections, Sweeper, condemn, read_record
from ttbert.cache.digest import blake3_of
from ttbert.cache.document import canonical
from ttbert.cache.history import read_log
from ttbert.cache.lease import Failure
from ttbert.cache.places import Places
from ttbert.cache.refs import entry_key, read_latest
from ttbert.cache.stores.store import is_key

WORK = blake3_of(b"work")
RECORD = Condemned("0" * 32, 0.0, (), {})


def opened(*objects: tuple[str, bytes]) -> Cache:
    """A cache with nothing in it but these."""
    memory = fsspec.filesystem("memory")
    if memory.exists("/ttbert-fuzz-one"):
        memory.rm("/ttbert-fuzz-one", recursive=True)  # folders, too, which would be in the way of objects
    cache = Places("memory://ttbert-fuzz-one", accept_weak=True).open()
    for key, content in objects:
        cache.store.put(key, content)
    return cache


def record(data: bytes) -> bool:
    """What is to be deleted: only what may be, whatever the record says."""
    store = opened((f"{RECORD.folder}/condemned", data)).store
    found = read_record(store, RECORD.name)
    assert found is not None
    assert all(is_key(key) and key.startswith(("blobs/", "manifests/", "actions/", "refs/")) for key in found.keys)
    written = condemn(store, found.refs, found.objects)
    assert (written.refs, written.objects) == (found.refs, found.objects)
    return True


def reprieve(data: bytes) -> bool:
    """What a writer relies on, as a collector reads it."""
    condemned = (f"{RECORD.folder}/condemned", b"")
    record = replace(RECORD, objects={"blobs/x": "what is damaged keeps all of it"})
    keys = Sweeper(opened(condemned, (f"{RECORD.folder}/reprieved/x", data)).store, record).reprieved()
    assert keys is not None and all(map(is_key, keys))
    return not keys >= record.keys


def sweeping(data: bytes) -> bool:
    """A collector's announcement, as a writer reads it: nobody waits for ever, or for what cannot be read."""
    store = opened((f"{RECORD.folder}/sweeping/x", data)).store
    entries = list(store.list())
    found = Objections(store)._sweeping(entries, {RECORD.folder})
    assert all(until - entries[0].modified <= 900 for until in found.values())
    return bool(found)


def holder(data: bytes) -> bool:
    """Who holds a lease: any bytes mean somebody, and somebody who can be named."""
    key = f"leases/{WORK.hex}/00000001"
    store = opened((key, data)).store
    taken = lease._Lease(store, f"leases/{WORK.hex}", lease.LASTS)
    name = taken.take(list(store.list("leases")))
    assert name is None or (isinstance(name, str) and len(name) <= 60)
    return isinstance(taken._read(key).get("pid"), int)


def action(data: bytes) -> bool:
    """What leads from a recipe to its result: what cannot be read leads nowhere."""
    return opened((action_key(WORK), data)).read_action(WORK) is not None


def history(data: bytes) -> bool:
    """A name's entries, one a line; those who look at all of them meet no error."""
    lines = data.split(b"\n")[:4]
    cache = opened(*((entry_key(TINY, number), line) for number, line in enumerate(lines, 1)))
    log = read_log(cache.store, TINY)
    assert [line.number for line in log] == list(range(1, len(lines) + 1))
    assert all(line.problem or line.entry for line in log)
    take_census(cache)
    return all(line.problem is None for line in log) and read_latest(cache.store, TINY) is not None


def name(data: bytes) -> bool:
    """The folder of a name, which whoever may write can call anything: no look at a cache fails because of it."""
    key = f"refs/{data.decode('utf-8', 'replace')}"
    if not is_key(key):
        return False
    cache = opened((key, b"rubbish"))
    for model in take_census(cache).models:
        assert model.problem and model.ref.folder
    return bool(take_census(cache).models)


def seeds() -> list[bytes]:
    """Inputs that one of these takes."""
    store = opened().store
    key, ref = action_key(WORK), CondemnedRef(TINY.folder, 3, "of tiny")
    condemned = store.get(f"{condemn(store, [ref], {key: 'no model uses it'}).folder}/condemned")
    return [
        condemned,
        canonical({"schema": "ttbert.reprieved/1", "keys": [{"key": key}, {"key": TINY.folder}]}),
        canonical({"schema": "ttbert.sweeping/1", "seconds": 60}),
        canonical({"schema": "ttbert.action/1", "manifest": str(WORK)}),
        lease._this_process(),
        Failure("alpha", "tensor 'x' holds NaN", "choose another one").to_bytes(),
        f"{TINY.quoted}/00000001".encode(),
    ]
