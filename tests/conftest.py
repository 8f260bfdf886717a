"""What all tests share: no test reaches the network, or the user's own Hugging Face cache, keys and memories."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# huggingface_hub reads these once, when it is imported, which collecting the tests may do.
_HOME = tempfile.mkdtemp(prefix="ttbert-tests-")
Path(_HOME).chmod(0o755)  # for tests that become other users
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)
os.environ |= {"HF_HOME": _HOME, "HF_ENDPOINT": "http://127.0.0.1:9", "XDG_CACHE_HOME": f"{_HOME}/cache"}
os.environ |= {"XDG_CONFIG_HOME": f"{_HOME}/config", "XDG_STATE_HOME": f"{_HOME}/state"}

# Commands that a test runs in its own process leave a card alone.
os.environ["TTBERT_BOARD"] = "cpu"

# Started in the background of a shell, this process ignores SIGINT and so would every process that a test interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)

from ceph_server import CephServer  # noqa: E402
from fault_proxy import FaultProxy  # noqa: E402
from forks import Forks  # noqa: E402
from hub_server import HubServer  # noqa: E402
from models import open_local  # noqa: E402
from s3_server import MotoServer  # noqa: E402

from ttbert.cache.cache import Cache  # noqa: E402
from ttbert.cache.stores.local import LocalStore  # noqa: E402


@pytest.fixture
def hub() -> Iterator[HubServer]:
    """A hub on this machine; see `HubServer.env` for how a process is made to use it."""
    with HubServer() as server:
        yield server


@pytest.fixture(scope="session")
def moto() -> Iterator[MotoServer]:
    """An S3 server; see `S3Server.env` for how a process is made to use it."""
    with MotoServer() as server:
        yield server


@pytest.fixture(scope="module")
def bucket(moto: MotoServer) -> str:
    return moto.bucket()


@pytest.fixture(scope="module")
def proxy(moto: MotoServer) -> Iterator[FaultProxy]:
    """A way to that server on which things go wrong; see `FaultProxy.env`."""
    with FaultProxy(moto) as started:
        yield started


@pytest.fixture(scope="session")
def ceph() -> Iterator[CephServer]:
    """The S3 server of Ceph, where its programs are installed."""
    why_not = CephServer.why_not()
    if why_not:
        pytest.skip(why_not)
    with CephServer() as server:
        yield server


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """An empty cache in a folder."""
    return open_local(tmp_path / "cache")


@pytest.fixture
def root(cache: Cache) -> Path:
    """The folder of `cache`."""
    assert isinstance(cache.store, LocalStore)
    return cache.store.root


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of its own with 100 kB, less than the tiny model takes; `mount -o remount,...` changes it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "none", folder], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"needs the right to mount a small disk: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """Runs conversions in a tenth of the time that a process from scratch takes."""
    started = Forks()
    yield started
    started.close()


@pytest.fixture
def shared_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder that every user may look into; pytest's own are for the one who runs it."""
    opened = [(path, path.stat().st_mode) for path in tmp_path.parents if path.owner() == tmp_path.owner() and _is_ours(path)]
    for path, _ in opened:
        path.chmod(0o755)
    tmp_path.chmod(0o755)
    yield tmp_path
    for path, mode in opened:
        path.chmod(mode)


def _is_ours(path: Path) -> bool:
    return path.name.startswith("pytest-")
