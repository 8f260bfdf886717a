"""Logits of a question's windows -> its answer, n-best list and null score, as SQuAD scores are usually made.

The rules are those of `postprocess_qa_predictions` of transformers 4 (its question-answering examples), with its
defaults; `tests/golden/squad_answers.json` records it. They differ from those of the demo (`runtime.qa`), which follow
the pipeline.

1. In each window the 20 highest start and the 20 highest end logits are taken, question and special tokens among them.
   A pair of them is a candidate if both are in the context, in order, at most 30 tokens long. It scores the sum of the
   two logits.
2. The null score is the lowest over all windows of the sum of the two logits of `[CLS]`.
3. Candidates of all windows and the null answer are sorted by score, and the best 20 are kept; the null answer always.
   Their probabilities are the softmax of their scores.
4. If the null score is more than the score of the best candidate by more than the threshold, 0, there is no answer.

Arithmetic is float32, in that order. Padding is never a candidate: the logits end with the window. Ties, which the
reference leaves to the sort of numpy, go to the later token.

Where not a single candidate is left, the reference says "empty", with a score of 0. So does this, for the scores to be
the same. It happens where all of the 20 best starts or ends are outside of the context.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..frozen import Frozen
from ..runtime.runtime import Logits
from ..runtime.tokens import Window

N_BEST = 20
MAX_ANSWER_TOKENS = 30
NULL_THRESHOLD = 0.0
PLACEHOLDER = "empty"


class Candidate(Frozen):
    """A possible answer: `text` is `context[start:end]`, empty for no answer."""

    text: str
    start: int
    end: int
    start_logit: float
    end_logit: float
    probability: float

    def document(self) -> dict[str, object]:
        """As the reference writes it in its n-best file."""
        return {
            "start_logit": self.start_logit,
            "end_logit": self.end_logit,
            "text": self.text,
            "probability": self.probability,
        }


class Prediction(Frozen):
    """The answer to a question: `best`, the best span, unless `says_none`.

    `null_score` is how much more the null answer scores than the best span: the official script's `na_prob`.
    """

    best: Candidate
    null_score: float
    n_best: tuple[Candidate, ...]
    says_none: bool

    @property
    def text(self) -> str:
        return "" if self.says_none else self.best.text

    @property
    def probability(self) -> float:
        """The share of this very answer in the n-best list: how sure the model is."""
        return sum(each.probability for each in self.n_best if each.text == self.text)


def predict(
    windows: Sequence[Window],
    start_logits: Sequence[Logits],
    end_logits: Sequence[Logits],
    context: str,
    allow_no_answer: bool = True,
) -> Prediction:
    """The answer from all windows of one question, in their order, and the logits of each, (tokens,) or longer."""
    spans: list[_Span] = []
    null: _Span | None = None
    for window, start, end in zip(windows, start_logits, end_logits, strict=True):
        start, end = start[: len(window)], end[: len(window)]
        if not (np.isfinite(start).all() and np.isfinite(end).all()):
            raise ValueError("a logit is not a finite number")
        at_cls = (start[0] + end[0], 0, 0, start[0], end[0])
        null = at_cls if null is None or at_cls[0] < null[0] else null
        spans += _spans(window, start, end)
    if null is None:
        raise ValueError("a question has at least one window")
    if allow_no_answer:
        spans.append(null)
    kept = sorted(spans, key=lambda span: span[0], reverse=True)[:N_BEST]
    if allow_no_answer and not any(span[1:3] == (0, 0) for span in kept):
        kept.append(null)
    if all(span[1] == span[2] for span in kept):
        kept.insert(0, (0.0, 0, 0, 0.0, 0.0))
        texts = [PLACEHOLDER]
    else:
        texts = []
    texts += [context[span[1] : span[2]] for span in kept[len(texts) :]]
    n_best = _candidates(kept, texts)
    number = next(number for number, text in enumerate(texts) if text)
    _, _, _, start_logit, end_logit = kept[number]
    null_score = float((null[0] - start_logit) - end_logit)
    says_none = allow_no_answer and null_score > NULL_THRESHOLD
    return Prediction(n_best[number], null_score, n_best, says_none)


_Span = tuple[np.float32 | float, int, int, np.float32 | float, np.float32 | float]
"""Score, begin and end in the context, start logit, end logit."""


def _spans(window: Window, start: Logits, end: Logits) -> list[_Span]:
    """The candidates of one window, by falling start logit and then falling end logit."""
    first, last = _highest(start), _highest(end)
    lengths = last[None, :] - first[:, None] + 1
    begin, stop = window.context_start, window.context_start + len(window.words)
    inside = ((first >= begin) & (first < stop))[:, None] & ((last >= begin) & (last < stop))[None, :]
    rows, columns = np.nonzero(inside & (lengths >= 1) & (lengths <= MAX_ANSWER_TOKENS))
    a, b = first[rows], last[columns]
    begins, ends = window.offsets[a - begin, 0].tolist(), window.offsets[b - begin, 1].tolist()
    return list(zip(start[a] + end[b], begins, ends, start[a], end[b], strict=True))


def _highest(logits: Logits) -> npt.NDArray[np.intp]:
    return np.argsort(logits, kind="stable")[::-1][:N_BEST]


def _candidates(kept: Sequence[_Span], texts: Sequence[str]) -> tuple[Candidate, ...]:
    scores = np.array([span[0] for span in kept])
    weights = np.exp(scores - scores.max())
    probabilities = (weights / weights.sum()).tolist()
    return tuple(
        Candidate(text, begin, end, float(start_logit), float(end_logit), probability)
        for text, (_, begin, end, start_logit, end_logit), probability in zip(texts, kept, probabilities, strict=True)
    )
