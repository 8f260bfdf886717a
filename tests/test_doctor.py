"""The doctor names what does not work, why, and what to do about it; and leaves nothing behind."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from models import files, open_local, publish
from program import Done, environment, ttbert
from s3_server import MotoServer

from ttbert.cache.doctor import Check, examine, exit_code
from ttbert.cache.stores.local import LocalStore
from ttbert.cache.stores.mounts import find_mount
from ttbert.cache.stores.store import Entry

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
AS_NOBODY = """
import os, sys
import ttbert.cli, ttbert.cache.doctor, ttbert.cache.cache
if os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
ttbert.cli.main()
"""
STEPS = [
    "resolve",
    "storage",
    "permissions",
    "list",
    "create",
    "create once",
    "read",
    "read a range",
    "clock",
    "delete",
    "space",
]


def run(*arguments: object) -> Done:
    return ttbert("cache", "doctor", *arguments)


def checks(done: Done) -> dict[str, dict[str, object]]:
    return {check["name"]: check for check in done.document["checks"]}


def failed(found: list[Check]) -> list[str]:
    return [check.name for check in found if check.state == "failed"]


def test_a_sound_folder_passes_every_step_and_is_left_as_it_was(tmp_path: Path) -> None:
    publish(open_local(tmp_path))
    before = files(tmp_path)
    done = run(tmp_path).succeeded()
    names = [line.split("  ")[1].strip().split("  ")[0] for line in done.out.splitlines()[1:] if not line.startswith(" " * 10)]
    assert len(names) == len(STEPS) and done.out.count("ok ") >= len(STEPS) - 1
    found = run("--json", "--cache", tmp_path).succeeded()
    assert [check["name"] for check in found.document["checks"]] == STEPS and found.document["exit_code"] == 0
    assert files(tmp_path) == before


def test_without_writing_nothing_is_written_and_readers_steps_are_tried(tmp_path: Path) -> None:
    found = checks(run(tmp_path / "new", "--no-write", "--json").succeeded())
    assert found["list"]["state"] == "ok" and found["write"]["state"] == "skipped"
    assert not (tmp_path / "new").exists()


def test_a_cache_that_is_not_there_is_said_to_be_so_and_not_made(tmp_path: Path) -> None:
    done = run(tmp_path / "not" / "there", "--json").succeeded()
    found = checks(done)
    assert found["resolve"]["state"] == "warning" and f"no folder {tmp_path}/not/there yet" in str(found["resolve"]["what"])
    assert "not mounted" in str(found["resolve"]["fix"]) and "no model yet" in str(found["list"]["what"])
    assert found["create"]["state"] == "ok" and list(tmp_path.iterdir()) == []


def test_what_cannot_be_opened_is_a_failed_check_and_the_other_tier_is_tried_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    done = run("--cache", tmp_path / "file", "--local", tmp_path / "local", "--json")
    rows = done.document["checks"]
    assert done.exit_code == 5 and rows[0]["name"] == "open" and "is a file" in rows[0]["what"] and "--cache" in rows[0]["fix"]
    assert [row["name"] for row in rows if row["tier"] == "local tier"] == STEPS
    assert "failed   open" in run(tmp_path / "file").out and (tmp_path / "file").read_bytes() == b"mine"
    done = run("s3://lab", "--json")
    assert done.exit_code == 11 and "no credentials were found" in checks(done)["open"]["what"]


def test_temporary_storage_is_a_warning_and_no_failure(small_disk: Path) -> None:
    found = checks(run(small_disk / "cache", "--json").succeeded())
    assert found["storage"]["state"] == "warning" and "gone when the machine restarts" in str(found["storage"]["what"])
    assert "--cache" in str(found["storage"]["fix"])
    assert found["space"]["state"] == "warning" and "hardly a model" in str(found["space"]["what"])
    assert re.match(r"[1-9]", str(found["space"]["what"])), "not 0.0 GB"


def test_a_full_disk_is_exit_code_10(small_disk: Path) -> None:
    with (small_disk / "filler").open("wb", buffering=0) as filler:
        while True:
            try:
                filler.write(b"x" * 4096)
            except OSError:
                break
    done = run(small_disk / "cache", "--json")
    found = checks(done)
    assert done.exit_code == 10 and found["create"]["state"] == "failed" and "gc" in str(found["create"]["fix"])
    assert found["space"]["state"] == "warning" and "TTBERT_NO_SPACE_CHECK" in str(found["space"]["fix"])


def test_a_read_only_mount_is_exit_code_9(small_disk: Path) -> None:
    publish(open_local(small_disk))
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    try:
        done = run(small_disk, "--json")
        assert done.exit_code == 9 and checks(done)["list"]["state"] == "ok"
        assert checks(done)["create"]["state"] == "failed"
        assert run(small_disk, "--no-write").exit_code == 0, "enough for a reader"
    finally:
        subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)


def as_nobody(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The doctor's word on a folder to a user who may reach it, and to whom nothing in it belongs."""
    opened = [path for path in folder.parents if path.name.startswith("pytest-") or path.parent.name.startswith("pytest-")]
    modes = [(path, path.stat().st_mode) for path in opened]
    for path in opened:
        path.chmod(0o755)
    try:
        return subprocess.run(
            [sys.executable, "-c", AS_NOBODY, "cache", "doctor", str(folder), *map(str, arguments)],
            env=environment(XDG_CONFIG_HOME="/nowhere"),
            capture_output=True,
            text=True,
            timeout=60,
        )
    finally:
        for path, mode in modes:
            path.chmod(mode)


