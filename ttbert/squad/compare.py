"""Two runs over the same questions: how far scores differ and how sure that is, which answers changed, and logits.

The difference is of the first run minus the second. Its interval is a paired bootstrap: questions are drawn with
replacement, many times, and each draw is scored for both runs; the interval holds the middle 95% of the differences.
The seed is fixed, so the same two runs have the same interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..frozen import Frozen
from ..recipe.policy import BFLOAT16
from ..runtime.pcc import pcc
from ..runtime.runtime import Logits

DRAWS = 10_000
CONFIDENCE = 0.95
_SEED = 20_180_611
_DRAWS_AT_ONCE = 200

FloatArray = npt.NDArray[np.float64]
LogitsByWindow = Mapping[tuple[int, int], tuple[Logits, Logits]]


class Difference(Frozen):
    """First minus second, in percentage points, and its interval."""

    value: float
    low: float
    high: float

    def document(self) -> dict[str, float]:
        return {"value": self.value, "low": self.low, "high": self.high}


class Change(Frozen):
    """A question that the two runs answer differently; `gain` is the first run's F1 minus the second's."""

    id: str
    first: str
    second: str
    gain: float


class Comparison(Frozen):
    """Two runs compared. `correlated` says what the correlation (PCC) is of: logits, or null scores where there are none."""

    first: str
    second: str
    questions: int
    first_score: tuple[float, float]
    second_score: tuple[float, float]
    exact: Difference
    f1: Difference
    changes: tuple[Change, ...]
    correlation: float | None
    correlated: str
    partial: bool

    @property
    def better(self) -> int:
        return sum(each.gain > 0 for each in self.changes)

    @property
    def worse(self) -> int:
        return sum(each.gain < 0 for each in self.changes)

    def document(self) -> dict[str, Any]:
        return {
            "first": self.first,
            "second": self.second,
            "questions": self.questions,
            "partial": self.partial,
            "score": {
                "first": {"exact": self.first_score[0], "f1": self.first_score[1]},
                "second": {"exact": self.second_score[0], "f1": self.second_score[1]},
            },
            "difference": {"exact": self.exact.document(), "f1": self.f1.document()},
            "confidence": CONFIDENCE,
            "draws": DRAWS,
            "changed": len(self.changes),
            "better": self.better,
            "worse": self.worse,
            "pcc": self.correlation,
            "pcc_of": self.correlated,
            "changes": [{"id": c.id, "first": c.first, "second": c.second, "gain": c.gain} for c in self.changes],
        }


def compare_documents(
    first: Mapping[str, Any], second: Mapping[str, Any], logits: tuple[LogitsByWindow, LogitsByWindow] | None = None
) -> Comparison:
    """Compare two results, over the questions that both have. InputError if they are of other data, or share none."""
    names = [_name(each) for each in (first, second)]
    digests = [each["provenance"]["data"]["digest"] for each in (first, second)]
    if digests[0] != digests[1]:
        raise InputError(
            f"the two runs are of different data: {digests[0]} and {digests[1]}", "run both with the same --data file"
        )
    by_id = {each["id"]: each for each in second["questions"]}
    pairs = [(each, by_id[each["id"]]) for each in first["questions"] if each["id"] in by_id]
    if not pairs:
        raise InputError("the two runs have no question in common", "run both over the same part of the data")
    scores = np.array([[[each["exact"], each["f1"]] for each in pair] for pair in pairs], np.float64)
    exact, f1 = bootstrap(scores[:, 0] - scores[:, 1])
    changes = tuple(
        Change(a["id"], a["answer"], b["answer"], a["f1"] - b["f1"]) for a, b in pairs if a["answer"] != b["answer"]
    )
    means = 100 * scores.mean(axis=0)
    if logits:
        correlation, correlated = logits_correlation(*logits), "logits"
    else:
        nulls = np.array([[each["null_score"] for each in pair] for pair in pairs])
        correlation, correlated = pcc(nulls[:, 0], nulls[:, 1]) if len(pairs) > 1 else None, "null scores"
    return Comparison(
        first=names[0],
        second=names[1],
        questions=len(pairs),
        first_score=(float(means[0, 0]), float(means[0, 1])),
        second_score=(float(means[1, 0]), float(means[1, 1])),
        exact=exact,
        f1=f1,
        changes=tuple(sorted(changes, key=lambda each: (each.gain, each.id))),
        correlation=correlation,
        correlated=correlated,
        partial=len(pairs) < first["provenance"]["data"]["questions"],
    )


def bootstrap(differences: FloatArray, draws: int = DRAWS) -> list[Difference]:
    """The mean of each column of (questions, columns), in percent, with its bootstrap interval."""
    random = np.random.default_rng(_SEED)
    count = len(differences)
    means = []
    for begin in range(0, draws, _DRAWS_AT_ONCE):
        drawn = random.integers(0, count, (min(_DRAWS_AT_ONCE, draws - begin), count))
        means.append(differences[drawn].mean(axis=1))
    tail = 50 * (1 - CONFIDENCE)
    lows, highs = np.percentile(np.concatenate(means), [tail, 100 - tail], axis=0)
    values = differences.mean(axis=0)
    return [Difference(100 * float(v), 100 * float(a), 100 * float(b)) for v, a, b in zip(values, lows, highs, strict=True)]


def logits_correlation(first: LogitsByWindow, second: LogitsByWindow) -> float | None:
    """The PCC over all start and end logits; None unless both have the very same windows, each in the same length.

    Another tokenizer cuts other windows, whose logits cannot be compared.
    """
    # Sorted, since logits come in the order in which batches were run, and the order of a sum is in its last digits.
    shared = sorted(key for key in first if key in second and len(first[key][0]) == len(second[key][0]))
    if len(shared) != len(first) or len(shared) != len(second):
        return None
    return pcc(*(np.concatenate([side for key in shared for side in each[key]]) for each in (first, second)))


def _name(document: Mapping[str, Any]) -> str:
    provenance = document["provenance"]
    rounded = f" in {BFLOAT16}" if provenance.get("precision") == BFLOAT16 else ""
    return f"{provenance['model']} ({provenance['policy']}, {provenance['board']}{rounded})"


def worst_and_best(changes: Sequence[Change], count: int) -> list[Change]:
    """The changes that cost most and those that gained most."""
    ordered = sorted(changes, key=lambda each: each.gain)
    if len(ordered) <= 2 * count:
        return ordered
    return ordered[:count] + ordered[-count:]
