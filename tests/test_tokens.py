"""Windows, offsets and batches: the same as transformers makes, and right for text of every kind."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import BertWordPieceTokenizer, Tokenizer
from tokenizers.models import BPE

import ttbert
from ttbert.errors import CheckpointError, InputError
from ttbert.runtime.tokens import Encoder, Window, make_batches, whole_batches

BUNDLED = Path(ttbert.__file__).parent / "models" / "bundled"

# Ids are positions: [PAD] 0, [UNK] 1, [CLS] 2, [SEP] 3, "the" 4, ...
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "red", "fox", "jump", "##s", "cafe", "中", ".", "who", "?"]


def small_tokenizer(vocab: list[str] = VOCAB) -> bytes:
    tokenizer = BertWordPieceTokenizer(vocab={token: index for index, token in enumerate(vocab)})
    return tokenizer.to_str().encode()


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(small_tokenizer())


@pytest.fixture(scope="module")
def bundled() -> Encoder:
    return Encoder((BUNDLED / "tokenizer.json").read_bytes())


@pytest.fixture(scope="module")
def transformers_tokenizer():
    transformers = pytest.importorskip("transformers")
    return transformers.BertTokenizerFast.from_pretrained(BUNDLED)


def pieces(window: Window, context: str) -> list[str]:
    return [context[begin:end] for begin, end in window.offsets.tolist()]


def test_a_window_is_cls_question_sep_context_sep(encoder):
    (window,) = encoder.windows("Who?", "The fox jumps.", example=7)
    assert window.example == 7
    assert window.ids.tolist() == [2, 12, 13, 3, 4, 6, 7, 8, 11, 3]
    assert window.token_types.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 1, 1]
    assert window.context_start == 4
    assert window.context_mask.tolist() == [False] * 4 + [True] * 5 + [False]
    assert window.offsets.tolist() == [[0, 3], [4, 7], [8, 12], [12, 13], [13, 14]]
    assert window.words.tolist() == [0, 1, 2, 2, 3]


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        ("Café.", ["Café", "."]),
        ("Ca\u0301fe.", ["Ca\u0301fe", "."]),
        # An accent that is dropped after the last letter is in no token, as in transformers.
        ("Cafe\u0301.", ["Cafe", "."]),
        ("😀 fox", ["😀", "fox"]),
        ("中fox", ["中", "fox"]),
        ("the\x00 \x07fox", ["the", "fox"]),
        ("re\u0301d\u200b fox", ["re\u0301d", "fox"]),
        ("the\u00a0fox\r\njumps", ["the", "fox", "jump", "s"]),
    ],
)
def test_offsets_are_characters_of_the_original_context(encoder, context, expected):
    (window,) = encoder.windows("who?", context)
    assert pieces(window, context) == expected


def test_windows_overlap_by_the_stride(encoder):
    short = Encoder(small_tokenizer(), tokens=10, stride=2)
    # Ten tokens less [CLS] who ? [SEP] [SEP] leave room for five of the context, so a step is three.
    windows = short.windows("who?", "the red fox jumps . the red fox .")
    assert [window.words.tolist() for window in windows] == [[0, 1, 2, 3, 3], [3, 3, 4, 5, 6], [5, 6, 7, 8]]
    assert [len(window) for window in windows] == [10, 10, 9]


def test_a_context_that_just_fits_is_one_window():
    short = Encoder(small_tokenizer(), tokens=10, stride=2)
    assert len(short.windows("who?", "the red fox . .")) == 1
    assert len(short.windows("who?", "the red fox . . .")) == 2


def test_a_question_that_leaves_little_room_shares_half_of_it():
    short = Encoder(small_tokenizer(), tokens=10, stride=4)
    # Room for four, no more than the stride: two are shared.
    windows = short.windows("who? who", "the red fox . the red")
    assert [window.words.tolist() for window in windows] == [[0, 1, 2, 3], [2, 3, 4, 5]]
    assert len(short.windows("who? who? who? ", "the red fox")) == 3


def test_a_question_that_leaves_no_room_is_refused(bundled):
    assert len(bundled.windows("what " * 380, "the fox")) > 1
    with pytest.raises(InputError, match="the question has 381 tokens; at most 380 fit"):
        bundled.windows("what " * 381, "the fox")
    with pytest.raises(InputError, match="the question has 900 tokens"):
        bundled.windows("what " * 900, "")


@pytest.mark.parametrize("context", ["", " ", "\n\t \u3000", "\x00\x01\u200b\ufeff"])
def test_a_context_of_nothing_is_one_window_without_context(encoder, context):
    (window,) = encoder.windows("who?", context)
    assert window.ids.tolist() == [2, 12, 13, 3, 3]
    assert window.offsets.shape == (0, 2)
    assert not window.context_mask.any()


def test_unknown_words_are_tokens_too(encoder):
    (window,) = encoder.windows("who?", "zebra ß fox")
    assert window.ids.tolist()[4:] == [1, 1, 6, 3]
    assert pieces(window, "zebra ß fox") == ["zebra", "ß", "fox"]


@pytest.mark.parametrize(("question", "context", "name"), [("a\ud800", "b", "question"), ("a", "b\udcff", "context")])
def test_lone_surrogates_are_refused_by_name_and_place(encoder, question, context, name):
    with pytest.raises(InputError, match=f"the {name} is not Unicode text: a lone surrogate at character 1"):
        encoder.windows(question, context)


def test_truncation_and_padding_in_the_file_are_ignored(encoder):
    tokenizer = Tokenizer.from_buffer(small_tokenizer())
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=64)
    (window,) = Encoder(tokenizer.to_str().encode()).windows("who?", "the red fox jumps.")
    assert window.ids.tolist() == encoder.windows("who?", "the red fox jumps.")[0].ids.tolist()


def test_special_ids_are_the_files(encoder):
    assert (encoder.pad_id, encoder.cls_id, encoder.sep_id) == (0, 2, 3)


@pytest.mark.parametrize("content", [b"", b"{}", b"null", b"\xff\xfe", b"[" * 10_000, small_tokenizer()[:-20]])
def test_a_malformed_file_is_a_checkpoint_error(content):
    with pytest.raises(CheckpointError, match=r"tokenizer\.json cannot be read") as caught:
        Encoder(content)
    assert "BERT" in caught.value.hint


def test_words_of_which_the_model_has_no_embedding_are_a_checkpoint_error():
    """A device would read what lies behind the table."""
    Encoder(small_tokenizer(), vocabulary=len(VOCAB))
    with pytest.raises(CheckpointError, match=f"words up to {len(VOCAB) - 1}, but the model only up to {len(VOCAB) - 2}"):
        Encoder(small_tokenizer(), vocabulary=len(VOCAB) - 1)


def test_a_file_at_which_the_library_panics_is_a_checkpoint_error():
    document = {**json.loads(small_tokenizer()), "normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}}
    with pytest.raises(CheckpointError, match=r"tokenizer\.json cannot be read"):
        Encoder(json.dumps(document).encode())


def test_a_tokenizer_of_another_kind_is_a_checkpoint_error():
    with pytest.raises(CheckpointError, match="BPE, not WordPiece"):
        Encoder(Tokenizer(BPE()).to_str().encode())


@pytest.mark.parametrize("token", ["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
def test_a_missing_special_token_is_a_checkpoint_error(token):
    document = json.loads(small_tokenizer())
    document["added_tokens"] = []
    document["post_processor"] = None
    del document["model"]["vocab"][token]
    with pytest.raises(CheckpointError) as caught:
        Encoder(json.dumps(document).encode())
    assert token in str(caught.value)


def test_a_stride_that_would_never_end_is_refused():
    with pytest.raises(ValueError, match="cannot overlap"):
        Encoder(small_tokenizer(), tokens=10, stride=7)


# Words of the vocabulary, so that texts get long, among any characters but surrogates.
WORDS = st.sampled_from(["the", "Fox", "unbelievable", "1742", "café", "Zu\u0308rich", "中文", "😀", "[SEP]", "[CLS]", "."])
TEXTS = st.lists(WORDS | st.text(st.characters(codec="utf-8"), max_size=6), max_size=40).map(" ".join)


def assert_same_windows(encoder: Encoder, tokenizer, question: str, context: str) -> None:
    expected = tokenizer(
        question,
        context,
        truncation="only_second",
        max_length=encoder.tokens,
        stride=encoder.stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    windows = encoder.windows(question, context)
    assert [window.ids.tolist() for window in windows] == expected["input_ids"]
    assert [window.token_types.tolist() for window in windows] == expected["token_type_ids"]
    for number, window in enumerate(windows):
        in_context = [sequence == 1 for sequence in expected.sequence_ids(number)]
        assert window.context_mask.tolist() == in_context
        offsets = [list(pair) for pair, kept in zip(expected["offset_mapping"][number], in_context, strict=True) if kept]
        assert window.offsets.tolist() == offsets
        words = [word for word, kept in zip(expected.word_ids(number), in_context, strict=True) if kept]
        assert window.words.tolist() == words
        assert (np.diff(window.words) >= 0).all()


@settings(max_examples=60, deadline=None)
@given(question=TEXTS, context=TEXTS, repeats=st.integers(1, 12))
def test_windows_are_those_of_transformers(bundled, transformers_tokenizer, question, context, repeats):
    context = " ".join([context] * repeats) or " "  # transformers takes "" for no context at all
    if len(bundled._encode(question, "question").ids) > 252:  # more, and transformers stops with an error
        question = "who"
    assert_same_windows(bundled, transformers_tokenizer, question, context)


@settings(max_examples=60, deadline=None)
@given(context=TEXTS, tokens=st.integers(16, 40), stride=st.integers(0, 10))
def test_windows_of_any_size_are_those_of_transformers(transformers_tokenizer, context, tokens, stride):
    encoder = Encoder((BUNDLED / "tokenizer.json").read_bytes(), tokens, stride)
    assert_same_windows(encoder, transformers_tokenizer, "who?", context or " ")


@settings(max_examples=40, deadline=None)
@given(question=TEXTS, context=TEXTS)
def test_every_context_token_is_in_a_window(question, context):
    encoder = Encoder(small_tokenizer(), tokens=300, stride=40)
    (whole,) = Encoder(small_tokenizer(), tokens=10_000).windows(question, context)
    try:
        windows = encoder.windows(question, context)
    except InputError:
        return
    offsets = {tuple(pair) for window in windows for pair in window.offsets.tolist()}
    assert offsets == {tuple(pair) for pair in whole.offsets.tolist()}


@pytest.mark.parametrize("unit", ["The quick brown fox. ", "a", "e\u0301", "中", " "])
def test_a_megabyte_of_context_takes_seconds(bundled, unit):
    context = (unit * (1_000_000 // len(unit.encode()) + 1))[:1_000_000]
    begin = time.monotonic()
    windows = bundled.windows("What is it?", context)
    assert time.monotonic() - begin < 30
    assert windows[-1].offsets.size == 0 or windows[-1].offsets[-1, 1] <= len(context)


def test_windows_become_rows_in_order(encoder):
    windows = [encoder.windows("who?", "the fox " * length, example)[0] for example, length in enumerate([1, 5, 2])]
    first, second = make_batches(windows, batch=2, tokens=16, pad_id=9)
    assert (first.rows, second.rows) == (2, 1)
    assert [window.example for window in first.windows + second.windows] == [0, 1, 2]
    assert first.ids[0].tolist() == [2, 12, 13, 3, 4, 6, 3] + [9] * 9
    assert first.token_types[0].tolist() == [0, 0, 0, 0, 1, 1, 1] + [0] * 9
    assert first.attention_mask[0].tolist() == [1] * 7 + [0] * 9
    assert {array.shape for array in (first.ids, first.token_types, first.attention_mask)} == {(2, 16)}
    assert {array.dtype for array in (first.ids, first.token_types, first.attention_mask)} == {np.dtype("int32")}


def test_an_empty_row_keeps_one_token_so_that_no_softmax_is_over_nothing(encoder):
    (batch,) = make_batches(encoder.windows("who?", "the fox"), batch=3, tokens=16)
    assert batch.rows == 1
    assert batch.attention_mask[1:].tolist() == [[1] + [0] * 15] * 2
    assert not batch.ids[1:].any() and not batch.token_types[1:].any()


def test_no_windows_are_no_batches():
    assert list(make_batches([], batch=2)) == []


def test_batches_are_made_as_windows_come(encoder):
    def endless():
        while True:
            yield from encoder.windows("who?", "the fox")

    assert next(make_batches(endless(), batch=4)).rows == 4


def test_a_window_longer_than_the_batch_is_refused(encoder):
    with pytest.raises(ValueError, match="a window of 10 tokens in a batch of 8"):
        list(make_batches(encoder.windows("who?", "the fox jumps."), batch=1, tokens=8))


def test_a_batch_of_no_rows_is_refused():
    with pytest.raises(ValueError, match="a batch of 0 rows"):
        list(make_batches([], batch=0))


def test_neither_transformers_nor_torch_is_imported():
    code = "import sys, ttbert.runtime.qa; print(sorted({'transformers', 'torch', 'huggingface_hub'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_batches_of_questions_have_no_empty_row() -> None:
    encoder = Encoder(small_tokenizer(), tokens=10)
    questions = [("who?", "the red fox jumps."), ("who?", "the fox"), ("who?", "red red red red red red red red red")]
    batches = list(whole_batches(encoder, questions, 2))
    assert [[window.example for window in batch.windows] for batch in batches] == [[0, 1], [2, 0]]
    assert {batch.ids.shape for batch in batches} == {(2, 10)}
    assert batches[1].windows[0].ids.tolist() == encoder.windows(*questions[2])[0].ids.tolist()
    assert len(next(whole_batches(encoder, questions, 7)).windows) == 7


@pytest.mark.parametrize(("tokens", "stride"), [(384, 128), (256, 128), (100, 50)])
def test_windows_overlap_by_no_more_than_half(tokens: int, stride: int) -> None:
    assert Encoder(small_tokenizer(), tokens).stride == stride
