"""The C extension; `packing` says what it makes."""

from ..recipe.steps import Array

def pack(array: Array, buffer: memoryview | bytearray, format: int, /) -> bool: ...
