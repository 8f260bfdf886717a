"""Questions about passages in, answers out: a model, loaded on what it runs on, that reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import numpy as np

from ..errors import TtbertError
from .loader import CachedModel
from .qa import Answer, decode
from .runtime import Logits, Runtime
from .target import Target, open_runtime
from .tokens import TOKENS, Batch, Encoder, Window, make_batches


@dataclass(frozen=True, eq=False)
class Prepared:
    """Questions as the model takes them: all their windows, one question's after another's, in batches."""

    contexts: tuple[str, ...]
    windows: tuple[Window, ...]
    batches: tuple[Batch, ...]
    tokens: int
    """Of every row of a batch."""


class Reader:
    """A model that answers questions about passages: every answer is a piece of its passage, or none.

    `answer` is all that most programs need; it does `prepare`, `run` and `decode` in turn.
    """

    def __init__(self, runtime: Runtime, tokenizer: bytes, tokens: int, rows: int, as_long_as_inputs: bool) -> None:
        """`rows` are the windows of a batch, of at most `tokens` tokens; they are padded to that, or to the longest of them.

        `tokenizer` is a `tokenizer.json`.
        """
        self.runtime = runtime
        self._tokenizer, self._tokens = tokenizer, tokens
        self._rows, self._as_long_as_inputs = rows, as_long_as_inputs

    @cached_property
    def _encoder(self) -> Encoder:
        return Encoder(self._tokenizer, self._tokens)

    def answer(self, questions: Sequence[tuple[str, str]]) -> list[Answer]:
        """The best answer to each (question, passage). A long passage is read in windows that overlap.

        InputError for a question that is too long, TtbertError for a model that overflows.
        """
        prepared = self.prepare(questions)
        return self.decode(prepared, self.run(prepared))

    def prepare(self, questions: Sequence[tuple[str, str]]) -> Prepared:
        windows = tuple(
            window
            for number, (question, context) in enumerate(questions)
            for window in self._encoder.windows(question, context, number)
        )
        tokens = max(map(len, windows), default=0) if self._as_long_as_inputs else self._tokens
        batches = tuple(make_batches(windows, self._rows, tokens, pad_id=self._encoder.pad_id))
        return Prepared(tuple(context for _, context in questions), windows, batches, tokens)

    def run(self, prepared: Prepared) -> list[tuple[Logits, Logits]]:
        """Start and end logits of each batch, each (rows, tokens)."""
        return list(self.runtime.stream(prepared.batches))

    def decode(self, prepared: Prepared, logits: Sequence[tuple[Logits, Logits]]) -> list[Answer]:
        real = [
            (start, end)
            for batch, (starts, ends) in zip(prepared.batches, logits, strict=True)
            for start, end in zip(starts[: batch.rows], ends[: batch.rows], strict=True)
        ]
        answers = []
        try:
            for number, rows in groupby(zip(prepared.windows, real, strict=True), key=lambda row: row[0].example):
                windows, found = zip(*rows, strict=True)
                starts, ends = np.array(found).swapaxes(0, 1)
                answers.append(decode(windows, starts, ends, prepared.contexts[number])[0])
        except ValueError as error:  # logits that are no numbers
            raise TtbertError(str(error), "the model overflows; try another --policy, or look at its training") from error
        return answers


@contextmanager
def open_reader(target: Target, model: CachedModel, batch: int) -> Iterator[Reader]:
    """The model loaded on the target, to read `batch` windows at once on each chip: of 384 tokens on a device, or of as many
    as the model has positions for, and on the processor as long as the longest of them.

    CheckpointError for a model that has no question-answering head, and errors as of `open_runtime`.
    """
    model.require_answer_head()
    tokens = min(TOKENS, model.shape.positions)
    with open_runtime(target, model, batch, tokens) as runtime:
        yield Reader(runtime, model.tokenizer, tokens, target.chips * batch, as_long_as_inputs=not target.is_device)
