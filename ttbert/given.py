"""What users give to be read: texts and JSON, of which InputError says what is wrong."""

from __future__ import annotations

import json
from typing import Any

from .errors import InputError


def parse_json(content: bytes, what: str, hint: str) -> Any:
    """A document in UTF-8, UTF-16 or UTF-32, with a mark in front or without; InputError, naming `what`, for anything else."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        encoded = ", written as UTF-8" if isinstance(error, UnicodeDecodeError) else ""
        raise InputError(f"{what} is not JSON: {error}", f"{hint}{encoded}") from error


def check_unicode(text: str, what: str, hint: str) -> None:
    """InputError, naming `what`, for a text that no encoding has, since half of a character stands alone in it."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{what} is not Unicode text: a lone surrogate at character {error.start}", hint) from error
