"""The run: tokenizing, the model, and span decoding at the same time, each in a thread of its own.

    tokenizing -> jobs -> the engine (the calling thread) -> results -> journal, span decoding, running score

Both queues are short, so memory stays flat. The engine's thread does nothing but run batches, or have them run by the
workers of a cluster; how much of the time the model ran is the busy share. Results do not depend on which thread is
faster, nor on the order in which batches come back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from ..errors import IntegrityError, TtbertError
from ..frozen import Frozen
from ..runtime.runtime import Logits
from ..runtime.tokens import Encoder, Window
from ..threads import Threads
from .answers import Prediction, predict
from .batches import Job, Layout, check_questions, make_jobs
from .dataset import Dataset
from .engine import Engine
from .journal import Journal, Record
from .metrics import Pair, score_question
from .pipe import Closed, Pipe

_WAITING_JOBS = 8


class Progress(Frozen):
    """One more question is answered: exact match and F1 over all so far, in percent."""

    exact: float
    f1: float
    replayed: bool
    """The answer is one that the journal had."""


@dataclass
class Timings:
    """Seconds that each phase took; the phases overlap. `running` is of all workers together."""

    loading: float = 0.0
    tokenizing: float = 0.0
    running: float = 0.0
    decoding: float = 0.0
    wall: float = 0.0
    workers: int = 1
    windows: int = 0
    tokens: int = 0
    batches: int = 0
    rows: int = 0
    resumed_batches: int = 0

    @property
    def busy_share(self) -> float:
        """The share of the workers' time in which the model ran."""
        return self.running / (self.workers * self.wall) if self.wall else 0.0

    @property
    def waiting(self) -> float:
        """Seconds in which the model had nothing to do, of all workers together."""
        return max(0.0, self.workers * self.wall - self.running)

    def document(self) -> dict[str, float]:
        seconds = {name: getattr(self, name) for name in ("loading", "tokenizing", "waiting", "running", "decoding", "wall")}
        counts = {name: getattr(self, name) for name in ("workers", "windows", "tokens", "batches", "rows", "resumed_batches")}
        return {**{name: round(value, 4) for name, value in seconds.items()}, **counts, "busy_share": round(self.busy_share, 4)}


@dataclass(frozen=True, eq=False)
class Outcome:
    """The predictions in the order of the questions, their scores, the context tokens of each, all logits if they were kept."""

    predictions: tuple[Prediction, ...]
    pairs: tuple[Pair, ...]
    context_tokens: tuple[int, ...]
    timings: Timings
    logits: dict[tuple[int, int], tuple[Logits, Logits]]
    """By example and window: start and end logits, (tokens,) each."""


def run_questions(
    dataset: Dataset,
    encoder: Encoder,
    engine: Engine,
    layout: Layout,
    journal: Journal,
    progress: Callable[[Progress], None] = lambda progress: None,
    keep_logits: bool = False,
) -> Outcome:
    """Answer all questions; what the journal has is not run again, and what is run is in it before it counts.

    `progress` is called after each answer, from another thread. InputError for a question that is too long, before
    anything is run. Whatever ends the run, every finished batch is in the journal.
    """
    check_questions(dataset.questions, encoder)
    jobs: Pipe[Job] = Pipe(_WAITING_JOBS)
    results: Pipe[tuple[Job, Record]] = Pipe(_WAITING_JOBS)
    collector = _Collector(dataset, journal, progress, keep_logits)
    timings = Timings(loading=engine.loading, workers=engine.workers)
    started = time.perf_counter()

    def tokenize() -> None:
        try:
            before = time.thread_time()
            for job in make_jobs(dataset.questions, encoder, layout):
                jobs.put(job)
            timings.tokenizing = time.thread_time() - before
            jobs.close()
        except Closed:
            pass
        except BaseException as error:
            jobs.close(error)

    def collect() -> None:
        try:
            before = time.thread_time()
            for job, record in results:
                collector.add(job, record)
            timings.decoding = time.thread_time() - before
        except BaseException as error:
            results.close(error)
            raise

    with Threads(2) as threads:
        try:
            threads.submit(tokenize)
            collecting = threads.submit(collect)
            _run_jobs(jobs, results, engine, journal, timings)
        finally:
            jobs.close()
            results.close()
        collecting.result()
    timings.wall = time.perf_counter() - started
    return collector.outcome(timings)


