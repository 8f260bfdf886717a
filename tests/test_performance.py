"""docs/performance.md shows what the records of whole runs say, and nothing else."""

from __future__ import annotations

from benchmarks import performance
from benchmarks.__main__ import BENCHMARKS


def test_the_page_is_made_of_the_records() -> None:
    page = performance.PAGE.read_text()
    assert performance.filled_in(page, performance.read_runs()) == page


def test_every_record_is_of_a_whole_run() -> None:
    for name, run in performance.read_runs().items():
        assert run.keys() == BENCHMARKS.keys(), name


def test_every_table_of_the_last_run_is_shown_and_drawn() -> None:
    page = performance.PAGE.read_text()
    for name, document in list(performance.read_runs().values())[-1].items():
        assert (performance.RECORDS / f"{name}.svg").exists()
        for number, table in enumerate(document["tables"]):
            assert f"benchmarks/performance.py: {name} {number} -->\n| {table['title']} |" in page, (name, number)
