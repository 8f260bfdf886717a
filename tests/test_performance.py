"""docs/performance.md shows what the records of whole runs say, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import performance
from benchmarks.__main__ import BENCHMARKS


@pytest.mark.parametrize("path", [performance.README, performance.PAGE], ids=lambda path: path.name)
def test_pages_are_made_of_the_records(path: Path) -> None:
    page = path.read_text()
    assert "benchmarks/performance.py: " in page and performance.filled_in(page, performance.read_runs()) == page


def test_every_record_is_of_a_whole_run() -> None:
    for name, run in performance.read_runs().items():
        assert run.keys() == BENCHMARKS.keys(), name


def test_every_table_of_the_last_run_is_shown_and_drawn() -> None:
    page = performance.PAGE.read_text()
    for name, document in list(performance.read_runs().values())[-1].items():
        assert (performance.RECORDS / f"{name}.svg").exists()
        for number, table in enumerate(document["tables"]):
            assert f"benchmarks/performance.py: {name} {number} -->\n| {table['title']} |" in page, (name, number)
