"""Reading SQuAD files: good ones, and every way in which one can be bad."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import pytest
from squads import document, write

from ttbert.convert.wanted import BUNDLED_FOLDER
from ttbert.errors import InputError, TtbertError
from ttbert.runtime.tokens import Encoder
from ttbert.squad.batches import Layout, make_jobs
from ttbert.squad.dataset import Gold, Part, choose_part, from_rows, load_hub_dataset, parse_dataset, read_dataset

GOOD = document(("the cat sat", "who?", ["cat", "the cat"]), ("the dog", "when?", []))


def parse(content: Any) -> Any:
    return parse_dataset(content, "x.json", "x.json")


def test_questions_of_version_2_are_read() -> None:
    dataset = parse(GOOD)
    first, second = dataset.questions
    assert (first.id, first.title, first.context) == ("q0", "Test", "the cat sat")
    assert first.answers == (Gold("cat", 4), Gold("the cat", 0)) and first.has_answer
    assert not second.has_answer and dataset.allows_no_answer and dataset.version == "v2.0"


def test_questions_of_version_1_always_have_an_answer() -> None:
    content = document(("the cat", "who?", ["cat"]))
    content["version"] = "1.1"
    del content["data"][0]["paragraphs"][0]["qas"][0]["is_impossible"]
    dataset = parse(content)
    assert dataset.version == "v1.1" and not dataset.allows_no_answer


def test_digest_is_of_content_alone() -> None:
    rows = [
        {
            "id": each["id"],
            "title": "Test",
            "question": each["question"],
            "context": paragraph["context"],
            "answers": {
                "text": [gold["text"] for gold in each["answers"]],
                "answer_start": [gold["answer_start"] for gold in each["answers"]],
            },
        }
        for paragraph in GOOD["data"][0]["paragraphs"]
        for each in paragraph["qas"]
    ]
    assert from_rows(rows, "hub").digest == parse(GOOD).digest
    rows[0]["question"] += "?"
    assert from_rows(rows, "hub").digest != parse(GOOD).digest


def changed(path: str, value: Any) -> Any:
    """The good document with the value at a path like `data.0.title` changed, or removed if it is `...`."""
    content = json.loads(json.dumps(GOOD))
    target: Any = content
    *way, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    for part in way:
        target = target[part]
    if value is ...:
        del target[last]
    else:
        target[last] = value
    return content


FIRST = "data.0.paragraphs.0"
BAD = {
    "a list": ([], "x.json is not an object"),
    "no data": ({"version": "v2.0"}, "x.json has no 'data'"),
    "no questions": ({"data": []}, "x.json has no questions"),
    "data is no list": ({"data": {}}, "'data' is not a list"),
    "article is no object": ({"data": ["x"]}, r"data\[0\] is not an object"),
    "no context": (changed(f"{FIRST}.context", ...), r"paragraphs\[0\] has no 'context'"),
    "no qas": (changed(f"{FIRST}.qas", ...), r"has no 'qas'"),
    "no id": (changed(f"{FIRST}.qas.0.id", ...), r"qas\[0\] has no 'id'"),
    "id is a number": (changed(f"{FIRST}.qas.0.id", 7), "'id' is not text"),
    "no answers": (changed(f"{FIRST}.qas.0.answers", ...), "has no 'answers'"),
    "empty question": (changed(f"{FIRST}.qas.0.question", "  "), "the question q0 is empty"),
    "answer elsewhere": (changed(f"{FIRST}.qas.0.answers.0.text", "dog"), "'dog' is not in the context"),
    "start is text": (changed(f"{FIRST}.qas.0.answers.0.answer_start", "4"), "'answer_start' is not a whole number"),
    "two of one id": (changed(f"{FIRST}.qas.0.id", "q1"), "two questions have the id 'q1'"),
    "impossible with answers": (changed(f"{FIRST}.qas.0.is_impossible", True), "q0 has answers, but"),
    "possible without": (changed("data.0.paragraphs.1.qas.0.is_impossible", False), "q1 has no answer, but"),
    "lone surrogate": (changed(f"{FIRST}.context", "the cat \ud800"), "lone surrogate at character 8"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_document_is_refused_with_its_place(name: str) -> None:
    content, message = BAD[name]
    with pytest.raises(InputError, match=message) as caught:
        parse(content)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"{", "is not JSON"),
        (b"\xff\xfe\x00", "is not JSON"),
        (b'{"data": "a\x01b"}', "is not JSON: Invalid control character"),
        (b"[" * 100_000, "is not JSON"),
    ],
)
def test_bad_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_dataset(path)
    with pytest.raises(InputError, match="there is no file"):
        read_dataset(tmp_path / "absent.json")


def test_answer_that_is_elsewhere_in_the_context_is_moved_and_counted() -> None:
    content = document(("cat dog cat dog cat", "who?", ["cat"]))
    content["data"][0]["paragraphs"][0]["qas"][0]["answers"][0]["answer_start"] = 9
    dataset = parse(content)
    assert dataset.questions[0].answers == (Gold("cat", 8),) and dataset.moved == 1


def test_a_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    path = tmp_path / "bom.json"
    path.write_text(json.dumps(GOOD), encoding="utf-8-sig")
    assert read_dataset(path).digest == parse(GOOD).digest


def test_control_characters_and_a_megabyte_of_context_make_windows_of_all_of_it(tmp_path: Path) -> None:
    context = "\u0000\u0007the cat\u0000 sat. " + "the dog ran. " * 90_000 + "Here is the end."
    path = write(tmp_path / "large.json", document((context, "who?", ["cat\u0000 sat"])))
    (question,) = read_dataset(path).questions
    assert len(context) > 1 << 20 and question.context == context
    encoder = Encoder((BUNDLED_FOLDER / "tokenizer.json").read_bytes())
    seen = 0
    for job in make_jobs([question], encoder, Layout(8, real_length=True)):
        for row in job.rows:
            seen = max(seen, int(row.window.offsets[-1, 1]))
            assert len(row.window) <= 384
    assert seen == len(context)


def test_part_is_a_seeded_sample_in_its_order_and_then_a_limit() -> None:
    dataset = parse(document(*((f"the cat {i}", "who?", []) for i in range(50))))
    sampled = choose_part(dataset, Part(sample=10, seed=3))
    assert len(sampled.questions) == 10 and sampled.is_partial and sampled.total == 50
    assert sampled.questions == choose_part(dataset, Part(sample=10, seed=3)).questions
    assert sampled.questions != choose_part(dataset, Part(sample=10, seed=4)).questions
    assert list(sampled.questions) == [each for each in dataset.questions if each in sampled.questions]
    assert choose_part(dataset, Part(limit=4, sample=10, seed=3)).questions == sampled.questions[:4]
    assert not choose_part(dataset, Part(limit=50)).is_partial
    with pytest.raises(InputError, match="--limit 51 is more than the 50 questions"):
        choose_part(dataset, Part(limit=51))


def test_default_data_without_the_package_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *arguments: Any, **more: Any) -> Any:
        if name == "datasets":
            raise ModuleNotFoundError(name=name)
        return real(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(TtbertError, match=r"`datasets`, which fetches .*, is not installed") as caught:
        load_hub_dataset()
    assert "ttbert[squad]" in caught.value.hint and "--data FILE" in caught.value.hint
