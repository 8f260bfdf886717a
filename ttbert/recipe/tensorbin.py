"""The header of a `.tensorbin` file, TT-NN's format for one tensor, byte for byte.

Such a file is the length of its header (8 bytes, little-endian), the header (a flatbuffer, padded so that both take 384
bytes) and the packed tensor. Nobody parses a header here. What a manifest says of a tensor leaves exactly one header that
TT-NN would write, so that one is written and compared: whatever differs from it by a bit, in its length, types, counts,
offsets or padding, is refused before TT-NN sees it.

The bytes were read off files that `ttnn.dump_tensor` of ttnn 0.81 wrote. `convert.tensorbin`, which writes such files, builds
them of the schema instead, and neither uses the other: what one of them got wrong, the other would refuse.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import pack

from ..cache.manifest import TensorEntry
from ..errors import IntegrityError
from ..model import TILE
from .recipe import MEMORY, payload_size

HEADER_SIZE = 384
"""Bytes before the packed tensor, the length included, for every rank up to eight."""

_HINT = "convert the model again, and look at who wrote it"

_DTYPES = {"bfloat16": 0, "bfloat8_b": 3, "bfloat4_b": 4}
_RANKS = range(1, 9)

# The front, as words of 32 bits: the root table, and a mesh of 1 x 1 with one shard at (0, 0), whose bytes begin at 0. Between
# the pieces stand five words that point to tables further back or are relative to them.
_FRONT = (
    "78010000 00000000 14000000 00000000 0c001600 04000800 0c001000 0c000000",
    "6c000000 7c000000 10000000 00000a00 10000400 08000c00 0a000000 40000000 24000000 04000000 01000000 04000000",
    "04000000 02000000 00000000 00000000 01000000 0c000000 08000800 00000400 08000000 ffffffff",
    "04000000 01000000 01000000",
    "04000000 02000000 01000000 01000000 01000000 10000000 00000a00 10000700 08000c00 0a000000 00000001 08000000",
    "00000000 00000000",
)
# The back: data type, layout and memory (DRAM, interleaved), up to the shape. A field that has its default is left out of the
# table's list of fields: so bfloat16, which is number 0, has no offset there.
_TILE = (
    "aaffffff 04000000 02000000 00000000 00000000 08000e00 04000800 08000000 64000000 14000000 00000e00 1400{offset}00"
    "07000800 0c001000 0e000000 0000{dtype}02 1c000000 0c000000 30000000 04000600 04000000 00000600 08000400 06000000"
    "0c000000 08000c00 04000800 08000000 20000000 20000000 02000000 20000000 20000000"
)
_ROW_MAJOR = (
    "00000600 08000400 06000000 04000000 02000000 00000000 00000000 08000e00 04000800 08000000 40000000 14000000"
    "00000e00 14000000 07000800 0c001000 0e000000 00000001 14000000 08000000 10000000 fcffffff 04000400 04000000"
    "01000000 01000000"
)


def header(shape: Sequence[int], dtype: str, layout: str) -> bytes:
    """What `ttnn.dump_tensor` writes before the bytes of such a tensor; ValueError where there is no such tensor."""
    nothing = ValueError(f"no {dtype} tensor of shape {tuple(shape)} in layout {layout}")
    if len(shape) not in _RANKS or max(shape) >= 1 << 32 or (layout == "row_major" and dtype != "bfloat16"):
        raise nothing
    payload = payload_size(shape, dtype, layout)
    if payload >= 1 << 63:
        raise nothing
    if layout == "tile":
        number = _DTYPES[dtype]
        back = bytes.fromhex(_TILE.format(offset="06" if number else "00", dtype=f"{number:02x}"))
        words, gap = (212, -218, -174, -158, 20), len(shape) % 2 * 4
    else:
        back = bytes.fromhex(_ROW_MAJOR)
        words, gap = (220, -134, -90, -74, 28), (len(shape) + 1) % 2 * 4
    # The gap aligns the payload's size to 8 bytes, which are counted from the end of the flatbuffer.
    pointers = [pack("<i", word + gap if word > 0 else word - gap) for word in words]
    front = b"".join(bytes.fromhex(piece) + pointer for piece, pointer in zip(_FRONT, [*pointers, b""], strict=True))
    whole = front + pack("<Q", payload) + bytes(gap) + back + pack(f"<I{len(shape)}I", len(shape), *shape)
    return whole.ljust(HEADER_SIZE, b"\0")


def check_header(content: bytes | memoryview, entry: TensorEntry, where: str) -> None:
    """Compare the first bytes of a `.tensorbin` with its entry in a manifest, and its size with the shape.

    `content` is the file or at least its first 384 bytes. IntegrityError, naming `where`, unless TT-NN will find in it
    exactly the tensor that the manifest tells of.
    """
    try:
        expected = header(entry.shape, entry.dtype, entry.layout)
    except ValueError as error:
        raise IntegrityError(f"{where}: {entry.name}: TT-NN stores {error}", _HINT) from error
    tile = (TILE, TILE) if entry.layout == "tile" else None
    if entry.tile != tile or entry.memory != MEMORY:
        raise _another(entry, where, f"of tiles {entry.tile} in {entry.memory}, TT-NN stores none")
    check_size(entry, where)
    found = bytes(content[:HEADER_SIZE])
    if found != expected:
        position = next((i for i, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b), len(found))
        raise _another(entry, where, f"its header differs from byte {position} on")


def check_size(entry: TensorEntry, where: str) -> None:
    """IntegrityError, naming `where`, unless the file of such a tensor has as many bytes as its entry says."""
    size = HEADER_SIZE + payload_size(entry.shape, entry.dtype, entry.layout)
    if entry.size != size:
        raise _another(entry, where, f"that takes {size:,} bytes, not {entry.size:,}")


def _another(entry: TensorEntry, where: str, why: str) -> IntegrityError:
    expected = f"no {entry.dtype} tensor of shape {entry.shape} in layout {entry.layout}, as {entry.name} should be"
    return IntegrityError(f"{where} is {expected}: {why}", _HINT)
