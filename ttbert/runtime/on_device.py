"""A cached model on an open device: the runtime with the face of `Reference`.

Several chips are data parallel: each holds all weights, and its own part of every batch.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

from ..errors import DeviceError
from ..frozen import Frozen
from ..tt import devices_are_mock, first_line
from .bert import Bert
from .device import device_error
from .inputs import empty_batch
from .loader import CachedModel
from .lower import chip_of
from .passes import Pass, Passes
from .plan import Plan, plan_bert
from .runtime import Logits
from .tokens import Batch

_UNDER_WAY = 2
"""Passes that are started before the first of them is waited for: one runs, and one waits on the device."""


class Loading(Frozen):
    """Seconds of each phase of loading, and the bytes of the weights, on each chip."""

    opening: float
    """TT-NN's start and the device's."""
    reading: float
    """From the cache into memory, digests checked; without what was read while the device opened."""
    sending: float
    """From memory to the device."""
    compiling: float
    """The first pass, which builds every program, and the recording of the trace."""
    bytes: int


class OnDevice:
    """A model loaded on all chips of a device; `run` and `stream` give logits. `close` it before the device."""

    def __init__(
        self,
        tt: Any,
        device: Any,
        model: CachedModel,
        batch: int,
        tokens: int,
        *,
        trace: bool = False,
        opening: float = 0.0,
    ) -> None:
        """Plan for the device's own cores, load, and run an empty batch. `batch` is inputs of `tokens` on each chip.

        A trace needs a device with two command queues. `opening` is the seconds it took to open it. BoardError for a batch
        that does not fit, before any weight is loaded; IntegrityError where one is damaged; DeviceError for what TT-NN
        refuses.
        """
        self.plan: Plan = plan_bert(model.shape, batch, tokens, chip_of(device, tt), model.manifest.policy)
        self.chips: int = device.get_num_devices()
        with _told():
            tensors, reading, sending = _load(tt, device, model)
            loaded = time.perf_counter()
            self._bert = Bert(tt, device, self.plan, tensors)
            self._passes = Passes(tt, device, self._bert, empty_batch(self.plan, self.chips), overlap=trace)
            self.untraced: str | None = self._record_trace() if trace else None
            """Why there is no trace although one was asked for, in TT-NN's words."""
            compiling = time.perf_counter() - loaded
        size = sum(entry.size for entry in model.manifest.tensors)
        self.loading = Loading(opening, reading, sending, compiling, size)

    @property
    def is_traced(self) -> bool:
        return self._passes.is_traced

    @property
    def rows(self) -> int:
        """Inputs of a batch, those of all chips."""
        return self.chips * self.plan.batch

    def document(self) -> dict[str, object]:
        """What it runs on, and how."""
        return {
            "mock": devices_are_mock(),
            "arch": self.plan.chip.arch.name,
            "chips": self.chips,
            "grid": [self.plan.chip.grid.columns, self.plan.chip.grid.rows],
            "batch": self.plan.batch,
            "inputs_at_once": self.rows,
            "traced": self.is_traced,
            "ttnn": version("ttnn"),
        }

    def run(self, batch: Batch) -> tuple[Logits, Logits]:
        """Start and end logits of a batch of `rows` inputs, each (rows, tokens). ValueError for another size."""
        return self.finish(self.start(batch))

    def stream(self, batches: Iterable[Batch]) -> Iterator[tuple[Logits, Logits]]:
        """`run` of each batch; while one is waited for, the next has been started."""
        under_way: deque[Pass] = deque()
        for batch in batches:
            under_way.append(self.start(batch))
            if len(under_way) == _UNDER_WAY:
                yield self.finish(under_way.popleft())
        while under_way:
            yield self.finish(under_way.popleft())

    def start(self, batch: Batch) -> Pass:
        """Begin a batch, and wait for nothing; `finish` it before the one that is begun after it."""
        with _told():
            return self._passes.start(batch)

    def finish(self, started: Pass) -> tuple[Logits, Logits]:
        """Wait for a batch that was begun."""
        with _told():
            return self._passes.finish(started)

    def close(self) -> None:
        with _told():
            self._passes.close()

    def _record_trace(self) -> str | None:
        try:
            return self._passes.capture()
        except RuntimeError as error:
            raise DeviceError(f"TT-NN began to record a trace, and failed: {first_line(error)}", "pass --no-trace") from error


def _load(tt: Any, device: Any, model: CachedModel) -> tuple[dict[str, Any], float, float]:
    """The model's tensors in DRAM, on every chip; the seconds that reading and checking took, and those that sending did.

    One is sent before the next is read, so that the host holds no more than a piece of the model.
    """
    placed: dict[str, Any] = {}
    started, sending = time.perf_counter(), 0.0
    for entry, host in model.tensors():
        begun = time.perf_counter()
        placed[entry.name] = tt.to_device(host, device, memory_config=tt.DRAM_MEMORY_CONFIG)  # as every recipe states
        sending += time.perf_counter() - begun
    begun = time.perf_counter()
    tt.synchronize_device(device)
    sending += time.perf_counter() - begun
    return placed, time.perf_counter() - started - sending, sending


@contextmanager
def _told() -> Iterator[None]:
    """What TT-NN says in its exceptions, as one line."""
    try:
        yield
    except RuntimeError as error:
        raise device_error(error) from error
