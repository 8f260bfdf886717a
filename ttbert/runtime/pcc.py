"""The figure by which the values of two runs are set beside each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch


def pcc(left: npt.ArrayLike | torch.Tensor, right: npt.ArrayLike | torch.Tensor) -> float:
    """Pearson's correlation of all elements, in float64.

    0, and never NaN, where a side is all the same or has something in it that is no number: it agrees with nothing then.
    """
    sides = [np.asarray(each, np.float64).ravel() for each in (left, right)]
    if not all(np.isfinite(each).all() and np.ptp(each) for each in sides):
        return 0.0
    return float(np.corrcoef(sides[0], sides[1])[0, 1])
