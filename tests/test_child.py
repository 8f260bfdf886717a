"""What processes that ttbert starts promise: they are this ttbert, wherever they start, and their errors are passed on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import tiny
from program import environment, make_hook, ttbert

from ttbert.child import python_command

CLI = "from ttbert.cli import main; main()"
QUESTION = [{"context": "the tea is hot", "question": "is it tea"}]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder in which a user works: modules of theirs with the names of others', a clone called ttbert, a model."""
    for name in ("numpy", "torch", "ttnn", "json", "ttbert_hook"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the module of somebody else')")
    (tmp_path / "ttbert").mkdir()
    (tmp_path / "input.json").write_text(json.dumps(QUESTION))
    tiny.write(tmp_path / "-model", tiny.checkpoint())
    return tmp_path


def run_there(folder: Path, *arguments: str, **extra: str) -> subprocess.CompletedProcess[bytes]:
    env = environment(**extra)
    return subprocess.run(python_command(CLI, *arguments), cwd=folder, env=env, capture_output=True, timeout=200, check=False)


def test_demo_converts_in_a_folder_with_anything_in_it_and_a_model_with_a_dash(folder: Path) -> None:
    arguments = ("demo", "--model=-model", "--batch", "1", "--input", "input.json", "--cache", "cache", "--json")
    done = run_there(folder, *arguments)
    assert done.returncode == 0, done.stderr.decode()
    assert len(json.loads(done.stdout)["answers"]) == 1 and b"converting it first" in done.stderr


def test_check_of_a_mock_device_starts_in_a_folder_with_anything_in_it(folder: Path) -> None:
    done = run_there(folder, "plan", "bundled", "--board", "n150", "--batch", "1", "--check")
    assert done.returncode == 0 and b"accepted by TT-NN on a mock n150" in done.stdout, done.stderr.decode()


def test_error_of_a_conversion_is_the_demos_error_told_once(folder: Path) -> None:
    weights = folder / "-model" / "model.safetensors"
    os.truncate(weights, 1000)
    arguments = ("demo", "--model=-model", "--batch", "1", "--input", "input.json", "--cache", "cache", "--json")
    done = run_there(folder, *arguments)
    error = json.loads(done.stdout)["error"]
    assert done.returncode == error["exit_code"] == 3 and error["kind"] == "UnreadableError"
    assert str(weights) in error["message"] and error["hint"]
    assert done.stderr.decode().count("error:") == 1 and error["message"] in done.stderr.decode()


def test_conversion_that_was_killed_is_told_as_such(folder: Path, tmp_path: Path) -> None:
    hook = make_hook(tmp_path / "hook", "import os, sys\nif 'convert' in sys.argv: os.kill(os.getpid(), 9)")
    arguments = ("demo", "--model=-model", "--batch", "1", "--input", "input.json", "--cache", "cache", "--json")
    done = run_there(folder, *arguments, PYTHONPATH=str(hook))
    assert done.returncode == 1 and b"ended by signal 9" in done.stderr
    assert "signal 9" in json.loads(done.stdout)["error"]["message"]


def test_usage_error_is_a_document_too(tmp_path: Path) -> None:
    done = ttbert("demo", "--batch", "none", "--json")
    assert done.exit_code == 2 and len(done.err.splitlines()) == 2
    assert done.document["error"]["kind"] == "InputError" and "'none'" in done.document["error"]["message"]


def test_cache_in_memory_is_refused_before_anything_is_converted() -> None:
    for command in (("convert", "bundled"), ("demo", "--model", "bundled")):
        ttbert(*command, "--cache", "memory://x").failed_at_once(2, "memory://x ends with this command")


def test_folder_that_cannot_be_printed_is_refused_before_anything_is_converted(tmp_path: Path) -> None:
    folder = tiny.write(tmp_path / "line\nbreak", tiny.checkpoint())
    ttbert("convert", folder, "--cache", tmp_path / "cache").failed_at_once(2, "line\\nbreak", "cannot be printed")
    assert not (tmp_path / "cache").exists()


def test_git_lfs_pointer_in_the_place_of_weights_is_named(tmp_path: Path) -> None:
    folder = tiny.write(tmp_path / "model", tiny.checkpoint())
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"
    (folder / "model.safetensors").write_bytes(pointer)
    ttbert("convert", folder, "--cache", tmp_path / "cache").failed(3, "is a git-lfs pointer", "git lfs pull")
    shutil.move(folder / "model.safetensors", folder / "pytorch_model.bin")
    ttbert("convert", folder, "--cache", tmp_path / "cache").failed(3, "is a git-lfs pointer", "git lfs pull")


def test_what_an_input_file_says_cannot_steer_the_terminal(tmp_path: Path) -> None:
    folder = tiny.write(tmp_path / "model", tiny.checkpoint())
    evil = "\033]0;owned\007\033[2J"
    (tmp_path / "input.json").write_text(json.dumps([{"context": f"tea {evil}tea", "question": f"is it {evil}tea"}]))
    arguments = ("--batch", "1", "--input", tmp_path / "input.json", "--cache", tmp_path / "cache")
    done = ttbert("demo", "--model", folder, *arguments).succeeded()
    assert not {"\033", "\007"} & set(done.out + done.err) and "\ufffd" in done.out
    missing = ttbert("demo", "--model", f"./{evil}", *arguments).failed_at_once(2, "is not there")
    assert "\033" not in missing.err
