"""The head of a `.tensorbin` file: what TT-NN writes before the values of a tensor.

Eight bytes with the length of a FlatBuffer, the FlatBuffer, and zeros up to a multiple of 64 bytes. Its schema is tt-metal's:
tensor.fbs, tensor_spec.fbs and tensor_topology.fbs in ttnn/core/tensor/flatbuffer. A FlatBuffer grows from its end to its
beginning, part by part, and here the parts are added in the order in which TT-NN adds them; so the bytes are the same too.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Mapping, Sequence

from flatbuffers.builder import Builder

from ..model import TILE
from ..recipe.recipe import payload_size

_DTYPES = {"bfloat16": 0, "bfloat8_b": 3, "bfloat4_b": 4}
_LAYOUTS = {"row_major": 1, "tile": 2}
_IN_THIS_FILE = 1
_NO_DIMENSION = 0xFFFFFFFF


@functools.cache
def head(shape: tuple[int, ...], dtype: str, layout: str) -> bytes:
    """The beginning of a tensor's file, for one device and its interleaved DRAM."""
    size = payload_size(shape, dtype, layout)
    builder = Builder(512)
    spec = _spec(builder, shape, dtype, layout)
    shards = _vector(builder, [_shard(builder, size)])
    mesh_shape = _wrapped(builder, [1, 1])
    topology = _topology(builder)
    root = _table(builder, 4, references={0: spec, 1: mesh_shape, 2: shards, 3: topology})
    builder.Prep(8, 0)
    builder.Finish(root)
    content = bytes(builder.Output())
    content += bytes(-(8 + len(content)) % 64)
    return struct.pack("<Q", len(content)) + content


def file_bytes(shape: tuple[int, ...], dtype: str, layout: str) -> int:
    """Bytes of a tensor's file."""
    return len(head(shape, dtype, layout)) + payload_size(shape, dtype, layout)


def _spec(builder: Builder, shape: tuple[int, ...], dtype: str, layout: str) -> int:
    dimensions = _numbers(builder, shape)
    if layout == "tile":
        alignment = _numbers(builder, [TILE, TILE])
        page = _table(builder, 1, references={0: _table(builder, 3, numbers={0: TILE, 1: TILE})})
    else:
        alignment = _numbers(builder, [1])
        page = _table(builder, 0)
    memory = _table(builder, 4)  # every field as by default: interleaved, DRAM, no shards
    kinds = {0: _DTYPES[dtype], 1: _LAYOUTS[layout]}
    layout_table = _table(builder, 5, references={2: page, 3: memory, 4: alignment}, kinds=kinds)
    return _table(builder, 2, references={0: dimensions, 1: layout_table})


def _shard(builder: Builder, size: int) -> int:
    """The values are the first and only ones in the file, at the first and only place of the mesh."""
    place = _wrapped(builder, [0, 0])
    builder.Prep(8, 16)
    builder.PrependUint64(size)
    builder.PrependUint64(0)
    return _table(builder, 3, references={1: builder.Offset(), 2: place}, kinds={0: _IN_THIS_FILE})


def _topology(builder: Builder) -> int:
    """The same tensor on each of one device."""
    shape = _wrapped(builder, [1])
    placements = _vector(builder, [_table(builder, 2, numbers={1: _NO_DIMENSION})])
    places = _vector(builder, [_wrapped(builder, [0, 0])])
    return _table(builder, 3, references={0: shape, 1: placements, 2: places})


def _table(
    builder: Builder,
    fields: int,
    references: Mapping[int, int] | None = None,
    numbers: Mapping[int, int] | None = None,
    kinds: Mapping[int, int] | None = None,
) -> int:
    """A table of so many fields, by position: references to other parts, numbers of 32 bits, kinds of 8 bits."""
    builder.StartObject(fields)
    for field, offset in sorted((references or {}).items(), reverse=True):
        builder.PrependUOffsetTRelativeSlot(field, offset, 0)
    for field, number in sorted((numbers or {}).items(), reverse=True):
        builder.PrependUint32Slot(field, number, 0)
    for field, kind in sorted((kinds or {}).items(), reverse=True):
        builder.PrependUint8Slot(field, kind, 0)
    return int(builder.EndObject())


def _wrapped(builder: Builder, values: Sequence[int]) -> int:
    """A table that holds just a vector of numbers: a shape or a place of a mesh."""
    return _table(builder, 1, references={0: _numbers(builder, values)})


def _numbers(builder: Builder, values: Sequence[int]) -> int:
    builder.StartVector(4, len(values), 4)
    for value in reversed(values):
        builder.PrependUint32(value)
    return int(builder.EndVector())


def _vector(builder: Builder, offsets: Sequence[int]) -> int:
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())
