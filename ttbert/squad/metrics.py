"""Exact match and F1 of SQuAD, to the last digit what the official evaluation script for v2.0 computes.

Before texts are compared they are lowered, lose ASCII punctuation and the articles a, an, the, and have their white space
made single. A prediction gets its best score over all gold answers. Those of which nothing is left then do not count, and
where none counts, the right answer is "". F1 is of the words as bags; if one side has none, it is 1 where both have none.

The order in which numbers are added up is the official one, since it decides the last digit.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence

from ..errors import InputError
from ..frozen import Frozen
from .dataset import Question

OFFICIAL_THRESHOLD = 1.0
"""Above this null score the official script takes "no answer" for the prediction, unless it is told another."""

_ARTICLE = re.compile(r"\b(?:a|an|the)\b")
_NO_PUNCTUATION = {ord(each): None for each in string.punctuation}


class Pair(Frozen):
    """Exact match and F1 of one question, each from 0 to 1."""

    exact: float
    f1: float


class Group(Frozen):
    """Exact match and F1 over some questions, in percent."""

    exact: float
    f1: float
    total: int


class Best(Frozen):
    """The best score that one null threshold would reach, in percent, and that threshold."""

    score: float
    threshold: float


class Metrics(Frozen):
    """What the official script prints. A group is None without a question in it; the best need null scores."""

    all: Group
    has_answer: Group | None
    no_answer: Group | None
    best_exact: Best | None = None
    best_f1: Best | None = None

    def document(self) -> dict[str, float]:
        """By the official names, in the official order."""
        groups = {"": self.all, "HasAns_": self.has_answer, "NoAns_": self.no_answer}
        made: dict[str, float] = {}
        for prefix, group in groups.items():
            if group:
                made |= {f"{prefix}exact": group.exact, f"{prefix}f1": group.f1, f"{prefix}total": group.total}
        for name, best in (("exact", self.best_exact), ("f1", self.best_f1)):
            if best:
                made |= {f"best_{name}": best.score, f"best_{name}_thresh": best.threshold}
        return made


def normalize(text: str) -> str:
    """A text as it is compared."""
    return " ".join(_ARTICLE.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def score_answer(prediction: str, golds: Sequence[str]) -> Pair:
    """Exact match and F1 of a prediction, the best over all gold answers; none means that there is no answer."""
    said = normalize(prediction)
    right = [gold for gold in map(normalize, golds) if gold] or [""]
    return Pair(max(int(gold == said) for gold in right), max(_f1(gold.split(), said.split()) for gold in right))


def score_question(question: Question, prediction: str) -> Pair:
    return score_answer(prediction, [gold.text for gold in question.answers])


def evaluate(
    questions: Sequence[Question],
    predictions: Mapping[str, str],
    null_scores: Mapping[str, float] | None = None,
) -> Metrics:
    """The official metrics of predictions by question id, and of null scores as its `--na-prob-file` has them.

    InputError where a prediction or a null score is missing.
    """
    for name, given in (("prediction", predictions), ("null score", null_scores)):
        missing = [each.id for each in questions if given is not None and each.id not in given]
        if missing:
            raise InputError(
                f"{len(missing)} of {len(questions)} questions have no {name}, {missing[0]} first",
                f"give one {name} for each question",
            )
    raw = {each.id: score_question(each, predictions[each.id]) for each in questions}
    final = dict(raw)
    if null_scores is not None:
        for each in questions:
            if null_scores[each.id] > OFFICIAL_THRESHOLD:
                final[each.id] = Pair(float(not each.has_answer), float(not each.has_answer))
    metrics = Metrics(
        all=_group([final[each.id] for each in questions]),
        has_answer=_group_or_none([final[each.id] for each in questions if each.has_answer]),
        no_answer=_group_or_none([final[each.id] for each in questions if not each.has_answer]),
    )
    if null_scores is None:
        return metrics
    # In the order of `null_scores`: the official script sorts that file, and ties stay as they are in it.
    by_id = {each.id: each for each in questions}
    order = [by_id[id] for id in sorted(null_scores, key=lambda id: null_scores[id]) if id in by_id]
    bests = [
        _best(order, predictions, {id: getattr(pair, name) for id, pair in raw.items()}, null_scores)
        for name in ("exact", "f1")
    ]
    return Metrics(metrics.all, metrics.has_answer, metrics.no_answer, bests[0], bests[1])


def threshold_curve(
    questions: Sequence[Question], answers: Mapping[str, str], null_scores: Mapping[str, float]
) -> list[tuple[float, float, float]]:
    """(threshold, exact, F1) at every null score: what the whole score would be if "no answer" were said above it.

    `answers` are the best spans, whatever their null score. The first threshold is below all null scores.
    """
    exact = f1 = float(sum(not each.has_answer for each in questions))
    order = sorted(questions, key=lambda each: null_scores[each.id])
    points = [(null_scores[order[0].id] - 1.0, exact, f1)]
    for each in order:
        pair = score_question(each, answers[each.id])
        lost = 0.0 if each.has_answer else 1.0
        exact, f1 = exact + pair.exact - lost, f1 + pair.f1 - lost
        if null_scores[each.id] == points[-1][0]:
            points.pop()
        points.append((null_scores[each.id], exact, f1))
    return [(threshold, 100.0 * a / len(order), 100.0 * b / len(order)) for threshold, a, b in points]


def _f1(gold: list[str], said: list[str]) -> float:
    if not gold or not said:
        return int(gold == said)
    same = sum((Counter(gold) & Counter(said)).values())
    if not same:
        return 0
    precision, recall = same / len(said), same / len(gold)
    return (2 * precision * recall) / (precision + recall)


def _group(pairs: Sequence[Pair]) -> Group:
    total = len(pairs)
    return Group(100.0 * sum(each.exact for each in pairs) / total, 100.0 * sum(each.f1 for each in pairs) / total, total)


def _group_or_none(pairs: Sequence[Pair]) -> Group | None:
    return _group(pairs) if pairs else None


def _best(
    order: Sequence[Question], predictions: Mapping[str, str], scores: Mapping[str, float], null_scores: Mapping[str, float]
) -> Best:
    """Start with "no answer" to all, and take predictions in the order of their null scores."""
    score: float = sum(not each.has_answer for each in order)
    best, threshold = score, 0.0
    for each in order:
        if each.has_answer:
            score += scores[each.id]
        elif predictions[each.id]:
            score -= 1
        if score > best:
            best, threshold = score, null_scores[each.id]
    return Best(100.0 * best / len(order), threshold)
