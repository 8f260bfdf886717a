"""SQuAD's questions, from a file in the official format of v1.1 or v2.0 or through `datasets`.

What is wrong with a file ends in an InputError that says where. These are no errors:

- An answer that is in the context, but not where `answer_start` says, is moved to the nearest place; `moved` counts
  them. Scores only compare texts, so this changes no score, only what a report highlights.
- A control character or a context of any length is kept as it is. The tokenizer passes over control characters, and
  offsets stay those of the original text. (JSON itself wants control characters escaped.)
- `plausible_answers` and other fields that scoring does not need are ignored.
"""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import blake3

from ..cache.digest import Digest
from ..cache.document import canonical
from ..errors import InputError, NotCached, StoreUnavailable, TtbertError
from ..frozen import Frozen
from ..given import check_unicode, parse_json
from ..text import error_text

HUB_NAME, HUB_SPLIT = "rajpurkar/squad_v2", "validation"

_FORMAT = "it must be in the format of SQuAD: data > paragraphs > context, qas > id, question, answers > text, answer_start"


class Gold(Frozen):
    """An answer that a person gave: `context[start:start + len(text)]` is `text`."""

    text: str
    start: int


class Question(Frozen):
    """A question, its context and all answers that count as right; none if the context does not answer it."""

    id: str
    title: str
    question: str
    context: str
    answers: tuple[Gold, ...]

    @property
    def has_answer(self) -> bool:
        return bool(self.answers)


class Part(Frozen):
    """Which questions of a data set are asked: a random sample, drawn with `seed`, and of that the first ones."""

    limit: int | None = None
    sample: int | None = None
    seed: int = 0

    def __str__(self) -> str:
        sample = f"a random sample of {self.sample:,} (seed {self.seed})" if self.sample is not None else ""
        limit = f"the first {self.limit:,}" if self.limit is not None else ""
        return " of ".join(filter(None, [limit, sample])) or "all"


class Dataset(Frozen):
    """Questions in their order; `digest` is of the content of all `total` of them, wherever it came from."""

    questions: tuple[Question, ...]
    source: str
    version: str
    digest: Digest
    total: int
    moved: int = 0
    part: Part = Part()

    @property
    def allows_no_answer(self) -> bool:
        """Whether "no answer" is one of the answers, as in SQuAD 2.0; in 1.1 there always is one."""
        return self.version != "v1.1"

    @property
    def is_partial(self) -> bool:
        return len(self.questions) < self.total


def read_dataset(path: Path) -> Dataset:
    """The questions in a file; InputError, with the place, for anything that is not in the official format."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"there is no file {path}", "give a file in the format of SQuAD with --data FILE") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}", "give a file in the format of SQuAD") from error
    if not content.strip():
        raise InputError(f"{path} is empty", _FORMAT)
    return parse_dataset(parse_json(content, str(path), _FORMAT), str(path), path.name)


def parse_dataset(document: Any, where: str, source: str) -> Dataset:
    """The questions in a document of the official format; `where` names it in errors, `source` in results."""
    questions, moved, has_v2 = [], 0, False
    for place, title, context, entry in _entries(document, where):
        question, shifted = _question(place, title, context, entry)
        questions.append(question)
        moved += shifted
        has_v2 |= "is_impossible" in entry or not question.has_answer
    named = document.get("version") if isinstance(document, dict) else None
    is_v2 = has_v2 or str(named).lower() in ("v2.0", "2.0")
    return _dataset(questions, source, "v2.0" if is_v2 else "v1.1", where, moved)


def load_hub_dataset(offline: bool = False) -> Dataset:
    """SQuAD 2.0's development set, 11,873 questions, through `datasets`, which keeps it in a cache of its own.

    TtbertError without the `datasets` package. NotCached while offline, StoreUnavailable where the hub cannot be reached.
    """
    hint = "give a file in the official format with --data FILE, such as dev-v2.0.json"
    if offline:
        os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
    try:
        import datasets
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == "datasets"
        what = "is not installed" if missing else f"cannot be imported ({error!s:.200})"
        raise TtbertError(
            f"the package `datasets`, which fetches {HUB_NAME}, {what}", f"pip install 'ttbert[squad]', or {hint}"
        ) from error
    try:
        datasets.disable_progress_bars()
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # a line for each of its attempts
        rows = datasets.load_dataset(HUB_NAME, split=HUB_SPLIT)
    except Exception as error:  # the package raises whatever its dozen dependencies raise
        if offline or os.environ.get("HF_HUB_OFFLINE") or os.environ.get("HF_DATASETS_OFFLINE"):
            raise NotCached(f"{HUB_NAME} is not on this machine, and --offline forbids to fetch it", hint) from error
        raise StoreUnavailable(f"{HUB_NAME} cannot be fetched: {error_text(error)}", hint) from error
    return from_rows(rows, f"{HUB_NAME} ({HUB_SPLIT})")


def from_rows(rows: Iterable[Mapping[str, Any]], source: str) -> Dataset:
    """The questions in rows as `datasets` has them: answers as {"text": [...], "answer_start": [...]}."""
    questions, moved = [], 0
    for number, row in enumerate(rows):
        answers = row["answers"]
        pairs = zip(answers["text"], answers["answer_start"], strict=True)
        entry = {
            "id": row["id"],
            "question": row["question"],
            "answers": [{"text": text, "answer_start": int(start)} for text, start in pairs],
        }
        question, shifted = _question(f"{source}, row {number}", row["title"], row["context"], entry)
        questions.append(question)
        moved += shifted
    return _dataset(questions, source, "v2.0", source, moved)


def choose_part(dataset: Dataset, part: Part) -> Dataset:
    """The questions of a part, in their order. InputError for a part larger than the data set."""
    for name, number in (("--sample", part.sample), ("--limit", part.limit)):
        if number is not None and number > len(dataset.questions):
            raise InputError(
                f"{name} {number} is more than the {len(dataset.questions)} questions there are",
                f"pass a smaller number, or leave {name} away to ask all",
            )
    chosen: Iterable[int] = range(len(dataset.questions))
    if part.sample is not None:
        chosen = sorted(random.Random(part.seed).sample(range(len(dataset.questions)), part.sample))
    questions = tuple(dataset.questions[number] for number in chosen)[: part.limit]
    return replace(dataset, questions=questions, part=part)


def _entries(document: Any, where: str) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Place, title, context and entry of each question."""
    for i, article in enumerate(_take(document, "data", list, where)):
        in_article = f"{where}: data[{i}]"
        paragraphs = _take(article, "paragraphs", list, in_article)
        title = _take(article, "title", str, in_article) if "title" in article else ""
        for j, paragraph in enumerate(paragraphs):
            in_paragraph = f"{in_article}.paragraphs[{j}]"
            context = _text(paragraph, "context", in_paragraph)
            for k, entry in enumerate(_take(paragraph, "qas", list, in_paragraph)):
                yield f"{in_paragraph}.qas[{k}]", title, context, entry


