"""Numbers and lists of names as people read them."""

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
