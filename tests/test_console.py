"""What a command prints where it has a result that is a failure all the same."""

from __future__ import annotations

import json

import click
from click.testing import CliRunner

from ttbert.console import show_result
from ttbert.errors import AccuracyError


def test_a_result_that_fails_is_one_document_with_the_error_in_it() -> None:
    @click.command()
    def command() -> None:
        show_result({"pcc": 0.5}, AccuracyError("too low", "look at it"))

    done = CliRunner().invoke(command)
    error = {"kind": "AccuracyError", "message": "too low", "hint": "look at it", "exit_code": 13}
    assert json.loads(done.stdout) == {"pcc": 0.5, "error": error}
    assert done.exit_code == 13 and done.stderr == "error: too low\nhint: look at it\n"
