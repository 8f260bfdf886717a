"""Small data sets in the format of SQuAD, and ways to break them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ttbert.demo.inputs import built_in_questions

Document = dict[str, Any]


def document(*questions: tuple[str, str, list[str]]) -> Document:
    """Context, question and answers of each; ids are q0, q1, ..."""
    paragraphs = []
    for number, (context, question, answers) in enumerate(questions):
        golds = [{"text": answer, "answer_start": context.index(answer)} for answer in answers]
        entry = {"id": f"q{number}", "question": question, "answers": golds, "is_impossible": not golds}
        paragraphs.append({"context": context, "qas": [entry]})
    return {"version": "v2.0", "data": [{"title": "Test", "paragraphs": paragraphs}]}


def built_in(count: int) -> Document:
    """The questions of the demo over and over, with the first words of their context, or nothing, as the answer."""
    found = built_in_questions()
    chosen = [found[number % len(found)] for number in range(count)]
    return document(
        *(
            (f"{each.context} {number}", each.question, [" ".join(each.context.split()[:2])] if number % 3 else [])
            for number, each in enumerate(chosen)
        )
    )


def write(path: Path, content: Document) -> Path:
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path
