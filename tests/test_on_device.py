"""The device runtime on mock devices: loading, order of commands, several chips, and values from golden functions."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from on_mock import on_mock
from program import ttbert

from ttbert.runtime.check import LEAST_PCC

work = partial(on_mock, script="device_work.py")
DOCUMENT = Path(__file__).parents[1] / "docs" / "device.md"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("device") / "cache"
    ttbert("convert", "bundled", "--cache", folder).succeeded()
    return str(folder)


@pytest.fixture(scope="module")
def loaded(cache: str) -> Any:
    return work("n150", "loads", cache)


@pytest.fixture(scope="module")
def ordered() -> Any:
    return work("n150", "order", TT_METAL_SLOW_DISPATCH_MODE="1")


def test_host_holds_one_piece_of_the_model_at_a_time(loaded: Any) -> None:
    assert loaded["tensors"] == 79 and loaded["bytes"] > 19e6
    assert loaded["held"] == 1


def test_device_path_imports_neither_torch_nor_anything_of_hugging_face(loaded: Any) -> None:
    assert loaded["imported"] == []


def test_packs_are_read_while_the_device_opens(cache: str) -> None:
    assert work("n150", "opening", cache)


def test_it_is_told_what_takes_so_long(cache: str) -> None:
    (told,) = work("n150", "slow", cache)
    assert "TT-NN compiles what it has not run on this machine before" in told


def test_hundred_batches_leak_nothing(loaded: Any, ordered: Any) -> None:
    assert loaded["leaked"] == ordered["leaked"] == [0, 0]


def test_streamed_batches_give_the_logits_of_the_reference(cache: str) -> None:
    """Each its own: inputs are overwritten in place, logits cut to two columns and turned."""
    values = work("n150", "values", cache)
    assert min(values["pcc"]) >= LEAST_PCC
    assert values["pcc with the other batch"] < 0.9 and values["pcc of starts with ends"] < 0.9


def test_bench_of_a_device_that_gives_zeros_finds_no_correlation(cache: str) -> None:
    found = work("n150", "measured", cache)
    speed = found["speed"]
    assert found["pcc"] == 0
    assert 0 < speed["host_ms"] < speed["latency_ms"] and speed["batches"] >= 1
    assert speed["inputs_per_second"] == pytest.approx(2 / (speed["batch_ms"] / 1000))


def test_second_queue_writes_a_batch_while_the_first_one_runs(ordered: Any) -> None:
    """Nothing is overwritten that is still to be read, and the host waits for nothing before both batches are begun."""
    assert ordered["calls"] == [
        "queue 1 waits for event before",
        "queue 1: copy_host_to_device_tensor",
        "queue 1 records event 0",
        "queue 0 waits for event 0",
        "queue 0: copy",
        "queue 0 records event 1",
        "queue 0: ops",
        "queue 0 reads, not blocking",
        "queue 0 records event 2",
        "queue 1 waits for event 1",
        "queue 1: copy_host_to_device_tensor",
        "queue 1 records event 3",
        "queue 0 waits for event 3",
        "queue 0: copy",
        "queue 0 records event 4",
        "queue 0: ops",
        "queue 0 reads, not blocking",
        "queue 0 records event 5",
        "the host waits for event 2",
        "the host waits for event 5",
    ]


def test_inputs_stay_where_a_trace_would_read_them(ordered: Any) -> None:
    assert not ordered["moved"]


def test_device_that_records_no_trace_goes_on_without(ordered: Any) -> None:
    assert ordered["refused"] == "Not supported for slow dispatch"


def test_each_chip_gets_its_rows_and_logits_come_back_in_order() -> None:
    assert work("n300", "chips") == {
        "first ids": [[0, 1000], [2000, 3000]],
        "unmasked": [[1, 2], [3, 4]],
        "same": [True, True],
        "refused": "inputs of (6, 128) where (4, 128) are planned",
    }


def test_document_has_the_commands_of_a_traced_batch(ordered: Any) -> None:
    """All but the replay, which takes the place of the ops."""
    calls = ordered["a batch"]
    assert calls == {
        "copy_host_to_device_tensor": 3,
        "copy": 3,
        "from_device": 1,
        "record_event": 3,
        "wait_for_event": 2,
        "event_synchronize": 1,
    }
    assert "| 8: 3 writes, 3 copies on the chip, a replay, a read; and 3 events, 2 waits |" in DOCUMENT.read_text()


def test_document_has_the_counts_of_a_batch() -> None:
    """BERT-large, batch 8 of 384 tokens."""
    whole, shorter = work("n150", "counts", 24), work("n150", "counts", 23)
    calls = whole["other calls"]
    assert calls.pop("copy_host_to_device_tensor") == 3 and calls.pop("from_device") == 1 and calls.pop("record_event") == 1
    assert not any(calls.values())
    document = DOCUMENT.read_text()
    for row in (
        ("ops in a batch", whole["ops"]),
        ("ops in a layer", whole["ops"] - shorter["ops"]),
        ("bytes sent to the device", whole["sent"]),
        ("bytes read back", whole["read back"]),
        ("bytes that ops read in DRAM", whole["read in DRAM"]),
    ):
        assert f"| {row[0]} | {row[1]:,} |" in document, row
