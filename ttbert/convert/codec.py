"""Arrays to the bytes of a `.tensorbin` file, by TT-NN itself.

The bytes depend on neither board nor machine, only on the array, the data type, the layout and the version of TT-NN's
file format. That version is in every action key, so this module makes sure, before it packs anything, that the ttnn
at hand really writes it.
"""

from __future__ import annotations

import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np

from ..cache.digest import blake3_of
from ..errors import TtbertError
from ..recipe.recipe import SERIALIZATION
from ..recipe.steps import Array
from ..tt import first_line, host_ttnn

_PROBES = (("bfloat16", "row_major"), ("bfloat16", "tile"), ("bfloat8_b", "tile"), ("bfloat4_b", "tile"))
_PROBE_DIGEST = "e200610e74be50d4c14d674416daf96f0f7a8b8d9a68f56acb9234cbb1408f1e"


class Codec:
    """Packs arrays; opening one imports TT-NN and takes some seconds."""

    def __init__(self) -> None:
        self._ttnn = host_ttnn()
        self.ttnn_version = version("ttnn")
        found = blake3_of(b"".join(self.pack(probe_array(), dtype, layout) for dtype, layout in _PROBES)).hex
        if found != _PROBE_DIGEST:
            raise TtbertError(
                f"ttnn {self.ttnn_version} packs tensors in another way than {SERIALIZATION}, the format this ttbert writes",
                "install the ttnn that this version of ttbert asks for, or a newer ttbert",
            )

    def pack(self, array: Array, dtype: str, layout: str) -> bytes:
        """The file that `ttnn.dump_tensor` writes for a float32 array, rounded to `dtype` ("bfloat8_b", ...) as TT-NN does.

        `layout` is "tile" (32 x 32 tiles, edges padded with zeros) or "row_major".
        """
        ttnn = self._ttnn
        layouts = {"tile": ttnn.TILE_LAYOUT, "row_major": ttnn.ROW_MAJOR_LAYOUT}
        with tempfile.TemporaryDirectory(prefix="ttbert-") as folder:
            path = Path(folder, "packed.tensorbin")
            try:
                tensor = ttnn.Tensor(array, data_type=getattr(ttnn, dtype), layout=layouts[layout])
                ttnn.dump_tensor(str(path), tensor)
            except RuntimeError as error:
                raise TtbertError(
                    f"TT-NN could not pack a {dtype} tensor of shape {array.shape}: {first_line(error)}",
                    f"if {tempfile.gettempdir()} is not full, please report it",
                ) from error
            return path.read_bytes()


def probe_array() -> Array:
    """(1, 1, 64, 96), values that bring out every rounding: ties, both zeros, denormals, neighbours of other magnitudes."""
    steps = np.arange(64 * 96, dtype=np.float32)
    values = np.ldexp(np.float32(1) + steps % 512 / np.float32(256), (steps % 23).astype(np.int32) - 11)
    values *= np.where(steps % 3 == 0, np.float32(-1), np.float32(1))
    values[::97], values[1::97], values[2::97] = 0.0, -0.0, 1e-40
    return values.astype(np.float32).reshape(1, 1, 64, 96)
