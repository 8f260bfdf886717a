"""What a lease promises: of several that want the same work one does it, and a dead holder stops nobody for long."""

from __future__ import annotations

import os
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fault_proxy import FaultProxy, reset_after, unavailable
from models import age
from s3_server import MotoServer

from ttbert.cache.digest import blake3_of
from ttbert.cache.document import canonical
from ttbert.cache.lease import Failure, leased
from ttbert.cache.stores.access import Patience
from ttbert.cache.stores.objects import TRIES, ObjectStore
from ttbert.cache.stores.open import open_store
from ttbert.cache.stores.store import Store
from ttbert.child import python_command
from ttbert.errors import CheckpointError, UnreadableError

WORK = blake3_of(b"a conversion")
HIDDEN = """
import os, sys
from pathlib import Path
from ttbert.cache.digest import blake3_of
from ttbert.cache.lease import leased
from ttbert.cache.stores.local import LocalStore

store, work = LocalStore(Path(sys.argv[1])), blake3_of(b"a conversion")
with leased(store, work, lambda: None):
    if not os.fork():
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        found = iter([None, None, "what the other one made"])
        with leased(store, work, lambda: next(found)) as made:
            print(made, os.path.exists(f"/proc/{os.getppid()}"), flush=True)
        os._exit(0)
    os.wait()
"""
"""In a place of its own where users do not see one another's processes: somebody waits for root's lease."""
SHORT = 2.0
"""Seconds; a bucket's clock shows whole ones."""


