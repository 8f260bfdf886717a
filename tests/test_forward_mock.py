"""The forward pass on mock devices: TT-NN accepts every plan, L1 is as modelled, values are right, nothing leaks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from checkpoints import make_checkpoint
from on_mock import on_mock
from shapes import MANY_HEADS, SHAPES

from ttbert.boards import BOARDS
from ttbert.runtime.check import LEAST_PCC
from ttbert.runtime.checker import Request, judge_on
from ttbert.runtime.plan import largest_fitting_batch

MOCKED = [name for name, board in BOARDS.items() if board.runs]

CHART = {"n150": (7, 8), "n300": (7, 8), "p100": range(1, 12), "p150": range(1, 12)}
"""Batches of BERT-large on each chip of a board."""


@pytest.mark.parametrize("board", CHART)
def test_ttnn_accepts_all_24_layers_of_bert_large(board: str) -> None:
    requests = [Request(SHAPES["large"], batch, 384, "bfp8") for batch in CHART[board]]
    verdicts = list(judge_on(board, requests))
    assert [verdict.reason for verdict in verdicts] == [""] * len(requests)
    assert {verdict.ops for verdict in verdicts} == {7 + 11 * 24}


@pytest.mark.parametrize("number", range(len(MOCKED)), ids=MOCKED)
def test_ttnn_accepts_plans_of_every_shape(number: int) -> None:
    """One plan of each shape a board; over the boards every shape meets every policy, at most lengths.

    `benchmarks/plans.py` goes through all of them, and many more shapes.
    """
    board = MOCKED[number]
    requests = []
    for i, shape in enumerate([*SHAPES.values(), *MANY_HEADS.values()]):
        tokens = (128, 256, 384, 512)[(number + i) % 4]
        policy = ("bfp8", "bf16", "bfp4")[(number + i) % 3]
        if most := largest_fitting_batch(shape, tokens, BOARDS[board].chip, policy):
            requests.append(Request(replace(shape, layers=2), 1 if (number + i) % 5 == 0 else most, tokens, policy))
    assert len(requests) >= len(SHAPES)
    refused = [
        (request, verdict.op, verdict.reason)
        for request, verdict in zip(requests, judge_on(board, requests), strict=True)
        if not verdict.accepted
    ]
    assert refused == []


@pytest.mark.parametrize("board", ["n150", "p150"])
def test_model_of_l1_is_exact(board: str) -> None:
    """Circular buffers, live buffers and the lowest of their addresses, of every op."""
    most = BOARDS[board].largest_batch
    cases = [
        ["large", 8, 384, "bfp8", False],
        ["large", most, 384, "bfp8", True],
        ["large", 3, 384, "bf16", False],
        ["large", 8, 384, "bfp4", False],
        ["base", 4, 512, "bfp8", False],
        ["minilm", most, 384, "bf16", True],
        ["tiny", most, 128, "bfp8", False],
        ["one head", 1, 384, "bfp8", False],
        ["five cores", 3, 256, "bfp8", False],
        ["seven heads", 2, 96, "bfp8", False],
        ["three a core", 7, 256, "bf16", False],
        ["eight a core", 2, 128, "bfp8", True],
        ["eleven on one core", 5, 160, "bfp4", False],
    ]
    for case, ops in zip(cases, on_mock(board, "measures", cases), strict=True):
        wrong = {op: figures for op, figures in ops.items() if figures[0] != figures[1]}
        assert wrong == {}, case


def test_hundred_passes_leak_nothing() -> None:
    after = on_mock("n150", "leaks")
    assert after["1"] == after["100"]


@pytest.fixture(scope="module")
def shadows(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The bundled model's shadow run by the right plan and by wrong ones."""
    folder: Path = tmp_path_factory.mktemp("cache")
    return on_mock("n150", "wrong", str(folder))


def test_values_are_those_of_the_reference(shadows: Any) -> None:
    assert shadows["right"]["pcc"] >= LEAST_PCC and shadows["right"]["worst"] >= LEAST_PCC


def test_values_are_those_of_the_reference_however_heads_lie_on_cores(tmp_path: Path) -> None:
    """One head a core, two, three, and eleven on the only core; two layers of BERT-large's width are the second."""
    shapes: list[dict[str, Any]] = [
        {"hidden": 320, "heads": 5},
        {"hidden": 1024, "heads": 16, "deviation": 0.04},
        {"hidden": 288, "heads": 9},
        {"hidden": 352, "heads": 11},
    ]
    folders = [str(make_checkpoint(tmp_path / str(number), **each)) for number, each in enumerate(shapes)]
    for shape, found in zip(shapes, on_mock("n150", "compared", [str(tmp_path / "cache"), *folders]), strict=True):
        assert min(found["pcc"], found["worst"]) >= LEAST_PCC, shape


def test_what_a_device_computes_is_read_back_op_by_op(tmp_path: Path) -> None:
    """From a device that is a shadow, and so computes, come the shadow's own values; from a mock device zeros, of every op."""
    in_shadow, from_shadow, from_mock = on_mock("n150", "read_back", str(tmp_path))
    assert from_shadow == in_shadow
    assert [each["op"] for each in from_mock["ops"]] == [each["op"] for each in in_shadow["ops"]]
    assert {each["pcc"] for each in from_mock["ops"]} == {0}


def test_ttnn_refuses_a_wrong_shard_width(shadows: Any) -> None:
    assert "refused" in shadows["shard width halved"]


@pytest.mark.parametrize("case", ["bias dropped", "heads swapped", "heads split by the other op", "mask skipped"])
def test_values_of_a_wrong_plan_are_noticed(shadows: Any, case: str) -> None:
    assert shadows[case]["pcc"] < LEAST_PCC, shadows[case]
