"""A batch on its way to the device, in the layouts that the ops of `bert` want; `tt` is the ttnn module or a shadow of it."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..frozen import Frozen
from ..model import TILE
from .plan import Plan
from .tokens import Batch

MASKED = -100_000.0
"""Added to the scores of padding: its exponential is 0, and finite arithmetic is all it takes."""


class Inputs(Frozen):
    """A batch, b inputs for each chip: ids and token types, uint32 (b, t); the mask, which every layer reads, bfloat16
    (b, 1, t / 32, 32), since the softmax takes a row-major mask in pieces as wide as a tile. All are row-major."""

    ids: Any
    token_types: Any
    mask: Any

    def __iter__(self) -> Any:
        return iter((self.ids, self.token_types, self.mask))


def empty_batch(plan: Plan, chips: int = 1) -> Batch:
    """A batch of padding, for that many chips."""
    rows = np.zeros((chips * plan.batch, plan.tokens), np.int32)
    return Batch((), rows, rows, rows + 1)


def host_batch(tt: Any, device: Any, plan: Plan, batch: Batch) -> Inputs:
    """A batch on the host: the first `plan.batch` rows for the first chip of a mesh, and so on.

    ValueError unless it has as many rows as all chips take, and the plan's tokens.
    """
    chips = device.get_num_devices()
    inputs = _host_tensors(tt, batch, (chips * plan.batch, plan.tokens))
    if chips == 1:
        return inputs
    by_rows = tt.ShardTensorToMesh(device, dim=0)
    return Inputs(*(tt.distribute_tensor(each, by_rows) for each in inputs))


def send_batch(tt: Any, device: Any, plan: Plan, batch: Batch) -> Inputs:
    """A batch of the plan's size, the same one for every chip; the caller frees it. ValueError for another size."""
    return place(tt, device, _host_tensors(tt, batch, (plan.batch, plan.tokens)))


def place(tt: Any, device: Any, host: Inputs) -> Inputs:
    """Where the ops want a batch: the mask in L1, the rest in DRAM."""
    return Inputs(
        ids=host.ids.to(device, tt.DRAM_MEMORY_CONFIG),
        token_types=host.token_types.to(device, tt.DRAM_MEMORY_CONFIG),
        mask=host.mask.to(device, tt.L1_MEMORY_CONFIG),
    )


def free_batch(tt: Any, inputs: Inputs) -> None:
    for each in inputs:
        tt.deallocate(each)


def embed_positions(tt: Any, device: Any, plan: Plan, table: Any) -> Any:
    """Position states (b, 1, t, h) in DRAM: looked up once, since they are the same for every batch."""
    rows = np.tile(np.arange(plan.tokens, dtype=np.uint32), (plan.batch, 1))
    ids = _host(tt, rows, tt.uint32).to(device, tt.DRAM_MEMORY_CONFIG)
    positions = tt.embedding(ids, table, layout=tt.TILE_LAYOUT, memory_config=tt.DRAM_MEMORY_CONFIG)
    tt.deallocate(ids)
    return tt.reshape(positions, [plan.batch, 1, plan.tokens, plan.shape.hidden])


def _host_tensors(tt: Any, batch: Batch, size: tuple[int, int]) -> Inputs:
    if batch.ids.shape != size:
        raise ValueError(f"inputs of {batch.ids.shape} where {size} are planned")
    mask = np.where(batch.attention_mask == 1, 0.0, MASKED).astype(np.float32)
    return Inputs(
        ids=_host(tt, batch.ids.astype(np.uint32), tt.uint32),
        token_types=_host(tt, batch.token_types.astype(np.uint32), tt.uint32),
        mask=_host(tt, mask.reshape(size[0], 1, -1, TILE), tt.bfloat16),
    )


def _host(tt: Any, array: Any, dtype: Any) -> Any:
    return tt.Tensor(array, data_type=dtype, layout=tt.ROW_MAJOR_LAYOUT)