def _run_jobs(jobs: Pipe[Job], results: Pipe[tuple[Job, Record]], engine: Engine, journal: Journal, timings: Timings) -> None:
    def finish(job: Job, record: Record) -> None:
        timings.batches += 1
        timings.rows += len(job.batch.ids)
        timings.windows += len(job.rows)
        timings.tokens += sum(len(row.window) for row in job.rows)
        results.put((job, record))

    def left() -> Iterator[Job]:
        """The jobs that are not in the journal."""
        for job in jobs:
            record = journal.done.get(job.number)
            if record is None:
                yield job
            elif record.places != tuple(row.place for row in job.rows):
                raise IntegrityError(f"batch {job.number} of the journal is of other windows", "run it again in another folder")
            else:
                timings.resumed_batches += 1
                finish(job, record)

    for ran in engine.stream(left()):
        timings.running += ran.seconds
        finish(ran.job, _record(ran.job, ran.starts, ran.ends))


def _record(job: Job, starts: Logits, ends: Logits) -> Record:
    """The logits of the real rows, each as long as its window."""
    cut = [tuple(np.array(side[i, : len(row.window)], np.float32) for i, row in enumerate(job.rows)) for side in (starts, ends)]
    return Record(job.number, tuple(row.place for row in job.rows), cut[0], cut[1])


@dataclass
class _Collector:
    """Keeps logits until all windows of a question are there, then decodes it."""

    dataset: Dataset
    journal: Journal
    progress: Callable[[Progress], None]
    keep_logits: bool
    logits: dict[tuple[int, int], tuple[Logits, Logits]] = field(default_factory=dict)
    _done: dict[int, tuple[Prediction, Pair, int]] = field(default_factory=dict)
    """By example: its prediction, the score of that, and the tokens of the context."""
    _pending: dict[int, dict[int, tuple[Window, Logits, Logits]]] = field(default_factory=dict)
    _exact: float = 0.0
    _f1: float = 0.0

    def add(self, job: Job, record: Record) -> None:
        replayed = job.number in self.journal.done
        if not replayed:
            self.journal.add(record)
        for row, start, end in zip(job.rows, record.starts, record.ends, strict=True):
            example = row.window.example
            parts = self._pending.setdefault(example, {})
            parts[row.number] = (row.window, start, end)
            if self.keep_logits:
                self.logits[example, row.number] = (start, end)
            if len(parts) == row.windows:
                del self._pending[example]
                self._decode(example, [parts[number] for number in range(row.windows)], replayed)

    def outcome(self, timings: Timings) -> Outcome:
        """When all is there."""
        predictions, pairs, tokens = zip(*(self._done[example] for example in range(len(self._done))), strict=True)
        return Outcome(predictions, pairs, tokens, timings, self.logits)

    def _decode(self, example: int, parts: list[tuple[Window, Logits, Logits]], replayed: bool) -> None:
        question = self.dataset.questions[example]
        windows, starts, ends = zip(*parts, strict=True)
        try:
            prediction = predict(windows, starts, ends, question.context, self.dataset.allows_no_answer)
        except ValueError as error:
            raise TtbertError(
                f"question {question.id}: {error}", "the model overflows; try another --policy, or look at its training"
            ) from error
        pair = score_question(question, prediction.text)
        self._done[example] = prediction, pair, _context_tokens(windows)
        self._exact += pair.exact
        self._f1 += pair.f1
        count = len(self._done)
        self.progress(Progress(100 * self._exact / count, 100 * self._f1 / count, replayed))


def _context_tokens(windows: tuple[Window, ...]) -> int:
    """The tokens of the whole context, each counted once."""
    return len({begin for window in windows for begin in window.offsets[:, 0].tolist()})
