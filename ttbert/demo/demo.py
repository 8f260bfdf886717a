"""The demo: a batch of questions through a cached model, answered and timed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from ..cache.cache import Cache, Cached
from ..frozen import Frozen
from ..runtime.loader import CachedModel
from ..runtime.on_device import Loading, OnDevice
from ..runtime.qa import Answer
from ..runtime.reader import Prepared, Reader, open_reader
from ..runtime.target import Target, describe
from .inputs import Question

_STEADY_SECONDS = 3.0
_STEADY_RUNS = 10


class Timings(Frozen):
    """Seconds of each phase. A run is one pass over all batches; `steady` has one entry for each run after the first.

    A device is loaded in phases, from what opening it takes to its first pass; `loading_weights` are two of them.
    """

    preparing_inputs: float
    loading_weights: float
    device: Loading | None
    first_run: float
    steady_runs: tuple[float, ...]
    postprocessing: float
    inputs: int
    weight_bytes: int

    @property
    def inputs_per_second(self) -> float:
        """Inputs answered in a second, by the median of the steady runs."""
        return self.inputs / float(np.median(self.steady_runs))


class Outcome(Frozen):
    """The best answer to each question, and how long it all took."""

    answers: tuple[Answer, ...]
    timings: Timings
    tokens: int
    windows: int
    batches: int
    device: dict[str, object] | None
    """What it ran on, if that was a device."""


def run_demo(
    target: Target, cache: Cache, cached: Cached, questions: Sequence[Question], batch: int, tell: Callable[[str], None]
) -> Outcome:
    """Answer the questions on the target, in batches of `batch` windows of 384 tokens on each chip, with what the cache
    holds; `tell` hears what it runs on. On the processor a batch is only as long as its longest window.

    InputError for a question that is too long, and errors as of `open_reader`.
    """
    started = time.perf_counter()
    with open_reader(target, CachedModel(cache, cached), batch) as reader:
        loaded = time.perf_counter()
        tell(describe(target, reader.runtime))
        prepared_at = time.perf_counter()
        asked = reader.prepare(questions)
        prepared = time.perf_counter()
        logits = reader.run(asked)
        first = time.perf_counter()
        steady = _steady_runs(reader, asked)
        runtime = reader.runtime
        on_device = (runtime.loading, runtime.document()) if isinstance(runtime, OnDevice) else (None, None)
    timed = time.perf_counter()
    answers = tuple(best for best, *_ in reader.decode(asked, logits))
    decoded = time.perf_counter()
    device, document = on_device
    timings = Timings(
        preparing_inputs=prepared - prepared_at,
        loading_weights=device.reading + device.sending if device else loaded - started,
        device=device,
        first_run=first - prepared,
        steady_runs=steady,
        postprocessing=decoded - timed,
        inputs=len(questions),
        weight_bytes=sum(entry.size for entry in cached.manifest.tensors),
    )
    return Outcome(answers, timings, asked.tokens, len(asked.windows), len(asked.batches), document)


def _steady_runs(reader: Reader, asked: Prepared) -> tuple[float, ...]:
    """Run everything again, at least once and until some seconds are filled; the seconds of each run."""
    seconds: list[float] = []
    while not seconds or (sum(seconds) < _STEADY_SECONDS and len(seconds) < _STEADY_RUNS):
        started = time.perf_counter()
        reader.run(asked)
        seconds.append(time.perf_counter() - started)
    return tuple(seconds)
