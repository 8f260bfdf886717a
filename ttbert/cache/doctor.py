"""What works in a store and what does not, tried out step by step, each with the cause and the remedy.

Everything is tried as a reader and a writer would do it, through the contract, with small objects that are removed at the
end. Of folders it also looks at the mount, and of stores on the network at the way there.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import socket
import stat
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from ..errors import CacheError, InputError, IntegrityError, StoreUnavailable, TtbertError
from ..frozen import Frozen
from ..text import count_text, size_text
from .census import SLIP
from .reach import OWN
from .stores.local import LocalStore, how_to_free
from .stores.mounts import find_mount, nearest_existing
from .stores.open import open_store
from .stores.store import Store

State = Literal["ok", "warning", "failed", "skipped"]

LITTLE = 2 * 10**9
"""Bytes free that are hardly enough: a BERT-large takes 0.4 GB, and its checkpoint 1.3 GB."""

_SKEW = 60.0
_PATIENCE = 5.0
_CONTENT = b"a probe of ttbert, which may be removed: 0123456789\n"


class Check(Frozen):
    """One thing that was tried: how it went, and what to do about it where it did not go well."""

    name: str
    state: State
    what: str
    fix: str = ""
    exit_code: int = 0


def examine_url(url: str, write: bool = True) -> Iterator[Check]:
    """Try out the store at a URL, as `examine` does; InputError for a URL that names none."""
    try:
        store = open_store(url)
    except InputError:
        raise
    except TtbertError as error:  # such as a file in its place, or no credentials
        yield Check("open", "failed", error.message, error.hint, error.exit_code)
        return
    yield from examine(store, write)


def examine(store: Store, write: bool = True) -> Iterator[Check]:
    """Try a store out, until what all the rest needs fails; without `write` nothing is written."""
    with _left_as_it_was(store):
        yield from _examine(store, write)


def _examine(store: Store, write: bool) -> Iterator[Check]:
    if isinstance(store, LocalStore):
        yield from _look_at_folder(store, write)
    for check in _reach(store):
        yield check
        if check.state == "failed":
            return
    listed = _try("authenticate" if store.endpoint() else "list", lambda: _list(store))
    yield listed
    if listed.state == "failed":
        yield Check("write", "skipped", "not tried, since it cannot be listed")
    elif not write:
        yield Check("write", "skipped", "not tried, since nothing is to be written")
    else:
        yield from _write(store)
    yield _free(store)


def exit_code(checks: list[Check]) -> int:
    """0 where nothing failed, or the exit code of the first failure."""
    return next((check.exit_code for check in checks if check.state == "failed"), 0)


def _look_at_folder(store: LocalStore, write: bool) -> Iterator[Check]:
    place = nearest_existing(store.root)
    if place == store.root:
        yield Check("resolve", "ok", f"the folder {store.root}")
    else:
        fix = f"if there should be a cache: {SLIP}"
        what = f"there is no folder {store.root} yet; the first conversion makes it in {place}"
        yield Check("resolve", "warning", what, fix)
    mount = find_mount(store.root)
    what = f"{mount.type} at {mount.point}"
    if mount.is_temporary:
        fix = f"choose a folder on a disk with {store.chosen_with}"
        yield Check("storage", "warning", f"{what}: all of it is gone when the machine restarts", fix)
    elif mount.is_container_layer:
        fix = f"in a container, mount a volume there, or choose one with {store.chosen_with}"
        yield Check("storage", "warning", f"{what}: in a container, all of it is gone with the container", fix)
    else:
        late = f"; other machines see changes within {mount.seen_within:.0f} s" if mount.seen_within else ""
        yield Check("storage", "ok", f"{what}{late}")
    status = place.stat()
    modes = f"{place} has mode {status.st_mode & 0o7777:04o} and belongs to uid {status.st_uid}, gid {status.st_gid}"
    rights, there = os.R_OK | os.X_OK | (os.W_OK if write else 0), shlex.quote(store.url)
    if not os.access(place, rights):
        fix = "have it mounted for writing" if mount.is_read_only else "ask its owner for access, or choose another folder"
        missing = "it is mounted read-only" if mount.is_read_only else f"uid {os.geteuid()} has too few rights there"
        yield Check("permissions", "failed", f"{modes}; {missing}", fix, 9)
    elif place == store.root and (closed := _closed_folder(store, rights)):
        fix = (
            f"root can run: chown -R --reference={there} {there} && chmod -R u+rw,g+r {there} && "
            f"find {there} -type d -exec chmod --reference={there} {{}} +"
        )
        yield Check("permissions", "failed", f"{modes}; uid {os.geteuid()} has too few rights in {closed}", fix, 9)
    elif write and place == store.root and status.st_mode & stat.S_ISVTX:
        fix = f"its owner can take the sticky bit away: chmod -R -t {there}"
        yield Check("permissions", "warning", f"{modes}; what one user writes there, no other can collect or repair", fix)
    else:
        yield Check("permissions", "ok", f"{modes}; this is uid {os.geteuid()}")


def _closed_folder(store: LocalStore, rights: int) -> Path | None:
    """A folder of the store in which this user has fewer rights than in all of it, as `sudo` leaves one, or a backup."""
    folders = (folder for kind in (*OWN, "refs") for folder in (store.root / kind, *(store.root / kind).glob("*/")))
    return next((folder for folder in folders if folder.is_dir() and not os.access(folder, rights)), None)


def _reach(store: Store) -> Iterator[Check]:
    """Whether the host has an address, and something answers there."""
    if store.access:
        region = f", region {store.access.region}" if store.access.region else ""
        yield Check("credentials", "ok", f"from {store.access.credentials}{region}")
    endpoint = store.endpoint()
    if endpoint is None:
        return
    host, port = endpoint
    try:
        addresses = sorted({str(each[4][0]) for each in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)})
    except OSError as error:
        fix = "check the endpoint for a slip of the pen, and this machine's DNS"
        yield Check("resolve", "failed", f"{host} has no address: {error.strerror or error}", fix, StoreUnavailable.exit_code)
        return
    yield Check("resolve", "ok", f"{host} is {', '.join(addresses[:3])}")
    started = time.monotonic()
    try:
        socket.create_connection((host, port), _PATIENCE).close()
    except OSError as error:
        fix = "check the port, firewalls, and whether the server runs; a proxy is not looked at here"
        what = f"nothing answers at {host}:{port}: {error.strerror or error}"
        yield Check("connect", "failed", what, fix, StoreUnavailable.exit_code)
        return
    yield Check("connect", "ok", f"{host}:{port} answers in {(time.monotonic() - started) * 1000:.0f} ms")


@contextlib.contextmanager
def _left_as_it_was(store: Store) -> Iterator[None]:
    """Remove the folders that the trial makes: whoever converts first decides with whom they are shared."""
    missing = []
    if isinstance(store, LocalStore):
        place = nearest_existing(store.root)
        missing = [path for path in (store.root, *store.root.parents) if place in path.parents]
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # somebody uses them already
            for path in missing:
                path.rmdir()


def _list(store: Store) -> str:
    started = time.monotonic()
    found = len({entry.key.split("/")[1] for entry in store.list("refs")})
    there = count_text(found, "name") if found else "no model yet"
    return f"{there}, listed in {(time.monotonic() - started) * 1000:.0f} ms"


def _write(store: Store) -> Iterator[Check]:
    key = f"probes/{uuid.uuid4().hex}"
    began = time.time()
    created = _try("create", lambda: _create(store, key))
    yield created
    if created.state == "failed":
        return
    ended = time.time()
    once = _try("create once", lambda: _create_again(store, key))
    yield once
    if once.state == "ok":
        yield _try("read", lambda: _read(store, key))
        yield _try("read a range", lambda: _read_range(store, key))
    yield _clock(store, key, began, ended)
    yield _try("delete", lambda: _delete(store, key))
    with contextlib.suppress(CacheError):
        store.delete(key)


def _create(store: Store, key: str) -> str:
    started = time.monotonic()
    if not store.put(key, _CONTENT):
        raise IntegrityError("a new object is said to be there already", "the store does not do what it should")
    return f"a small object in {(time.monotonic() - started) * 1000:.0f} ms"


def _create_again(store: Store, key: str) -> str:
    if store.put(key, b"another content") or store.get(key) != _CONTENT:
        raise IntegrityError(
            "a second writer overwrites the first: what is published there can be replaced",
            "do not publish there; ask for a server that keeps If-None-Match, or use a folder",
        )
    if store.capabilities.creates_atomically and not store.creates_exactly_once():
        raise IntegrityError(
            "a second writer is refused when it comes later, and of several at once more than one wins",
            "do not publish there without --accept-weak-store; names that two machines move at once can suffer",
        )
    if not store.capabilities.creates_atomically:
        return "a later writer is refused; of two at once both may win, which this kind of store cannot prevent"
    return "a second writer is refused"


def _read(store: Store, key: str) -> str:
    with store.open(key) as stream:
        found = stream.read()
    if found != _CONTENT or store.get(key) != _CONTENT:
        raise IntegrityError("other bytes come back than were written", "look at the disk, or at what is between")
    return "the same bytes come back"


def _read_range(store: Store, key: str) -> str:
    if store.get(key, 7, 9) != _CONTENT[7:16]:
        raise IntegrityError("a range of an object is not what was asked for", "what is between must not drop Range headers")
    return "bytes 7 to 15 of them, too"


def _clock(store: Store, key: str, began: float, ended: float) -> Check:
    entry = store.head(key)
    if entry is None:
        return Check("clock", "failed", "the object is not there any more", "somebody is deleting; try again", 5)
    skew = entry.modified - ended if entry.modified > ended else min(0.0, entry.modified + 1 - began)  # in whole seconds, often
    if abs(skew) <= _SKEW:
        return Check("clock", "ok", f"this machine and the store agree to {max(1.0, abs(skew)):.0f} s")
    what = f"the store's clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} this machine's"
    return Check("clock", "warning", what, "set the clocks by NTP: ages, leases and signed requests go by them")


def _delete(store: Store, key: str) -> str:
    if not store.delete(key) or store.head(key) is not None:
        raise IntegrityError("a deleted object is still there", "garbage cannot be collected; check the rights and versioning")
    return "it is gone"


def _free(store: Store) -> Check:
    free = store.free()
    if free is None:
        return Check("space", "ok", "nobody can say how much is free, so nothing is checked before writing")
    if free == 0:
        fix = "if that is not so, TTBERT_NO_SPACE_CHECK=1 writes all the same; else " + how_to_free(store.url)
        return Check("space", "warning", "the mount says that nothing is free", fix)
    if free < LITTLE:
        return Check("space", "warning", f"{size_text(free)} free, which is hardly a model", how_to_free(store.url))
    return Check("space", "ok", f"{size_text(free)} free")


def _try(name: str, step: Callable[[], str]) -> Check:
    try:
        return Check(name, "ok", step())
    except TtbertError as error:
        return Check(name, "failed", error.message, error.hint, error.exit_code)
    except KeyError:
        return Check(name, "failed", "what was just written is not found", "is somebody deleting there? try again", 5)
    except OSError as error:
        return Check(name, "failed", f"it cannot be read: {error}", "look at the disk or the network", 11)
