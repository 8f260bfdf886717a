"""Models and questions that are too large or not free enough for the project.

They are looked for beside the checkout, or where TTBERT_SHARED says.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("TTBERT_SHARED") or Path(__file__).parents[2] / "shared")


def shared(name: str) -> Path:
    """A file or folder of it; the test is skipped, visibly, where it is absent."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{path} is not here; TTBERT_SHARED names another folder")
    return path
