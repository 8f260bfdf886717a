"""What is noted of large files: never the digest of anything but the very content."""

from __future__ import annotations

import hashlib
import os
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
import tiny
from huggingface_hub import constants
from program import objects, ttbert

from ttbert.cache.digest import Digest
from ttbert.child import python_command
from ttbert.convert import digests, mapped
from ttbert.convert.digests import compute_sha256, notes_folder, recall_sha256
from ttbert.convert.wanted import open_source
from ttbert.errors import IntegrityError, UnreadableError

SIZE = 17 << 20


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "model.safetensors"
    path.write_bytes(os.urandom(SIZE))
    return path


def sha256(path: Path) -> Digest:
    return Digest("sha256", hashlib.sha256(path.read_bytes()).hexdigest())


def test_large_file_is_recalled_once_it_was_computed(large: Path) -> None:
    assert recall_sha256(large) is None
    assert compute_sha256(large) == sha256(large) == recall_sha256(large)


def test_content_alone_decides_not_size_time_or_inode(large: Path) -> None:
    compute_sha256(large)
    before = large.stat()
    with large.open("r+b") as file:
        file.seek(SIZE // 2)
        byte = file.read(1)
        file.seek(SIZE // 2)
        file.write(bytes([byte[0] ^ 1]))
    os.utime(large, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (large.stat().st_ino, large.stat().st_size, large.stat().st_mtime_ns) == (before.st_ino, SIZE, before.st_mtime_ns)
    assert recall_sha256(large) is None
    assert compute_sha256(large) == sha256(large) == recall_sha256(large)


def test_copy_under_another_name_is_recalled(large: Path) -> None:
    compute_sha256(large)
    copy = large.with_name("copy")
    copy.write_bytes(large.read_bytes())
    assert recall_sha256(copy) == sha256(large)


@pytest.mark.parametrize("position", [10, 100, 140])
def test_damaged_note_is_none(large: Path, position: int) -> None:
    compute_sha256(large)
    (note,) = notes_folder().iterdir()
    text = bytearray(note.read_bytes())
    text[position] = ord("0") if text[position] != ord("0") else ord("1")
    note.write_bytes(text)
    assert recall_sha256(large) is None
    assert compute_sha256(large) == recall_sha256(large)


def test_note_of_another_file_of_the_size_is_not_taken_for_this_one(large: Path) -> None:
    other = large.with_name("other")
    other.write_bytes(os.urandom(SIZE))
    compute_sha256(other)
    (note,) = notes_folder().iterdir()
    compute_sha256(large)
    (mine,) = {*notes_folder().iterdir()} - {note}
    mine.write_bytes(note.read_bytes())
    assert recall_sha256(large) is None


def test_where_nothing_can_be_noted_it_is_computed_again(large: Path) -> None:
    notes_folder().parent.mkdir(parents=True, exist_ok=True)
    notes_folder().write_text("a file in the way")
    assert compute_sha256(large) == sha256(large)
    assert recall_sha256(large) is None


def test_who_is_told_to_stop_notes_nothing(large: Path) -> None:
    stop = Event()
    stop.set()
    with pytest.raises(CancelledError):
        compute_sha256(large, stop)
    assert not notes_folder().exists()


@pytest.mark.parametrize("size", [SIZE, 16 << 20, (20 << 20) - 1, (20 << 20) + 1, (200 << 20) + 1])
def test_what_threads_hash_side_by_side_is_found_again(large: Path, size: int) -> None:
    large.write_bytes(os.urandom(size))
    assert compute_sha256(large) == sha256(large) == recall_sha256(large)


def test_pieces_in_another_order_are_another_file(large: Path) -> None:
    content = os.urandom(16 << 20)
    large.write_bytes(content)
    compute_sha256(large)
    large.write_bytes(content[4 << 20 :] + content[: 4 << 20])
    assert recall_sha256(large) is None


def test_errors_of_hashing_ahead_are_those_of_hashing(large: Path) -> None:
    source = open_source(str(large.parent))
    assert source.known_digest(large.name) is None
    large.unlink()
    with source.hashing([large.name]), pytest.raises(UnreadableError):
        source.digest(large.name)


def test_whoever_does_not_want_what_is_hashed_ahead_does_not_wait_for_it(large: Path) -> None:
    source = open_source(str(large.parent))
    os.truncate(large, 1 << 40)  # which would take minutes
    with source.hashing([large.name]):
        pass
    assert not notes_folder().exists()


def test_a_file_that_is_cut_off_while_it_is_hashed_harms_nobody(large: Path) -> None:
    os.truncate(large, 64 << 20)
    content = large.read_bytes()
    compute_sha256(large)
    hashing = """
import sys
from pathlib import Path
from ttbert.convert.digests import recall_sha256
found = set()
print("begun", flush=True)
while not Path(sys.argv[2]).exists():
    found.add(str(recall_sha256(Path(sys.argv[1]))))
print(*sorted(found))
"""
    end = large.with_name("end")
    command = python_command(hashing, str(large), str(end))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline() == "begun\n"
        for _ in range(100):
            os.truncate(large, 16 << 20)
            with large.open("r+b") as file:
                file.write(content)
        end.touch()
        found = process.stdout.read().split()
    assert process.returncode == 0
    assert {*found} <= {"None", str(sha256(large))} and str(sha256(large)) == str(recall_sha256(large))


def test_a_file_that_somebody_writes_to_is_read(large: Path) -> None:
    compute_sha256(large)
    with large.open("r+b"):  # so there is no lease on it
        assert recall_sha256(large) == sha256(large)


def test_where_a_piece_cannot_be_fetched_ahead_the_file_is_read(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compute_sha256(large)
    monkeypatch.setattr(mapped, "_POPULATE_READ", 12345)  # as to an older kernel, which does not know it
    assert recall_sha256(large) == sha256(large)


@pytest.mark.parametrize("slow", ["_look_at_piece", "_read_piece"])
def test_the_quicker_way_is_taken_and_reading_keeps_no_writer_waiting(
    slow: str, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each way reads a piece, then the other way than the slow one the three that are left."""
    compute_sha256(large)
    begun = []

    def observed(way: str) -> Callable[..., bytes]:
        hash_piece = getattr(digests, way)

        def one(*arguments: Any) -> bytes:
            begun.append(way)
            time.sleep(0.2 * (way == slow))
            if way == "_read_piece":
                os.close(os.open(large, os.O_WRONLY | os.O_NONBLOCK))  # BlockingIOError if there were a lease
            return hash_piece(*arguments)

        return one

    monkeypatch.setattr(digests, "_TRIED", 1)
    for way in ("_look_at_piece", "_read_piece"):
        monkeypatch.setattr(digests, way, observed(way))
    assert recall_sha256(large) == sha256(large)
    assert begun.count(slow) == 1 and len(begun) == 5


def test_small_files_leave_no_notes(large: Path) -> None:
    small = large.with_name("config.json")
    small.write_text("{}")
    assert recall_sha256(small) == sha256(small) == compute_sha256(small)
    assert not notes_folder().exists()


def test_folder_is_hashed_once_and_recalled_after_that(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_source(str(large.parent))
    assert first.known_digest(large.name) is None
    assert first.digest(large.name) == first.known_digest(large.name) == sha256(large)
    monkeypatch.setattr(digests.hashlib, "sha256", None)
    assert open_source(str(large.parent)).known_digest(large.name) == first.digest(large.name)


def test_what_hugging_face_keeps_is_hashed_once_and_recalled_after_that(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(large.parent))
    commit, repo = "0" * 40, large.parent / "models--org--model"
    blob, link = repo / "blobs" / sha256(large).hex, repo / "snapshots" / commit / large.name
    for path in (blob, link):
        path.parent.mkdir(parents=True)
    large.rename(blob)
    link.symlink_to(blob)
    assert open_source("org/model", commit, offline=True).path(large.name) == link
    with monkeypatch.context() as patch:
        patch.setattr(digests.hashlib, "sha256", None)
        assert open_source("org/model", commit, offline=True).path(large.name) == link
    with blob.open("r+b") as file:
        byte = file.read(1)
        file.seek(0)
        file.write(bytes([byte[0] ^ 1]))
    for _ in range(2):  # what was computed of damaged bytes vouches for nothing
        with pytest.raises(IntegrityError, match="is damaged"):
            open_source("org/model", commit, offline=True).path(large.name)


def test_weights_that_were_not_met_before_are_a_hit_too_and_publish_nothing(tmp_path: Path) -> None:
    weights = tiny.arrays(layers=1)
    weights["bert.embeddings.word_embeddings.weight"] = np.random.default_rng(0).random((70_000, tiny.HIDDEN), np.float32)
    folder = tiny.write(tmp_path / "wide", tiny.checkpoint(weights, num_hidden_layers=1, vocab_size=70_000))
    arguments = ("convert", folder, "--json", "--cache", tmp_path / "cache")
    first = ttbert(*arguments, XDG_CACHE_HOME=str(tmp_path / "one")).succeeded().document
    before = objects(tmp_path / "cache")
    again = [ttbert(*arguments, XDG_CACHE_HOME=str(tmp_path / user)).succeeded().document for user in ("one", "two", "two")]
    assert not first["hit"] and all(each["hit"] and each["manifest"] == first["manifest"] for each in again)
    assert {path for path in objects(tmp_path / "cache") if not path.startswith("refs/")} == {
        path for path in before if not path.startswith("refs/")
    }
    assert len([*(tmp_path / "one/ttbert-digests").iterdir()]) == len([*(tmp_path / "two/ttbert-digests").iterdir()]) == 1
