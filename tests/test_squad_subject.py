"""A checkpoint that is scored as it is: its files are those whose digests the score names, or none."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from ttbert.convert.wanted import BUNDLED_FOLDER, Wanted
from ttbert.errors import UnreadableError
from ttbert.squad.subject import load_float32

WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(BUNDLED_FOLDER, tmp_path / "model"))


def test_weights_that_changed_since_their_digest_was_taken_are_not_scored(folder: Path) -> None:
    subject = load_float32(Wanted(str(folder)))
    with subject.open():
        pass
    changed = bytearray((folder / WEIGHTS).read_bytes())
    changed[-1] ^= 1
    (folder / WEIGHTS).write_bytes(changed)
    os.utime(folder / WEIGHTS, ns=(0, 0))
    with pytest.raises(UnreadableError, match=rf"{WEIGHTS} changed while it was being read"), subject.open():
        pass


def test_a_tokenizer_that_cannot_be_read_is_an_error_of_ours(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").symlink_to("/proc/self/mem")  # a regular file whose first byte is an I/O error
    with pytest.raises(UnreadableError, match=r"tokenizer\.json cannot be read"):
        load_float32(Wanted(str(folder)))
