"""Comparing two runs: the interval, the answers that changed, the correlation of logits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ttbert.errors import AccuracyError, InputError
from ttbert.squad.compare import bootstrap, compare_documents, logits_correlation
from ttbert.squad.document import SCHEMA, read_document


def result(name: str, rows: list[tuple[str, str, float]], digest: str = "blake3:1", total: int = 3) -> dict[str, Any]:
    """A result document; rows are id, answer and F1."""
    return {
        "provenance": {"model": name, "policy": "bfp8", "board": "cpu", "data": {"digest": digest, "questions": total}},
        "questions": [
            {"id": id, "answer": answer, "exact": float(f1 == 1), "f1": f1, "null_score": f1 - ord(id)}
            for id, answer, f1 in rows
        ],
    }


FIRST = result("one", [("a", "x", 1.0), ("b", "", 0.0), ("c", "y z", 0.5)])
SECOND = result("two", [("a", "", 0.0), ("b", "", 0.0), ("c", "y", 1.0)])


def test_difference_is_first_minus_second() -> None:
    found = compare_documents(FIRST, SECOND)
    assert found.f1.value == pytest.approx(100 * (1.5 - 1.0) / 3) and found.exact.value == 0
    assert found.f1.low < found.f1.value < found.f1.high
    assert [(each.id, each.first, each.second, each.gain) for each in found.changes] == [
        ("c", "y z", "y", -0.5),
        ("a", "x", "", 1.0),
    ]
    assert (found.better, found.worse, found.questions, found.partial) == (1, 1, 3, False)
    assert found == compare_documents(FIRST, SECOND), "the bootstrap has a fixed seed"


def test_only_questions_of_both_count() -> None:
    part = result("part", [("c", "y", 1.0), ("a", "", 0.0)])
    assert compare_documents(FIRST, part).questions == 2 and compare_documents(FIRST, part).partial
    with pytest.raises(InputError, match="no question in common"):
        compare_documents(FIRST, result("other", [("z", "", 1.0)]))
    with pytest.raises(InputError, match="different data"):
        compare_documents(FIRST, result("other", [("a", "", 1.0)], "blake3:2"))


def test_a_file_that_lacks_what_is_compared_is_no_result(tmp_path: Path) -> None:
    path, whole = tmp_path / "run.json", {**FIRST, "schema": SCHEMA}
    path.write_text(json.dumps(whole))
    assert read_document(tmp_path) == whole
    for part, names in (
        (lambda found: found, ("schema", "provenance", "questions")),
        (lambda found: found["provenance"], ("model", "policy", "board", "data")),
        (lambda found: found["provenance"]["data"], ("digest", "questions")),
        (lambda found: found["questions"][1], ("id", "answer", "exact", "f1", "null_score")),
    ):
        for name in names:
            for odd in (None, [1]):
                damaged = json.loads(json.dumps(whole))
                part(damaged)[name] = odd
                path.write_text(json.dumps(damaged))
                with pytest.raises(InputError, match="is not a result that this version of ttbert reads"):
                    read_document(path)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.0, 0.5, 1.0]), min_size=1, max_size=30))
def test_interval_is_within_the_extremes_and_flat_where_nothing_differs(values: list[float]) -> None:
    (found,) = bootstrap(np.array(values)[:, None], draws=400)
    assert 100 * min(values) <= found.low <= found.high <= 100 * max(values)
    if len(set(values)) == 1:
        assert found.low == found.high == pytest.approx(found.value)


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    chance = np.random.default_rng(5)
    hits = 0
    for _ in range(200):
        (found,) = bootstrap(chance.choice([-1.0, 0.0, 1.0], size=(150, 1), p=[0.1, 0.7, 0.2]), draws=400)
        hits += found.low <= 10 <= found.high
    assert 180 <= hits <= 199


def test_logits_of_other_windows_have_no_correlation() -> None:
    one = {(0, 0): (np.array([1.0, 2, 3], np.float32), np.array([3.0, 1, 2], np.float32))}
    assert logits_correlation(one, one) == pytest.approx(1.0)
    assert logits_correlation(one, {(0, 0): tuple(-each for each in one[0, 0])}) == pytest.approx(-1.0)
    assert logits_correlation(one, {(0, 0): (np.zeros(2, np.float32), np.zeros(2, np.float32))}) is None
    assert logits_correlation(one, {(0, 1): one[0, 0]}) is None


def test_a_run_whose_values_are_all_the_same_correlates_with_nothing() -> None:
    one = {(0, 0): (np.array([1.0, 2, 3], np.float32), np.array([3.0, 1, 2], np.float32))}
    assert logits_correlation(one, {(0, 0): (np.full(3, 0.1, np.float32), np.full(3, 0.1, np.float32))}) == 0
    flat = result("flat", [("a", "", 0.0), ("b", "", 0.0), ("c", "y", 1.0)])
    for each in flat["questions"]:
        each["null_score"] = 0.1
    assert compare_documents(FIRST, flat).correlation == 0
    part = result("part", [("a", "", 0.0)])
    assert compare_documents(FIRST, part).correlation is None, "of one question there is none"


def test_accuracy_error_has_its_exit_code() -> None:
    assert AccuracyError("x").exit_code == 13
