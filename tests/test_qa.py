"""Logits -> answers: cases worked by hand, a plain search over all spans, and records of the pipeline of transformers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ttbert
from ttbert.runtime.qa import Answer, decode
from ttbert.runtime.tokens import Encoder, Window

BUNDLED = Path(ttbert.__file__).parent / "models" / "bundled"
GOLDEN = json.loads((Path(__file__).parent / "golden" / "qa_pipeline.json").read_text())

# A weight so large that a token which has it would always win, were it looked at.
HUGE = 1e6


def make_window(pieces: list[str], begin: int = 0, end: int | None = None, example: int = 0) -> Window:
    """`[CLS] question question [SEP] context [SEP]`; a piece that starts with ## belongs to the word before it.

    The context is the words with a space between; with `begin` and `end`, the window shows only these pieces of it.
    """
    offsets, words, position, word = [], [], 0, -1
    for piece in pieces:
        text = piece.removeprefix("##")
        if text == piece:
            position += word >= 0
            word += 1
        offsets.append((position, position + len(text)))
        words.append(word)
        position += len(text)
    kept = slice(begin, end)
    shown = np.array(offsets, np.int32).reshape(-1, 2)[kept]
    ids = np.ones(5 + len(shown), np.int32)
    token_types = np.array([0, 0, 0, 0] + [1] * (len(shown) + 1), np.int32)
    return Window(example, ids, token_types, 4, shown, np.array(words, np.int32)[kept])


def logits(*rows: list[float], tokens: int = 16) -> np.ndarray:
    """Rows of logits whose softmax is the given weights over their sum: that of [CLS], then those of the context.

    Question, [SEP] and padding have HUGE weights, so that the sum would be wrong if they were counted.
    """
    array = np.full((len(rows), tokens), np.log(HUGE))
    for row, (cls, *context) in zip(array, rows, strict=True):
        row[0] = np.log(cls)
        row[4 : 4 + len(context)] = np.log(context)
    return array


def approximately(*answers: tuple[str, int, int, float]) -> list[Answer]:
    return [Answer(text, start, end, pytest.approx(score, rel=1e-5)) for text, start, end, score in answers]


ABC = make_window(["red", "old", "fox"])


def test_the_best_span_has_the_highest_product_of_probabilities():
    # Start: [CLS] .1, red .6, old .2, fox .1. End: [CLS] .2, red .1, old .1, fox .6.
    # red..fox .36, old..fox .12, red and red..old .06, fox .06, old .02; no answer .1 x .2 = .02.
    answers = decode([ABC], logits([1, 6, 2, 1]), logits([2, 1, 1, 6]), "red old fox", top_k=3)
    assert answers[:2] == approximately(("red old fox", 0, 11, 0.36), ("old fox", 4, 11, 0.12))
    assert answers[2].score == pytest.approx(0.06)


def test_no_answer_wins_when_cls_does():
    # No answer .8 x .5 = .4; the best span is old: .1 x .3 = .03.
    start, end = logits([16, 1, 2, 1]), logits([10, 3, 6, 1])
    assert decode([ABC], start, end, "red old fox") == approximately(("", 0, 0, 0.4))
    assert decode([ABC], start, end, "red old fox", allow_no_answer=False) == approximately(("old", 4, 7, 0.03))


def test_no_answer_scores_as_in_the_window_that_believes_it_least():
    first, second = make_window(["red", "old", "fox"], 0, 2), make_window(["red", "old", "fox"], 1, 3)
    # Windows "red old" and "old fox". No answer: .8 x .8 = .64 and .2 x .5 = .1. Best: fox in the second, .6 x .4 = .24.
    start, end = logits([8, 1, 1], [2, 2, 6]), logits([8, 1, 1], [5, 1, 4])
    answers = decode([first, second], start, end, "red old fox", top_k=2)
    assert answers == approximately(("fox", 8, 11, 0.24), ("", 0, 0, 0.1))


def test_the_best_answer_may_be_in_the_second_window():
    context = "one two three four"
    first = make_window(context.split(), 0, 3)
    second = make_window(context.split(), 2, 4)
    # First window: at most .2 x .2 = .04. Second window: four, .9 x .8 = .72.
    start, end = logits([4, 2, 2, 2], [0.5, 0.5, 9]), logits([4, 2, 2, 2], [1, 1, 8])
    assert decode([first, second], start, end, context) == approximately(("four", 14, 18, 0.72))


def test_a_span_grows_to_whole_words():
    window = make_window(["the", "un", "##lucky", "fox", "##es", "ran"])
    context = "the unlucky foxes ran"
    # From "##lucky" (.5) to "fox" (.4): .2, written as both words in full. The other starts weigh .1 each.
    start, end = logits([1, 1, 1, 5, 1, 0.5, 0.5]), logits([1, 1, 1, 1, 4, 1, 1])
    assert decode([window], start, end, context, allow_no_answer=False)[0].text == "unlucky foxes"
    # Merged with it: un..fox .1x.4, un..##es .1x.1, ##lucky..##es .5x.1.
    best = decode([window], start, end, context, top_k=5)[0]
    assert [best] == approximately(("unlucky foxes", 4, 17, 0.2 + 0.04 + 0.01 + 0.05))


def test_a_word_cut_by_the_window_grows_as_far_as_the_window_shows_it():
    window = make_window(["the", "un", "##luck", "##y"], 1, 3)
    # The window shows "un ##luck": .8 x .8 from "un" to "un" grows to "unluck".
    start, end = logits([1, 8, 1]), logits([1, 8, 1])
    best = decode([window], start, end, "the unlucky")[0]
    assert (best.text, best.start, best.end) == ("unluck", 4, 10)


def test_equal_texts_are_one_answer_whatever_their_case():
    window = make_window(["Rome", "is", "ROME"])
    # ROME .5 x .5 = .25 comes first; Rome adds .2 x .2 = .04.
    start, end = logits([2, 2, 1, 5]), logits([2, 2, 1, 5])
    assert decode([window], start, end, "Rome is ROME") == approximately(("ROME", 8, 12, 0.29))


def test_merged_answers_make_room_for_others_in_the_top_k():
    window = make_window(["a", "b", "a"])
    # Start .0 for [CLS] but for a hundredth. a .4x.4 twice = .32, a..a .16, b .19x.2 and so on.
    start, end = logits([0.1, 4, 1.9, 4]), logits([0.1, 4, 1.9, 4])
    answers = decode([window], start, end, "a b a", top_k=4)
    assert answers == approximately(("a", 0, 1, 0.32), ("a b a", 0, 5, 0.16), ("a b", 0, 3, 0.076), ("b a", 2, 5, 0.076))


def test_a_span_in_two_windows_adds_up_and_keeps_its_first_place():
    context = "red old fox"
    first, second = make_window(context.split(), 0, 2), make_window(context.split(), 1, 3)
    # "old": .7 x .7 = .49 in the first window and .8 x .8 = .64 in the second.
    start, end = logits([2, 1, 7], [1, 8, 1]), logits([2, 1, 7], [1, 8, 1])
    assert decode([first, second], start, end, context) == approximately(("old", 4, 7, 1.13))


def test_a_span_is_no_longer_than_allowed():
    # red..fox would be .36 with three tokens; with two, old..fox .12; with one, red .06 and fox .06.
    start, end = logits([1, 6, 2, 1]), logits([2, 1, 1, 6])
    texts = [decode([ABC], start, end, "red old fox", max_answer_tokens=longest)[0].text for longest in (3, 2, 1)]
    assert texts == ["red old fox", "old fox", "red"]


def test_a_span_never_ends_before_it_begins():
    # fox..red would be .8 x .8; fox .8 x .05, red .05 x .8 and the rest are what there is.
    start, end = logits([2, 1, 1, 16]), logits([2, 16, 1, 1])
    answers = decode([ABC], start, end, "red old fox", top_k=10, allow_no_answer=False)
    assert len(answers) == 6 and all(answer.start < answer.end for answer in answers)
    assert answers[0].score == pytest.approx(0.04)


def test_ties_go_to_the_earlier_start_then_the_shorter_span_then_no_answer():
    start = end = logits([1, 1, 1, 1])
    answers = decode([ABC], start, end, "red old fox", top_k=7)
    assert [answer.text for answer in answers] == ["red", "red old", "red old fox", "old", "old fox", "fox", ""]
    assert {answer.score for answer in answers} == {answers[0].score}


def test_ties_at_the_edge_of_the_candidates_are_cut_in_the_same_order():
    # Twenty equal tokens make 210 equal spans; top_k=1 looks at the first twelve: those that begin at the first token.
    words = [f"w{number}" for number in range(20)]
    start = end = logits([1] * 21, tokens=30)
    answers = decode([make_window(words)], start, end, " ".join(words), allow_no_answer=False)
    assert answers[0].text == "w0"


def test_padding_question_and_separators_are_never_looked_at():
    start, end = logits([1, 6, 2, 1]), logits([2, 1, 1, 6])
    clean = decode([ABC], start, end, "red old fox", top_k=6)
    for array in (start, end):
        array[:, [1, 2, 3, 7]] = 5000
        array[:, 8:] = np.nan
    assert decode([ABC], start, end, "red old fox", top_k=6) == clean


def test_a_literal_cls_in_the_question_is_no_candidate():
    encoder = Encoder((BUNDLED / "tokenizer.json").read_bytes())
    context = "a red fox"
    (window,) = encoder.windows("what is [CLS]?", context)
    values = np.zeros((1, len(window)))
    values[0, window.ids == encoder.cls_id] = 50
    values[0, 0] = 0
    answers = decode([window], values, values, context, top_k=20)
    assert answers[0].score == pytest.approx(1 / (1 + window.context_mask.sum()) ** 2)


def test_without_context_there_is_only_no_answer():
    empty = make_window([])
    start = end = logits([3])
    assert decode([empty], start, end, "  ", top_k=5) == [Answer("", 0, 0, 1.0)]
    assert decode([empty], start, end, "  ", top_k=5, allow_no_answer=False) == [Answer("", 0, 0, 0.0)]


def test_spans_of_score_zero_are_no_answers():
    start, end = logits([1, 1, 1, 1]), logits([1, 1, 1, 1])
    start[0, 0] = end[0, 0] = 1000
    assert decode([ABC], start, end, "red old fox", top_k=5) == [Answer("", 0, 0, 1.0)]
    assert decode([ABC], start, end, "red old fox", allow_no_answer=False) == [Answer("", 0, 0, 0.0)]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("position", [0, 1, 5, 7])
def test_a_logit_that_is_not_finite_is_refused(bad, position):
    good, broken = logits([1, 6, 2, 1]), logits([1, 6, 2, 1])
    broken[0, position] = bad
    with pytest.raises(ValueError, match="not all start logits of window 0 are finite numbers"):
        decode([ABC], broken, good, "red old fox")
    with pytest.raises(ValueError, match="not all end logits of window 0 are finite numbers"):
        decode([ABC], good, broken, "red old fox")


@pytest.mark.parametrize("shape", [(16,), (2, 16), (1, 7), (1, 16, 2)])
def test_logits_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"rows of start logits for 1 windows|start logits of shape"):
        decode([ABC], np.zeros(shape), np.zeros((1, 16)), "red old fox")


def test_windows_of_two_examples_or_none_are_refused():
    with pytest.raises(ValueError, match="one example"):
        decode([ABC, make_window(["red"], example=1)], np.zeros((2, 16)), np.zeros((2, 16)), "red old fox")
    with pytest.raises(ValueError, match="one example"):
        decode([], np.zeros((0, 16)), np.zeros((0, 16)), "")


@pytest.mark.parametrize("counts", [{"top_k": 0}, {"max_answer_tokens": 0}])
def test_counts_below_one_are_refused(counts):
    with pytest.raises(ValueError, match="1 or more"):
        decode([ABC], np.zeros((1, 16)), np.zeros((1, 16)), "red old fox", **counts)


def test_half_precision_logits_are_taken():
    start, end = logits([1, 6, 2, 1]), logits([2, 1, 1, 6])
    answers = decode([ABC], start.astype(np.float16), end.astype(np.float16), "red old fox")
    assert answers[0].score == pytest.approx(0.36, rel=1e-2)


@settings(max_examples=150, deadline=None)
@given(
    weights=st.lists(st.tuples(st.integers(1, 999), st.integers(1, 999)), min_size=2, max_size=9),
    longest=st.integers(1, 9),
)
def test_the_answers_are_all_spans_sorted(weights, longest):
    """Every word differs, so nothing merges, and top_k is more than there are spans."""
    starts, ends = (np.array(values, float) / sum(values) for values in zip(*weights, strict=True))
    words = [f"w{number}" for number in range(len(weights) - 1)]
    spans = [
        (starts[first + 1] * ends[last + 1], " ".join(words[first : last + 1]))
        for first in range(len(words))
        for last in range(first, min(first + longest, len(words)))
    ]
    answers = decode(
        [make_window(words)],
        logits(list(starts)),
        logits(list(ends)),
        " ".join(words),
        top_k=100,
        max_answer_tokens=longest,
        allow_no_answer=False,
    )
    assert [answer.score for answer in answers] == sorted((answer.score for answer in answers), reverse=True)
    assert {answer.text: answer.score for answer in answers} == pytest.approx({text: score for score, text in spans}, rel=1e-4)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), top_k=st.integers(1, 6), count=st.integers(1, 60))
def test_a_smaller_top_k_gives_the_first_of_a_larger_one(seed, top_k, count):
    random = np.random.default_rng(seed)
    words = [f"w{number}" for number in range(count)]
    start, end = random.normal(0, 2, (2, 1, 80))
    few = decode([make_window(words)], start, end, " ".join(words), top_k)
    many = decode([make_window(words)], start, end, " ".join(words), top_k + 3)
    assert few == many[: len(few)]


# The cases with answers of equal scores, whose order the pipeline leaves to the sort of numpy.
TIED = {
    "What [SEP] is it?",
    "all equal, one word",
    "all equal, two words",
    "the same text, four times",
    "from the middle of a word",
    "two equal peaks",
}


@pytest.fixture(scope="module")
def bundled() -> Encoder:
    return Encoder((BUNDLED / "tokenizer.json").read_bytes())


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: case["question"].encode("unicode_escape").decode()[:40])
def test_answers_are_those_of_the_pipeline_of_transformers_4(bundled, case):
    windows = bundled.windows(case["question"], case["context"])
    assert [len(window) for window in windows] == [len(start) for start, _ in case["logits"]]
    start, end = (np.full((len(windows), bundled.tokens), np.nan, np.float32) for _ in range(2))
    for row, (start_units, end_units) in enumerate(case["logits"]):
        start[row, : len(start_units)] = np.array(start_units) / GOLDEN["unit"]
        end[row, : len(end_units)] = np.array(end_units) / GOLDEN["unit"]

    for setting in case["expected"]:
        options = {name: setting[name] for name in ("top_k", "allow_no_answer", "max_answer_tokens")}
        answers = decode(windows, start, end, case["context"], **options)
        found = [[answer.text, answer.start, answer.end, answer.score] for answer in answers]
        # The pipeline fills its list with spans of score zero when it has no others.
        expected = [answer for answer in setting["answers"] if answer[3] > 0]
        scores = [answer[3] for answer in expected]
        assert [answer[3] for answer in found] == pytest.approx(scores, rel=1e-4)
        if case["question"] in TIED:
            # Among equals at the end of the list it is free too which are left out.
            cut = 0 if len(scores) < setting["top_k"] else scores[-1] * 1.0001
            found, expected = (sorted(row[:3] for row in rows if row[3] > cut) for rows in (found, expected))
        assert [row[:3] for row in found] == [row[:3] for row in expected]
