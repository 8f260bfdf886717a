"""A plan's entries -> TT-NN's objects: memory configs, program configs, compute kernel configs, dtypes.

The only place where the words of a plan meet those of TT-NN. What is lowered here is handed to ops by `bert`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..boards import BLACKHOLE, WORMHOLE, Chip, Grid
from ..errors import DeviceError
from ..frozen import Frozen
from .ops import Kernel, Linear, Matmul, Memory, Norm, Op, Softmax, SplitHeads
from .plan import Plan


class Lowered(Frozen):
    """What an op is called with: TT-NN's objects, None where the op takes none of that kind."""

    op: Any
    shape: list[int]
    dtype: Any
    memory: Any
    program: Any = None
    kernel: Any = None
    grid: Any = None


class LoweredPlan(Frozen):
    """Each op of a plan, lowered; the names are the plan's."""

    word: Lowered
    token_type: Lowered
    summed: Lowered
    embedded: Lowered
    sharded: Lowered
    qkv: Lowered
    heads: Lowered
    scores: Lowered
    softmax: Lowered
    context: Lowered
    joined: Lowered
    out: Lowered
    attention_norm: Lowered
    up: Lowered
    down: Lowered
    norm: Lowered
    unsharded: Lowered
    moved: Lowered | None = None
    answer: Lowered | None = None


def lower_plan(plan: Plan, ttnn: Any) -> LoweredPlan:
    """Needs the module only, no device."""
    lowering = _Lowering(ttnn)
    return LoweredPlan(**{op.name: lowering.op(op) for op in plan.ops()})


def chip_of(device: Any, ttnn: Any) -> Chip:
    """What a plan needs to know of a device that is open: its own grid and memory, whatever board it is sold as."""
    archs = {"WORMHOLE_B0": WORMHOLE, "BLACKHOLE": BLACKHOLE}
    arch = archs.get(device.arch().name)
    if arch is None:
        raise DeviceError(f"ttbert does not know chips of the generation {device.arch().name}", "pass --board cpu")
    cores = device.compute_with_storage_grid_size()
    l1, dram = (ttnn.get_memory_view(device, kind) for kind in (ttnn.BufferType.L1, ttnn.BufferType.DRAM))
    found = replace(arch, l1_base=arch.l1 - l1.total_bytes_per_bank)
    return Chip(found, Grid(cores.x, cores.y), dram.total_bytes_per_bank * dram.num_banks, dram.num_banks)


class _Lowering:
    def __init__(self, ttnn: Any) -> None:
        self._ttnn = ttnn
        self._dtypes = {name: getattr(ttnn, name) for name in ("bfloat16", "bfloat8_b", "bfloat4_b")}

    def op(self, op: Op) -> Lowered:
        kernel = getattr(op, "kernel", None)
        grid = getattr(op, "grid", None)
        return Lowered(
            op=op,
            shape=list(op.shape),
            dtype=self._dtypes[op.dtype],
            memory=self.memory(op.memory, derived=isinstance(op, SplitHeads)),
            program=self._program(op),
            kernel=self._kernel(kernel) if kernel else None,
            grid=self._cores(grid) if grid else None,
        )

    def memory(self, memory: Memory, derived: bool = False) -> Any:
        """TT-NN's memory config; `derived` leaves the shards to an op that works them out itself."""
        ttnn, shard = self._ttnn, memory.shard
        buffer = {"l1": ttnn.BufferType.L1, "dram": ttnn.BufferType.DRAM}[memory.buffer]
        if shard is None:
            return ttnn.MemoryConfig(ttnn.TensorMemoryLayout.INTERLEAVED, buffer)
        layouts = {"block": ttnn.TensorMemoryLayout.BLOCK_SHARDED, "height": ttnn.TensorMemoryLayout.HEIGHT_SHARDED}
        if derived:
            return ttnn.MemoryConfig(layouts[shard.layout], buffer)
        last = ttnn.CoreCoord(shard.grid.columns - 1, shard.grid.rows - 1)
        cores = ttnn.CoreRangeSet({ttnn.CoreRange(ttnn.CoreCoord(0, 0), last)})
        major = ttnn.ShardOrientation.COL_MAJOR if shard.column_major else ttnn.ShardOrientation.ROW_MAJOR
        return ttnn.MemoryConfig(layouts[shard.layout], buffer, ttnn.ShardSpec(cores, [shard.height, shard.width], major))

    def _cores(self, grid: Grid) -> Any:
        return self._ttnn.CoreCoord(grid.columns, grid.rows)

    def _kernel(self, kernel: Kernel) -> Any:
        return self._ttnn.WormholeComputeKernelConfig(  # Blackhole's too
            math_fidelity=getattr(self._ttnn.MathFidelity, kernel.fidelity),
            math_approx_mode=kernel.approximates,
            fp32_dest_acc_en=False,
            packer_l1_acc=kernel.adds_in_packer,
        )

    def _program(self, op: Op) -> Any:
        if isinstance(op, Linear):
            return self._grid_matmul(op) if op.spread == "grid" else self._row_matmul(op)
        if isinstance(op, Matmul):
            return self._ttnn.MatmulMultiCoreReuseProgramConfig(
                compute_with_storage_grid_size=self._cores(op.grid),
                in0_block_w=op.blocks.inner,
                out_subblock_h=op.blocks.subblock[0],
                out_subblock_w=op.blocks.subblock[1],
                per_core_M=op.blocks.rows,
                per_core_N=op.blocks.columns,
            )
        if isinstance(op, Norm) and op.blocks:
            assert op.memory.shard
            height, width, subblock = op.blocks
            return self._ttnn.LayerNormShardedMultiCoreProgramConfig(
                compute_with_storage_grid_size=self._cores(op.memory.shard.grid),
                subblock_w=subblock,
                block_h=height,
                block_w=width,
                inplace=True,
            )
        if isinstance(op, Softmax):
            height, width, subblock = op.blocks
            return self._ttnn.SoftmaxShardedMultiCoreProgramConfig(
                compute_with_storage_grid_size=self._cores(op.grid), subblock_w=subblock, block_h=height, block_w=width
            )
        return None

    def _grid_matmul(self, op: Linear) -> Any:
        return self._ttnn.MatmulMultiCoreReuseMultiCastProgramConfig(
            compute_with_storage_grid_size=self._cores(op.grid),
            in0_block_w=op.blocks.inner,
            out_subblock_h=op.blocks.subblock[0],
            out_subblock_w=op.blocks.subblock[1],
            per_core_M=op.blocks.rows,
            per_core_N=op.blocks.columns,
            transpose_mcast=op.column_major,
            fused_activation=(self._ttnn.UnaryOpType.GELU, op.kernel.approximates) if op.gelu else None,
        )

    def _row_matmul(self, op: Linear) -> Any:
        return self._ttnn.MatmulMultiCoreReuseMultiCast1DProgramConfig(
            compute_with_storage_grid_size=self._cores(op.grid),
            in0_block_w=op.blocks.inner,
            out_subblock_h=op.blocks.subblock[0],
            out_subblock_w=op.blocks.subblock[1],
            per_core_M=op.blocks.rows,
            per_core_N=op.blocks.columns,
            fuse_batch=True,
            mcast_in0=False,
        )
