"""Sizes, times and other numbers as people type them."""

from __future__ import annotations

import math
import re
from typing import Any

import click

_NUMBER = re.compile(r"([0-9]+(?:\.[0-9]+)?|\.[0-9]+) ?([A-Za-z]*)")
_SIZES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12} | {
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 24 * 3600.0, "w": 7 * 24 * 3600.0}


class NumberRange(click.FloatRange):
    """Numbers of a range. NaN, which is outside of none, is refused: it is less than nothing, and nothing is less than it."""

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> float:
        number: float = super().convert(value, parameter, context)
        if math.isnan(number):
            self.fail(f"{value!r} is not a number.", parameter, context)
        return number


def parse_size(text: str) -> int:
    """A number of bytes: `500MB`, `1.5 GiB`, `0`. BadParameter for anything else."""
    match = _NUMBER.fullmatch(text.strip())
    unit = _SIZES.get(match[2].upper()) if match else None
    size = float(match[1]) * unit if match and unit else math.inf
    if math.isinf(size):
        raise click.BadParameter(f"{text!r:.80} is not a size; write 500MB, 20GB or 1.5TiB")
    return int(size)


def parse_days(text: str) -> float:
    """Seconds: `30d`, `12h`; without a unit it is days. BadParameter for what is no time."""
    return _seconds(text, "d")


def parse_hours(text: str) -> float:
    """As `parse_days`, but without a unit it is hours."""
    return _seconds(text, "h")


def _seconds(text: str, unit: str) -> float:
    match = _NUMBER.fullmatch(text.strip())
    seconds = _SECONDS.get(match[2] or unit) if match else None
    found = float(match[1]) * seconds if match and seconds else math.inf
    if not found < 1e10:
        raise click.BadParameter(f"{text!r:.80} is not a time; write 12h, 30d or 8w")
    return found
