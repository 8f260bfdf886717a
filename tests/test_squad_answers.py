"""Logits -> SQuAD answers: records of the post-processing of transformers 4, and cases worked by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ttbert.convert.wanted import BUNDLED_FOLDER
from ttbert.runtime.tokens import Encoder, Window
from ttbert.squad.answers import Prediction, predict

GOLDEN = json.loads((Path(__file__).parent / "golden" / "squad_answers.json").read_text())
UNIT = 1024

CASES = [(group, case) for group in GOLDEN for case in group["cases"]]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder((BUNDLED_FOLDER / "tokenizer.json").read_bytes(), 96, 32)


@pytest.mark.parametrize(("group", "case"), CASES, ids=lambda each: each.get("id", "") or str(each["allow_no_answer"]))
def test_answers_are_those_of_transformers(encoder: Encoder, group: dict[str, Any], case: dict[str, Any]) -> None:
    windows = encoder.windows(case["question"], case["context"])
    starts, ends = ([np.array(row, np.float32) / UNIT for row in case[side]] for side in ("starts", "ends"))
    found = predict(windows, starts, ends, case["context"], group["allow_no_answer"])
    assert found.text == case["answer"]
    assert len(found.n_best) == case["n_best_length"]
    for candidate, expected in zip(found.n_best, case["n_best"], strict=False):
        # exp() may differ in its last bit between machines; all else is exact.
        assert candidate.document() == expected | {"probability": pytest.approx(expected["probability"], rel=1e-6)}
    if group["allow_no_answer"]:
        assert found.null_score == case["null_score"]


def window(count: int, begin: int = 0, question: int = 2) -> Window:
    """`[CLS] question [SEP] context [SEP]`: words of one letter, from number `begin` on, a space between."""
    head = question + 2
    ids = np.ones(head + count + 1, np.int32)
    offsets = np.array([(2 * i, 2 * i + 1) for i in range(begin, begin + count)], np.int32).reshape(-1, 2)
    return Window(0, ids, np.zeros_like(ids), head, offsets, np.arange(begin, begin + count, dtype=np.int32))


def scores(each: Window, cls: float, **words: float) -> np.ndarray:
    """Logits of -50 but for `[CLS]` and the context words `w0`, `w1`, ..."""
    row = np.full(len(each), -50, np.float32)
    row[0] = cls
    for name, value in words.items():
        row[each.context_start + int(name[1:])] = value
    return row


def answer(each: Window, start: np.ndarray, end: np.ndarray, text: str = "a b c d e f g h i j k l m n o p") -> Prediction:
    return predict([each], [start], [end], text)


def test_the_best_span_wins_over_a_lower_null_score() -> None:
    each = window(5)
    found = answer(each, scores(each, 1, w1=4), scores(each, 1, w3=5))
    assert (found.text, found.best.start, found.best.end, found.null_score) == ("b c d", 2, 7, 2 - 9)


def test_equal_null_and_best_scores_are_an_answer() -> None:
    each = window(5)
    assert answer(each, scores(each, 4, w1=4), scores(each, 5, w3=5)).text == "b c d"
    assert answer(each, scores(each, 4.001, w1=4), scores(each, 5, w3=5)).text == ""


def test_a_span_that_ends_before_it_begins_is_none() -> None:
    each = window(5)
    assert answer(each, scores(each, -50, w3=9, w1=2), scores(each, -50, w2=9)).text == "b c"


def test_spans_of_thirty_tokens_are_allowed_and_no_longer_ones() -> None:
    text = " ".join("x" * 40)
    each = window(40)
    start = scores(each, -60, w2=9)
    for last, allowed in ((31, True), (32, False)):
        found = answer(each, start, scores(each, -60, **{f"w{last}": 9.0}), text)
        assert (found.best.start_logit + found.best.end_logit == 18) == allowed


def test_null_score_is_the_lowest_of_all_windows() -> None:
    first, second = window(4), window(4, 3)
    rows = [scores(first, 9, w1=3), scores(second, 1, w1=4)]
    found = predict([first, second], rows, rows, "a b c d e f g")
    assert found.null_score == 2 - 8 and found.text == "e"


def test_question_and_padding_take_no_part() -> None:
    each = window(3)
    row = scores(each, 0, w1=3)
    row[1:3] = 90
    padded = np.concatenate([row, np.full(20, 99, np.float32)])
    assert answer(each, padded, padded).text == "b"


def test_the_place_of_an_answer_is_that_in_the_original_text(encoder: Encoder) -> None:
    context = "\u0000Le  café\u200b “été” 🙂 東京 e\u0301nd"
    (each,) = encoder.windows("où?", context)
    for number, (begin, end) in enumerate(each.offsets.tolist()):
        row = scores(each, -60, **{f"w{number}": 9.0})
        found = predict([each], [row], [row], context)
        assert found.text == context[begin:end] and context[found.best.start : found.best.end] == found.text


def test_logits_that_are_not_numbers_are_refused() -> None:
    each = window(3)
    row = scores(each, 0, w1=np.nan)
    with pytest.raises(ValueError, match="finite"):
        answer(each, row, row)
