"""The values of a tensor as TT-NN packs them, with neither TT-NN nor a device: by the C extension, or by numpy.

- *Row-major*: the values one after another, as bfloat16.
- *Tile*: the last two dimensions are cut into tiles of 32 x 32, filled up with zeros, one row of tiles after another. A
  tile is four faces of 16 x 16: top left, top right, bottom left, bottom right. Within a face, values go row by row.
- *bfloat16*: the upper half of a float32, rounded to the nearest, ties to even.
- *bfloat8_b, bfloat4_b*: the 16 values of a row of a face share an exponent, the largest of theirs. Each keeps its sign
  and 7 or 3 bits of mantissa, without a hidden one: the mantissa, its leading one included, is shifted right by the
  distance of the exponents, *cut off* at 24 bits, and only then rounded, ties to even, and held at the largest that fits.
  Denormals are zero, and zero has no sign. A tile begins with its 64 exponents; of bfloat4_b, two values share a byte,
  the first in its lower half.

These rules were read off TT-NN's own packer, and tests compare the bytes of both implementations with it. Values must be
finite; whether they are is seen on the way, so that nobody has to look at each of them once more.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..model import TILE
from ..recipe.recipe import payload_size
from ..recipe.steps import Array

_FORMATS = {("bfloat16", "row_major"): 0, ("bfloat16", "tile"): 1, ("bfloat8_b", "tile"): 2, ("bfloat4_b", "tile"): 3}
"""The packed forms there are, with their numbers in the extension."""

_FACE = 16
_PIECE = 1 << 16
"""Values that numpy packs at once: so many that its calls do not matter, so few that they stay in the processor's cache."""

Words = NDArray[np.uint32]
Bytes = NDArray[np.uint8]


def has_extension() -> bool:
    """Whether the C extension was built for this Python and platform."""
    try:
        from . import _pack  # noqa: F401
    except ImportError:
        return False
    return True


def pack_with_extension(array: Array, dtype: str, layout: str, target: memoryview) -> bool:
    """Pack a float32 array of any strides into a buffer of `payload_size`; ValueError if it is of another size.

    False if there is NaN or infinity in the array; what was packed then means nothing. Other threads run meanwhile.
    """
    from ._pack import pack

    return pack(_matrices(array), target, _FORMATS[dtype, layout])


def pack_with_numpy(array: Array, dtype: str, layout: str, target: memoryview) -> bool:
    """As `pack_with_extension`, at about a tenth of the speed."""
    if len(target) != payload_size(array.shape, dtype, layout):
        raise ValueError("the buffer is not of the size of the packed array")
    matrices = _matrices(array)
    packed = np.frombuffer(target, np.uint8)
    return _pack_rows(matrices, packed) if layout == "row_major" else _pack_tiles(matrices, dtype, packed)


def _matrices(array: Array) -> Array:
    """(..., rows, columns) -> (matrices, rows, columns); a vector is one row."""
    return array.reshape(-1, *(1, *array.shape)[-2:])


def _pack_rows(matrices: Array, packed: Bytes) -> bool:
    all_finite = True
    rows = matrices.reshape(-1, matrices.shape[-1])
    step = max(1, _PIECE // rows.shape[1])
    target = packed.view("<u2").reshape(rows.shape)
    for start in range(0, len(rows), step):
        piece = np.ascontiguousarray(rows[start : start + step])
        all_finite &= bool(np.isfinite(piece).all())
        target[start : start + step] = _to_bfloat16(piece.view(np.uint32))
    return all_finite


def _pack_tiles(matrices: Array, dtype: str, packed: Bytes) -> bool:
    all_finite = True
    count, rows, columns = matrices.shape
    down, across = -(-rows // TILE), -(-columns // TILE)
    tiles = packed.reshape(count, down, across, -1)
    step = _PIECE // TILE
    for matrix, row in np.ndindex(count, down):
        for left in range(0, columns, step):
            piece = matrices[matrix, row * TILE : (row + 1) * TILE, left : left + step]
            all_finite &= bool(np.isfinite(piece).all())
            first = left // TILE
            strip = tiles[matrix, row, first : first + step // TILE]
            faces = _faces(piece)
            if dtype == "bfloat16":
                strip[:] = _to_bfloat16(faces).astype("<u2").reshape(len(faces), -1).view(np.uint8)
            else:
                _pack_blocks(faces, 7 if dtype == "bfloat8_b" else 3, strip)
    return all_finite


def _faces(strip: Array) -> Words:
    """(at most 32, columns) -> (tiles, 64, 16): the bits of each row of each face of its tiles, in the order of storage."""
    across = -(-strip.shape[1] // TILE)
    filled = np.zeros((TILE, across * TILE), np.float32)
    filled[: strip.shape[0], : strip.shape[1]] = strip
    faces = filled.view(np.uint32).reshape(2, _FACE, across, 2, _FACE).transpose(2, 0, 3, 1, 4)
    return np.ascontiguousarray(faces).reshape(across, -1, _FACE)


def _to_bfloat16(bits: Words) -> Words:
    return (bits + ((bits >> 16 & 1) + np.uint32(0x7FFF))) >> np.uint32(16)


def _pack_blocks(values: Words, bits: int, packed: Bytes) -> None:
    dropped = 24 - bits
    exponents = values >> 23 & 0xFF
    shared = exponents.max(axis=-1, keepdims=True)
    mantissas = (values & 0x7FFFFF | 0x800000) >> np.minimum(shared - exponents, 24)
    mantissas = (mantissas + (mantissas >> dropped & 1) + ((1 << dropped - 1) - 1)) >> dropped
    mantissas = np.minimum(mantissas, (1 << bits) - 1) * (exponents > 0)
    signed = (mantissas | (values >> 31 << bits) * (mantissas > 0)).astype(np.uint8)
    if bits == 3:
        signed = signed[..., ::2] | signed[..., 1::2] << 4
    blocks = values.shape[1]
    packed[:, :blocks] = shared[..., 0]
    packed[:, blocks:] = signed.reshape(len(values), -1)
