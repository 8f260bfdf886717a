"""The benchmarks run, on small inputs, and report what they say they do. Nothing here depends on how long anything takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks.measure import Case, can_evict, compare, evict, warm
from ttbert.errors import TtbertError

ROOT = Path(__file__).parent.parent


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def report_of(name: str, *arguments: object) -> dict[str, Any]:
    done = run(name, "--small", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    (report,) = json.loads(done.stdout)
    assert report["name"] == name and report["machine"]["cores"] and report["machine"]["ttbert"]
    for table in report["tables"]:
        for row in table["rows"]:
            assert row["fastest"] <= row["seconds"] <= row["slowest"] and row["seconds"] > 0, row
            assert row["peak_rss"] > 0 and row["samples"], row
    return dict(report)


def names(table: dict[str, Any]) -> list[str]:
    return [row["name"] for row in table["rows"]]


def test_load_compares_the_same_bytes_warm_and_cold(tmp_path: Path) -> None:
    report = report_of("load", "--folder", tmp_path)
    tables = report["tables"]
    assert len(tables) == 1 + can_evict(tmp_path) and len(tables) + len(report["notes"]) == 2
    for table in tables:
        assert names(table) == [
            "ttbert, digests checked",
            "from_pretrained, as_tensor",
            "the same, no weight read",
            "ttnn.load_tensor of each, copied",
            "safetensors load_file, copied",
        ]
        assert table["rows"][0]["ours_to_this"] == 1 and table["limit"]["seconds"] > 0


def test_s3_compares_the_same_bytes_and_names_the_peers_that_are_missing(tmp_path: Path) -> None:
    report = report_of("s3", "--folder", tmp_path)
    table, machines = report["tables"]
    peers = [
        *("s3fs cat, a tensor an object", "obstore, the same, 64 at once"),
        *("boto3, the same, 8 threads", "Run:ai streamer, one safetensors"),
    ]
    missing = [note.partition(":")[0] if not note.startswith("Run:ai") else peers[3] for note in report["notes"]]
    assert names(table)[:3] == ["ttbert, into an empty local tier", "ttbert, the same until it is fsynced", "ttbert --no-local"]
    assert sorted(names(table)[3:-1] + missing) == sorted(peers)
    assert names(table)[-1] == "writing a file of as much, fsynced"
    assert table["limit"]["seconds"] > 0 and table["rows"][0]["cpu_ours_to_this"] == 1
    assert [len(row["samples"]) for row in machines["rows"]] == [1, 8, 1, 8, 8]


def test_startup_runs_whole_commands() -> None:
    (table,) = report_of("startup")["tables"]
    assert names(table) == ["ttbert --help", "ttbert cache ls, 5 models", "import ttnn", "import torch"]


def test_hash_measures_each_digest_and_draws_it(tmp_path: Path) -> None:
    (table,) = report_of("hash", "--rounds", 2, "--plot", tmp_path / "hash.png")["tables"]
    assert names(table)[0].startswith("BLAKE3") and all(len(row["samples"]) == 2 for row in table["rows"])
    with Image.open(tmp_path / "hash.png") as picture:
        assert picture.width > 500 and len(picture.convert("L").getcolors() or ()) > 20


def test_infer_runs_the_same_questions_in_transformers() -> None:
    (table,) = report_of("infer")["tables"]
    lengths = ("384 tokens", "real length")
    ours = [f"ttbert, {precision}, {length}" for precision in ("bfloat16", "float32") for length in lengths]
    assert names(table) == [*ours, "transformers, float32, 384 tokens", "transformers, bfloat16, 384 tokens"]


def test_scale_counts_layers_and_models() -> None:
    tables = {table["title"]: table for table in report_of("scale")["tables"]}
    assert set(tables) == {
        *("ttbert convert", "loading, page cache warm"),
        *("ttbert cache ls", "ttbert cache verify --fast", "ttbert cache gc --dry-run"),
    }
    assert [row["count"] for row in tables["ttbert convert"]["rows"]] == [1, 2]
    assert [row["count"] for row in tables["ttbert cache ls"]["rows"]] == [2, 4]


def test_an_unknown_benchmark_is_refused() -> None:
    done = run("everything")
    assert done.returncode == 2 and "load" in done.stderr


def test_a_case_that_fails_ends_the_benchmark() -> None:
    with pytest.raises(TtbertError, match="the case broken failed with exit code 1"):
        compare([Case("broken", "hash:no_such_case")], rounds=1)


def test_cases_that_did_not_do_the_same_are_not_compared() -> None:
    cases = [Case(str(size), "hash:digest", {"name": "md5", "size": size}) for size in (1, 2)]
    with pytest.raises(AssertionError, match="did not do the same"):
        compare(cases, rounds=1)


def test_an_evicted_file_is_read_from_the_disk_again(tmp_path: Path) -> None:
    if not can_evict(tmp_path):
        pytest.skip(f"{tmp_path} is in memory")
    path = tmp_path / "file"
    path.write_bytes(os.urandom(1 << 20))
    warm([path])
    evict([path])
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with pytest.raises(BlockingIOError):
            os.preadv(descriptor, [bytearray(1)], 0, os.RWF_NOWAIT)
    finally:
        os.close(descriptor)
