"""Questions about passages in, answers out: a model, loaded on what it runs on, that reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

from ..errors import InputError, TtbertError
from .loader import CachedModel
from .qa import Answer, decode
from .runtime import Logits, Runtime
from .target import Target, open_runtime
from .tokens import Batch, Encoder, Window, stack


@dataclass(frozen=True, eq=False)
class Prepared:
    """Questions as the model takes them: all their windows, one question's after another's, and the batches they are run in."""

    contexts: tuple[str, ...]
    windows: tuple[Window, ...]
    order: tuple[int, ...]
    """Of the windows, by number, in the rows of all batches."""
    batches: tuple[Batch, ...]

    @property
    def tokens(self) -> int:
        """Of a row of the longest batch."""
        return max((batch.ids.shape[1] for batch in self.batches), default=0)


class Reader:
    """A model that answers questions about passages: every answer is a piece of its passage, or none.

    `answer` or `rank` is all that most programs need; they do `prepare`, `run` and `decode` in turn.
    """

    def __init__(self, runtime: Runtime, model: CachedModel, tokens: int, rows: int, any_shape: bool) -> None:
        """The model that the runtime has loaded, for windows of at most `tokens` tokens in batches of (rows, tokens).

        A runtime that takes batches of `any_shape` gets them with no empty row, and as long as their longest window.
        """
        self.runtime = runtime
        self._model, self._tokens = model, tokens
        self._rows, self._any_shape = rows, any_shape

    @cached_property
    def _encoder(self) -> Encoder:
        return self._model.encoder(self._tokens)

    def answer(self, questions: Iterable[tuple[str, str]]) -> list[Answer]:
        """The best answer to each (question, passage). A long passage is read in windows that overlap.

        InputError for a question that is too long, CheckpointError for a tokenizer that is not the model's, TtbertError for a
        model that overflows.
        """
        return [best for best, *_ in self.rank(questions, 1)]

    def rank(self, questions: Iterable[tuple[str, str]], top_k: int) -> list[list[Answer]]:
        """The best `top_k` answers to each (question, passage), best first, as `qa` tells. Errors as of `answer`."""
        if top_k < 1:
            raise ValueError(f"the best {top_k} answers")
        prepared = self.prepare(questions)
        return self.decode(prepared, self.run(prepared), top_k)

    def prepare(self, questions: Iterable[tuple[str, str]]) -> Prepared:
        """InputError, with its number from 1, for a question that is too long, TypeError for what is no pair."""
        asked = list(questions)
        windows = tuple(window for number, each in enumerate(asked) for window in self._windows(number, each))
        order = list(range(len(windows)))
        shape: tuple[int, ...] = (self._rows, self._tokens)
        if self._any_shape:
            order.sort(key=lambda number: len(windows[number]))  # so that little is padded
            shape = ()
        groups = (order[begin : begin + self._rows] for begin in range(0, len(order), self._rows))
        batches = tuple(stack([windows[n] for n in group], *shape, pad_id=self._encoder.pad_id) for group in groups)
        return Prepared(tuple(context for _, context in asked), windows, tuple(order), batches)

    def _windows(self, number: int, asked: tuple[str, str]) -> list[Window]:
        if not isinstance(asked, (tuple, list)):  # of a dictionary, the names would be asked about
            raise TypeError(f"question {number + 1} is a {type(asked).__name__}, not a (question, passage)")
        question, context = asked
        try:
            return self._encoder.windows(question, context, number)
        except InputError as error:
            raise InputError(f"question {number + 1}: {error.message}", error.hint) from error

    def run(self, prepared: Prepared) -> list[tuple[Logits, Logits]]:
        """Start and end logits of each batch, each (rows, tokens)."""
        return list(self.runtime.stream(prepared.batches))

    def decode(self, prepared: Prepared, logits: Sequence[tuple[Logits, Logits]], top_k: int = 1) -> list[list[Answer]]:
        """The best answers to each question. TtbertError for logits that are no numbers."""
        rows = (
            (start, end)
            for batch, found in zip(prepared.batches, logits, strict=True)
            for _, start, end in zip(batch.windows, *found, strict=False)  # without the rows that are empty
        )
        by_window = dict(zip(prepared.order, rows, strict=True))
        answers = []
        try:
            for example, numbers in groupby(range(len(prepared.windows)), lambda number: prepared.windows[number].example):
                chosen = list(numbers)
                starts, ends = zip(*(by_window[number] for number in chosen), strict=True)
                windows = [prepared.windows[number] for number in chosen]
                answers.append(decode(windows, starts, ends, prepared.contexts[example], top_k))
        except ValueError as error:
            raise TtbertError(str(error), "the model overflows; try another --policy, or look at its training") from error
        return answers


@contextmanager
def open_reader(target: Target, model: CachedModel, batch: int) -> Iterator[Reader]:
    """The model, loaded on the target, to read `batch` windows at once on each chip: of 384 tokens on a device, or of as many
    as the model has positions for, and on the processor as long as the longest of a batch.

    CheckpointError for a model that has no question-answering head, and errors as of `open_runtime`.
    """
    model.require_answer_head()
    tokens = model.shape.window
    with open_runtime(target, model, batch, tokens) as runtime:
        yield Reader(runtime, model, tokens, target.chips * batch, any_shape=not target.is_device)
