"""Measuring: every timed case in a process of its own, in turn with its peers, so that all meet the same machine.

A case is a function `f(clock, **arguments)` of a module below `benchmarks`, which does its imports, then its work inside of
`with clock:`, and returns facts that must be the same for all cases that are compared, such as the bytes it had in its
hands. `compare` runs the cases A B C, A B C, ...; the child processes answer in JSON.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import mmap
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import PIPE
from types import TracebackType
from typing import IO, Any

from ttbert.errors import TtbertError

from .report import Row, Sample

_ROOT = Path(__file__).parent.parent
_READY = "ready for the clock"


@dataclass(frozen=True)
class Case:
    """One way to do the work: `function` is `module:name` below `benchmarks`, run by so many processes at once."""

    name: str
    function: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    at_once: int = 1


class Clock:
    """What the body of a `with` statement took: seconds, CPU seconds of this process and its children, peak memory."""

    def __init__(self) -> None:
        self._waits = True
        self.seconds = self.cpu_seconds = 0.0
        self.peak_rss = self.added_rss = 0

    def __enter__(self) -> Clock:
        if self._waits:  # for those that run at once with it, at the first time
            print(_READY, flush=True)
            sys.stdin.readline()
            self._waits = False
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again at what is used now
        self._rss = _status("VmRSS")
        self._cpu = _cpu_seconds()
        self._started = time.perf_counter()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.seconds = time.perf_counter() - self._started
        self.cpu_seconds = _cpu_seconds() - self._cpu
        own = _status("VmHWM")
        self.peak_rss = max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
        self.added_rss = own - self._rss


def compare(cases: Sequence[Case], rounds: int, before: Callable[[], None] = lambda: None) -> list[Row]:
    """Run each case once a round, after a call of `before`; one row for each. AssertionError where their facts differ."""
    samples: dict[str, list[Sample]] = {case.name: [] for case in cases}
    facts: dict[str, Any] = {}
    for i in range(rounds):
        for case in cases:
            before()
            print(f"  round {i + 1} of {rounds}: {case.name}", file=sys.stderr)
            for sample, found in run_case(case):
                samples[case.name].append(sample)
                if found != facts.setdefault(case.name, found):
                    raise AssertionError(f"the runs of {case.name} did not do the same: {found}, {facts[case.name]}")
    if any(each != facts[cases[0].name] for each in facts.values()):
        raise AssertionError(f"the cases did not do the same: {facts}")
    return [Row(name, tuple(each)) for name, each in samples.items()]


def run_case(case: Case) -> list[tuple[Sample, Any]]:
    """Run a case once, in processes of its own whose clocks start together; what each took, and its facts."""
    command = [sys.executable, "-m", "benchmarks.measure", case.function, json.dumps(dict(case.arguments))]
    settings = {**environment(), **case.environment}
    with ExitStack() as stack:
        running = []
        for _ in range(case.at_once):
            child = subprocess.Popen(command, cwd=_ROOT, env=settings, stdin=PIPE, stdout=PIPE, text=True)
            running.append(stack.enter_context(child))
            stack.callback(child.kill)
        for child in running:
            _wait_until_ready(child)
        for child in running:
            with suppress(BrokenPipeError):  # it has failed already; a buffer would fail once more when it is closed
                os.write(_pipe(child.stdin).fileno(), b"go\n")
        said = [_pipe(child.stdout).read() for child in running]
        failed = next((code for child in running if (code := child.wait())), 0)
    if failed:
        raise TtbertError(f"the case {case.name} failed with exit code {failed}", "its own message is above")
    answers = [json.loads(text.splitlines()[-1]) for text in said]
    return [(Sample(**answer["sample"]), answer["facts"]) for answer in answers]


def environment() -> dict[str, str]:
    """The environment of the processes that are measured: quiet, offline, on this machine's cores, with compiled modules.

    pip compiles what it installs, ttbert's peers among it, so ttbert's own modules are not to be compiled in each run.
    """
    quiet = {"TT_METAL_LOGGER_LEVEL": "off", "LOGURU_LEVEL": "ERROR", "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1"}
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, **quiet, "TQDM_DISABLE": "1"}


def warm(paths: Sequence[Path]) -> None:
    """Bring files into the page cache."""
    buffer = bytearray(4 << 20)
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def evict(paths: Sequence[Path]) -> None:
    """Take files out of the page cache, and make sure that they are."""
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            if pages := _pages_in_memory(file.fileno()):
                raise TtbertError(f"{pages} pages of {path} stay in the page cache", "is something else reading it?")


def can_evict(folder: Path) -> bool:
    """Whether files in a folder can leave the page cache: not those of a file system in memory."""
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        file.write(b"x")
        file.flush()
        try:
            evict([Path(file.name)])
        except TtbertError:
            return False
    return True


def _pages_in_memory(descriptor: int) -> int:
    with mmap.mmap(descriptor, 0, access=mmap.ACCESS_COPY) as mapped:
        states = (ctypes.c_ubyte * -(-len(mapped) // mmap.PAGESIZE))()
        start = ctypes.c_char.from_buffer(mapped)
        failed = ctypes.CDLL(None, use_errno=True).mincore(
            ctypes.c_void_p(ctypes.addressof(start)), ctypes.c_size_t(len(mapped)), states
        )
        del start
        if failed:
            raise OSError(ctypes.get_errno(), "mincore")
        return sum(state & 1 for state in states)


def _wait_until_ready(child: subprocess.Popen[str]) -> None:
    """Until its clock is about to start, or it has ended."""
    while (line := _pipe(child.stdout).readline()) and line.rstrip("\n") != _READY:
        pass


def _pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe
    return pipe


def _cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def _status(name: str) -> int:
    """A line of /proc/self/status, in bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def _child(function: str, arguments: str) -> None:
    module, _, name = function.partition(":")
    clock = Clock()
    facts = getattr(importlib.import_module(f"benchmarks.{module}"), name)(clock, **json.loads(arguments))
    sample = {name: getattr(clock, name) for name in Sample.__dataclass_fields__}
    print(json.dumps({"sample": sample, "facts": facts}), flush=True)
    # How an interpreter ends is not measured, and obstore's asynchronous calls abort every tenth one as it does.
    os._exit(0)


if __name__ == "__main__":
    _child(*sys.argv[1:])
