"""What runs batches: this process with one loaded model, or, in `cluster`, many of them on other machines."""

from __future__ import annotations

import platform
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

from .. import __version__
from ..frozen import Frozen
from ..runtime.on_device import OnDevice
from ..runtime.runtime import Logits, Runtime
from ..runtime.target import describe
from ..runtime.tokens import Batch
from .batches import Job
from .subject import Subject


@dataclass(frozen=True, eq=False)
class Ran:
    """A batch that was run, its logits, (rows, tokens) each, and the seconds that the model was busy with it."""

    job: Job
    starts: Logits
    ends: Logits
    seconds: float


class Machine(Frozen):
    """What a model runs on. `decides` are the things that decide the last bits of the logits, by name."""

    said: str
    decides: Mapping[str, object]
    device: Mapping[str, object] | None
    """All that is known of the device, if it is one."""


class Engine(Protocol):
    """What runs batches."""

    @property
    def said(self) -> str:
        """What it is, in a line or two for people."""

    @property
    def workers(self) -> int:
        """How many loaded models it has, which run at the same time."""

    @property
    def machine(self) -> Machine:
        """That of every worker."""

    @property
    def loading(self) -> float:
        """Seconds until the model was loaded, everywhere."""

    def stream(self, jobs: Iterable[Job]) -> Iterator[Ran]:
        """Every batch once, in any order, as they become ready. Jobs are taken only as they are needed."""


class Local:
    """A model that is loaded in this process."""

    workers = 1

    def __init__(self, subject: Subject, runtime: Runtime, loading: float) -> None:
        self._runtime = runtime
        self.loading = loading
        self.machine = describe_machine(subject, runtime)
        self.said = self.machine.said

    def stream(self, jobs: Iterable[Job]) -> Iterator[Ran]:
        """In order. On a device the next batch is begun before the logits of this one are waited for."""
        sent: deque[Job] = deque()
        waited = 0.0

        def batches() -> Iterator[Batch]:
            nonlocal waited
            asked = time.perf_counter()
            for job in jobs:
                waited += time.perf_counter() - asked
                sent.append(job)
                yield job.batch
                asked = time.perf_counter()
            waited += time.perf_counter() - asked

        begun = time.perf_counter()
        for starts, ends in self._runtime.stream(batches()):
            seconds, waited = time.perf_counter() - begun - waited, 0.0
            yield Ran(sent.popleft(), starts, ends, seconds)
            begun = time.perf_counter()


@contextmanager
def open_local(subject: Subject) -> Iterator[Local]:
    """The model of a subject, loaded here. Errors as of a load."""
    started = time.perf_counter()
    with subject.open() as runtime:
        yield Local(subject, runtime, time.perf_counter() - started)


def describe_machine(subject: Subject, runtime: Runtime) -> Machine:
    """What this process runs a model on. On the processor, code, threads and instruction set decide the order of sums."""
    said = describe(subject.target, runtime)
    if isinstance(runtime, OnDevice):
        device = runtime.document()
        decides = {name: each for name, each in device.items() if name not in ("batch", "traced")}
        return Machine(said, {"ttbert": __version__, **decides}, device)
    import torch

    decides = {
        "ttbert": __version__,
        "torch": version("torch"),
        "threads": torch.get_num_threads(),
        "processor": f"{_processor()}, {torch.backends.cpu.get_cpu_capability()}",
    }
    return Machine(said, decides, None)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
