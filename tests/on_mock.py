"""Runs `mock_work`, or another such script, on a mock device of a board."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from ttbert.runtime.mock import temporary_mock_environment

_TESTS = Path(__file__).parent


def on_mock(board: str, what: str, argument: object = None, script: str = "mock_work.py", **extra: str) -> Any:
    paths = [str(_TESTS.parent), str(_TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    with temporary_mock_environment(board) as environment:
        done = subprocess.run(
            [sys.executable, str(_TESTS / script), what, json.dumps(argument)],
            env={**environment, **extra, "PYTHONPATH": os.pathsep.join(paths)},
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return json.loads(done.stdout.rpartition("answer:")[2])
