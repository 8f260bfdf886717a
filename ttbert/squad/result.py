"""The result of a run: scored, with all that one needs to know of it, as a document and as files."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .answers import Prediction
from .batches import Layout
from .dataset import Dataset
from .document import N_BEST, NULL_ODDS, PREDICTIONS, RUN, SCHEMA, write_json
from .engine import Machine
from .metrics import Metrics, Pair, evaluate
from .runner import Outcome, Timings
from .subject import Subject


@dataclass(frozen=True, eq=False)
class Result:
    """A finished run. Sequences are in the order of the questions."""

    dataset: Dataset
    predictions: tuple[Prediction, ...]
    pairs: tuple[Pair, ...]
    context_tokens: tuple[int, ...]
    timings: Timings
    provenance: Mapping[str, Any]

    @cached_property
    def metrics(self) -> Metrics:
        return evaluate(self.dataset.questions, self.answers, self.null_scores if self.dataset.allows_no_answer else None)

    @property
    def is_mock(self) -> bool:
        """It ran on a mock device, which computes nothing: every logit is zero, and nothing here is a score."""
        return bool((self.provenance["device"] or {}).get("mock"))

    @property
    def answers(self) -> dict[str, str]:
        return self._by_id([each.text for each in self.predictions])

    @property
    def best_spans(self) -> dict[str, str]:
        """The best span of each question, also where "no answer" beat it."""
        return self._by_id([each.best.text for each in self.predictions])

    @property
    def null_scores(self) -> dict[str, float]:
        return self._by_id([each.null_score for each in self.predictions])

    @property
    def n_best(self) -> dict[str, list[dict[str, object]]]:
        return self._by_id([[each.document() for each in prediction.n_best] for prediction in self.predictions])

    @property
    def rate(self) -> float | None:
        """Questions in a second; None where some of them were answered in an earlier run."""
        return None if self.timings.resumed_batches else round(len(self.predictions) / self.timings.wall, 3)

    def _by_id(self, values: Sequence[Any]) -> dict[str, Any]:
        return {question.id: value for question, value in zip(self.dataset.questions, values, strict=True)}


def make_result(dataset: Dataset, subject: Subject, layout: Layout, machine: Machine, outcome: Outcome) -> Result:
    """An outcome, with what it is of, and what machine it ran on."""
    provenance = {
        **subject.origin.document(),
        "board": subject.target.name,
        "precision": subject.target.cpu_precision,
        "batch": layout.batch,
        "window_tokens": subject.encoder.tokens,
        "stride": subject.encoder.stride,
        "real_length": layout.real_length,
        "data": {
            "source": dataset.source,
            "version": dataset.version,
            "digest": str(dataset.digest),
            "questions": dataset.total,
            "moved_answers": dataset.moved,
        },
        "versions": {
            **{name: machine.decides.get(name) or version(name) for name in ("ttbert", "torch", "tokenizers", "numpy", "ttnn")},
            "python": platform.python_version(),
        },
        **{name: machine.decides.get(name) for name in ("processor", "threads")},
        "device": machine.device,
    }
    return Result(
        dataset=dataset,
        predictions=outcome.predictions,
        pairs=outcome.pairs,
        context_tokens=outcome.context_tokens,
        timings=outcome.timings,
        provenance=provenance,
    )


def part_document(dataset: Dataset) -> dict[str, Any] | None:
    """None if all questions were asked, and which ones if not."""
    if not dataset.is_partial:
        return None
    part = dataset.part
    return {
        "questions": len(dataset.questions),
        "of": dataset.total,
        "limit": part.limit,
        "sample": part.sample,
        "seed": part.seed if part.sample is not None else None,
    }


def result_document(result: Result) -> dict[str, Any]:
    """Everything but texts of contexts, for programs and for `ttbert squad diff`."""
    rows = zip(result.dataset.questions, result.predictions, result.pairs, result.context_tokens, strict=True)
    return {
        "schema": SCHEMA,
        "score": None if result.is_mock else result.metrics.document(),
        "partial": part_document(result.dataset),
        "provenance": dict(result.provenance),
        "timings": result.timings.document(),
        "questions_per_second": result.rate,
        "questions": [
            {
                "id": question.id,
                "answer": prediction.text,
                "start": 0 if prediction.says_none else prediction.best.start,
                "end": 0 if prediction.says_none else prediction.best.end,
                "exact": pair.exact,
                "f1": pair.f1,
                "has_answer": question.has_answer,
                "best_span": prediction.best.text,
                "null_score": prediction.null_score,
                "probability": prediction.probability,
                "context_tokens": tokens,
            }
            for question, prediction, pair, tokens in rows
        ],
    }


def write_result(folder: Path, result: Result) -> None:
    """Write the files of a result, each one whole or not at all."""
    write_json(folder / PREDICTIONS, result.answers)
    write_json(folder / N_BEST, result.n_best)
    if result.dataset.allows_no_answer:
        write_json(folder / NULL_ODDS, result.null_scores)
    write_json(folder / RUN, result_document(result))
