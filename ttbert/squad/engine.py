"""What runs batches: this process with one loaded model, or, in `cluster`, many of them on other machines."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from .. import __version__
from .batches import Job
from .subject import Runtime, Subject

Logits = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Ran:
    """A batch that was run, its logits, (rows, tokens) each, and the seconds that took."""

    job: Job
    starts: Logits
    ends: Logits
    seconds: float


class Engine(Protocol):
    """What runs batches, in any order."""

    @property
    def workers(self) -> int:
        """How many batches run at once."""

    @property
    def machine(self) -> Mapping[str, object]:
        """What of the machines decides the logits' last bits; the same for all workers."""

    @property
    def loading(self) -> float:
        """Seconds until the model was ready, everywhere."""

    def stream(self, jobs: Iterable[Job]) -> Iterator[Ran]:
        """Every batch once, as they become ready. Jobs are taken only as they are needed."""


class Local:
    """A model that is loaded in this process."""

    workers = 1

    def __init__(self, runtime: Runtime, loading: float) -> None:
        self._runtime = runtime
        self.loading = loading
        self.machine = describe_machine()

    def stream(self, jobs: Iterable[Job]) -> Iterator[Ran]:
        for job in jobs:
            begun = time.perf_counter()
            starts, ends = self._runtime.run(job.batch)
            yield Ran(job, starts, ends, time.perf_counter() - begun)


@contextmanager
def open_local(subject: Subject) -> Iterator[Engine]:
    started = time.perf_counter()
    with subject.open() as runtime:
        yield Local(runtime, time.perf_counter() - started)


def describe_machine() -> dict[str, object]:
    """What of this machine and process decides the last bits of a matmul: its code, its threads, its processor."""
    return {
        "ttbert": __version__,
        "torch": version("torch"),
        "threads": torch.get_num_threads(),
        "processor": f"{_processor()}, {torch.backends.cpu.get_cpu_capability()}",
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
