"""What runs in each machine of the soak: command lines of ttbert, one after another, each in a process of its own.

It takes one JSON object a line, `{"arguments": [...], "kill_after": SECONDS or null}`, and answers with one. Processes are
forked when all is imported, so that an operation takes as long as its work. Two commands are added to ttbert's: `load`
reads a model as a run does, and prints what it got; `wipe` removes the local tier, as on a machine that is set up anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import select
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from ttbert.cli import cli, main
from ttbert.cli.options import default_cache, places_option
from ttbert.cli.tiers import bring_near
from ttbert.console import show
from ttbert.errors import NotCached

LONGEST = 300.0
"""Seconds after which an operation is taken for stuck. For each collector that was killed a writer may wait 70."""


@cli.command("load")
@click.argument("name")
@click.argument("policy")
@places_option
def load_command(name: str, policy: str, places: Any) -> None:
    """Print the SHA-256 of every tensor and file of a model, of the bytes that a device would get."""
    from ttbert.cache.refs import Ref
    from ttbert.runtime.loader import CachedModel

    ref = Ref(name, None, policy)
    cache = places.open()
    cached = cache.resolve(ref)
    if cached is None:
        raise NotCached(f"{ref} is not in {cache.store.url}", "convert it")
    bring_near(str(ref), cache, cached, ref)
    model = CachedModel(cache, cached)
    found = {entry.name: hashlib.sha256(cache.load(entry)).hexdigest() for entry in model.manifest.files}
    for pack in model.manifest.packs:
        for tensor, blob in cache.load_pack(pack):
            with blob:
                found[tensor.name] = hashlib.sha256(blob.view()).hexdigest()
    show(found)


@cli.command("wipe")
def wipe_command() -> None:
    shutil.rmtree(default_cache(), ignore_errors=True)


def _run(arguments: list[str], written: Path) -> None:
    """In the child: run the command line, and never return."""
    exit_code: Any = 1
    try:
        for name, descriptor in (("out", 1), ("err", 2)):
            os.dup2(os.open(written / name, os.O_WRONLY | os.O_CREAT), descriptor)
        sys.argv = ["ttbert", *arguments]
        main()
    except SystemExit as error:
        exit_code = error.code or 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)


def _wait(child: int, kill_after: float | None) -> tuple[int, bool, bool]:
    """The exit code, whether it was killed as it was meant to be, and whether it was stuck."""
    handle = os.pidfd_open(child)
    try:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        ended = poll.poll(1000 * (LONGEST if kill_after is None else kill_after))
    finally:
        os.close(handle)
    if not ended:
        os.kill(child, signal.SIGKILL)
    exit_code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    was_killed = not ended and exit_code == -signal.SIGKILL
    return exit_code, was_killed and kill_after is not None, was_killed and kill_after is None


def _serve() -> None:
    import numpy  # noqa: F401

    import ttbert.cache.stores.objects
    import ttbert.convert.convert
    import ttbert.runtime.loader  # noqa: F401

    cli.to_info_dict(click.Context(cli))  # which imports all commands
    for line in sys.stdin:
        task = json.loads(line)
        with tempfile.TemporaryDirectory() as folder:
            written = Path(folder)
            child = os.fork()
            if child == 0:
                _run(task["arguments"], written)
            exit_code, was_killed, was_stuck = _wait(child, task["kill_after"])
            out, err = (each.read_text() if each.exists() else "" for each in (written / "out", written / "err"))
        answer = {"exit_code": exit_code, "was_killed": was_killed, "was_stuck": was_stuck, "out": out, "err": err}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _serve()
