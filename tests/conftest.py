"""What all tests share: no test reaches the network or the user's own Hugging Face cache."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator

import pytest

# huggingface_hub reads these once, when it is imported, which collecting the tests may do.
_HOME = tempfile.mkdtemp(prefix="ttbert-tests-")
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)
os.environ |= {"HF_HOME": _HOME, "HF_ENDPOINT": "http://127.0.0.1:9"}

from hub_server import HubServer  # noqa: E402


@pytest.fixture
def hub() -> Iterator[HubServer]:
    """A hub on this machine; see `HubServer.env` for how a process is made to use it."""
    with HubServer() as server:
        yield server
