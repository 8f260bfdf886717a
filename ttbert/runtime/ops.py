"""The entries of a plan: for each op of the forward pass its output, where that lies, and how the cores work on it.

Pure data, in TT-NN's terms but with no TT-NN import; `lower` turns an entry into TT-NN's objects. Block sizes are in
tiles, shapes and shards in elements.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from ..boards import Grid
from ..frozen import Frozen
from ..model import TILE
from ..recipe.recipe import BITS

Shape = tuple[int, ...]


class Shard(Frozen):
    """How a tensor is cut: `height` x `width` elements for each core of the grid that starts at (0, 0)."""

    layout: str
    """`block`: rows over one dimension of the grid and columns over the other; `height`: rows over all its cores."""
    height: int
    width: int
    grid: Grid
    column_major: bool

    @property
    def tiles(self) -> int:
        return self.height * self.width // TILE**2


class Memory(Frozen):
    """Where a tensor lies: `l1` or `dram`, in shards, or page by page over all banks."""

    buffer: str
    shard: Shard | None = None

    def __str__(self) -> str:
        if self.shard is None:
            return f"{self.buffer.upper()} interleaved"
        return f"{self.shard.layout} {self.shard.height} x {self.shard.width}"


L1, DRAM = Memory("l1"), Memory("dram")


class Kernel(Frozen):
    """How the compute units work: math fidelity, whether partial sums add up in L1 through the packer, and whether exp,
    gelu and the like are approximated (as TT-NN does unless told otherwise)."""

    fidelity: str
    adds_in_packer: bool
    approximates: bool = True


class Blocks(Frozen):
    """A matmul on one core: `rows` x `columns` tiles of output, made `inner` tiles of the inner dimension at a time.

    `subblock` (height, width) is what the destination registers hold at once.
    """

    inner: int
    rows: int
    columns: int
    subblock: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Op:
    """One op: its output's logical shape and dtype, and where the output lies."""

    name: str
    shape: Shape
    dtype: str
    memory: Memory

    @property
    def tile_bytes(self) -> int:
        return tile_bytes(self.dtype)

    @property
    def tiles(self) -> int:
        """Tiles of the whole output."""
        *outer, rows, columns = self.shape
        return prod(outer) * -(-rows // TILE) * -(-columns // TILE)

    @property
    def flops(self) -> int:
        return 0

    @property
    def weights(self) -> tuple[str, ...]:
        """Names of the model's tensors it reads, without the layer's prefix."""
        return ()


@dataclass(frozen=True, kw_only=True)
class Embed(Op):
    """Rows of a table in DRAM, by id."""

    table: str

    @property
    def weights(self) -> tuple[str, ...]:
        return (self.table,)


@dataclass(frozen=True, kw_only=True)
class Add(Op):
    """A sum of two tensors of one shape."""


@dataclass(frozen=True, kw_only=True)
class Norm(Op):
    """Layer norm of a sum of two tensors. `blocks` (height, width, subblock width) where sharded, and then in place."""

    norm: str
    epsilon: float
    kernel: Kernel
    blocks: tuple[int, int, int] | None = None

    @property
    def weights(self) -> tuple[str, ...]:
        return (f"{self.norm}.weight", f"{self.norm}.bias")


@dataclass(frozen=True, kw_only=True)
class ToShards(Op):
    """From interleaved to sharded, and to another dtype on the way."""


@dataclass(frozen=True, kw_only=True)
class Move(Op):
    """The same tensor at a higher address, so that no gap is left above it."""


@dataclass(frozen=True, kw_only=True)
class ToInterleaved(Op):
    """From sharded to interleaved."""


@dataclass(frozen=True, kw_only=True)
class Linear(Op):
    """A matmul with a weight and a bias in DRAM. `spread`: `grid` multicasts both operands, `rows` the weight only."""

    linear: str
    inner: int
    input_dtype: str
    weight_dtype: str
    bias_dtype: str
    blocks: Blocks
    kernel: Kernel
    grid: Grid
    column_major: bool = False
    spread: str = "grid"
    gelu: bool = False

    @property
    def flops(self) -> int:
        return 2 * prod(self.shape) * self.inner

    @property
    def weights(self) -> tuple[str, ...]:
        return (f"{self.linear}.weight", f"{self.linear}.bias")


@dataclass(frozen=True, kw_only=True)
class Matmul(Op):
    """A matmul of activations, each core with its own heads and nothing sent between cores."""

    inner: int
    blocks: Blocks
    kernel: Kernel
    grid: Grid

    @property
    def flops(self) -> int:
        return 2 * prod(self.shape) * self.inner


@dataclass(frozen=True, kw_only=True)
class SplitHeads(Op):
    """Fused QKV -> Q, K transposed, and V, by heads; `shape` and `memory` are those of Q and V, `key_memory` K's.

    `in_pairs`: by the op for two heads a core, whose QKV has one group for both (`BertShape.qkv_groups`).
    """

    heads: int
    in_pairs: bool
    key_memory: Memory
    grid: Grid


@dataclass(frozen=True, kw_only=True)
class Softmax(Op):
    """Scale, mask and softmax in place. `blocks` is (height, width, subblock width); `shape` is as the op sees it."""

    scale: float
    blocks: tuple[int, int, int]
    kernel: Kernel
    grid: Grid


@dataclass(frozen=True, kw_only=True)
class JoinHeads(Op):
    """Heads side by side again."""


def tile_bytes(dtype: str) -> int:
    """Bytes of one tile, exponents included."""
    return int(TILE * TILE * BITS[dtype] / 8)
