"""The real command line, run in processes of its own, and hooks that watch such a process from within."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NO_SOCKETS = """
import os, sys
def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.bind", "socket.sendto"):
        sys.stderr.write(f"opened a socket: {event} {arguments}")
        sys.stderr.flush()
        os._exit(99)
sys.addaudithook(refuse)
"""
"""A hook: end the process at once, with 99, when it turns to the network."""


@dataclass(frozen=True)
class Done:
    """How a process ended and what it wrote."""

    exit_code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)

    def succeeded(self) -> Done:
        assert self.exit_code == 0, f"exit code {self.exit_code}\n{self.out}\n{self.err}"
        assert "Traceback" not in self.err and "error:" not in self.err
        return self

    def failed(self, exit_code: int, *says: str) -> Done:
        """It failed with this code, nothing on stdout, and two lines that say what happened and what to do."""
        assert self.exit_code == exit_code, f"exit code {self.exit_code}\n{self.out}\n{self.err}"
        assert "Traceback" not in self.err and self.out == ""
        what, to_do = self.err.splitlines()[-2:]
        assert what.startswith("error: ") and to_do.startswith("hint: "), self.err
        assert self.err.count("error:") == 1
        for each in says:
            assert each in self.err, f"{each!r} is not in\n{self.err}"
        return self

    def failed_at_once(self, exit_code: int, *says: str) -> Done:
        """The same, and not a word before those two lines."""
        assert len(self.err.splitlines()) == 2, self.err
        return self.failed(exit_code, *says)


def ttbert(*arguments: object, env: Mapping[str, str] | None = None, hook: Path | None = None, **extra: str) -> Done:
    """Run `ttbert` with these arguments; `hook` is a folder made by `make_hook`, `extra` goes into the environment."""
    done = subprocess.run(
        command(*arguments), env=environment(env, hook, **extra), capture_output=True, timeout=200, check=False
    )
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode())


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "ttbert", *map(str, arguments)]


def environment(env: Mapping[str, str] | None = None, hook: Path | None = None, **extra: str) -> dict[str, str]:
    # Of this process nothing about devices, since a test that packs leaves a mock in its environment; and a card is left alone.
    left_out = ("TTBERT_",) if env else ("TTBERT_", "TT_METAL_")
    made = {name: value for name, value in (env or os.environ).items() if not name.startswith(left_out)}
    made["TTBERT_BOARD"] = "cpu"
    if hook:
        made["PYTHONPATH"] = os.pathsep.join(filter(None, [str(hook), made.get("PYTHONPATH")]))
    return made | extra


def make_hook(folder: Path, code: str) -> Path:
    """A folder from which every python process that has it as `hook` runs `code` first."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(code)
    return folder


HELD = """
import os, sys, time
def hold(event, arguments):
    if event == "os.link":
        open({told!r}, "w").close()
        time.sleep(600)
sys.addaudithook(hold)
"""
"""A hook: the first object that is published waits for ten minutes, which a file `told` tells."""


def imported(done: Done) -> set[str]:
    """The modules that a process imported that ran with PYTHONPROFILEIMPORTTIME=1."""
    lines = (line for line in done.err.splitlines() if line.startswith("import time:"))
    return {line.rpartition("|")[2].strip() for line in lines}


def objects(cache: Path) -> dict[str, bytes]:
    """Every file in a cache, by its path in it."""
    found = sorted(path for path in cache.rglob("*") if path.is_file()) if cache.exists() else []
    return {path.relative_to(cache).as_posix(): path.read_bytes() for path in found}
