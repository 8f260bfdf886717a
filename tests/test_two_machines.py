"""Two machines with nothing in common but an S3 server, with the commands of the README."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import tiny
from ceph_server import CephServer
from machines import Lab, Machine
from s3_server import MotoServer, S3Server


@dataclass(frozen=True)
class Shared:
    """Two machines that share a cache, and the server that it is on."""

    first: Machine
    second: Machine
    server: S3Server
    bucket: str


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    """The cache is on Ceph where that is installed, or on moto's server."""
    why_not = Lab.why_not()
    if why_not:
        pytest.skip(why_not)
    server_type = MotoServer if CephServer.why_not() else CephServer
    with Lab(tmp_path_factory.mktemp("lab"), 2) as lab, server_type(lab.address) as server:
        bucket = server.bucket()
        yield Shared(*lab.machines({**server.env, "TTBERT_CACHE": f"s3://{bucket}/ttbert"}), server, bucket)


def test_one_machine_converts_and_the_other_loads(lab: Shared) -> None:
    first, second = lab.first, lab.second
    converted = first.ttbert("convert", "bundled", "--json").succeeded().document
    assert converted["hit"] is False
    demo = second.ttbert("demo", "--model", "bundled", "--json").succeeded()
    assert demo.document["manifest"] == converted["manifest"] and "fetching bundled" in demo.err
    assert demo.document["counters"]["bytes"]["cache"] == converted["bytes"]
    assert "complete" in second.ttbert("cache", "ls").succeeded().out
    second.ttbert("cache", "verify").succeeded()

    second.unplug()
    second.ttbert("cache", "pull", "bundled").failed(11, "unreachable")
    offline = second.ttbert("demo", "--model", "bundled", "--offline", "--json").succeeded()
    assert offline.document["answers"] == demo.document["answers"]
    second.plug_in()


def test_two_that_want_a_model_at_once_convert_it_once(lab: Shared) -> None:
    running = [
        subprocess.Popen(
            each.command("convert", "bundled", "--policy", "bf16"),
            env=each.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for each in (lab.first, lab.second)
    ]
    said = [each.communicate(timeout=200)[0] for each in running]
    assert [each.returncode for each in running] == [0, 0], said
    assert sorted("converted in" in each for each in said) == [False, True], said
    assert sum("is at work on this already" in each for each in said) == 1


def test_a_machine_whose_link_breaks_while_it_publishes_leaves_nothing_half(lab: Shared, tmp_path: Path) -> None:
    second = lab.second
    for layers in (24, 96, 384):  # each has a blob or two; where all were published before the link was down, more are needed
        folder = tiny.write(tmp_path / f"deep-{layers}", tiny.checkpoint(tiny.arrays(layers=layers), num_hidden_layers=layers))
        exit_code, said = _convert_until_unplugged(lab, folder)
        if exit_code:
            break
        assert folder.name in second.ttbert("cache", "ls").succeeded().out
        second.ttbert("cache", "verify").succeeded()
    assert exit_code == 11, said
    assert folder.name not in second.ttbert("cache", "ls").succeeded().out
    done = second.ttbert("convert", folder).succeeded()
    assert "converted in" in done.out
    second.ttbert("cache", "verify").succeeded()


def _convert_until_unplugged(lab: Shared, folder: Path) -> tuple[int, str]:
    """Convert on the first machine, its link taken down as soon as its lease is seen; how that ended, and what it said."""
    client = lab.server.client()
    command = lab.first.command("convert", folder)
    running = subprocess.Popen(
        command, env=lab.first.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    while running.poll() is None:
        if client.list_objects_v2(Bucket=lab.bucket, Prefix="ttbert/leases/").get("KeyCount"):
            lab.first.unplug()
            break
    said = running.communicate(timeout=200)[0]
    lab.first.plug_in()
    return running.returncode, said
