"""Memory to read files into."""

from __future__ import annotations

import mmap
import os

import numpy as np
import pytest

from ttbert.memory import page_aligned


@pytest.mark.parametrize("size", [1, 5000, 4 << 20])
def test_it_begins_where_a_page_does(size: int) -> None:
    memory = page_aligned(size)
    assert len(memory) == size and not memory.readonly
    assert np.frombuffer(memory, np.uint8).ctypes.data % mmap.PAGESIZE == 0


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")  # the child does nothing that waits for a thread
def test_a_forked_process_writes_to_its_own() -> None:
    """Buffers are used again, so a child has those of its parent: what both hashed would otherwise be what one of them read."""
    memory = page_aligned(10)
    memory[:6] = b"parent"
    child = os.fork()
    if not child:
        memory[:6] = b"child!"
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert bytes(memory[:6]) == b"parent"
