"""Conversion streams: what it needs does not grow with the checkpoint."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from checkpoints import make_checkpoint

BASELINE = "import ttbert.convert.convert"
"""What a conversion needs before it reads a weight."""

PEAK = "; import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)"

CONVERT = """
import sys
from ttbert.cache.cache import Cache
from ttbert.cache.stores.open import open_store
from ttbert.convert.convert import convert, plan_conversion
from ttbert.convert.wanted import Wanted
convert(plan_conversion(Wanted(sys.argv[1])), Cache(open_store(sys.argv[2])))
"""


def peak_of(code: str, *arguments: str) -> int:
    command = [sys.executable, "-c", code.strip() + PEAK, *arguments]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def test_memory_stays_flat_as_tensors_stream(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "wide", hidden=1024, heads=16, layers=8)
    size = (folder / "model.safetensors").stat().st_size
    added = peak_of(CONVERT, str(folder), str(tmp_path / "cache")) - peak_of(BASELINE)
    assert size > 430e6
    assert added < 250e6, f"{added / 1e6:.0f} MB for a checkpoint of {size / 1e6:.0f} MB"
