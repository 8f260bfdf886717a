"""What a command prints: a result that is a failure all the same, and a passage that is a book."""

from __future__ import annotations

import json

import click
import pytest
from click.testing import CliRunner

from ttbert.console import passage, show_result
from ttbert.errors import AccuracyError


def test_a_result_that_fails_is_one_document_with_the_error_in_it() -> None:
    @click.command()
    def command() -> None:
        show_result({"pcc": 0.5}, AccuracyError("too low", "look at it"))

    done = CliRunner().invoke(command)
    error = {"kind": "AccuracyError", "message": "too low", "hint": "look at it", "exit_code": 13}
    assert json.loads(done.stdout) == {"pcc": 0.5, "error": error}
    assert done.exit_code == 13 and done.stderr == "error: too low\nhint: look at it\n"


@pytest.mark.parametrize("place", [0, 90_000, 180_000], ids=["beginning", "middle", "end"])
def test_of_a_book_what_is_around_the_answer_is_shown(place: int) -> None:
    words = "word " * 18_000
    book = f"{words}{words}"[:place] + "Ann" + f" {words}{words}"[: 180_000 - place]
    shown = " ".join(passage(book, place, place + 3, "").split())
    assert "[[Ann]]" in shown and 4000 < len(shown) < 4500
    assert shown.startswith("... ") == (place > 0) and shown.endswith(" ...") == (place < 180_000)
    unanswered = passage(book, 0, 0, "")
    assert "[[" not in unanswered and unanswered.endswith("...") and len(unanswered) < 4500


def test_a_passage_of_a_few_pages_is_shown_whole() -> None:
    text = "word " * 700 + "Ann"
    assert passage(text, len(text) - 3, len(text), "").replace("\n", " ") == f"{text[:-3]}[[Ann]]"
