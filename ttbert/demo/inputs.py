"""The questions of a demo: those that come with the package, or a file in the format of tt-metal's BERT demo."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from ..errors import InputError
from ..given import check_unicode, parse_json
from ..text import count_text

BUILT_IN = Path(__file__).parent / "inputs.json"

_FORMAT = 'it must be a list of {"context": "...", "question": "..."}'


class Question(NamedTuple):
    """A question and the text in which its answer may be."""

    question: str
    context: str


def read_questions(path: Path) -> list[Question]:
    """The questions in a JSON file; InputError, with the place, for anything that is not a list of them."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"there is no file {path}", f"give a JSON file: {_FORMAT}") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}", f"give a JSON file: {_FORMAT}") from error
    document = parse_json(content, str(path), _FORMAT)
    if not isinstance(document, list) or not document:
        raise InputError(f"{path} holds {'nothing' if document == [] else 'no list'}", _FORMAT)
    return [_question(each, f"{path}, input {number}") for number, each in enumerate(document, 1)]


def built_in_questions() -> list[Question]:
    """Questions and passages of our own writing, some without an answer."""
    return read_questions(BUILT_IN)


def choose_questions(path: Path | None, batch: int, pad: bool, chips: int = 1) -> list[Question]:
    """The questions of one run: as many as the batches of all chips hold, unless `pad` allows another number.

    Of the built-in questions the first ones are taken. InputError where the number does not fit.
    """
    found = read_questions(path) if path else built_in_questions()
    rows = chips * batch
    if pad or len(found) == rows:
        return found
    what = f"the batch is {rows}" if chips == 1 else f"a batch of {batch} on each of {chips} chips is {rows}"
    if path is None:
        if len(found) > rows:
            return found[:rows]
        raise InputError(
            f"there are {len(found)} built-in questions, and {what}",
            f"pass --batch {len(found) // chips} or less, --pad to leave rows empty, or your own with --input FILE",
        )
    padding = f"--pad to run them in batches of {rows} of which the last is partly empty"
    raise InputError(
        f"{path} has {count_text(len(found), 'input')}, but {what}",
        f"pass {padding}" if len(found) % chips else f"pass --batch {len(found) // chips}, or {padding}",
    )


def _question(entry: Any, where: str) -> Question:
    if not isinstance(entry, dict):
        raise InputError(f"{where} is not an object", _FORMAT)
    for name in ("context", "question"):
        value = entry.get(name)
        if not isinstance(value, str):
            problem = f"its {name!r} is not text" if name in entry else f"it has no {name!r}"
            raise InputError(f"{where}: {problem}", _FORMAT)
        if not value.strip():
            raise InputError(f"{where}: its {name!r} is empty", _FORMAT)
        check_unicode(value, f"{where}: its {name!r}", "write the file with its real encoding, such as UTF-8")
    return Question(entry["question"], entry["context"])
