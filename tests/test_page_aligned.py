"""Memory to read files into."""

from __future__ import annotations

import mmap

import numpy as np
import pytest

from ttbert.memory import page_aligned


@pytest.mark.parametrize("size", [1, 5000, 4 << 20])
def test_it_begins_where_a_page_does(size: int) -> None:
    memory = page_aligned(size)
    assert len(memory) == size and not memory.readonly
    assert np.frombuffer(memory, np.uint8).ctypes.data % mmap.PAGESIZE == 0
