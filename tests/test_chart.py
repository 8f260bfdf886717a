"""The chart of README.md is that of a recorded run, of a supported TT-NN, and agrees with the plans of today."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from shapes import SHAPES

from benchmarks import chart
from ttbert.boards import BOARDS
from ttbert.runtime.check import LEAST_PCC
from ttbert.runtime.plan import largest_fitting_batch

LARGE = SHAPES["large"]


@pytest.fixture(scope="module")
def record() -> Any:
    return json.loads(chart.RECORD.read_text())


@pytest.mark.parametrize("place", chart.PLACES, ids=lambda place: place.name)
def test_tables_are_those_of_the_record(record: Any, place: Path) -> None:
    assert f"{chart.BEGIN}\n{chart.table(record, chart.PLACES[place])}\n{chart.END}" in place.read_text()


@pytest.mark.parametrize("name", BOARDS)
def test_recorded_batches_are_those_that_the_plans_hold(record: Any, name: str) -> None:
    board = BOARDS[name]
    found = record["boards"][name]["batches"]
    most = largest_fitting_batch(LARGE, chart.TOKENS, board.chip, chart.POLICY)
    assert [each["batch"] for each in found] == list(chart.BATCHES)
    assert [each["batch"] for each in found if each["accepted"]] == list(range(1, most + 1))
    if board.runs:
        assert {each["ops"] for each in found if each["accepted"]} == {7 + 11 * 24}


def test_chart_is_made_by_checks(tmp_path: Path) -> None:
    """As BERT-large's, with a smaller model over as many cores."""
    found = chart.run(tmp_path, ("e150", "n150"), hidden=256, heads=8, layers=1)
    e150, n150 = (found["boards"][name]["batches"] for name in ("e150", "n150"))
    assert all(each["accepted"] and each["peak"] <= each["usable"] for each in e150)
    assert [each["accepted"] for each in n150] == [True] * 8 + [False] * 4
    assert all("has no L1 bank on this device, which has 64" in each["reason"] for each in n150[8:])
    assert min(found["values"]["start"], found["values"]["end"]) >= LEAST_PCC
    assert "| 9 to 12 | fits | refused |" in chart.table(found, ("e150", "n150"))


def test_recorded_values_are_those_of_the_reference(record: Any) -> None:
    assert min(record["values"]["start"], record["values"]["end"]) >= LEAST_PCC
