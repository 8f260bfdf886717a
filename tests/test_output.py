"""Output that goes nowhere: a full disk, a pipe that nobody reads, a stream that is closed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import tiny
from models import open_local, publish
from program import Done, command, environment, objects, ttbert

from ttbert.cache.refs import Ref


def run_with(streams: str, *arguments: object) -> Done:
    """The command with its streams redirected in the shell's words, and buffered as they are for most users."""
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {streams}', "sh", *command(*arguments)],
        env=environment(PYTHONUNBUFFERED=""),
        capture_output=True,
        timeout=200,
        check=False,
    )
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode())


@pytest.mark.parametrize("json", [(), ("--json",)], ids=["text", "json"])
def test_a_result_that_does_not_fit_on_the_disk_is_an_error_of_two_lines(json: tuple[str, ...], tmp_path: Path) -> None:
    publish(open_local(tmp_path))
    run_with(">/dev/full", "cache", "ls", "--cache", tmp_path, *json).failed_at_once(10, "no space left")
    run_with(">/dev/full", "cache", "show", "nope", "--cache", tmp_path, *json).failed_at_once(2, "is called 'nope'")


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8", "utf-8:strict", "ascii"])
def test_what_the_terminal_has_no_letters_for_is_written_as_an_escape(encoding: str, tmp_path: Path) -> None:
    """Names of others in a shared cache, and folders whose names are no text."""
    name, root = "local/\N{CYRILLIC SMALL LETTER ZHE}\N{GRINNING FACE}", tmp_path / "b\udcff"
    publish(open_local(root), Ref(name, None, "bfp8"), repo=name)

    def run(*arguments: str) -> Done:
        return ttbert("cache", *arguments, "--cache", root, PYTHONIOENCODING=encoding).succeeded()

    (row,) = run("ls", "--json").document
    assert (row["ref"], row["repo"]) == (f"{name}:bfp8", name)
    assert run("info", "--json").document["cache"] == str(root)
    for verb in (("ls",), ("info",), ("show", row["manifest"]), ("verify",)):
        assert run(*verb).out


def test_a_reader_that_is_gone_is_told_nothing(tmp_path: Path) -> None:
    publish(open_local(tmp_path))
    for verb, exit_code in ((("ls",), 141), (("ls", "--json"), 141), (("show", "nope", "--json"), 2)):
        reader, writer = os.pipe()
        os.close(reader)
        arguments = command("cache", *verb, "--cache", tmp_path)
        done = subprocess.run(
            arguments, env=environment(PYTHONUNBUFFERED=""), stdout=writer, stderr=subprocess.PIPE, timeout=200, check=False
        )
        os.close(writer)
        assert done.returncode == exit_code and b"Traceback" not in done.stderr and b"should not" not in done.stderr


@pytest.mark.parametrize("streams", ["2>/dev/full", "2>&-", "0<&- 2>&-"])
def test_what_cannot_be_told_on_stderr_ends_nothing(streams: str, tmp_path: Path) -> None:
    folder = tiny.write(tmp_path / "tiny", tiny.checkpoint())
    told = ttbert("convert", folder, "--cache", tmp_path / "told").succeeded()
    done = run_with(streams, "convert", folder, "--cache", tmp_path / "untold")
    assert done.exit_code == 0 and done.out.splitlines()[1] == told.out.splitlines()[1]
    blobs = [{key for key in objects(tmp_path / cache) if key.startswith("blobs/")} for cache in ("told", "untold")]
    assert blobs[0] == blobs[1]
    assert run_with(streams, "convert", folder / "absent", "--cache", tmp_path / "untold").exit_code == 2
