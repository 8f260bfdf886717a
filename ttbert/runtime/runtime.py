"""What every runtime offers, whatever it runs on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from .tokens import Batch

Logits = npt.NDArray[np.float32]


class Runtime(Protocol):
    """What gives logits for batches."""

    def run(self, batch: Batch) -> tuple[Logits, Logits]:
        """Start and end logits, each (batch, tokens)."""

    def stream(self, batches: Iterable[Batch]) -> Iterator[tuple[Logits, Logits]]:
        """`run` of each batch, in order; the next one may be asked for and begun before this one is done."""
