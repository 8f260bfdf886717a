"""The tokenizer that travels with a model is the one that transformers would use, whatever files it comes from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoTokenizer, BertTokenizer

from ttbert.convert.tokenizer import build_tokenizer, tokenizer_files
from ttbert.convert.wanted import BUNDLED_FOLDER
from ttbert.errors import CheckpointError

TEXTS = [
    "",
    "Where are the highest tides in the world found?",
    "Luis Ramírez de Lucena's  book\tof\n1497",
    "unbelievably UNAFFABLE won't e-mail a_b #1 $5.00",
    "naïve café Ünïcode ﬁ Åse İstanbul ß",
    "東京 and 北京 한국어 العربية",
    "zero\u200bwidth, soft\u00adhyphen, nul\x00, replacement\ufffd, 😀",
    "[CLS] [MASK] [SEP] [UNK] [unused1]",
    "x" * 120,
]
BUNDLED = {name: (BUNDLED_FOLDER / name).read_bytes() for name in ("vocab.txt", "tokenizer.json", "tokenizer_config.json")}
WORDS = 9032


def made(*names: str, settings: object = None) -> Tokenizer:
    files = {name: BUNDLED[name] for name in names}
    if settings is not None:
        files["tokenizer_config.json"] = json.dumps(settings).encode()
    return Tokenizer.from_buffer(build_tokenizer(files, WORDS))


def theirs(folder: Path, *names: str, settings: object = None) -> BertTokenizer:
    """What transformers makes of the same files."""
    for name in names:
        (folder / name).write_bytes(BUNDLED[name])
    (folder / "config.json").write_bytes(json.dumps(tiny.config()).encode())
    if settings is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer", **dict(settings)}))  # type: ignore[call-overload]
    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize(
    "names",
    [("tokenizer.json", "tokenizer_config.json"), ("tokenizer.json",), ("vocab.txt",), ("vocab.txt", "tokenizer_config.json")],
    ids="+".join,
)
def test_it_is_the_tokenizer_of_transformers(tmp_path: Path, names: tuple[str, ...]) -> None:
    ours, reference = made(*names), theirs(tmp_path, *names)
    for text in TEXTS:
        assert ours.encode(text).ids == reference(text)["input_ids"], text
    pair = reference(TEXTS[1], TEXTS[2])
    encoded = ours.encode(TEXTS[1], TEXTS[2])
    assert (encoded.ids, encoded.type_ids) == (pair["input_ids"], pair["token_type_ids"])


@given(text=st.text(max_size=60))
def test_file_and_vocabulary_make_the_same_tokenizer(text: str) -> None:
    from_file, from_vocabulary = BOTH
    one, other = from_file.encode(text), from_vocabulary.encode(text)
    assert (one.ids, one.offsets, one.word_ids) == (other.ids, other.offsets, other.word_ids)


BOTH = made("tokenizer.json", "tokenizer_config.json"), made("vocab.txt", "tokenizer_config.json")


@pytest.mark.parametrize(
    "settings",
    [
        {"do_lower_case": False},
        {"do_lower_case": True},
        {"do_lower_case": False, "strip_accents": True},
        {"do_lower_case": True, "strip_accents": False},
        {"do_lower_case": True, "tokenize_chinese_chars": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("main", ["tokenizer.json", "vocab.txt"])
def test_settings_override_the_file_as_in_transformers(tmp_path: Path, main: str, settings: dict[str, bool]) -> None:
    ours, reference = made(main, settings=settings), theirs(tmp_path, main, settings=settings)
    for text in TEXTS:
        assert ours.encode(text).ids == reference(text)["input_ids"], text


def test_lower_case_of_a_vocabulary_alone_is_the_default_of_transformers(tmp_path: Path) -> None:
    assert made("vocab.txt").encode("TIDES").ids == made("vocab.txt").encode("tides").ids
    assert made("vocab.txt", settings={"do_lower_case": False}).encode("TIDES").ids != made("vocab.txt").encode("tides").ids


def test_truncation_and_padding_of_the_file_are_dropped() -> None:
    tokenizer = Tokenizer.from_buffer(BUNDLED["tokenizer.json"])
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=16)
    built = Tokenizer.from_buffer(build_tokenizer({"tokenizer.json": tokenizer.to_str().encode()}, WORDS))
    assert built.truncation is None and built.padding is None
    assert len(built.encode("tide " * 50).ids) == 52


def test_same_files_give_the_same_bytes() -> None:
    files = {name: BUNDLED[name] for name in ("tokenizer.json", "tokenizer_config.json")}
    assert build_tokenizer(files, WORDS) == build_tokenizer(files, WORDS)


def test_vocabulary_with_windows_line_ends_is_the_same() -> None:
    windows = build_tokenizer({"vocab.txt": tiny.VOCAB_TXT.replace(b"\n", b"\r\n")}, 48)
    assert windows == build_tokenizer({"vocab.txt": tiny.VOCAB_TXT}, 48)


def test_words_that_look_like_line_ends_are_words(tmp_path: Path) -> None:
    odd = tiny.VOCAB_TXT.replace(b"\na\n", "\na\n\u2028\n\x85\n\x0b\n".encode())
    assert odd != tiny.VOCAB_TXT
    (tmp_path / "vocab.txt").write_bytes(odd)
    ours = Tokenizer.from_buffer(build_tokenizer({"vocab.txt": odd}, 48))
    assert ours.token_to_id("z") == 5 + 25 + 3
    assert ours.encode("a z").ids == BertTokenizer(str(tmp_path / "vocab.txt"))("a z")["input_ids"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}}, "cannot be read: Precompiled"),
        ({"pre_tokenizer": {"type": "FixedLength", "length": 0}}, "takes no text: chunk size must be non-zero"),
        ({"model": {**json.loads(BUNDLED["tokenizer.json"])["model"], "unk_token": "[NONE]"}}, "takes no text: .*UNK"),
    ],
    ids=["normalizer", "pre_tokenizer", "unknown words"],
)
def test_tokenizer_that_no_text_can_be_given_is_a_checkpoint_error(changes: dict[str, Any], says: str) -> None:
    """Of the first two, the library in Rust panics."""
    document = {**json.loads(BUNDLED["tokenizer.json"]), **changes}
    with pytest.raises(CheckpointError, match=says):
        build_tokenizer({"tokenizer.json": json.dumps(document).encode()}, WORDS)


def test_tokenizer_that_no_reader_would_take_is_refused_before_the_weights_are_converted() -> None:
    words = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3}
    with pytest.raises(CheckpointError, match="the tokenizer is WordLevel, not WordPiece"):
        build_tokenizer({"tokenizer.json": Tokenizer(WordLevel(words, unk_token="[UNK]")).to_str().encode()}, 48)


def test_tokenizer_file_goes_before_the_vocabulary() -> None:
    assert tokenizer_files(["vocab.txt", "tokenizer.json", "model.safetensors"]) == ("tokenizer.json",)
    assert tokenizer_files(["vocab.txt", "tokenizer_config.json"]) == ("vocab.txt", "tokenizer_config.json")
    assert tokenizer_files(["vocab.txt", "added_tokens.json"]) == ("vocab.txt", "added_tokens.json")
    assert tokenizer_files(["tokenizer.json", "added_tokens.json"]) == ("tokenizer.json",)
    with pytest.raises(CheckpointError, match="neither"):
        tokenizer_files(["spiece.model", "tokenizer_config.json"])


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"config.json": {"tokenizer_class": "BertJapaneseTokenizer"}}, "vocab.txt is that of a 'BertJapaneseTokenizer'"),
        ({"tokenizer_config.json": {"tokenizer_class": "KoBertTokenizer"}}, "vocab.txt is that of a 'KoBertTokenizer'"),
        ({"tokenizer_config.json": {"tokenizer_class": 3}}, "vocab.txt is that of a 3"),
        ({"tokenizer_config.json": {"tokenizer_class": ["BertTokenizer"]}}, "vocab.txt is that of a ['BertTokenizer']"),
        ({"added_tokens.json": {"covid": 47, "[CLS]": 2}}, "words were added that vocab.txt does not have: covid"),
        (
            {"tokenizer_config.json": {"added_tokens_decoder": {"2": {"content": "[CLS]"}, "47": {"content": "covid"}}}},
            "words were added that vocab.txt does not have: covid",
        ),
    ],
)
def test_vocabulary_that_other_rules_go_with_is_refused(files: dict[str, Any], says: str) -> None:
    """It would be read by BERT's, and the model be asked in words that it was not trained on."""
    given = {"vocab.txt": tiny.VOCAB_TXT, **{name: json.dumps(content).encode() for name, content in files.items()}}
    with pytest.raises(CheckpointError) as caught:
        build_tokenizer(given, 48)
    assert says in caught.value.message and "save_pretrained()" in caught.value.hint
    build_tokenizer({**given, "tokenizer.json": BUNDLED["tokenizer.json"]}, WORDS)


