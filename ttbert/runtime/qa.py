"""Start and end logits -> answers: spans of the context, the best first, and the score of having no answer.

The spans, scores and order are those of the question-answering pipeline of transformers 4 with `align_to_words=True`,
which `tests/golden/qa_pipeline.json` records. In each window:

1. The softmax of the start logits runs over `[CLS]` and the context tokens, and so does that of the end logits.
2. The null score is P(start at `[CLS]`) x P(end at `[CLS]`). The example's is the lowest of all windows, since an
   answer that is in one window only makes "no answer" likely in all others.
3. A span scores P(start) x P(end). It begins before it ends, has at most `max_answer_tokens` tokens, and is made of
   context only. The best `2 * top_k + 10` spans of the window go on.
4. A span grows to whole words. Spans with the same text, ignoring case, become one answer: the scores add up, and text
   and place are those of the span met first, going through the windows in order and down the scores in each. So a
   score may be above 1.

Ties, which the pipeline leaves to the sort of numpy, go to the earlier window, then the earlier start, then the
shorter span, and last to "no answer". Where fewer than `top_k` spans have a score above zero, the pipeline fills the
list with arbitrary spans of score 0; here the list is shorter. A literal "[CLS]" in the question can be the pipeline's
answer; here no part of a question can.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from ..frozen import Frozen
from .tokens import Window

FloatArray = npt.NDArray[np.float32]


class Answer(Frozen):
    """A span of the context: `text` is `context[start:end]`. No answer is the empty text at 0."""

    text: str
    start: int
    end: int
    score: float


def decode(
    windows: Sequence[Window],
    start_logits: Sequence[npt.ArrayLike],
    end_logits: Sequence[npt.ArrayLike],
    context: str,
    top_k: int = 1,
    max_answer_tokens: int = 30,
    allow_no_answer: bool = True,
) -> list[Answer]:
    """The best `top_k` answers, best first, from the windows of one example and their logits.

    Logits are a row for each window, (tokens,) or longer; what comes after a window's last token is never read. The list
    is never empty: if no span scores above zero and `allow_no_answer` is off, it is the empty answer with a score of 0.
    ValueError if a logit is not a finite number, and for shapes that do not fit.
    """
    if top_k < 1 or max_answer_tokens < 1:
        raise ValueError(f"top_k is {top_k} and max_answer_tokens is {max_answer_tokens}; both must be 1 or more")
    if len({window.example for window in windows}) != 1:
        raise ValueError("an answer comes from the windows of one example")
    starts = _as_rows(start_logits, windows, "start")
    ends = _as_rows(end_logits, windows, "end")

    found: dict[str, Answer] = {}
    null_score = np.inf
    for window, start, end in zip(windows, starts, ends, strict=True):
        start_probability = _probabilities(start, window)
        end_probability = _probabilities(end, window)
        null_score = min(null_score, float(start_probability[0] * end_probability[0]))
        inside = slice(window.context_start, window.context_start + len(window.words))
        spans = _best_spans(start_probability[inside], end_probability[inside], 2 * top_k + 10, max_answer_tokens)
        for first, last, score in spans:
            _add(found, _answer(window, first, last, score, context))

    answers = list(found.values())
    if allow_no_answer:
        answers.append(Answer("", 0, 0, null_score))
    answers.sort(key=lambda answer: -answer.score)
    return answers[:top_k] or [Answer("", 0, 0, 0.0)]


def _as_rows(logits: Sequence[npt.ArrayLike], windows: Sequence[Window], name: str) -> list[FloatArray]:
    """The logits of each window, without its padding."""
    if len(logits) != len(windows):
        raise ValueError(f"{len(logits)} rows of {name} logits for {len(windows)} windows")
    rows = []
    for number, (each, window) in enumerate(zip(logits, windows, strict=True)):
        row = np.asarray(each, np.float32)
        if row.ndim != 1 or len(row) < len(window):
            raise ValueError(f"{name} logits of shape {row.shape} for window {number}, of {len(window)} tokens")
        if not np.isfinite(row := row[: len(window)]).all():
            raise ValueError(f"not all {name} logits of window {number} are finite numbers")
        rows.append(row)
    return rows


def _probabilities(logits: FloatArray, window: Window) -> FloatArray:
    """The softmax over `[CLS]` and the context, 0 elsewhere.

    It is summed over the whole row, zeros too, as the pipeline sums it: float32 rounds differently otherwise.
    """
    allowed = window.context_mask
    allowed[0] = True
    kept = np.where(allowed, logits, -np.inf).astype(np.float32)
    weights = np.exp(kept - kept.max())
    probabilities: FloatArray = weights / weights.sum()
    return probabilities


def _best_spans(start: FloatArray, end: FloatArray, count: int, longest: int) -> list[tuple[int, int, float]]:
    """The `count` best (first token, last token, score), best first, of those with a score above zero."""
    if not len(start):
        return []
    width = min(longest, len(end))
    padded = np.concatenate([end, np.zeros(width - 1, np.float32)])
    # scores[s, d] is of the span from token s to token s + d.
    scores = (start[:, None] * np.lib.stride_tricks.sliding_window_view(padded, width)).ravel()
    floor = np.partition(scores, -count)[-count] if count < len(scores) else 0
    candidates = np.flatnonzero((scores >= floor) & (scores > 0))
    best = candidates[np.argsort(-scores[candidates], kind="stable")][:count]
    return [(index // width, index // width + index % width, float(scores[index])) for index in best.tolist()]


def _answer(window: Window, first: int, last: int, score: float, context: str) -> Answer:
    """The span from context token `first` to `last`, grown to the words they are in as far as the window shows them."""
    first = int(np.searchsorted(window.words, window.words[first], "left"))
    last = int(np.searchsorted(window.words, window.words[last], "right")) - 1
    start, end = int(window.offsets[first, 0]), int(window.offsets[last, 1])
    return Answer(context[start:end], start, end, score)


def _add(found: dict[str, Answer], answer: Answer) -> None:
    """Merge an answer into the one with the same text, or put it after all others."""
    key = answer.text.lower()
    known = found.get(key)
    found[key] = answer if known is None else replace(known, score=known.score + answer.score)
