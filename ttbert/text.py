"""Numbers, lists of names, errors and the like as people read them."""

from __future__ import annotations

from collections.abc import Sequence


def count_text(number: int, one: str, many: str = "") -> str:
    """ "1 input", "2 inputs"."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def some_text(names: Sequence[str], most: int = 12) -> str:
    """The first few of them, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"


def size_text(size: float) -> str:
    """A number of bytes, in decimal units."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError


def origin_text(repo: str, commit: str | None) -> str:
    """Where something comes from: "deepset/bert-base-cased-squad2@3f9a5d0c11e2", or "/home/you/my-bert"."""
    return f"{repo}@{commit[:12]}" if commit else repo


def error_text(error: Exception) -> str:
    """What an error of a library says, as far as it goes into one: 200 characters of its first line, or else its type."""
    return f"{(str(error).strip().splitlines() or [type(error).__name__])[0]:.200}"
