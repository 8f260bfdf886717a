"""Command lines of ttbert, one after another, each in a process of its own, forked when what takes long is imported.

So that a conversion can be killed at a hundred places in the time that ten would take. Run as a script: it takes one
JSON object a line, `{"arguments": [...], "cache": "...", "kill_at": 7, "signal": 9}`, and answers with one. `kill_at`
is the number of the step at which the process sends itself that signal: a step is whatever is about to change the cache.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from program import Done

CHANGES = ("open", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.utime")


class Forks:
    """The process that forks, used from a test."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def close(self) -> None:
        self._process.communicate()

    def ttbert(self, *arguments: object, cache: Path) -> Done:
        """How a command line on this cache ended."""
        return self.run(*arguments, cache=cache)[0]

    def run(
        self, *arguments: object, cache: Path, kill_at: int = 0, kill_with: signal.Signals = signal.SIGKILL
    ) -> tuple[Done, int]:
        """How the process ended (-9 if it was killed), and how many steps it came to."""
        assert self._process.stdin and self._process.stdout
        line = {
            "arguments": [*map(str, arguments), "--cache", str(cache)],
            "cache": str(cache),
            "kill_at": kill_at,
            "signal": kill_with,
        }
        self._process.stdin.write(json.dumps(line) + "\n")
        answer = json.loads(self._process.stdout.readline())
        return Done(answer["exit_code"], answer["out"], answer["err"]), answer["steps"]


def _run(arguments: list[str], cache: str, kill_at: int, kill_with: int, written: Path) -> None:
    """In the child: run the command line, and never return."""
    steps = 0

    def count(event: str, details: tuple[Any, ...]) -> None:
        nonlocal steps
        if event not in CHANGES or (event == "open" and details[1] in ("r", "rb")):
            return
        if isinstance(details[0], (str, os.PathLike)) and os.fspath(details[0]).startswith(cache):
            steps += 1
            if steps == kill_at:
                os.kill(os.getpid(), kill_with)

    for name, descriptor in (("out", 1), ("err", 2)):
        os.dup2(os.open(written / name, os.O_WRONLY | os.O_CREAT), descriptor)
    sys.addaudithook(count)
    sys.argv = ["ttbert", *arguments]
    exit_code: Any = 1
    try:
        from ttbert.cli import main

        main()
        exit_code = 0
    except SystemExit as error:
        exit_code = error.code or 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        (written / "steps").write_text(str(steps))
        os._exit(exit_code)


def _serve() -> None:
    import click
    import torch  # noqa: F401

    import ttbert.convert.convert  # noqa: F401
    from ttbert.cli import cli

    cli.to_info_dict(click.Context(cli))  # which imports all commands

    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which nohup has the tests ignore
    for line in sys.stdin:
        task = json.loads(line)
        with tempfile.TemporaryDirectory() as folder:
            written = Path(folder)
            child = os.fork()
            if child == 0:
                _run(task["arguments"], task["cache"], task["kill_at"], task["signal"], written)
            exit_code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            steps = written / "steps"
            answer = {
                "exit_code": exit_code,
                "out": (written / "out").read_text(),
                "err": (written / "err").read_text(),
                "steps": int(steps.read_text()) if steps.exists() else task["kill_at"],
            }
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve()
