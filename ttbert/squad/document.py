"""The files of a result, and how they are read and written.

    DIR/run.json                 score, part, provenance, timings, every question
    DIR/predictions.json         question id -> answer, "" for none: what the official script reads
    DIR/null_odds.json           question id -> null score: its --na-prob-file (SQuAD 2.0 only)
    DIR/nbest_predictions.json   question id -> the best 20 answers, as transformers writes them
    DIR/journal                  logits of every batch, for --resume; may be removed

All but the timings is the same in every run with the same options. The report's `report.json` is `run.json` again,
with the comparison if there was one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import FULL, InputError, NoSpaceError, StoreReadOnly
from ..files import replace_file
from ..paths import is_file, is_folder

SCHEMA = "ttbert.squad/1"
RUN, PREDICTIONS, NULL_ODDS, N_BEST = "run.json", "predictions.json", "null_odds.json", "nbest_predictions.json"
REPORT = "report.json"


def read_document(path: Path) -> dict[str, Any]:
    """What `result_document` made, from a file or from the folder that it is in. InputError for anything else."""
    candidates = [path / RUN, path / REPORT] if is_folder(path) else [path]
    found = next(filter(is_file, candidates), None)
    hint = "give a folder that --output or --report of `ttbert squad` wrote, or the run.json or report.json in it"
    if found is None:
        raise InputError(f"{path} is no result of a run", hint)
    try:
        document = json.loads(found.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{found} cannot be read: {error}", hint) from error
    if not _is_result(document):
        raise InputError(f"{found} is not a result that this version of ttbert reads", hint)
    return document  # type: ignore[no-any-return]


def _is_result(document: Any) -> bool:
    """Whether it has all that a comparison looks at."""
    try:
        provenance, questions = document["provenance"], document["questions"]
        texts = [provenance["data"]["digest"], *(provenance[name] for name in ("model", "policy", "board"))]
        texts += [each[name] for each in questions for name in ("id", "answer")]
        numbers = [each[name] for each in questions for name in ("exact", "f1", "null_score")]
        numbers.append(provenance["data"]["questions"])
        return (
            document["schema"] == SCHEMA
            and all(isinstance(each, str) for each in texts)
            and all(type(each) in (int, float) for each in numbers)
        )
    except (LookupError, TypeError):
        return False


def write_json(path: Path, document: object) -> None:
    """Replace a file by a document, as `write_text` does."""
    write_text(path, json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Replace a file, or make it and its folder, so that nobody reads half of one. NoSpaceError or StoreReadOnly where not."""
    try:
        replace_file(path, text.encode("utf-8", "backslashreplace"))  # the name of a file of questions need not be Unicode
    except OSError as error:
        kind = NoSpaceError if error.errno in FULL else StoreReadOnly
        raise kind(f"{path} cannot be written: {error.strerror}", "make room, or choose another folder") from error
