"""What only a card can tell: how fast it is, and how far its logits are from those of the reference.

On a mock device the same code runs, and what a mock cannot tell is None: it takes no time and computes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import cycle

import numpy as np

from ..frozen import Frozen
from .loader import CachedModel
from .on_device import Loading, OnDevice
from .pcc import pcc
from .runtime import Logits
from .target import Target, open_runtime
from .tokens import Batch

_LATENCIES = 10


class Speed(Frozen):
    """How fast batches go, with a trace or without, and how exact they are."""

    traced: bool
    untraced: str | None
    """Why there is no trace although one was asked for."""
    host_ms: float
    """Of the host, to begin a batch: the median."""
    latency_ms: float | None
    """Of one batch that has the device to itself, from its arrays to its logits: the median."""
    batch_ms: float | None
    """Of a batch among others, the next being begun before it is done."""
    inputs_per_second: float | None
    batches: int
    """How many that was measured with."""
    start_pcc: float | None = None
    """PCC of the start logits with the reference's, of what is no padding, in batches that were begun one before the other
    was done."""
    end_pcc: float | None = None


class Measured(Frozen):
    """What was measured, without a trace and, where the device has one, with it."""

    device: dict[str, object]
    loading: Loading
    speeds: tuple[Speed, ...]

    @property
    def pcc(self) -> float | None:
        """The lowest of all."""
        found = [each for speed in self.speeds for each in (speed.start_pcc, speed.end_pcc) if each is not None]
        return min(found, default=None)


def measure(target: Target, model: CachedModel, batches: Sequence[Batch], batch: int, tokens: int, seconds: float) -> Measured:
    """Run batches for that long without a trace, and with one if the target traces. Each has the rows of all chips.

    The first two batches are also run by the reference. Errors as of `open_runtime`.
    """
    compared = batches[:2]
    speeds, logits = [], []
    for traces in (False, True) if target.traces else (False,):
        with open_runtime(replace(target, traces=traces), model, batch, tokens) as runtime:
            assert isinstance(runtime, OnDevice)
            speeds.append(_speed(runtime, batches, seconds, target.is_mock))
            logits.append(list(runtime.stream([*compared, *compared]))[-len(compared) :])
            device, loading = runtime.document(), runtime.loading
    if not target.is_mock:
        from .reference import Reference

        expected = list(Reference(model).stream(compared))
        for number, found in enumerate(logits):
            start, end = correlate(compared, found, expected)
            speeds[number] = replace(speeds[number], start_pcc=start, end_pcc=end)
    return Measured(device, loading, tuple(speeds))


def _speed(runtime: OnDevice, batches: Sequence[Batch], seconds: float, is_mock: bool) -> Speed:
    hosts, latencies = [], []
    for batch, _ in zip(cycle(batches), range(_LATENCIES), strict=False):
        begun = time.perf_counter()
        started = runtime.start(batch)
        hosts.append(time.perf_counter() - begun)
        runtime.finish(started)
        latencies.append(time.perf_counter() - begun)
    begun = time.perf_counter()
    count = sum(1 for _ in runtime.stream(_until(begun + seconds, batches)))
    each = (time.perf_counter() - begun) / count
    return Speed(
        traced=runtime.is_traced,
        untraced=runtime.untraced,
        host_ms=1e3 * float(np.median(hosts)),
        latency_ms=None if is_mock else 1e3 * float(np.median(latencies)),
        batch_ms=None if is_mock else 1e3 * each,
        inputs_per_second=None if is_mock else runtime.rows / each,
        batches=count,
    )


def _until(deadline: float, batches: Sequence[Batch]) -> Iterator[Batch]:
    """The batches over and over, once at least."""
    for number, batch in enumerate(cycle(batches)):
        if number and time.perf_counter() >= deadline:
            return
        yield batch


def correlate(
    batches: Sequence[Batch], found: Sequence[tuple[Logits, Logits]], expected: Sequence[tuple[Logits, Logits]]
) -> tuple[float, float]:
    """PCC of start logits and of end logits, over all of the batches that is no padding."""
    real = [batch.attention_mask == 1 for batch in batches]
    starts, ends = (
        [np.concatenate([each[side][mask] for each, mask in zip(of, real, strict=True)]) for of in (found, expected)]
        for side in (0, 1)
    )
    return pcc(*starts), pcc(*ends)
