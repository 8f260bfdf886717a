"""The score on real questions: that of the official script over predictions of transformers in float32.

The questions and one of the models are not a part of the project; these tests skip where they are absent. The whole
comparison of precisions takes minutes, and is run with TTBERT_FULL=1; without it, a sample.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from shared import shared

from ttbert.cache.places import Places
from ttbert.convert.convert import convert, plan_conversion
from ttbert.convert.wanted import BUNDLED, Wanted
from ttbert.runtime.target import Target
from ttbert.squad.batches import Layout
from ttbert.squad.compare import compare_documents
from ttbert.squad.dataset import Part, choose_part, read_dataset
from ttbert.squad.engine import open_local
from ttbert.squad.result import Result, result_document
from ttbert.squad.score import Run, score
from ttbert.squad.subject import Subject, load_cached, load_float32

FULL = os.environ.get("TTBERT_FULL", "") not in ("", "0")
QUESTIONS = "squad/heldout-v2.0.json"
SAMPLE = 160
ALL = Part()

TRANSFORMERS = {"minilm-squad2": (52.65, 55.32, 57.16, -0.9607), "small-squad2": (52.59, 55.12, 56.51, -0.8187)}
"""Exact match, F1, best F1 and its threshold, as transformers 4 and the official script give them in float32."""


def run(subject: Subject, folder: Path, part: Part = ALL) -> tuple[Result, dict]:
    dataset = choose_part(read_dataset(shared(QUESTIONS)), part)
    with open_local(subject) as engine:
        return score(Run(dataset, subject, Layout(8, real_length=True), engine, folder), False, lambda each: None, True)


@pytest.mark.parametrize("name", TRANSFORMERS if FULL else ["minilm-squad2"])
def test_float32_score_is_that_of_transformers(tmp_path: Path, name: str) -> None:
    result, _ = run(load_float32(Wanted(str(shared(f"models/{name}")))), tmp_path)
    exact, f1, best, threshold = TRANSFORMERS[name]
    assert (result.metrics.all.exact, result.metrics.all.f1) == pytest.approx((exact, f1), abs=0.1)
    assert result.metrics.best_f1.score == pytest.approx(best, abs=0.1)
    assert result.metrics.best_f1.threshold == pytest.approx(threshold, abs=0.01)


@pytest.mark.parametrize("name", ["minilm-squad2", BUNDLED])
def test_bfp8_costs_at_most_half_a_point(tmp_path: Path, name: str) -> None:
    wanted = Wanted(name if name == BUNDLED else str(shared(f"models/{name}")))
    part = ALL if FULL else Part(sample=SAMPLE)
    cache = Places(str(tmp_path / "cache")).open()
    cached = convert(plan_conversion(wanted), cache).cached
    result, logits = run(load_cached(wanted, Places(cache.store.url), cache, cached, Target("cpu"), 8), tmp_path / "bfp8", part)
    other, other_logits = run(load_float32(wanted), tmp_path / "float32", part)
    found = compare_documents(result_document(result), result_document(other), (logits, other_logits))
    assert found.correlation > 0.999
    # Of a sample no more can be asked than that its interval reaches the bound.
    assert (found.f1.value if FULL else found.f1.high) >= -0.5
    assert found.f1.low <= found.f1.value <= found.f1.high
