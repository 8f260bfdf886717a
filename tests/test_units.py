"""Sizes and times as people type them."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from program import ttbert

from ttbert.cli.units import NumberRange, parse_days, parse_hours, parse_size

HOUR, DAY = 3600.0, 24 * 3600.0


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("500MB", 500_000_000),
        ("1.5 GiB", 3 << 29),
        (" 20gb ", 20 * 10**9),
        (".5kB", 500),
        ("7B", 7),
        ("1TiB", 1 << 40),
    ],
)
def test_size_is_in_bytes_of_decimal_and_binary_units(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MB", "-1MB", "1e3", "5 parsecs", "1,5GB", "nan", "1 2", "٣MB", "9" * 400])
def test_what_is_no_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is not a size; write 500MB"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "days", "hours"),
    [
        ("0", 0, 0),
        ("30", 30 * DAY, 30 * HOUR),
        ("12h", 12 * HOUR, 12 * HOUR),
        ("1.5 d", 1.5 * DAY, 1.5 * DAY),
        ("8w", 56 * DAY, 56 * DAY),
    ],
)
def test_time_without_a_unit_is_in_that_of_the_option(text: str, days: float, hours: float) -> None:
    assert (parse_days(text), parse_hours(text)) == (days, hours)


@pytest.mark.parametrize("number", ["nan", "-1", "101", "inf", "x"])
def test_what_is_no_number_of_a_range_is_refused(number: str) -> None:
    """A run that ends when NaN seconds are over would never end."""
    assert NumberRange(0, 100).convert("7.5", None, None) == 7.5
    with pytest.raises(click.BadParameter):
        NumberRange(0, 100).convert(number, None, None)


@pytest.mark.parametrize("text", ["", "d", "-1d", "5 parsecs", "1D", "inf", "9999999w"])
def test_what_is_no_time_is_refused_with_an_example(text: str) -> None:
    for parse in (parse_days, parse_hours):
        with pytest.raises(click.BadParameter, match="is not a time; write 12h"):
            parse(text)


@pytest.mark.parametrize(
    ("option", "says"), [("--max-size", "is not a size"), ("--older-than", "is not a time"), ("--grace", "is not a time")]
)
def test_the_command_line_names_the_option_whose_value_is_wrong(option: str, says: str, tmp_path: Path) -> None:
    done = ttbert("cache", "gc", option, "soon", "--cache", tmp_path / "cache")
    assert done.exit_code == 2 and done.out == ""
    assert f"invalid value for '{option}': 'soon' {says}" in done.err
