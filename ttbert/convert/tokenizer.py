"""The tokenizer of a checkpoint, as the one `tokenizer.json` that the runtime reads.

Most repositories have that file; old ones have only `vocab.txt`, from which the same tokenizer is built, unless it is that of
another tokenizer than BERT's or words were added to it. What `tokenizer_config.json` says of lower case, accents and Chinese
characters overrides the file, as it does in transformers.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError, or_panic
from ..text import some_text

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_SPECIAL = ("[CLS]", "[SEP]", "[PAD]", "[UNK]")
_SETTINGS = {
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}

_CLASSES = {f"{name}Tokenizer{fast}" for name in ("Bert", "DistilBert", "Electra", "MobileBert") for fast in ("", "Fast")}
"""What transformers calls the tokenizer that cuts words by `vocab.txt` as BERT's does."""

_AGAIN = "download the checkpoint again"
_SAVE = "load it with transformers and save_pretrained() it, which writes a tokenizer.json where that can hold it all"

_PROBE = "a \N{LINEAR B SYLLABLE B008 A}"
"""A text with a word that few vocabularies have."""


def tokenizer_files(names: Collection[str]) -> tuple[str, ...]:
    """Which of a checkpoint's files make its tokenizer."""
    main = next((name for name in ("tokenizer.json", "vocab.txt") if name in names), None)
    if main is None:
        raise CheckpointError(
            "the checkpoint has neither tokenizer.json nor vocab.txt", "put the model's tokenizer beside its weights"
        )
    beside = ("tokenizer_config.json",) if main == "tokenizer.json" else ("tokenizer_config.json", "added_tokens.json")
    return (main, *(name for name in beside if name in names))


def build_tokenizer(files: dict[str, bytes], vocabulary: int) -> bytes:
    """The `tokenizer.json` made of these files; CheckpointError if they are damaged or name more words than the model has.

    Of a `config.json` among them it is read which class of tokenizer a `vocab.txt` is for.
    """
    config = _document(files, "tokenizer_config.json")
    settings = _settings(config)
    tokenizer = _read(files["tokenizer.json"]) if "tokenizer.json" in files else _from_vocabulary(files, config, settings)
    if (kind := type(tokenizer.model).__name__) != "WordPiece":
        raise CheckpointError(f"the tokenizer is {kind}, not WordPiece", "is it the tokenizer of a BERT?")
    absent = [token for token in _SPECIAL if tokenizer.token_to_id(token) is None]
    if absent:
        raise CheckpointError(f"the tokenizer has no {', '.join(absent)}", "is it the tokenizer of a BERT?")
    _check_encodes(tokenizer)
    largest = max(tokenizer.get_vocab(with_added_tokens=True).values())
    if largest >= vocabulary:
        raise CheckpointError(
            f"the tokenizer numbers its words up to {largest}, but the model only up to {vocabulary - 1}",
            "does the tokenizer belong to these weights?",
        )
    tokenizer.no_truncation()
    tokenizer.no_padding()
    document = json.loads(tokenizer.to_str())
    normalizer = document.get("normalizer")
    if isinstance(normalizer, dict) and normalizer.get("type") == "BertNormalizer":
        normalizer.update(settings)
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    settings = {ours: config[theirs] for theirs, ours in _SETTINGS.items() if theirs in config}
    for theirs, ours in _SETTINGS.items():
        # To decide on accents may be left to the rest; nothing else may.
        if type(settings.get(ours, True)) is not bool and (ours != "strip_accents" or settings[ours] is not None):
            raise CheckpointError(f"tokenizer_config.json: {theirs} is {settings[ours]!r:.80}, not true or false", _AGAIN)
    return settings


def _read(content: bytes) -> Tokenizer:
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_buffer(content)
    except or_panic(ValueError) as error:
        raise CheckpointError(f"tokenizer.json cannot be read: {error}", _AGAIN) from error


def _check_encodes(tokenizer: Tokenizer) -> None:
    """CheckpointError for settings that are found to be impossible only by a text."""
    try:
        tokenizer.encode(_PROBE, add_special_tokens=False)
    except or_panic(Exception) as error:  # Exception itself is what the library raises
        raise CheckpointError(f"the tokenizer takes no text: {error}", "is it the tokenizer of a BERT?") from error


def _from_vocabulary(files: dict[str, bytes], config: dict[str, Any], settings: dict[str, Any]) -> Tokenizer:
    from tokenizers import Tokenizer
    from tokenizers.implementations import BertWordPieceTokenizer

    vocabulary = _vocabulary(files["vocab.txt"])
    _check_rules(files, config)
    _check_added(files, config, vocabulary)
    options: dict[str, Any] = {"lowercase": True, **settings}
    return Tokenizer.from_str(BertWordPieceTokenizer(vocabulary, **options).to_str())


def _check_rules(files: dict[str, bytes], config: dict[str, Any]) -> None:
    """CheckpointError for a vocabulary that is not used by BERT's rules, as of models that cut Japanese words otherwise."""
    found = config.get("tokenizer_class")
    if found is None:
        found = _document(files, "config.json").get("tokenizer_class")
    if found not in (None, *_CLASSES):
        raise CheckpointError(f"vocab.txt is that of a {found!r:.80}, which is not supported", _SAVE)


def _check_added(files: dict[str, bytes], config: dict[str, Any], vocabulary: dict[str, int]) -> None:
    """CheckpointError for words beside those in the vocabulary."""
    decoder = config.get("added_tokens_decoder")
    try:
        added = [(entry["content"], int(number)) for number, entry in (decoder or {}).items()]
        added += _document(files, "added_tokens.json").items()
        new = sorted(word for word, number in added if vocabulary.get(word) != number)
    except (AttributeError, ValueError, TypeError, LookupError) as error:
        raise CheckpointError(f"added_tokens_decoder in tokenizer_config.json is damaged: {error!r:.80}", _AGAIN) from error
    if new:
        raise CheckpointError(f"words were added that vocab.txt does not have: {some_text(new):.200}", _SAVE)


def _document(files: dict[str, bytes], name: str) -> dict[str, Any]:
    try:
        document = json.loads(files.get(name, b"{}"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{name} is damaged: {error}", _AGAIN) from error
    if not isinstance(document, dict):
        raise CheckpointError(f"{name} is damaged: not a JSON object", _AGAIN)
    return document


def _vocabulary(content: bytes) -> dict[str, int]:
    try:
        # A line ends where files say so: some vocabularies have U+2028 and U+0085, which are line ends to str, as words.
        words = content.decode().replace("\r\n", "\n").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"vocab.txt is not UTF-8: {error}", _AGAIN) from error
    vocabulary = {word: number for number, word in enumerate(words)}
    absent = [token for token in _SPECIAL if token not in vocabulary]
    if absent:
        raise CheckpointError(f"vocab.txt has no {', '.join(absent)}", "is it the vocabulary of a BERT?")
    return vocabulary
