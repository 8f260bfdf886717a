"""Sizes and times as people type them."""

from __future__ import annotations

import math
import re

import click

_NUMBER = re.compile(r"([0-9]+(?:\.[0-9]+)?|\.[0-9]+) ?([A-Za-z]*)")
_SIZES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12} | {
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 24 * 3600.0, "w": 7 * 24 * 3600.0}


class Size(click.ParamType[int]):
    """A number of bytes: `500MB`, `1.5 GiB`, `0`."""

    name = "size"

    def convert(self, value: object, param: click.Parameter | None, context: click.Context | None) -> int:
        match = _NUMBER.fullmatch(str(value).strip())
        unit = _SIZES.get(match[2].upper()) if match else None
        if match is None or unit is None:
            self.fail(f"{value!r} is not a size; write 500MB, 20GB or 1.5TiB", param, context)
        return int(float(match[1]) * unit)


class Seconds(click.ParamType[float]):
    """A time: `30d`, `12h`; without a unit it is in `unit`s."""

    name = "time"

    def __init__(self, unit: str) -> None:
        self._unit = unit

    def convert(self, value: object, param: click.Parameter | None, context: click.Context | None) -> float:
        match = _NUMBER.fullmatch(str(value).strip())
        seconds = _SECONDS.get(match[2] or self._unit) if match else None
        found = float(match[1]) * seconds if match and seconds else math.inf
        if match is None or not found < 1e10 or (seconds is None):
            self.fail(f"{value!r} is not a time; write 12h, 30d or 8w", param, context)
        return found
