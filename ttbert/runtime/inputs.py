"""A batch on its way to the device, in the layouts that the ops of `bert` want; `tt` is the ttnn module or a shadow of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..model import TILE
from .plan import Plan

if TYPE_CHECKING:
    from .tokens import Batch

MASKED = -100_000.0
"""Added to the scores of padding: its exponential is 0, and finite arithmetic is all it takes."""


@dataclass(frozen=True)
class Inputs:
    """A batch on the device: ids and token types in DRAM, (b, t) row-major; the mask, which every layer reads, in L1."""

    ids: Any
    token_types: Any
    mask: Any


def send_batch(tt: Any, device: Any, plan: Plan, batch: Batch) -> Inputs:
    """A batch of the plan's size on the device; the caller frees it, with `free_batch`. ValueError for another size."""
    if batch.ids.shape != (plan.batch, plan.tokens):
        raise ValueError(f"inputs of {batch.ids.shape} for a plan of {(plan.batch, plan.tokens)}")
    mask = np.where(batch.attention_mask == 1, 0.0, MASKED).astype(np.float32)
    return Inputs(
        ids=_send(tt, device, batch.ids.astype(np.uint32), tt.uint32, tt.DRAM_MEMORY_CONFIG),
        token_types=_send(tt, device, batch.token_types.astype(np.uint32), tt.uint32, tt.DRAM_MEMORY_CONFIG),
        # (b, 1, t / 32, 32): the softmax takes a row-major mask in pieces as wide as a tile.
        mask=_send(tt, device, mask.reshape(plan.batch, 1, -1, TILE), tt.bfloat16, tt.L1_MEMORY_CONFIG),
    )


def free_batch(tt: Any, inputs: Inputs) -> None:
    for each in (inputs.ids, inputs.token_types, inputs.mask):
        tt.deallocate(each)


def embed_positions(tt: Any, device: Any, plan: Plan, table: Any) -> Any:
    """Position states (b, 1, t, h) in DRAM: looked up once, since they are the same for every batch."""
    rows = np.tile(np.arange(plan.tokens, dtype=np.uint32), (plan.batch, 1))
    ids = _send(tt, device, rows, tt.uint32, tt.DRAM_MEMORY_CONFIG)
    positions = tt.embedding(ids, table, layout=tt.TILE_LAYOUT, memory_config=tt.DRAM_MEMORY_CONFIG)
    tt.deallocate(ids)
    return tt.reshape(positions, [plan.batch, 1, plan.tokens, plan.shape.hidden])


def _send(tt: Any, device: Any, array: Any, dtype: Any, memory: Any) -> Any:
    return tt.Tensor(array, data_type=dtype, layout=tt.ROW_MAJOR_LAYOUT).to(device, memory)
