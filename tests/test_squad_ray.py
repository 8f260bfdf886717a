"""`ttbert squad --ray` on two Ray nodes in two network namespaces: the same result to the last bit, whatever gets lost."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from program import Done, ttbert
from ray_nodes import Nodes, ray_environment, two_nodes
from squads import built_in, write

from ttbert.squad.document import N_BEST, NULL_ODDS, PREDICTIONS, RUN

QUESTIONS = 96
BATCHES = QUESTIONS // 2
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with two_nodes() as started:
        yield started


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a cache that holds the bundled model, a data set, and the result of one machine alone."""
    folder = tmp_path_factory.mktemp("ray")
    write(folder / "data.json", built_in(QUESTIONS))
    ttbert(*arguments(folder, folder / "alone"), **ONE_THREAD).succeeded()
    return folder


def arguments(place: Path, output: Path, *more: object) -> list[object]:
    files = ["--data", place / "data.json", "--cache", place / "cache", "--output", output]
    return ["squad", "--model", "bundled", "--offline", "--batch", 2, *files, *more]


def start(nodes: Nodes, *arguments: object, **extra: str) -> subprocess.Popen[str]:
    command = [*nodes.head.inside, sys.executable, "-m", "ttbert", *map(str, arguments)]
    environment = {name: value for name, value in ray_environment().items() if not name.startswith("TTBERT_")}
    return subprocess.Popen(command, env=environment | extra, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> Done:
    out, err = process.communicate(timeout=200)
    return Done(process.returncode, out, err)


def wait_for_batches(process: subprocess.Popen[str], output: Path) -> None:
    """Until some of the batches are in the journal, and most are not."""
    journal = output / "journal"
    deadline = time.monotonic() + 120
    while (not journal.exists() or journal.stat().st_size < 8_000) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def files(output: Path) -> dict[str, object]:
    """All that a run says, without its timings."""
    found = {name: json.loads((output / name).read_text()) for name in (PREDICTIONS, NULL_ODDS, N_BEST, RUN)}
    for name in ("timings", "questions_per_second"):
        del found[RUN][name]
    return found


def timings(output: Path) -> dict[str, float]:
    return json.loads((output / RUN).read_text())["timings"]


def test_machine_lost_in_the_middle_changes_nothing(nodes: Nodes, place: Path, tmp_path: Path) -> None:
    process = start(nodes, *arguments(place, tmp_path, "--ray", nodes.address))
    wait_for_batches(process, tmp_path)
    nodes.second.kill()
    done = finish(process).succeeded()
    assert "2 workers of the Ray cluster" in done.err and "is lost; 1 left" in done.err
    assert files(tmp_path) == files(place / "alone")
    assert timings(tmp_path)["workers"] == 2 and timings(tmp_path)["resumed_batches"] == 0


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM], ids=lambda how: how.name)
def test_interrupted_run_of_a_cluster_goes_on_without_one(
    nodes: Nodes, place: Path, tmp_path: Path, how: signal.Signals
) -> None:
    process = start(nodes, *arguments(place, tmp_path, "--ray", nodes.address))
    wait_for_batches(process, tmp_path)
    subprocess.run([*nodes.head.inside, "kill", f"-{how}", str(process.pid)], check=True)
    done = finish(process)
    assert done.exit_code == 128 + how and "--resume" in done.err and "Traceback" not in done.err
    ttbert(*arguments(place, tmp_path, "--resume"), **ONE_THREAD).succeeded()
    assert 0 < timings(tmp_path)["resumed_batches"] < BATCHES
    assert files(tmp_path) == files(place / "alone")


def test_machines_that_compute_differently_are_refused(nodes: Nodes, place: Path, tmp_path: Path) -> None:
    nodes.second.kill()
    nodes.start_second(ATEN_CPU_CAPABILITY="default")
    try:
        done = finish(start(nodes, *arguments(place, tmp_path, "--ray", nodes.address)))
    finally:
        nodes.second.kill()
    done.failed(14, "DEFAULT", "make them alike")


def test_cluster_without_room_is_refused(nodes: Nodes, place: Path, tmp_path: Path) -> None:
    threads = {"OMP_NUM_THREADS": "2"}
    done = finish(start(nodes, *arguments(place, tmp_path, "--ray", nodes.address), **threads))
    done.failed(14, "no machine of the Ray cluster has 2 cores", "OMP_NUM_THREADS")


def test_damaged_weights_end_the_run_with_their_own_error(nodes: Nodes, place: Path, tmp_path: Path) -> None:
    """What a worker meets reaches the user as if it had happened here."""
    cache = tmp_path / "cache"
    ttbert("convert", "bundled", "--cache", cache).succeeded()
    largest = max(cache.glob("blobs/*/*"), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[-1] ^= 1
    largest.chmod(0o644)
    largest.write_bytes(content)
    done = finish(start(nodes, *arguments(place, tmp_path, "--cache", cache, "--ray", nodes.address)))
    done.failed(7, largest.name)


def test_absent_cluster_is_two_lines(place: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs the extra `ray`")
    ttbert(*arguments(place, tmp_path, "--ray", "127.0.0.1:9")).failed(14, "no Ray cluster at 127.0.0.1:9", "ray start")
    ttbert(*arguments(place, tmp_path, "--ray", "auto")).failed(2, "'auto' is not the address", "10.0.0.1:6379")
