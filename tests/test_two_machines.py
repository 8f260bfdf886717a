"""Two machines with nothing in common but an S3 server, with the commands of the README."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
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


def test_a_machine_whose_link_breaks_while_it_publishes_leaves_nothing_half(lab: Shared) -> None:
    first, second = lab.first, lab.second
    client = lab.server.client()
    for policy in ("bfp4", "bf16"):
        command = first.command("convert", "bundled", "--policy", policy)
        running = subprocess.Popen(command, env=first.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        leased = False
        while not leased and running.poll() is None:
            leased = bool(client.list_objects_v2(Bucket=lab.bucket, Prefix="ttbert/leases/").get("KeyCount"))
        if leased:
            break
        out, err = running.communicate()
        assert running.returncode == 0 and "converted in" in out, out + err
    else:
        pytest.skip("both conversions were over before their leases were seen")
    first.unplug()
    out, err = running.communicate(timeout=200)
    first.plug_in()
    if running.returncode == 0:
        assert f":{policy}" in second.ttbert("cache", "ls").succeeded().out
        second.ttbert("cache", "verify").succeeded()
        pytest.skip("the conversion was over before its link was down")
    assert running.returncode == 11, out + err
    assert f":{policy}" not in second.ttbert("cache", "ls").succeeded().out
    done = second.ttbert("convert", "bundled", "--policy", policy).succeeded()
    assert "converted in" in done.out
    second.ttbert("cache", "verify").succeeded()