def test_a_folder_of_somebody_else_is_exit_code_9_and_says_whose(tmp_path: Path) -> None:
    root = tmp_path / "theirs"
    root.mkdir(mode=0o755)
    done = as_nobody(root)
    assert done.returncode == 9 and "Traceback" not in done.stderr, done.stderr
    assert f"belongs to uid {os.geteuid()}" in done.stdout and "ask its owner" in done.stdout


@as_root
def test_a_place_that_may_not_be_looked_into_is_exit_code_9(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o700)
    done = as_nobody(tmp_path / "closed" / "cache")
    assert done.returncode == 9 and "Traceback" not in done.stderr and "should not" not in done.stderr, done.stderr
    assert f"{tmp_path / 'closed'} has mode 0700" in done.stdout


@as_root
def test_a_folder_in_the_cache_that_sudo_or_a_backup_left_closed_is_named_and_the_fix_works(tmp_path: Path) -> None:
    root = tmp_path / "the lab's"
    publish(open_local(root))
    (root / "blobs").chmod(0o755)
    root.chmod(0o777)
    done = as_nobody(root, "--json")
    found = {check["name"]: check for check in json.loads(done.stdout)["checks"]}["permissions"]
    assert done.returncode == 9 and "too few rights in" in found["what"] and str(root / "") in found["what"]
    subprocess.run(found["fix"].partition("root can run: ")[2], shell=True, check=True)
    assert as_nobody(root).returncode == 0


def test_a_folder_in_which_nobody_can_delete_what_others_wrote_is_a_warning(tmp_path: Path) -> None:
    root = tmp_path / "the lab's"
    root.mkdir()
    root.chmod(0o1777)
    found = checks(run(root, "--json").succeeded())["permissions"]
    assert found["state"] == "warning" and "no other can collect" in str(found["what"])
    subprocess.run(str(found["fix"]).partition("away: ")[2], shell=True, check=True)
    assert checks(run(root, "--json").succeeded())["permissions"]["state"] == "ok"


class OffByAnHour(LocalStore):
    """A store whose clock is wrong."""

    def head(self, key: str) -> Entry | None:
        entry = super().head(key)
        return dataclasses.replace(entry, modified=entry.modified + 3600) if entry else None


class Overwrites(LocalStore):
    """A store that forgets the condition of a create-only write."""

    def put(self, key: str, content: bytes | memoryview) -> bool:
        self.delete(key)
        return super().put(key, content)


class Elsewhere(LocalStore):
    """A store that is reached over a network."""

    def __init__(self, root: Path, host: str, port: int) -> None:
        super().__init__(root)
        self._endpoint = (host, port)

    def endpoint(self) -> tuple[str, int]:
        return self._endpoint


def test_a_wrong_clock_is_told(tmp_path: Path) -> None:
    found = {check.name: check for check in examine(OffByAnHour(tmp_path))}
    assert found["clock"].state == "warning" and "3600 s ahead" in found["clock"].what and "NTP" in found["clock"].fix


def test_a_store_that_overwrites_fails(tmp_path: Path) -> None:
    found = list(examine(Overwrites(tmp_path)))
    assert failed(found) == ["create once"] and exit_code(found) == 7
    assert files(tmp_path) == {}