@pytest.fixture(params=["local", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param == "local":
        yield str(tmp_path / "cache")
        return
    moto: MotoServer = request.getfixturevalue("moto")
    for name, value in moto.env.items():
        monkeypatch.setenv(name, value)
    yield f"s3://{moto.bucket()}/cache"


def entries(store: Store) -> list[str]:
    return [entry.key for entry in store.list("leases")]


def hold_elsewhere(store: Store, host: str = "far-away") -> None:
    """A lease of a machine that is not this one."""
    store.put(f"leases/{WORK.hex}/00000001", canonical({"host": host, "pid": 1, "boot": "another", "pids": "pid:[1]"}))


def test_eight_machines_do_the_work_once(url: str) -> None:
    done: list[int] = []
    result = f"result-{uuid.uuid4().hex}"

    def machine(number: int) -> str:
        with leased(open_store(url), WORK, lambda: result if done else None) as found:
            if found:
                return found
            time.sleep(0.3)
            done.append(number)
            return result

    with ThreadPoolExecutor(8) as machines:
        assert list(machines.map(machine, range(8))) == [result] * 8
    assert len(done) == 1 and entries(open_store(url)) == []


def test_a_lease_is_given_back_where_the_work_fails(url: str) -> None:
    store = open_store(url)
    with pytest.raises(RuntimeError, match="failed"), leased(store, WORK, lambda: None):
        assert len(entries(store)) == 1
        raise RuntimeError("failed")
    assert entries(store) == []


def test_a_holder_that_is_silent_is_replaced_and_not_before(url: str, caplog: pytest.LogCaptureFixture) -> None:
    store = open_store(url)
    hold_elsewhere(store)
    started = time.monotonic()
    with leased(store, WORK, lambda: None, lasts=SHORT) as found:
        assert found is None
    assert SHORT - 1.1 < time.monotonic() - started < SHORT + 5
    assert caplog.messages == ["far-away is at work on this already; waiting for it"] and entries(store) == []


def test_a_holder_whose_name_cannot_be_read_may_be_of_this_machine(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = open_store(str(tmp_path))
    store.put(f"leases/{WORK.hex}/00000001", b"rubbish")
    with leased(store, WORK, lambda: None, lasts=0.1):
        assert caplog.messages == ["another process is at work on this already; waiting for it"]


def test_a_dead_process_of_this_machine_is_replaced_at_once(tmp_path: Path) -> None:
    """It left its lease behind, as a killed conversion does."""
    from ttbert.cache import lease

    store = open_store(str(tmp_path))
    here = lease._identity(1)
    store.put(f"leases/{WORK.hex}/00000007", canonical({"host": "here", **here, "started": 12345678901}))
    started = time.monotonic()
    with leased(store, WORK, lambda: None):
        assert entries(store) == [f"leases/{WORK.hex}/00000008"]
    assert time.monotonic() - started < 2


def test_a_holder_at_work_keeps_its_lease(url: str) -> None:
    """Longer than a lease lasts, since it renews it."""
    store, others = open_store(url), open_store(url)
    taken = threading.Event()

    def wait() -> None:
        with leased(others, WORK, lambda: None, lasts=SHORT):
            taken.set()

    with leased(store, WORK, lambda: None, lasts=SHORT):
        waiting = threading.Thread(target=wait)
        waiting.start()
        assert not taken.wait(SHORT * 1.5)
    waiting.join(10)
    assert taken.is_set() and entries(store) == []


@pytest.fixture
def unsteady(proxy: FaultProxy, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store of which every request that tells of the first renewal is carried out or refused, and not answered."""
    for name, value in proxy.env.items():
        monkeypatch.setenv(name, value)
    proxy.calm()
    proxy.meet(reset_after, "PUT", "/00000002")
    proxy.meet(unavailable, "PUT", "/00000002", times=TRIES - 1)
    proxy.meet(unavailable, "GET", "/00000002", times=TRIES)
    return ObjectStore(f"s3://{bucket}/{uuid.uuid4().hex}", Patience(pause=0.01))


def wait_for(what: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not what():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_renewal_whose_answer_is_lost_does_not_end_the_lease(unsteady: Store) -> None:
    with leased(unsteady, WORK, lambda: None, lasts=SHORT):
        wait_for(lambda: entries(unsteady)[-1:] >= [f"leases/{WORK.hex}/00000004"])
        assert len(entries(unsteady)) <= 2, "the one before is deleted when the next is there"
    assert entries(unsteady) == []


def test_a_renewal_whose_answer_is_lost_is_given_back_too(unsteady: Store, proxy: FaultProxy) -> None:
    with leased(unsteady, WORK, lambda: None, lasts=6 * SHORT):
        wait_for(lambda: proxy.count("GET", "/00000002") == TRIES)
        assert len(entries(unsteady)) == 2
    assert entries(unsteady) == []


def test_whoever_waits_gets_the_result_as_soon_as_it_is_there(url: str) -> None:
    store = open_store(url)
    hold_elsewhere(store)
    asked = iter([None, None, "done"])
    with leased(store, WORK, lambda: next(asked)) as found:
        assert found == "done"
    assert len(entries(store)) == 1, "the lease of the other one is not ours to end"


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"not json", b'{"pid": "x"}', b"[" * 9000, b"\xff"])
def test_a_lease_that_cannot_be_read_ends_as_others_do(tmp_path: Path, content: bytes) -> None:
    store = open_store(str(tmp_path))
    store.put(f"leases/{WORK.hex}/00000001", content)
    with leased(store, WORK, lambda: None, lasts=0.5) as found:
        assert found is None
    assert entries(store) == []


def test_two_that_hold_it_at_once_both_go_on(tmp_path: Path) -> None:
    """As on a store whose lease was deleted: nothing depends on it."""
    store = open_store(str(tmp_path))
    with leased(store, WORK, lambda: None) as first:
        for key in entries(store):
            store.delete(key)
        with leased(store, WORK, lambda: None) as second:
            assert first is None and second is None
    assert entries(store) == []


def test_those_who_wait_for_work_that_cannot_be_done_are_told_why_and_do_not_try_it(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    tried: list[int] = []

    def machine(number: int) -> None:
        with leased(open_store(url), WORK, lambda: None, final=CheckpointError):
            tried.append(number)

    with ThreadPoolExecutor(4) as machines:
        with pytest.raises(CheckpointError), leased(open_store(url), WORK, lambda: None, final=CheckpointError):
            others = [machines.submit(machine, number) for number in range(4)]
            while sum("waiting for it" in message for message in caplog.messages) < len(others):
                time.sleep(0.05)
            raise CheckpointError("tensor 'x' holds NaN", "choose another one")
        errors = [other.exception() for other in others]
    for error in errors:
        assert type(error) is CheckpointError and error.hint == "choose another one"
        assert error.message.startswith("tensor 'x' holds NaN (so found ") and "which this waited for" in error.message
    assert tried == []
    machine(1)
    assert tried == [1], "whoever comes later tries again"


def test_what_only_one_machine_meets_is_not_told_to_others(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    for error in (UnreadableError("the file is not there"), RuntimeError()):
        with pytest.raises(type(error)), leased(store, WORK, lambda: None, final=CheckpointError):
            raise error
        assert entries(store) == []


def test_reports_of_failures_are_removed_by_those_who_come_much_later(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    for _ in range(2):
        with pytest.raises(CheckpointError), leased(store, WORK, lambda: None, final=CheckpointError):
            raise CheckpointError("NaN")
    assert len(entries(store)) == 2
    age(tmp_path, 61)
    with leased(store, WORK, lambda: None, final=CheckpointError) as found:
        assert found is None and [key for key in entries(store) if "failed" in key] == []


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", Failure("x", "\x1b[2J", "").to_bytes(), Failure("x", "m" * 20_000, "").to_bytes()]
)
def test_a_report_that_cannot_be_read_is_none(tmp_path: Path, content: bytes) -> None:
    store = open_store(str(tmp_path))
    hold_elsewhere(store)

    def find() -> None:
        if len(asked_so_far) == 1:
            store.put(f"leases/{WORK.hex}/failed-x", content)
        asked_so_far.append(None)

    asked_so_far: list[None] = []
    with leased(store, WORK, find, lasts=SHORT, final=CheckpointError) as found:
        assert found is None and len(asked_so_far) > 1


def test_what_has_a_number_that_no_renewal_reaches_keeps_nobody_waiting(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "cache"))
    store.put(f"leases/{WORK.hex}/{'9' * 255}", b"planted")
    with leased(store, WORK, lambda: None) as found:
        assert found is None


def test_a_holder_whom_this_user_cannot_see_is_not_taken_for_dead(shared_folder: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to be two users")
    folder = shared_folder / "cache"
    folder.mkdir()
    folder.chmod(0o777)
    mount = 'mount -t proc -o hidepid=2 proc /proc && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", mount, "sh", *python_command(HIDDEN, str(folder))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    if done.stderr.startswith(("unshare:", "mount:")):
        pytest.skip(f"needs the right to mount /proc: {done.stderr.strip()}")
    assert done.stdout == "what the other one made False\n", done.stderr
