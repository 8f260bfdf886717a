"""Files of this user that are replaced as a whole, and that nothing lasting depends on: no power cut is waited for."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4


def replace_file(path: Path, content: bytes) -> None:
    """Make a file, and its folder, or put another one in its place at once. After an OSError there is nothing new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{uuid4().hex}.tmp")
    try:
        new.write_bytes(content)
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)
