"""Forward passes, one after another: inputs on their way in, ops, logits on their way out.

Nothing waits for the device but `finish`, so a second pass can be started while the first one runs. The inputs that the
ops read stay where they are and are overwritten from batch to batch, as a trace wants it.

With `overlap` there are two command queues. The second one copies a batch into a staging place in DRAM while the first one
is still busy with the batch before; the first one then copies it to where the ops read it, on the chip:

    queue 1   wait until staging is free | write batch i+1 | tell |
    queue 0   ops of batch i, read its logits              | wait for that | copy, tell that staging is free | ops of i+1

The ops read their inputs until they are done, so without staging a batch could travel only when the one before is through.
With a trace the ops are recorded once, and one command replays them all. Where the device records none, each op is
dispatched from here: from the second pass on, its program is in TT-NN's program cache.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..frozen import Frozen
from ..tt import first_line
from .bert import Bert
from .inputs import Inputs, free_batch, host_batch, place
from .runtime import Logits
from .tokens import Batch


class Pass(Frozen):
    """A pass that was started: the inputs that it takes from the host, the logits that come there, and when they have."""

    sent: Inputs
    logits: Any
    done: Any


class Passes:
    """The passes of one model on an open device; `close` them before the device. `tt` is the ttnn module or a shadow of it."""

    def __init__(self, tt: Any, device: Any, bert: Bert, first: Batch, *, overlap: bool = False) -> None:
        """Run a first batch, which builds and compiles every program. `overlap` needs a device with two command queues."""
        self._tt, self._device, self._bert = tt, device, bert
        host = host_batch(tt, device, bert.plan, first)
        self._inputs = place(tt, device, host)
        self._staging: Inputs | None = None
        if overlap:
            self._staging = Inputs(*(each.to(device, tt.DRAM_MEMORY_CONFIG) for each in host))
            self._staging_free = tt.record_event(device, 0)
        self._trace: Any = None
        self._traced_logits: Any = None
        self.finish(self.start(first))

    def capture(self) -> str | None:
        """Record the ops as a trace; None, or why this device records none, in TT-NN's words.

        RuntimeError where the recording began and failed: the device is then in no state to go on.
        """
        tt = self._tt
        try:
            trace = tt.begin_trace_capture(self._device, cq_id=0)
        except RuntimeError as error:
            return first_line(error)
        self._traced_logits = self._dispatch()
        tt.end_trace_capture(self._device, trace, cq_id=0)
        self._trace = trace
        return None

    @property
    def is_traced(self) -> bool:
        return self._trace is not None

    def start(self, batch: Batch) -> Pass:
        """Begin a pass over a batch, rows for all chips; `finish` it before the one that is begun after it."""
        tt = self._tt
        sent = host_batch(tt, self._device, self._bert.plan, batch)
        self._send(sent)
        logits = self._replay() if self.is_traced else self._dispatch()
        read = tt.from_device(logits, blocking=False)
        if not self.is_traced:
            tt.deallocate(logits)  # what takes its place is written by this queue, after the read
        return Pass(sent, read, tt.record_event(self._device, 0))

    def finish(self, started: Pass) -> tuple[Logits, Logits]:
        """Wait for a pass; its start and end logits, each (rows, tokens)."""
        tt = self._tt
        tt.event_synchronize(started.done)
        chips = tt.get_device_tensors(tt.to_dtype(started.logits, tt.float32))
        logits = np.concatenate([each.to_numpy() for each in chips])  # (rows, 1, 2, t)
        return logits[:, 0, 0], logits[:, 0, 1]

    def close(self) -> None:
        if self.is_traced:
            self._tt.release_trace(self._device, self._trace)
            self._tt.deallocate(self._traced_logits)
        free_batch(self._tt, self._inputs)
        if self._staging:
            free_batch(self._tt, self._staging)

    def _send(self, host: Inputs) -> None:
        tt = self._tt
        if self._staging is None:
            for source, target in zip(host, self._inputs, strict=True):
                tt.copy_host_to_device_tensor(source, target, cq_id=0)
            return
        tt.wait_for_event(1, self._staging_free)
        for source, target in zip(host, self._staging, strict=True):
            tt.copy_host_to_device_tensor(source, target, cq_id=1)
        tt.wait_for_event(0, tt.record_event(self._device, 1))
        for source, target in zip(self._staging, self._inputs, strict=True):
            tt.copy(source, target)
        self._staging_free = tt.record_event(self._device, 0)

    def _replay(self) -> Any:
        self._tt.execute_trace(self._device, self._trace, cq_id=0, blocking=False)
        return self._traced_logits

    def _dispatch(self) -> Any:
        """The ops one by one: the two columns of the logits that mean something, as rows (b, 1, 2, t) in DRAM."""
        tt, plan = self._tt, self._bert.plan
        logits = self._bert.forward(self._inputs)  # (b, 1, t, 32)
        rows = tt.transpose(logits, -2, -1, memory_config=tt.L1_MEMORY_CONFIG)  # (b, 1, 32, t)
        tt.deallocate(logits)
        last = [plan.batch - 1, 0, 1, plan.tokens - 1]
        answer = tt.untilize_with_unpadding(rows, last, memory_config=tt.DRAM_MEMORY_CONFIG)  # (b, 1, 2, t), row-major
        tt.deallocate(rows)
        return answer
