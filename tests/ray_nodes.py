"""Two Ray nodes on this machine, each in a network namespace of its own with an address of its own, joined by a cable.

Every process in a namespace belongs to the test, so a node can be killed without a look at any other Ray process.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[1]
_RAY = [sys.executable, "-c", "from ray.scripts.scripts import main; main()"]
_ALWAYS = ["--block", "--num-cpus=1", "--object-store-memory=80000000", "--disable-usage-stats"]
_PORT = 6379


class Node:
    """A network namespace, and the processes in it."""

    def __init__(self, name: str, address: str) -> None:
        self.name, self.address = name, address
        self.inside = ["ip", "netns", "exec", name]

    def start(self, *options: str, folder: str, **extra: str) -> None:
        with Path(folder, f"{self.name}.log").open("wb") as log:
            subprocess.Popen(
                [*self.inside, *_RAY, "start", *options, *_ALWAYS, f"--node-ip-address={self.address}", f"--temp-dir={folder}"],
                env=ray_environment() | extra,
                stdout=log,
                stderr=log,
            )

    def pids(self) -> list[int]:
        found = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True, check=True)
        return [int(pid) for pid in found.stdout.split()]

    def kill(self) -> None:
        """End everything in it, as a power cut does."""
        deadline = time.monotonic() + 20
        while pids := self.pids():
            assert time.monotonic() < deadline
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            time.sleep(0.05)


class Nodes:
    """A head and a second node. Programs run beside the head."""

    def __init__(self, folder: str, head: Node, second: Node) -> None:
        self.folder, self.head, self.second = folder, head, second
        self.address = f"{head.address}:{_PORT}"

    def start_second(self, **extra: str) -> None:
        """`extra` goes into its environment."""
        self.second.start(f"--address={self.address}", folder=self.folder, **extra)
        self.wait_for(2)

    def wait_for(self, nodes: int) -> None:
        program = f"import ray; ray.init(address={self.address!r}, log_to_driver=False, logging_level=50)\n"
        program += f"import time\nwhile sum(each['Alive'] for each in ray.nodes()) != {nodes}: time.sleep(0.2)"
        deadline = time.monotonic() + 90
        while True:
            done = subprocess.run(
                [*self.head.inside, sys.executable, "-c", program], env=ray_environment(), capture_output=True, timeout=90
            )
            if done.returncode == 0:
                return
            assert time.monotonic() < deadline, done.stderr.decode()[-2000:]


def ray_environment() -> dict[str, str]:
    paths = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
    quiet = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_memory_monitor_refresh_ms": "0", "RAY_DISABLE_IMPORT_WARNING": "1"}
    return {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **quiet}


@contextmanager
def two_nodes() -> Iterator[Nodes]:
    """The nodes, both started; skips, visibly, where there is no Ray or no right to make a namespace."""
    pytest.importorskip("ray", reason="needs the extra `ray`")
    if not shutil.which("ip"):
        pytest.skip("needs `ip`, of iproute2")
    number = os.getpid() % 60_000
    names = [f"tb{number}{side}" for side in "ab"]
    made = subprocess.run(["ip", "netns", "add", names[0]], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"needs the right to make a network namespace: {made.stderr.strip()}")
    nodes = [Node(name, f"10.{200 + number // 250 % 50}.{number % 250}.{host}") for host, name in enumerate(names, 1)]
    folder = tempfile.mkdtemp(prefix="tbray")  # short: Ray puts sockets in it
    try:
        _run("ip", "netns", "add", names[1])
        _run("ip", "link", "add", names[0], "netns", names[0], "type", "veth", "peer", "name", names[1], "netns", names[1])
        for node in nodes:
            _run(*node.inside, "ip", "address", "add", f"{node.address}/24", "dev", node.name)
            for device in ("lo", node.name):
                _run(*node.inside, "ip", "link", "set", device, "up")
        cluster = Nodes(folder, *nodes)
        cluster.head.start("--head", f"--port={_PORT}", "--include-dashboard=false", folder=folder)
        cluster.start_second()
        yield cluster
    finally:
        for node in nodes:
            if Path("/run/netns", node.name).exists():
                node.kill()
                _run("ip", "netns", "delete", node.name)
        shutil.rmtree(folder, ignore_errors=True)


def _run(*command: str) -> None:
    subprocess.run(command, check=True)
