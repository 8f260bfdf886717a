"""What a report shows beyond the score: F1 by kind of question, calibration, and the worst misses. Pure arithmetic."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence

from ..frozen import Frozen
from .answers import Prediction
from .dataset import Question
from .metrics import Pair
from .result import Result

NO_ANSWER, DATE, NUMBER, NAME, LONG, OTHER = "no answer", "date", "number", "name", "over 4 words", "other"

CONTEXT_EDGES = (0, 100, 150, 200, 300, 384)
"""Tokens of a context: where the groups of the report begin."""

BINS = 10

_DATE = re.compile(
    r"\b(1\d{3}|20\d{2})s?\b|\b(january|february|march|april|may|june|july|august|september|october|november|december)\b"
    r"|\bcentur(y|ies)\b"
)
_ARTICLES = ("the", "a", "an")


class Slice(Frozen):
    """A group of questions and its scores, in percent."""

    name: str
    exact: float
    f1: float
    count: int


class Bin(Frozen):
    """Predictions of similar probability: the mean of that, in percent, and how many of them are exactly right."""

    low: float
    probability: float
    exact: float
    count: int


class Miss(Frozen):
    """A question that was answered wrongly; `certainty`, from 0 to 1, is the probability of the wrong answer."""

    question: Question
    prediction: Prediction
    f1: float
    certainty: float


def answer_kind(question: Question) -> str:
    """What sort of text the first gold answer is, by its looks: a rough sorting, not linguistics."""
    if not question.answers:
        return NO_ANSWER
    text = question.answers[0].text
    words = [word for word in text.split() if word.lower() not in _ARTICLES]
    if _DATE.search(text.lower()) and len(words) <= 6:
        return DATE
    if any(char.isdigit() for char in text) and len(words) <= 4:
        return NUMBER
    if (
        words
        and all(word[0].isupper() or word in ("of", "and", "de", "von", "van") for word in words)
        and words[0][0].isupper()
    ):
        return NAME
    return LONG if len(words) > 4 else OTHER


def by_answer_kind(result: Result) -> list[Slice]:
    kinds = [answer_kind(each) for each in result.dataset.questions]
    return _slices(kinds, (NO_ANSWER, NAME, DATE, NUMBER, OTHER, LONG), result.pairs)


def by_context_length(result: Result) -> list[Slice]:
    names = [_length_name(i) for i in range(len(CONTEXT_EDGES))]
    found = [names[max(i for i, edge in enumerate(CONTEXT_EDGES) if tokens >= edge)] for tokens in result.context_tokens]
    return _slices(found, names, result.pairs)


def calibration(result: Result) -> list[Bin]:
    """Predictions in ten groups by their probability; groups with none in them are left out."""
    groups: list[list[tuple[float, float]]] = [[] for _ in range(BINS)]
    for prediction, pair in zip(result.predictions, result.pairs, strict=True):
        groups[min(int(prediction.probability * BINS), BINS - 1)].append((prediction.probability, pair.exact))
    return [
        Bin(
            low=100 * number / BINS,
            probability=100 * sum(p for p, _ in group) / len(group),
            exact=100 * sum(e for _, e in group) / len(group),
            count=len(group),
        )
        for number, group in enumerate(groups)
        if group
    ]


def calibration_error(bins: Sequence[Bin]) -> float:
    """How far probability and share of right answers are apart on average, in percentage points (ECE)."""
    return sum(each.count * abs(each.probability - each.exact) for each in bins) / sum(each.count for each in bins)


def worst_misses(result: Result, count: int) -> dict[str, list[Miss]]:
    """The misses of each sort of which the model was most certain."""
    sorts: dict[str, Callable[[Question, Prediction], bool]] = {
        "Said “no answer”, but there is one": lambda q, p: q.has_answer and not p.text,
        "Answered, but there is no answer": lambda q, p: not q.has_answer and bool(p.text),
        "Answered something else": lambda q, p: q.has_answer and bool(p.text),
    }
    misses = [
        Miss(question, prediction, pair.f1, prediction.probability)
        for question, prediction, pair in zip(result.dataset.questions, result.predictions, result.pairs, strict=True)
        if pair.f1 == 0
    ]
    misses.sort(key=lambda miss: (-miss.certainty, miss.question.id))
    return {
        name: [miss for miss in misses if belongs(miss.question, miss.prediction)][:count] for name, belongs in sorts.items()
    }


def marked_context(miss: Miss) -> list[tuple[str, str]]:
    """The context in pieces of text with their marks: "", "gold", "predicted" or "gold predicted"."""
    context = miss.question.context
    golds = {(gold.start, gold.start + len(gold.text)) for gold in miss.question.answers}
    best = miss.prediction.best
    said = [] if miss.prediction.says_none else [(best.start, best.end)]
    edges = sorted({0, len(context), *(edge for span in (*golds, *said) for edge in span)})
    pieces = []
    for start, end in itertools.pairwise(edges):
        marks = [
            name for name, spans in (("gold", golds), ("predicted", said)) if any(a <= start and end <= b for a, b in spans)
        ]
        pieces.append((context[start:end], " ".join(marks)))
    return pieces


def _length_name(number: int) -> str:
    begin = CONTEXT_EDGES[number]
    if number + 1 == len(CONTEXT_EDGES):
        return f"{begin} and more"
    return f"{begin} to {CONTEXT_EDGES[number + 1] - 1}" if begin else f"under {CONTEXT_EDGES[1]}"


def _slices(found: Sequence[str], names: Sequence[str], pairs: Sequence[Pair]) -> list[Slice]:
    made = []
    for name in names:
        group = [pair for each, pair in zip(found, pairs, strict=True) if each == name]
        if group:
            exact, f1 = (100 * sum(getattr(pair, part) for pair in group) / len(group) for part in ("exact", "f1"))
            made.append(Slice(name, exact, f1, len(group)))
    return made
