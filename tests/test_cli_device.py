"""Commands on a mock device in the environment: the whole way from the cache to the device and back, and no pretence."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from program import NO_SOCKETS, Done, imported, make_hook, objects, ttbert
from squads import built_in, write

from ttbert.runtime.mock import mock_environment


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a cache that holds the bundled model, and room for mock devices."""
    folder = tmp_path_factory.mktemp("device")
    ttbert("convert", "bundled", "--cache", folder / "cache").succeeded()
    return folder


@pytest.fixture
def on(place: Path) -> Callable[..., Done]:
    """Runs a command with the bundled model in an environment whose device is a mock of the board."""

    def run(board: str, command: str, *arguments: object, hook: Path | None = None, **extra: str) -> Done:
        env = mock_environment(board, place / "mock") | extra
        extra_options = [] if "--cache" in arguments else ["--cache", place / "cache"]
        return ttbert(command, "--model", "bundled", *extra_options, *arguments, env=env, hook=hook, TTBERT_BOARD="auto")

    return run


def test_demo_on_two_chips_comes_from_the_cache_alone_and_claims_no_answer(
    on: Callable[..., Done], place: Path, tmp_path: Path
) -> None:
    before = objects(place / "cache")
    hook = make_hook(tmp_path / "hook", NO_SOCKETS)
    done = on("n300", "demo", "--json", "--batch", 8, hook=hook, PYTHONPROFILEIMPORTTIME="1").succeeded()
    roots = {name.partition(".")[0] for name in imported(done)}
    assert not roots & {"torch", "transformers", "huggingface_hub", "safetensors"}
    assert objects(place / "cache") == before

    document = done.document
    assert "mock n300: 2 chips of wormhole_b0 with 8 x 8 cores, batch 8 on each, 16 in all" in done.err
    assert "a mock device computes nothing" in done.err
    assert document["board"] == "mock n300" and document["batches"] == 1 and document["windows"] == 16
    assert document["answers"] is None and document["inputs_per_second"] is None
    loading = document["device"].pop("loading")
    assert loading.pop("bytes") > 19e6 and min(loading.values()) > 0
    version = document["device"].pop("ttnn")
    assert version and document["device"] == {
        "mock": True,
        "arch": "wormhole_b0",
        "chips": 2,
        "grid": [8, 8],
        "batch": 8,
        "inputs_at_once": 16,
        "traced": False,
    }


def test_demo_says_of_each_question_that_a_mock_device_answers_nothing(on: Callable[..., Done]) -> None:
    done = on("p150", "demo", "--board", "p150", "--batch", 3).succeeded()
    assert done.out.count("a mock device computes no answer") == 3 and "[[" not in done.out
    assert "inputs/s           none" in done.out and "digests checked" in done.out


def test_slow_dispatch_runs_without_a_trace_and_says_so(on: Callable[..., Done]) -> None:
    done = on("n150", "demo", "--batch", 1, "--trace", TT_METAL_SLOW_DISPATCH_MODE="1").succeeded()
    assert "no trace, as TT-NN records none here (Not supported for slow dispatch)" in done.err


def test_what_the_device_cannot_be_or_hold_is_said_in_two_lines(on: Callable[..., Done], tmp_path: Path) -> None:
    on("n300", "demo", "--board", "n150").failed_at_once(
        12, "the device here is no n150", "calls n300: 2 chips", "--board auto"
    )
    on("n150", "demo", "--batch", 9).failed_at_once(4, "batch 9", "--batch 8 or less")
    on("n150", "demo", "--trace").failed_at_once(12, "no trace on a mock device")
    on("n150", "squad", "--compare", "cpu").failed_at_once(2, "computes nothing that could be scored")
    on("t3000", "demo").failed_at_once(
        2, "24 built-in questions, and a batch of 8 on each of 8 chips is 64", "--batch 3 or less"
    )
    long = tmp_path / "long.json"
    long.write_text(json.dumps([{"context": "tea", "question": "tea " * 400}]))
    on("n150", "demo", "--batch", 1, "--input", long).failed(2, "the question has 400 tokens")


def test_missing_compiler_of_kernels_is_said_in_two_lines(place: Path) -> None:
    env = mock_environment("n150", place / "mock")
    if "sfpi" in Path(env["TT_METAL_RUNTIME_ROOT"]).parts:
        pytest.skip("SFPI is installed, so its absence cannot be tested")
    del env["TT_METAL_RUNTIME_ROOT"]
    done = ttbert("demo", "--model", "bundled", "--cache", place / "cache", env=env, TTBERT_BOARD="auto")
    done.failed_at_once(12, "SFPI, the compiler of TT-NN's kernels, is not installed", "tenstorrent/sfpi/releases")


def test_read_only_cache_serves_a_device(on: Callable[..., Done], place: Path, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=40m", small_disk], check=True)
    subprocess.run(["cp", "-a", f"{place / 'cache'}/.", small_disk], check=True)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    on("n150", "demo", "--batch", 1, "--cache", small_disk).succeeded()


def test_squad_on_a_mock_device_runs_whole_batches_and_claims_no_score(on: Callable[..., Done], tmp_path: Path) -> None:
    data = write(tmp_path / "data.json", built_in(20))
    arguments = ("--data", data, "--batch", 8, "--output", tmp_path / "out")
    ran = on("n300", "squad", *arguments, "--json", PYTHONPROFILEIMPORTTIME="1").succeeded()
    assert not {name.partition(".")[0] for name in imported(ran)} & {"torch", "transformers", "huggingface_hub"}
    done = ran.document
    assert done["score"] is None and done["provenance"]["board"] == "mock n300" and done["provenance"]["batch"] == 16
    assert not done["provenance"]["real_length"] and done["timings"]["batches"] == 2 and done["timings"]["rows"] == 32
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"journal", "journal.finished"}
    again = on("n300", "squad", *arguments, "--resume").succeeded()
    assert "2 batches, 2 of them from the journal" in again.out and "no score, and no files" in again.out


def test_bench_on_a_mock_device_leaves_out_what_it_cannot_tell(on: Callable[..., Done]) -> None:
    done = on("n150", "bench", "--batch", 8, "--seconds", 0.2, "--json").succeeded().document
    assert done["board"] == "mock n150" and done["device"]["mock"] and done["pcc"] is None
    (speed,) = done["speeds"]
    assert speed["inputs_per_second"] is speed["latency_ms"] is speed["batch_ms"] is None
    assert speed["host_ms"] > 0 and speed["batches"] > 0 and done["loading_seconds"]["bytes"] > 19e6


def test_check_of_a_device_wants_one_that_computes(place: Path) -> None:
    env = mock_environment("n150", place / "mock")
    ttbert("check", "bundled", "--device", "--cache", place / "cache", env=env).failed_at_once(12, "computes nothing")


@pytest.mark.skipif(Path("/dev/tenstorrent").exists(), reason="there is a card, so its absence cannot be tested")
def test_bench_without_a_device_is_a_device_error() -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("TT_")}
    done = ttbert("bench", "--model", "bundled", env=env).failed_at_once(12, "no Tenstorrent device is here")
    _, command, _ = done.err.split("`")
    assert "--check" in command
    ttbert(*shlex.split(command)[1:], env=env).succeeded()
    ttbert("check", "bundled", "--device", env=env).failed_at_once(12, "no Tenstorrent device is here", "leave out --device")
    named = ttbert("bench", "--board", "n150", "--batch", 8, "--json", env=env)
    assert named.exit_code == named.document["error"]["exit_code"] == 12