def test_a_host_without_an_address_and_one_that_does_not_answer_are_told_apart(tmp_path: Path) -> None:
    found = list(examine(Elsewhere(tmp_path, "no-such-host.invalid", 443)))
    assert failed(found) == ["resolve"] and exit_code(found) == 11 and "no-such-host.invalid has no address" in found[-1].what
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        found = list(examine(Elsewhere(tmp_path, "127.0.0.1", closed.getsockname()[1])))
    assert failed(found) == ["connect"] and "refused" in next(check.what for check in found if check.name == "connect")
    with socket.create_server(("127.0.0.1", 0)) as server:
        found = list(examine(Elsewhere(tmp_path, "127.0.0.1", server.getsockname()[1])))
    assert failed(found) == [] and [check.name for check in found if check.state == "ok"].count("connect") == 1


def test_mounts_are_found_by_the_longest_point_and_the_last_of_two(tmp_path: Path) -> None:
    table = tmp_path / "mounts"
    folder = tmp_path / "a b"
    folder.mkdir()
    point = str(folder).replace(" ", "\\040")
    table.write_text(f"disk / ext4 rw 0 0\nhost:/x {point} nfs4 rw,vers=4.2 0 0\nnone {point} tmpfs ro 0 0\n")
    mount = find_mount(folder / "cache", table)
    assert (mount.point, mount.type, mount.is_temporary, mount.is_read_only) == (folder, "tmpfs", True, True)
    table.write_text(f"disk / ext4 rw 0 0\nhost:/x {point} nfs4 rw,vers=4.2 0 0\n")
    assert find_mount(folder / "cache", table).seen_within == 60 and find_mount(tmp_path, table).seen_within == 0
    assert find_mount(folder, tmp_path / "none").type == "unknown"
    for options, within in (("acdirmax=3", 60), ("acdirmin=3,acdirmax=300", 300), ("actimeo=300", 300)):
        table.write_text(f"host:/x {point} nfs rw,vers=3,{options},hard 0 0\n")
        assert find_mount(folder, table).seen_within == within  # other machines may have mounted it otherwise


@pytest.mark.parametrize(
    "type, within, leased",
    [("ext4", 0, True), ("fuseblk", 0, False), ("fuse", 60, False), ("fuse.sshfs", 60, False), ("virtiofs", 60, False)],
)
def test_what_a_program_serves_may_be_changed_elsewhere(type: str, within: float, leased: bool, tmp_path: Path) -> None:
    table = tmp_path / "mounts"
    table.write_text(f"served / {type} rw 0 0\n")
    mount = find_mount(tmp_path, table)
    assert mount.seen_within == within and mount.asks_for_leases is leased
    assert not find_mount(tmp_path, tmp_path / "none").asks_for_leases


@pytest.mark.parametrize("url", ["", "foo://x"])
def test_what_is_no_address_is_exit_code_2(url: str, tmp_path: Path) -> None:
    ttbert("cache", "doctor", "--cache", url).failed_at_once(2)


# Of buckets


def test_a_bucket_passes_and_the_tier_in_front_of_it_is_tried_too(moto: MotoServer, tmp_path: Path) -> None:
    url = f"s3://{moto.bucket()}/lab"
    done = ttbert("cache", "doctor", "--cache", url, "--local", tmp_path / "near", "--json", **moto.env).succeeded()
    found = {(check["tier"], check["name"]): check for check in done.document["checks"]}
    assert {check["state"] for check in found.values()} <= {"ok", "warning"}
    for name in ("credentials", "resolve", "connect", "authenticate", "create once", "read a range", "clock", "delete"):
        assert found["cache", name]["state"] == "ok"
    assert "AWS_ACCESS_KEY_ID" in found["cache", "credentials"]["what"] and moto.secret not in done.out
    assert found["local tier", "permissions"]["state"] == "ok"
    readable = ttbert("cache", "doctor", url, "--read-only", **moto.env).succeeded()
    assert "not tried, since nothing is to be written" in readable.out and "local tier" not in readable.out
    assert not moto.client().list_objects_v2(Bucket=url.split("/")[2]).get("Contents")


def test_a_bucket_that_is_not_there_and_a_server_that_is_not_there_are_told_apart(moto: MotoServer) -> None:
    done = ttbert("cache", "doctor", "s3://no-such-bucket-of-ours/x", "--json", **moto.env)
    found = checks(done)
    assert done.exit_code == 11 and found["connect"]["state"] == "ok" and found["authenticate"]["state"] == "failed"
    assert "there is no bucket" in str(found["authenticate"]["what"])
    wrong = {**moto.env, "AWS_ENDPOINT_URL_S3": "http://no-such-host.invalid:9000"}
    done = ttbert("cache", "doctor", "s3://bucket/x", "--json", **wrong)
    assert done.exit_code == 11 and checks(done)["resolve"]["state"] == "failed" and "authenticate" not in checks(done)