@pytest.mark.parametrize(
    "files",
    [
        {"config.json": {"tokenizer_class": "BertTokenizerFast"}, "tokenizer_config.json": {"tokenizer_class": None}},
        {"config.json": {"tokenizer_class": "AlbertTokenizer"}, "tokenizer_config.json": {"tokenizer_class": "BertTokenizer"}},
        {"added_tokens.json": {}, "tokenizer_config.json": {"added_tokens_decoder": {"2": {"content": "[CLS]"}}}},
    ],
)
def test_vocabulary_of_berts_rules_may_say_so(files: dict[str, Any]) -> None:
    given = {"vocab.txt": tiny.VOCAB_TXT, **{name: json.dumps(content).encode() for name, content in files.items()}}
    assert build_tokenizer(given, 48) == build_tokenizer({"vocab.txt": tiny.VOCAB_TXT}, 48)


def test_tokenizer_may_have_fewer_words_than_the_model_but_not_more() -> None:
    build_tokenizer({"vocab.txt": tiny.VOCAB_TXT}, len(tiny.WORDS))
    most = len(tiny.WORDS) - 1
    with pytest.raises(CheckpointError, match=f"words up to {most}, but the model only up to {most - 1}"):
        build_tokenizer({"vocab.txt": tiny.VOCAB_TXT}, most)


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"vocab.txt": b"[CLS]\n[SEP]\n[PAD]\n"}, "vocab.txt has no [UNK]"),
        ({"vocab.txt": b""}, "vocab.txt has no [CLS], [SEP], [PAD], [UNK]"),
        ({"vocab.txt": b"\xff"}, "vocab.txt is not UTF-8"),
        ({"tokenizer.json": b"{}"}, "tokenizer.json cannot be read"),
        ({"tokenizer.json": b"\xff"}, "tokenizer.json cannot be read"),
        ({"vocab.txt": tiny.VOCAB_TXT, "tokenizer_config.json": b"[1"}, "tokenizer_config.json is damaged"),
        ({"vocab.txt": tiny.VOCAB_TXT, "tokenizer_config.json": b"3"}, "tokenizer_config.json is damaged"),
        ({"vocab.txt": tiny.VOCAB_TXT, "tokenizer_config.json": b'{"do_lower_case": "yes"}'}, "do_lower_case is 'yes'"),
        ({"vocab.txt": tiny.VOCAB_TXT, "added_tokens.json": b"[]"}, "added_tokens.json is damaged"),
        (
            {"vocab.txt": tiny.VOCAB_TXT, "tokenizer_config.json": b'{"added_tokens_decoder": {"x": {}}}'},
            "added_tokens_decoder",
        ),
        ({**BUNDLED, "tokenizer_config.json": b'{"do_lower_case": null}'}, "do_lower_case is None"),
        ({**BUNDLED, "tokenizer_config.json": b'{"strip_accents": 1}'}, "strip_accents is 1"),
    ],
)
def test_damaged_files_are_refused_by_name(files: tiny.Files, says: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        build_tokenizer(files, 48)
    assert says in caught.value.message and caught.value.hint and "\n" not in caught.value.message


def test_a_mistake_of_the_caller_is_not_called_damage() -> None:
    with pytest.raises(TypeError):
        build_tokenizer({"tokenizer.json": None}, 48)  # type: ignore[dict-item]