def _question(place: str, title: str, context: str, entry: Any) -> tuple[Question, int]:
    """The question, and how many of its answers were moved."""
    identity = _text(entry, "id", place)
    question = _text(entry, "question", place)
    if not question.strip():
        raise InputError(f"{place}: the question {identity} is empty", _FORMAT)
    golds = []
    for number, answer in enumerate(_take(entry, "answers", list, place)):
        golds.append(_gold(answer, context, f"{place}.answers[{number}]"))
    impossible = entry.get("is_impossible")
    if impossible is not None and impossible is not (not golds):
        what = "has answers, but is_impossible is true" if golds else "has no answer, but is_impossible is not true"
        raise InputError(
            f"{place}: {identity} {what}", "correct the file; a question without answers cannot be scored otherwise"
        )
    return Question(identity, title, question, context, tuple(gold for gold, _ in golds)), sum(moved for _, moved in golds)


def _gold(answer: Any, context: str, place: str) -> tuple[Gold, bool]:
    text, start = _text(answer, "text", place), _take(answer, "answer_start", int, place)
    if start >= 0 and context.startswith(text, start):
        return Gold(text, start), False
    after, before = context.find(text, max(start, 0)), context.rfind(text, 0, max(start, 0) + len(text))
    found = [each for each in (before, after) if each >= 0]
    if not found:
        raise InputError(f"{place}: the answer {text!r:.60} is not in the context", "an answer must be a part of its context")
    return Gold(text, min(found, key=lambda each: abs(each - start))), True


def _dataset(questions: list[Question], source: str, version: str, where: str, moved: int) -> Dataset:
    if not questions:
        raise InputError(f"{where} has no questions", _FORMAT)
    seen: set[str] = set()
    hasher = blake3.blake3()
    for each in questions:
        if each.id in seen:
            raise InputError(f"{where}: two questions have the id {each.id!r:.60}", "give every question its own id")
        seen.add(each.id)
        answers = [[gold.text, gold.start] for gold in each.answers]
        hasher.update(canonical([each.id, each.title, each.question, each.context, answers]) + b"\n")
    return Dataset(tuple(questions), source, version, Digest("blake3", hasher.hexdigest()), len(questions), moved)


def _text(entry: Any, name: str, where: str) -> str:
    value: str = _take(entry, name, str, where)
    check_unicode(value, f"{where}: {name!r}", "write the file with its real encoding, such as UTF-8")
    return value


def _take(entry: Any, name: str, kind: type, where: str) -> Any:
    """The field `name` of an object, which must be of type `kind`."""
    if not isinstance(entry, dict):
        raise InputError(f"{where} is not an object", _FORMAT)
    if name not in entry:
        raise InputError(f"{where} has no {name!r}", _FORMAT)
    if type(entry[name]) is not kind:
        names = {str: "text", list: "a list", int: "a whole number"}
        raise InputError(f"{where}: {name!r} is not {names[kind]}", _FORMAT)
    return entry[name]
