"""Questions -> windows -> numbered batches, the same ones in every run with the same questions, tokenizer and options.

On a device every batch is of one shape: `batch` rows of 384 tokens, the last batch filled up with empty rows. On `cpu`
a batch is as long as its longest window, and windows of similar length are put together: of every pool of some hundred
windows, the shortest first. What a window's logits are does not depend on its neighbours but for float32 rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..errors import InputError
from ..frozen import Frozen
from ..runtime.tokens import Batch, Encoder, Window, stack
from .dataset import Question

_POOL_BATCHES = 64


class Layout(Frozen):
    """How windows are put into batches; `real_length` is for runtimes that take batches of any shape."""

    batch: int
    real_length: bool


@dataclass(frozen=True, eq=False)
class Row:
    """A row of a batch: window `number` of the `windows` that the question `example` has."""

    window: Window
    number: int
    windows: int

    @property
    def place(self) -> tuple[int, int, int]:
        return (self.window.example, self.number, len(self.window))


@dataclass(frozen=True, eq=False)
class Job:
    """A numbered batch; row i of it is `rows[i]`."""

    number: int
    rows: tuple[Row, ...]
    batch: Batch


def make_jobs(questions: Sequence[Question], encoder: Encoder, layout: Layout) -> Iterator[Job]:
    """All batches, in the order in which they are to be run. InputError, with its id, for a question that is too long."""
    for number, rows in enumerate(_grouped(_rows(questions, encoder), layout)):
        shape = () if layout.real_length else (layout.batch, encoder.tokens)
        yield Job(number, rows, stack([row.window for row in rows], *shape, pad_id=encoder.pad_id))


def check_questions(questions: Sequence[Question], encoder: Encoder) -> None:
    """InputError for the first question that leaves no room for a context, before a long run meets it."""
    for each in questions:
        _windows(each, "" if not each.context else "a", encoder, 0)


def _rows(questions: Sequence[Question], encoder: Encoder) -> Iterator[Row]:
    for example, question in enumerate(questions):
        windows = _windows(question, question.context, encoder, example)
        for number, window in enumerate(windows):
            yield Row(window, number, len(windows))


def _windows(question: Question, context: str, encoder: Encoder, example: int) -> list[Window]:
    try:
        return encoder.windows(question.question, context, example)
    except InputError as error:
        raise InputError(f"question {question.id}: {error.message}", error.hint) from error


def _grouped(rows: Iterator[Row], layout: Layout) -> Iterator[tuple[Row, ...]]:
    pool: list[Row] = []
    most = layout.batch * (_POOL_BATCHES if layout.real_length else 1)
    for row in rows:
        pool.append(row)
        if len(pool) == most:
            yield from _cut(pool, layout)
            pool = []
    yield from _cut(pool, layout)


def _cut(pool: list[Row], layout: Layout) -> Iterator[tuple[Row, ...]]:
    if layout.real_length:
        pool = sorted(pool, key=lambda row: len(row.window))
    for begin in range(0, len(pool), layout.batch):
        yield tuple(pool[begin : begin + layout.batch])
