"""Machines of a lab: network namespaces on a bridge, each with a home folder of its own. Needs root and iproute2."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from program import Done, command, environment


@dataclass(frozen=True)
class Machine:
    """A network namespace; what runs in it sees its own interface and nothing else of this machine's network."""

    name: str
    address: str
    home: Path
    variables: Mapping[str, str]

    def ttbert(self, *arguments: object) -> Done:
        """Run a command of ttbert on it."""
        done = subprocess.run(self.command(*arguments), env=self.environment(), capture_output=True, timeout=200, check=False)
        return Done(done.returncode, done.stdout.decode(), done.stderr.decode())

    def command(self, *arguments: object) -> list[str]:
        return ["ip", "netns", "exec", self.name, *command(*arguments)]

    def environment(self) -> dict[str, str]:
        folders = {f"XDG_{kind.upper()}_HOME": str(self.home / kind) for kind in ("cache", "config", "state")}
        return environment(**self.variables, **folders)

    def unplug(self) -> None:
        """Take its link down."""
        _ip("-n", self.name, "link", "set", "eth0", "down")

    def plug_in(self) -> None:
        _ip("-n", self.name, "link", "set", "eth0", "up")


class Lab:
    """A bridge with `count` machines, inside `with`. `address` is where they reach this machine."""

    def __init__(self, folder: Path, count: int) -> None:
        self._folder, self._count = folder, count
        self._tag = f"{random.randrange(16**4):04x}"
        net = f"198.18.{random.randrange(1, 255)}"  # set aside for tests of networks
        self.address, self._addresses = f"{net}.1", [f"{net}.{number + 10}" for number in range(count)]
        self._made: list[tuple[str, ...]] = []

    @staticmethod
    def why_not() -> str | None:
        """What is missing on this machine, if anything."""
        if os.geteuid() != 0:
            return "only root can make network namespaces"
        if shutil.which("ip") is None:
            return "`ip` not found; apt-get install iproute2"
        tried = subprocess.run(["unshare", "--net", "true"], capture_output=True, text=True, check=False)
        return f"no network namespaces here: {tried.stderr.strip()}" if tried.returncode else None

    def machines(self, variables: Mapping[str, str]) -> list[Machine]:
        """The machines, in whose environment these variables are."""
        return [
            Machine(f"ttbert-{self._tag}-{number}", address, self._folder / f"machine-{number}", variables)
            for number, address in enumerate(self._addresses)
        ]

    def __enter__(self) -> Lab:
        bridge = f"ttb{self._tag}"
        try:
            self._make("link", bridge, "add", bridge, "type", "bridge")
            _ip("addr", "add", f"{self.address}/24", "dev", bridge)
            _ip("link", "set", bridge, "up")
            for number, machine in enumerate(self.machines({})):
                outside = f"ttv{self._tag}{number}"
                self._make("netns", machine.name, "add", machine.name)
                _ip("link", "add", outside, "type", "veth", "peer", "name", "eth0", "netns", machine.name)
                _ip("link", "set", outside, "master", bridge, "up")
                _ip("-n", machine.name, "addr", "add", f"{machine.address}/24", "dev", "eth0")
                machine.plug_in()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._remove()

    def _make(self, what: str, name: str, *arguments: str) -> None:
        _ip(what, *arguments)
        self._made.append((what, "del", name))

    def _remove(self) -> None:
        for each in reversed(self._made):
            _ip(*each)
        self._made.clear()


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=30)
