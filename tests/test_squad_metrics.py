"""Exact match and F1: cases worked by hand, properties, and records of the official evaluation script."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttbert.errors import InputError
from ttbert.squad.dataset import Gold, Question
from ttbert.squad.metrics import Pair, evaluate, normalize, score_answer, threshold_curve

GOLDEN = json.loads((Path(__file__).parent / "golden" / "squad_metrics.json").read_text())


def questions(golds: dict[str, list[str]]) -> list[Question]:
    return [Question(id, "", "?", "", tuple(Gold(text, 0) for text in texts)) for id, texts in golds.items()]


@pytest.mark.parametrize("case", GOLDEN, ids=range(len(GOLDEN)))
def test_metrics_are_those_of_the_official_script(case: dict[str, Any]) -> None:
    found = evaluate(questions(case["golds"]), case["predictions"], case["null_scores"]).document()
    assert list(found) == list(case["expected"])
    # The same sums in the same order; Python 3.12 adds floats more exactly than 3.10.
    assert found == pytest.approx(case["expected"], rel=1e-14, abs=0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Cat", "cat"),
        ("a an the", ""),
        ("theatre", "theatre"),
        ("the-end", "theend"),
        ("A.B.C. the  x\t\n y", "abc x y"),
        ("“the” end", "“ ” end"),
        ("The\u2019s", "\u2019s"),
        ("ÉCOLE", "école"),
        ("1,000.5%", "10005"),
        ("\u00a0x\u3000", "x"),
        ("...", ""),
        ("", ""),
    ],
)
def test_texts_are_compared_without_case_articles_and_ascii_punctuation(text: str, expected: str) -> None:
    assert normalize(text) == expected


@pytest.mark.parametrize(
    ("prediction", "golds", "exact", "f1"),
    [
        ("the Norman Conquest", ["Norman conquest"], 1, 1),
        ("in 1066", ["1066"], 0, 2 / 3),
        ("x y", ["y z", "x y z"], 0, 0.8),
        ("x x y", ["x y y"], 0, 2 / 3),
        ("", [], 1, 1),
        ("x", [], 0, 0),
        ("the", [], 1, 1),
        ("", ["x"], 0, 0),
        ("", ["the", "x"], 0, 0),
        ("", ["the"], 1, 1),
        ("e\u0301", ["\u00e9"], 0, 0),
    ],
)
def test_a_prediction_scores_its_best_over_all_golds(prediction: str, golds: list[str], exact: float, f1: float) -> None:
    assert score_answer(prediction, golds) == Pair(exact, pytest.approx(f1))


TEXT = st.text(alphabet="aAnthe x.é-東\t\u00a0", max_size=12)


@given(TEXT, st.lists(TEXT, max_size=4))
def test_scores_are_shares_and_exact_is_never_above_f1(prediction: str, golds: list[str]) -> None:
    pair = score_answer(prediction, golds)
    assert pair.exact in (0, 1) and 0 <= pair.exact <= pair.f1 <= 1


@given(TEXT, st.lists(TEXT, min_size=1, max_size=4))
def test_more_golds_cost_nothing_once_one_of_them_says_something(prediction: str, golds: list[str]) -> None:
    said = [gold for gold in golds if normalize(gold)]
    if said:
        assert score_answer(prediction, golds).f1 >= score_answer(prediction, said[:1]).f1


@given(st.lists(st.tuples(st.lists(TEXT, max_size=2), TEXT, st.sampled_from([-1.0, 0.0, 0.5, 2.0])), min_size=1, max_size=8))
def test_curve_is_the_score_at_each_of_its_thresholds(rows: list[tuple[list[str], str, float]]) -> None:
    asked = questions({str(i): golds for i, (golds, _, _) in enumerate(rows)})
    nulls = {str(i): null for i, (_, _, null) in enumerate(rows)}
    spans = {str(i): answer or "span" for i, (_, answer, _) in enumerate(rows)}
    for threshold, exact, f1 in threshold_curve(asked, spans, nulls):
        answers = {id: "" if nulls[id] > threshold else span for id, span in spans.items()}
        at_threshold = evaluate(asked, answers).all
        # The official script counts "the" as an answer to a question without one; its text is right all the same.
        if all(normalize(span) for span in spans.values()) and all(all(map(normalize, golds)) for golds, _, _ in rows):
            assert (exact, f1) == pytest.approx((at_threshold.exact, at_threshold.f1))


def test_a_missing_prediction_is_an_error() -> None:
    with pytest.raises(InputError, match="1 of 2 questions have no prediction, 2 first"):
        evaluate(questions({"1": [], "2": []}), {"1": ""})
    with pytest.raises(InputError, match="have no null score"):
        evaluate(questions({"1": []}), {"1": ""}, {})
