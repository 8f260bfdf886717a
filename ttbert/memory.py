"""Memory to read files into."""

from __future__ import annotations

import mmap


def page_aligned(size: int) -> memoryview:
    """Fresh memory of as many bytes, at least one, from the start of a page on; a process that is forked has its own copy.

    To copy what begins where a page does to a place up to 31 bytes behind the start of a page, as `bytearray` often has it,
    takes three times as long on AMD's Zen 3: 1.4 instead of 5 GB/s out of the page cache.
    """
    return memoryview(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
