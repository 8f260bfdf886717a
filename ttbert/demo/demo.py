"""The demo: a batch of questions through a cached model, answered and timed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..cache.cache import Cache, Cached
from ..errors import TtbertError
from ..runtime.loader import CachedModel
from ..runtime.on_device import Loading, OnDevice
from ..runtime.qa import Answer, decode
from ..runtime.runtime import Runtime
from ..runtime.target import Target, describe, open_runtime
from ..runtime.tokens import TOKENS, Batch, Encoder, Window, make_batches
from .inputs import Question

_STEADY_SECONDS = 3.0
_STEADY_RUNS = 10


@dataclass(frozen=True)
class Timings:
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


@dataclass(frozen=True)
class Outcome:
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
    holds; `tell` hears what it runs on. On the processor all windows are only as long as the longest of them.

    CheckpointError for a model that has no question-answering head, InputError for a question that is too long, and errors
    as of `open_runtime`.
    """
    started = time.perf_counter()
    model = CachedModel(cache, cached)
    model.require_answer_head()
    tokens = min(TOKENS, model.shape.positions)
    with open_runtime(target, model, batch, tokens) as runtime:
        loaded = time.perf_counter()
        tell(describe(target, runtime))
        prepared_at = time.perf_counter()
        encoder = Encoder(model.tokenizer, tokens, vocabulary=model.shape.vocabulary)
        windows = [
            window for number, each in enumerate(questions) for window in encoder.windows(each.question, each.context, number)
        ]
        length = tokens if target.is_device else max(map(len, windows))
        batches = list(make_batches(windows, target.chips * batch, length, pad_id=encoder.pad_id))
        prepared = time.perf_counter()
        logits = list(runtime.stream(batches))
        first = time.perf_counter()
        steady = _steady_runs(runtime, batches)
        on_device = (runtime.loading, runtime.document()) if isinstance(runtime, OnDevice) else (None, None)
    timed = time.perf_counter()
    starts, ends = (np.concatenate([each[side][: b.rows] for each, b in zip(logits, batches, strict=True)]) for side in (0, 1))
    try:
        answers = tuple(
            decode([windows[row] for row in rows], starts[rows], ends[rows], question.context)[0]
            for question, rows in zip(questions, _rows(windows, len(questions)), strict=True)
        )
    except ValueError as error:  # logits that are no numbers
        raise TtbertError(str(error), "the model overflows; try another --policy, or look at its training") from error
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
    return Outcome(answers, timings, length, len(windows), len(batches), document)


def _steady_runs(runtime: Runtime, batches: Sequence[Batch]) -> tuple[float, ...]:
    """Run everything again, at least once and until some seconds are filled; the seconds of each run."""
    seconds: list[float] = []
    while not seconds or (sum(seconds) < _STEADY_SECONDS and len(seconds) < _STEADY_RUNS):
        started = time.perf_counter()
        for _ in runtime.stream(batches):
            pass
        seconds.append(time.perf_counter() - started)
    return tuple(seconds)


def _rows(windows: Sequence[Window], questions: int) -> list[list[int]]:
    """For each question, the rows of its windows among all windows."""
    rows: list[list[int]] = [[] for _ in range(questions)]
    for row, window in enumerate(windows):
        rows[window.example].append(row)
    return rows
