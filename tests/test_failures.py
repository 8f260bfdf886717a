"""The table of failures says of each which test provokes it; those tests must be there."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parent
TABLE = (TESTS.parent / "docs" / "failures.md").read_text()
ROWS = re.findall(r"^\| (\d+) \|(.*)\|(.*)\|(.*)\|$", TABLE, re.MULTILINE)


def test_every_failure_has_a_row_with_a_test() -> None:
    assert [int(number) for number, *_ in ROWS] == list(range(1, 63))
    for number, *_, tests in ROWS:
        assert re.search(r"`test_\w+`", tests), number


def test_every_test_that_is_named_exists() -> None:
    defined = {
        name for path in TESTS.rglob("test_*.py") for name in re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)
    }
    named = set(re.findall(r"`(test_\w+)`", TABLE))
    assert named - defined == set()
