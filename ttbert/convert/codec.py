"""Arrays to the bytes of a `.tensorbin` file, and the choice of who packs them.

The bytes depend on neither board nor machine, only on the array, the data type, the layout and the version of TT-NN's file
format. That version is in every action key, so whatever packs is first tried on a small array with all kinds of rounding
in it.

What TT-NN writes is known for certain versions of it, and needs no TT-NN then. With any other version installed, TT-NN
itself packs: it may know better, and then the trial says so.
"""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from ..cache.digest import blake3_of
from ..errors import TtbertError
from ..recipe.recipe import SERIALIZATION
from ..recipe.steps import Array
from ..tt import first_line, host_ttnn
from .packing import has_extension, pack_with_extension, pack_with_numpy
from .tensorbin import file_bytes, head

KNOWN_TTNN = ("0.80.0", "0.81.1")
"""The versions of ttnn whose bytes were compared with those of `packing` and `tensorbin`."""

_PROBES = (("bfloat16", "row_major"), ("bfloat16", "tile"), ("bfloat8_b", "tile"), ("bfloat4_b", "tile"))
_PROBE_DIGEST = "e200610e74be50d4c14d674416daf96f0f7a8b8d9a68f56acb9234cbb1408f1e"


class Codec(ABC):
    """Packs arrays. All codecs give the same bytes."""

    name: str
    """For people, and for the record of what made a model: "extension", "numpy", "ttnn 0.81.1"."""
    remark = ""
    """What the user should know of this choice, in one line."""

    @abstractmethod
    def pack_into(self, target: memoryview, array: Array, dtype: str, layout: str) -> bool:
        """Write the file that `ttnn.dump_tensor` writes for a float32 array, rounded to `dtype` as TT-NN rounds.

        `layout` is "tile" (32 x 32 tiles, edges padded with zeros) or "row_major". The array has any strides and at least
        one dimension and one value; the target has `file_bytes`. False if a value is not finite: no such file is to be used.
        """

    def pack(self, array: Array, dtype: str, layout: str) -> bytes:
        """What `pack_into` writes, in a buffer of its own."""
        content = bytearray(file_bytes(array.shape, dtype, layout))
        self.pack_into(memoryview(content), array, dtype, layout)
        return bytes(content)

    def is_right(self) -> bool:
        """Whether it packs an array with all kinds of rounding in it to the bytes that are known, and notices infinity."""
        good, bad = probe_array(), probe_array()
        bad[..., 40, 70] = np.inf
        made = b""
        for dtype, layout in _PROBES:
            content = bytearray(file_bytes(good.shape, dtype, layout))
            if self.pack_into(memoryview(content), bad, dtype, layout):
                return False
            if not self.pack_into(memoryview(content), good, dtype, layout):
                return False
            made += content
        return blake3_of(made).hex == _PROBE_DIGEST


class OwnCodec(Codec):
    """By ttbert itself: the head as `tensorbin` makes it, and the values by a function of `packing`."""

    def __init__(self, name: str, pack: Callable[[Array, str, str, memoryview], bool], remark: str = "") -> None:
        self.name, self._pack, self.remark = name, pack, remark

    def pack_into(self, target: memoryview, array: Array, dtype: str, layout: str) -> bool:
        start = head(array.shape, dtype, layout)
        target[: len(start)] = start
        return self._pack(array, dtype, layout, target[len(start) :])


EXTENSION = OwnCodec("extension", pack_with_extension)
NUMPY = OwnCodec(
    "numpy", pack_with_numpy, "packing with numpy, which takes longer: the C extension of ttbert was not built here"
)
"""For where there is no extension for this Python or platform."""


class TtnnCodec(Codec):
    """By TT-NN itself; takes some seconds to open, and leaves this process without devices."""

    def __init__(self) -> None:
        self._ttnn = host_ttnn()
        self.name = f"ttnn {version('ttnn')}"
        self.remark = f"{self.name} packs, which takes longer: ttbert itself knows how {' and '.join(KNOWN_TTNN)} pack"

    def pack_into(self, target: memoryview, array: Array, dtype: str, layout: str) -> bool:
        ttnn = self._ttnn
        layouts = {"tile": ttnn.TILE_LAYOUT, "row_major": ttnn.ROW_MAJOR_LAYOUT}
        with tempfile.TemporaryDirectory(prefix="ttbert-") as folder:
            path = Path(folder, "packed.tensorbin")
            try:
                array = np.require(array, requirements=("C", "W"))  # it takes no other
                tensor = ttnn.Tensor(array, data_type=getattr(ttnn, dtype), layout=layouts[layout])
                ttnn.dump_tensor(str(path), tensor)
            except RuntimeError as error:
                raise TtbertError(
                    f"TT-NN could not pack a {dtype} tensor of shape {array.shape}: {first_line(error)}",
                    f"if {tempfile.gettempdir()} is not full, please report it",
                ) from error
            content = path.read_bytes()
        if len(content) != len(target):
            raise _other_format(self.name)
        target[:] = content
        return bool(np.isfinite(array).all())


def choose_codec() -> Codec:
    """The fastest codec that is sure to be right. TtbertError if an unknown ttnn packs in another way than is known."""
    try:
        installed = version("ttnn")
    except PackageNotFoundError:
        installed = None
    codec: Codec
    if installed is not None and installed not in KNOWN_TTNN:
        codec = TtnnCodec()
    elif has_extension() and EXTENSION.is_right():
        return EXTENSION
    else:
        codec = NUMPY
    if not codec.is_right():
        raise _other_format(codec.name)
    return codec


def _other_format(name: str) -> TtbertError:
    return TtbertError(
        f"{name} packs tensors in another way than {SERIALIZATION}, the format this ttbert writes",
        f"install ttnn {KNOWN_TTNN[-1]}, or a newer ttbert",
    )


def probe_array() -> Array:
    """(1, 1, 64, 96), values that bring out every rounding: ties, both zeros, denormals, neighbours of other magnitudes."""
    steps = np.arange(64 * 96, dtype=np.float32)
    values = np.ldexp(np.float32(1) + steps % 512 / np.float32(256), (steps % 23).astype(np.int32) - 11)
    values *= np.where(steps % 3 == 0, np.float32(-1), np.float32(1))
    values[::97], values[1::97], values[2::97] = 0.0, -0.0, 1e-40
    return values.astype(np.float32).reshape(1, 1, 64, 96)
