"""The array steps of a conversion: pure functions from checkpoint arrays to the array a device tensor is packed from.

Each has a version, which is part of every action key: a step that computes something else gets another version, and
what an older one made stays what it was, under its own key. Arrays are float32; a step takes the list of arrays that
the step before it gave.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field
from typing import TYPE_CHECKING, TypeAlias

from ..frozen import Frozen

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Array: TypeAlias = "npt.NDArray[np.float32]"


class Step(Frozen):
    """One step by name, with its numbers."""

    name: str
    numbers: Mapping[str, int] = field(default_factory=dict)

    def document(self) -> dict[str, object]:
        return {"step": self.name, **self.numbers}


def transpose(arrays: list[Array]) -> list[Array]:
    """(out, in) as torch stores a linear layer -> (in, out) as a matmul wants it."""
    return [array.T for array in arrays]


def interleave(arrays: list[Array], grid: int) -> list[Array]:
    """Several (..., n) -> one (..., n * len(arrays)): each of `grid` parts of every array, beside the same of the others.

    `grid`, the name of that number in action keys, is the model's `qkv_groups`: as many as cores where each has one group. So
    a core that holds columns of the fused QKV weight holds Q, K and V of its own heads, as in tt-metal's BERT demo.
    """
    import numpy as np

    parts = [array.reshape(*array.shape[:-1], grid, -1) for array in arrays]
    fused = np.concatenate(parts, axis=-1)
    return [fused.reshape(*fused.shape[:-2], -1)]


def pad_columns(arrays: list[Array], width: int) -> list[Array]:
    """(..., n) -> (..., width), zeros on the right."""
    import numpy as np

    return [np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, width - array.shape[-1])]) for array in arrays]


def to_matrix(arrays: list[Array]) -> list[Array]:
    """(m, n) or (n,) -> (1, 1, m, n), the rank that TT-NN's matmul takes; a vector is one row."""
    return [array.reshape(1, 1, -1, array.shape[-1]) for array in arrays]


def to_norm(arrays: list[Array]) -> list[Array]:
    """(n,) -> (1, 1, n / 32, 32): the shape in which TT-NN's layer norm takes a row-major weight."""
    return [array.reshape(1, 1, -1, 32) for array in arrays]


STEPS: dict[str, tuple[int, Callable[..., list[Array]]]] = {
    "transpose": (1, transpose),
    "interleave": (1, interleave),
    "pad_columns": (1, pad_columns),
    "to_matrix": (1, to_matrix),
    "to_norm": (1, to_norm),
}
"""Every step with its version."""


def run_steps(steps: tuple[Step, ...], arrays: list[Array]) -> Array:
    """The one array that is left after all steps; it may be a view of what was given, of any strides."""
    for step in steps:
        arrays = STEPS[step.name][1](arrays, **step.numbers)
    if len(arrays) != 1:
        raise ValueError(f"{len(arrays)} arrays are left where one was expected")
    return arrays[0]
