"""What tests of the device runtime do on a mock device, in a process of its own: python device_work.py WHAT ARGUMENT."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
from shapes import SHAPES

from ttbert.cache.places import Places
from ttbert.cache.refs import Ref
from ttbert.demo.inputs import built_in_questions
from ttbert.runtime import bench, target
from ttbert.runtime.bert import Bert
from ttbert.runtime.check import OPS, empty_weights
from ttbert.runtime.device import open_device
from ttbert.runtime.inputs import empty_batch, host_batch
from ttbert.runtime.loader import CachedModel
from ttbert.runtime.lower import chip_of
from ttbert.runtime.on_device import OnDevice
from ttbert.runtime.passes import Pass, Passes
from ttbert.runtime.plan import plan_bert
from ttbert.runtime.target import Target, open_runtime
from ttbert.runtime.tokens import Batch, Encoder, make_batches
from ttbert.tt import device_ttnn

ttnn = device_ttnn()

QUEUES = ("copy_host_to_device_tensor", "copy", "record_event", "wait_for_event", "event_synchronize", "from_device")
"""What a pass does beside its ops, the first two of which take their queue by name."""


class Recorder:
    """The ttnn module, or one below it, writing down each op and what goes through the command queues; calls go through."""

    def __init__(self, module: Any = ttnn, calls: list[Any] | None = None) -> None:
        self._module = module
        self.calls: list[Any] = [] if calls is None else calls

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._module, name)
        if name == "experimental":
            return Recorder(found, self.calls)
        if name not in (*OPS, *QUEUES, "transpose", "untilize_with_unpadding"):
            return found

        def call(*arguments: Any, **settings: Any) -> Any:
            made = found(*arguments, **settings)
            self.calls.append((name, arguments, settings, made))
            return made

        return call


def model(cache_folder: str) -> CachedModel:
    cache = Places(cache_folder).open()
    cached = cache.resolve(Ref("bundled", None, "bfp8"))
    assert cached
    return CachedModel(cache, cached)


def batches(model: CachedModel, count: int, rows: int, tokens: int) -> list[Batch]:
    """Different questions in each."""
    encoder = Encoder(model.tokenizer, tokens, 32)
    questions = built_in_questions()[: count * rows]
    windows = [encoder.windows(each.question, each.context[:300])[0] for each in questions]
    return list(make_batches(windows, rows, tokens, pad_id=encoder.pad_id))


def loads(cache_folder: str) -> dict[str, Any]:
    """Loading and running with the real module: what is imported, what the host holds, what stays allocated."""
    held: list[int] = []

    class Watching(Recorder):
        def to_device(self, *arguments: Any, **settings: Any) -> Any:
            maps = Path("/proc/self/maps").read_text().splitlines()
            held.append(len({line.split()[4] for line in maps if "memfd:ttbert" in line}))
            return ttnn.to_device(*arguments, **settings)

    with open_device() as device:
        loaded = model(cache_folder)
        runtime = OnDevice(Watching(), device, loaded, 2, 128)
        some = batches(loaded, 3, 2, 128)
        shapes = [[list(side.shape) for side in logits] for logits in runtime.stream(some)]
        after_first = allocated(device)
        for _ in range(100):
            runtime.run(some[0])
        after_hundred = allocated(device)
        runtime.close()
        return {
            "held": max(held),
            "tensors": len(held),
            "bytes": runtime.loading.bytes,
            "shapes": shapes,
            "leaked": [now - then for now, then in zip(after_hundred, after_first, strict=True)],
            "imported": [name for name in ("torch", "transformers", "safetensors", "huggingface_hub") if name in sys.modules],
        }


def values(cache_folder: str) -> dict[str, Any]:
    """Two batches, one begun before the other is done, with values from golden functions, beside the reference."""
    from ttbert.runtime.reference import Reference
    from ttbert.runtime.shadow import Shadow

    with open_device() as device:
        loaded = model(cache_folder)
        runtime = OnDevice(Shadow(ttnn), device, loaded, 2, 128)
        some = batches(loaded, 2, 2, 128)
        found = list(runtime.stream(some))
    expected = list(Reference(loaded).stream(some))

    def pcc(number: int, other: int, side: int) -> float:
        real = some[number].attention_mask == 1
        return float(np.corrcoef(found[number][side][real], expected[other][side][real])[0, 1])

    return {
        "pcc": [pcc(number, number, side) for number in (0, 1) for side in (0, 1)],
        "pcc with the other batch": pcc(0, 1, 0),
        "pcc of starts with ends": float(np.corrcoef(found[0][0].flat, expected[0][1].flat)[0, 1]),
    }


def measured(cache_folder: str) -> dict[str, Any]:
    """The bench of a device that gives nothing but zeros and is said to be none of the mocks."""
    loaded = model(cache_folder)
    target = Target("n150", "wormhole_b0", 1, is_mock=False, traces=False)
    found = bench.measure(target, loaded, batches(loaded, 2, 2, 128), 2, 128, 0.1)
    (speed,) = found.speeds
    return {"pcc": found.pcc, "speed": asdict(speed)}


def slow(root: str) -> list[str]:
    """What is told of a device that is not ready at once, where patience ends at once, too."""
    told: list[str] = []
    logging.getLogger("ttbert.runtime.target").addFilter(lambda record: told.append(record.getMessage()) or False)
    target._PATIENCE = 0.0
    with open_runtime(Target("n150", "wormhole_b0", is_mock=True), model(root), 1, 384):
        return told


def opening(cache_folder: str) -> bool:
    """A runtime: whether packs are read before TT-NN has opened the device."""
    loaded = model(cache_folder)
    read, open_mesh_device = Event(), ttnn.open_mesh_device
    found: list[bool] = []

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and "/blobs/" in str(arguments[0]):
            read.set()

    def open_late(*arguments: Any, **settings: Any) -> Any:
        found.append(read.wait(60))
        return open_mesh_device(*arguments, **settings)

    sys.addaudithook(note)
    ttnn.open_mesh_device = open_late
    with open_runtime(Target("n150", "wormhole_b0", is_mock=True), loaded, 2, 128):
        return found == [True]


def order(_: Any) -> dict[str, Any]:
    """With two command queues, and slow dispatch: what two passes do, in their order, and what becomes of a trace."""
    recorder = Recorder()
    with open_device(command_queues=2) as device:
        plan = plan_bert(SHAPES["tiny"], 2, 128, chip_of(device, ttnn))
        batch = empty_batch(plan)
        bert = Bert(recorder, device, plan, empty_weights(ttnn, device, plan))
        passes = Passes(recorder, device, bert, batch, overlap=True)
        places = [each.buffer_address() for each in passes._inputs]
        refused = passes.capture()
        recorder.calls.clear()
        first, second = passes.start(batch), passes.start(batch)
        passes.finish(first)
        passes.finish(second)
        calls = list(named(recorder.calls))
        each = {name: sum(call[0] == name for call in recorder.calls) / 2 for name in QUEUES}
        passes._tt = bert._tt = ttnn
        recorder.calls.clear()
        before = allocated(device)
        for _ in range(100):
            passes.finish(passes.start(batch))
        leaked = [now - then for now, then in zip(allocated(device), before, strict=True)]
        moved = places != [each.buffer_address() for each in passes._inputs]
        passes.close()
    return {"calls": calls, "refused": refused, "leaked": leaked, "moved": moved, "a batch": each}


def named(calls: list[Any]) -> Iterator[str]:
    """Calls in words; events are numbered as they are recorded, and the same call several times in a row is one."""
    events: dict[int, int] = {}
    last = ""
    for name, arguments, settings, made in calls:
        if name == "record_event":
            events[id(made)] = len(events)
            said = f"queue {arguments[1]} records event {events[id(made)]}"
        elif name == "wait_for_event":
            said = f"queue {arguments[0]} waits for event {events.get(id(arguments[1]), 'before')}"
        elif name == "event_synchronize":
            said = f"the host waits for event {events[id(arguments[0])]}"
        elif name == "from_device":
            said = f"queue 0 reads, {'blocking' if settings.get('blocking', True) else 'not blocking'}"
        elif name in QUEUES:
            said = f"queue {settings.get('cq_id', 0)}: {name}"
        else:
            said = "queue 0: ops"
        if said != last:
            yield said
        last = said


def chips(_: Any) -> dict[str, Any]:
    """A batch of several chips, cut and put together again: values on the host, as none come from a mock device."""
    with open_device() as device:
        count = device.get_num_devices()
        plan = plan_bert(SHAPES["tiny"], 2, 128, chip_of(device, ttnn))
        rows, columns = np.arange(2 * count, dtype=np.int32)[:, None], np.arange(128, dtype=np.int32)
        batch = Batch((), 1000 * rows + columns, rows % 2 + 0 * columns, (columns <= rows).astype(np.int32))
        sent = host_batch(ttnn, device, plan, batch)
        masks = [ttnn.to_dtype(each, ttnn.float32).to_numpy() for each in ttnn.get_device_tensors(sent.mask)]
        bert = Bert(ttnn, device, plan, empty_weights(ttnn, device, plan))
        passes = Passes(ttnn, device, bert, empty_batch(plan, count))
        # As they come from the device: (rows, 1, start and end, tokens), each chip with its own rows.
        logits = np.stack([batch.token_types * 64 + columns, -rows - columns], axis=1)[:, None].astype(np.float32)
        host = ttnn.Tensor(logits, data_type=ttnn.bfloat16, layout=ttnn.ROW_MAJOR_LAYOUT)
        host = ttnn.distribute_tensor(host, ttnn.ShardTensorToMesh(device, dim=0))
        start, end = passes.finish(Pass(sent, host, ttnn.record_event(device, 0)))
        try:
            passes.start(empty_batch(plan, count + 1))
            refused = ""
        except ValueError as error:
            refused = str(error)
        passes.close()
    return {
        "first ids": [each.to_numpy()[:, 0].tolist() for each in ttnn.get_device_tensors(sent.ids)],
        "unmasked": [(mask == 0).sum(axis=(1, 2, 3)).tolist() for mask in masks],
        "same": [bool((start == logits[:, 0, 0]).all()), bool((end == logits[:, 0, 1]).all())],
        "refused": refused,
    }


def counts(layers: int) -> dict[str, Any]:
    """BERT-large, batch 8 of 384 tokens: what the host does for one batch, and the bytes of what ops read in DRAM."""
    recorder = Recorder()
    with open_device() as device:
        plan = plan_bert(replace(SHAPES["large"], layers=layers), 8, 384, chip_of(device, ttnn))
        bert = Bert(recorder, device, plan, empty_weights(ttnn, device, plan))
        passes = Passes(recorder, device, bert, empty_batch(plan))
        recorder.calls.clear()
        started = passes.start(empty_batch(plan))
        calls = list(recorder.calls)
        ops = [call for call in calls if call[0] not in QUEUES]
        answer = {
            "ops": len(ops),
            "other calls": {name: sum(call[0] == name for call in calls) for name in QUEUES},
            "read in DRAM": sum(map(dram_bytes, ops)),
            "sent": sum(host_bytes(each) for each in started.sent),
            "read back": host_bytes(started.logits),
        }
        passes.finish(started)
        passes.close()
    return answer


def host_bytes(tensor: Any) -> int:
    return int(np.prod(list(tensor.shape))) * tensor.element_size()


def dram_bytes(call: Any) -> int:
    """Bytes of the operands of an op that lie in DRAM; of a table, the rows that are looked up."""
    name, arguments, settings, _ = call
    found = 0
    for number, each in enumerate((*arguments, *settings.values())):
        if isinstance(each, ttnn.Tensor) and each.memory_config().buffer_type == ttnn.BufferType.DRAM:
            looked_up = name == "embedding" and number == 1
            rows = arguments[0].logical_volume() if looked_up else each.buffer_num_pages()
            found += rows * each.buffer_page_size()
    return found


def allocated(device: Any) -> list[int]:
    kinds = (ttnn.BufferType.L1, ttnn.BufferType.DRAM)
    return [ttnn.get_memory_view(device, kind).total_bytes_allocated_per_bank for kind in kinds]


if __name__ == "__main__":
    work: dict[str, Callable[[Any], Any]] = {
        each.__name__: each for each in (loads, values, measured, slow, opening, order, chips, counts)
    }
    print("\nanswer:" + json.dumps(work[sys.argv[1]](json.loads(sys.argv[2]))))
