"""Question and context -> windows -> arrays that the model takes.

A context that is too long for one input is read in windows that overlap, cut where the fast BERT tokenizer of
transformers cuts them (`truncation="only_second", stride=128, return_overflowing_tokens=True`). Everything that span
decoding needs is in the window, so the text is tokenized once. Needs `tokenizers` and numpy only; what becomes of
the logits is in `qa`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer
from tokenizers.models import WordPiece

from ..errors import CheckpointError, InputError, or_panic
from ..given import check_unicode
from ..model import TOKENS

IntArray = npt.NDArray[np.int32]

STRIDE = 128

# [CLS] question [SEP] context [SEP]
_SPECIAL_TOKENS = 3


@dataclass(frozen=True, eq=False)
class Window:
    """One input of the model: `[CLS] question [SEP] a part of the context [SEP]`, not padded.

    `ids` and `token_types` are (tokens,). `offsets` is (context tokens, 2): the begin and end of each token in the
    original context, in Unicode code points. `words` is (context tokens,), the number of the word that each token is a
    piece of; it never falls. Context token `i` is token `context_start + i` of the input.
    """

    example: int
    ids: IntArray
    token_types: IntArray
    context_start: int
    offsets: IntArray
    words: IntArray

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def context_mask(self) -> npt.NDArray[np.bool_]:
        """(tokens,): true where an answer may begin or end, so neither the question nor a special token."""
        mask = np.zeros(len(self), np.bool_)
        mask[self.context_start : self.context_start + len(self.words)] = True
        return mask


class Encoder:
    """Turns text into windows by the rules of one `tokenizer.json`, given as its bytes.

    Windows are of at most `tokens` tokens and overlap by `stride`, by default 128, or half a window if that is less. The
    file's own truncation and padding are ignored. CheckpointError if it is not a WordPiece tokenizer with BERT's special
    tokens, or gives ids from `vocabulary` on, of which the model has no embedding.
    """

    def __init__(
        self, tokenizer_json: bytes, tokens: int = TOKENS, stride: int | None = None, vocabulary: int | None = None
    ) -> None:
        if stride is None:
            stride = min(STRIDE, tokens // 2)
        if not 0 <= stride < tokens - _SPECIAL_TOKENS:
            raise ValueError(f"windows of {tokens} tokens cannot overlap by {stride}")
        self.tokens = tokens
        self.stride = stride
        self._tokenizer = _read_tokenizer(tokenizer_json)
        vocab = self._tokenizer.get_vocab()
        self.cls_id = vocab["[CLS]"]
        self.sep_id = vocab["[SEP]"]
        self.pad_id = vocab["[PAD]"]
        if vocabulary is not None and max(vocab.values()) >= vocabulary:
            raise CheckpointError(
                f"the tokenizer numbers its words up to {max(vocab.values())}, but the model only up to {vocabulary - 1}",
                "does the tokenizer belong to these weights?",
            )

    def windows(self, question: str, context: str, example: int = 0) -> list[Window]:
        """All windows of one example, in the order of the context; one without context tokens if there are none.

        Neighbours share `stride` context tokens. Where the question leaves room for no more than that many, a case in
        which transformers stops with an error, they share half of the room. InputError if the question leaves no room
        for any context, or if a text has a lone surrogate in it.
        """
        question_ids = self._encode(question, "question").ids
        encoding = self._encode(context, "context")
        context_ids = np.array(encoding.ids, np.int32)
        offsets = np.array(encoding.offsets, np.int32).reshape(-1, 2)
        words = np.array(encoding.word_ids, np.int32)

        head = np.array([self.cls_id, *question_ids, self.sep_id], np.int32)
        tail = np.array([self.sep_id], np.int32)
        room = self._room(len(question_ids), len(context_ids))
        made = []
        for begin, end in _cut(len(context_ids), room, self.stride):
            ids = np.concatenate([head, context_ids[begin:end], tail])
            token_types = np.zeros(len(ids), np.int32)
            token_types[len(head) :] = 1
            made.append(Window(example, ids, token_types, len(head), offsets[begin:end], words[begin:end]))
        return made

    def _room(self, question_tokens: int, context_tokens: int) -> int:
        """How many context tokens a window holds."""
        most = self.tokens - _SPECIAL_TOKENS
        room = most - question_tokens
        if room < min(1, context_tokens):
            raise InputError(
                f"the question has {question_tokens} tokens; at most {most - 1} fit beside a context",
                "shorten the question: a word is about one to three tokens",
            )
        return room

    def _encode(self, text: str, name: str) -> Any:
        check_unicode(text, f"the {name}", "decode the text with its real encoding, such as UTF-8, before it is asked about")
        return self._tokenizer.encode(text, add_special_tokens=False)


@dataclass(frozen=True, eq=False)
class Batch:
    """Windows as the rows of int32 arrays of (batch, tokens); rows after the first `rows` are padding."""

    windows: tuple[Window, ...]
    ids: IntArray
    token_types: IntArray
    attention_mask: IntArray

    @property
    def rows(self) -> int:
        """How many rows are real; the logits of the others are to be dropped."""
        return len(self.windows)


def make_batches(windows: Iterable[Window], batch: int, tokens: int = TOKENS, *, pad_id: int = 0) -> Iterator[Batch]:
    """Put windows into batches of one shape in the order they come, the last one filled up with empty rows."""
    if batch < 1:
        raise ValueError(f"a batch of {batch} rows")
    remaining = iter(windows)
    while rows := tuple(islice(remaining, batch)):
        yield stack(rows, batch, tokens, pad_id=pad_id)


def whole_batches(encoder: Encoder, questions: Sequence[tuple[str, str]], rows: int) -> Iterator[Batch]:
    """The first window of each (question, context) in batches of `rows`, over again where they do not fill the last one.

    The `example` of a window is the number of its question.
    """
    count = -(-len(questions) // rows) * rows
    examples = (number % len(questions) for number in range(count))
    windows = (encoder.windows(*questions[example], example)[0] for example in examples)
    return make_batches(windows, rows, encoder.tokens, pad_id=encoder.pad_id)


def stack(windows: Sequence[Window], batch: int | None = None, tokens: int | None = None, *, pad_id: int = 0) -> Batch:
    """One batch of (batch, tokens), by default of as many rows as there are windows, as long as the longest of them.

    The mask of an empty row is 1 for its first token: a softmax over nothing would be NaN.
    """
    batch = len(windows) if batch is None else batch
    tokens = max(map(len, windows)) if tokens is None else tokens
    ids = np.full((batch, tokens), pad_id, np.int32)
    token_types = np.zeros((batch, tokens), np.int32)
    attention_mask = np.zeros((batch, tokens), np.int32)
    attention_mask[:, 0] = 1
    for row, window in enumerate(windows):
        if len(window) > tokens:
            raise ValueError(f"a window of {len(window)} tokens in a batch of {tokens}")
        ids[row, : len(window)] = window.ids
        token_types[row, : len(window)] = window.token_types
        attention_mask[row, : len(window)] = 1
    return Batch(tuple(windows), ids, token_types, attention_mask)


def _cut(count: int, room: int, stride: int) -> Iterator[tuple[int, int]]:
    """Where windows of `room` tokens begin and end in a context of `count`; the last one ends with the context."""
    overlap = stride if stride < room else room // 2
    begin = 0
    while begin + room < count:
        yield begin, begin + room
        begin += room - overlap
    yield begin, count


def _read_tokenizer(content: bytes) -> Tokenizer:
    hint = "it must be the tokenizer.json of a BERT model, as save_pretrained() of a fast tokenizer writes it"
    try:
        tokenizer = Tokenizer.from_buffer(content)
    except or_panic(ValueError) as error:
        raise CheckpointError(f"tokenizer.json cannot be read: {error}", hint) from error
    if not isinstance(tokenizer.model, WordPiece):
        raise CheckpointError(f"the tokenizer is {type(tokenizer.model).__name__}, not WordPiece", hint)
    if tokenizer.model.unk_token not in tokenizer.get_vocab(with_added_tokens=False):
        raise CheckpointError(f"the tokenizer has no {tokenizer.model.unk_token} in its vocabulary", hint)
    vocab = tokenizer.get_vocab()
    missing = [token for token in ("[CLS]", "[SEP]", "[PAD]") if token not in vocab]
    if missing:
        raise CheckpointError(f"the tokenizer has no {', '.join(missing)}", hint)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
