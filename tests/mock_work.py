"""What tests do on a mock device, in a process of its own: python mock_work.py WHAT ARGUMENT, answer on stdout."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

from shapes import MANY_HEADS, SHAPES

from ttbert.cache.places import Places
from ttbert.convert.convert import convert, plan_conversion
from ttbert.convert.wanted import Wanted
from ttbert.demo.inputs import built_in_questions
from ttbert.errors import DeviceError
from ttbert.runtime import bert as bert_module
from ttbert.runtime import check, shadow
from ttbert.runtime.bert import Bert
from ttbert.runtime.device import open_device
from ttbert.runtime.inputs import free_batch, send_batch
from ttbert.runtime.l1 import usage
from ttbert.runtime.loader import CachedModel
from ttbert.runtime.lower import chip_of
from ttbert.runtime.ops import Linear
from ttbert.runtime.plan import Plan, plan_bert
from ttbert.runtime.tokens import Batch, Encoder, make_batches
from ttbert.tt import device_ttnn, first_line

ttnn = device_ttnn()


class Meter:
    """The ttnn module, in which each op runs with all of L1 filled first, so that TT-NN says what its program needs.

    What it says, in its refusal, is where the circular buffers end; a program that is not refused has none.
    """

    def __init__(self, device: Any, plan: Plan) -> None:
        self._device = device
        self._base = ttnn.get_allocator_base_address(device, ttnn.BufferType.L1)
        self._names = iter(check.op_names(plan))
        self._room = {op.name: _output_bytes(plan, op.name) for op in plan.ops()}
        self.found: dict[str, tuple[int, int, int]] = {}

    def __getattr__(self, name: str) -> Any:
        return _Metered(self, ttnn, name)

    @property
    def experimental(self) -> Any:
        return _Namespace(self, ttnn.experimental)

    def measure(self, op: Callable[[], Any]) -> Any:
        _, name = next(self._names)
        circular = 0 if name == "moved" else self._circular(op, self._room[name])
        made = op()
        view = self._view()
        lowest = min(int(block["address"]) for block in view.block_table if block["allocated"] == "yes")
        depth = view.total_bytes_per_bank - lowest
        self.found[name] = (circular, view.total_bytes_allocated_per_bank, depth)
        return made

    def _circular(self, op: Callable[[], Any], room: int) -> int:
        # Outputs take the highest gaps that they fit, so what is left free differs; the largest answer is the right one.
        return max(self._refusal(op, keep) for keep in {room + 256, 256})

    def _refusal(self, op: Callable[[], Any], keep: int) -> int:
        with self._filled(keep):
            try:
                op()
            except RuntimeError as error:
                told = re.search(r"static \w+ buffer region ends at (\d+)|grow to (\d+) B", str(error))
                return int(next(filter(None, told.groups()))) - self._base if told else 0
        return 0

    @contextmanager
    def _filled(self, keep: int) -> Iterator[None]:
        """All gaps filled but the lowest, of which `keep` bytes are left."""
        held = []
        gaps = sorted((block for block in self._view().block_table if block["allocated"] != "yes"), key=_address)
        for gap in reversed(gaps):
            size = (int(gap["size"]) - (keep if gap is gaps[0] else 0)) // 64 * 64
            if size >= 2048:
                shape = ttnn.Shape([self._view().num_banks, size // 4])
                held.append(
                    ttnn.allocate_tensor_on_device(
                        shape, ttnn.uint32, ttnn.ROW_MAJOR_LAYOUT, self._device, ttnn.L1_MEMORY_CONFIG
                    )
                )
        try:
            yield
        finally:
            for each in held:
                each.deallocate()

    def _view(self) -> Any:
        return ttnn.get_memory_view(self._device, ttnn.BufferType.L1)


class _Namespace:
    def __init__(self, meter: Meter, module: Any) -> None:
        self._meter, self._module = meter, module

    def __getattr__(self, name: str) -> Any:
        return _Metered(self._meter, self._module, name)


def _Metered(meter: Meter, module: Any, name: str) -> Any:
    found = getattr(module, name)
    if name not in check.OPS:
        return found
    return lambda *arguments, **settings: meter.measure(lambda: found(*arguments, **settings))


def _address(block: Any) -> int:
    return int(block["address"])


def _output_bytes(plan: Plan, name: str) -> int:
    before: set[str] = set()
    for each in usage(plan):
        now = {buffer.name: buffer.size for buffer in each.held}
        if each.op == name:
            return sum(size for made, size in now.items() if made not in before)
        before = set(now)
    return 0


def measure(device: Any, name: str, batch: int, tokens: int, policy: str, narrow: bool) -> dict[str, Any]:
    """For each op [measured, modelled]: circular buffers, buffers, depth of the lowest."""
    shape = replace({**SHAPES, **MANY_HEADS}[name], layers=1)
    plan = plan_bert(shape, batch, tokens, chip_of(device, ttnn), policy)
    if narrow:
        halves = {
            op.name: replace(op, blocks=replace(op.blocks, inner=op.blocks.inner // 2))
            for op in plan.layer_ops
            if isinstance(op, Linear) and op.blocks.inner % 2 == 0
        }
        plan = replace(plan, **halves)  # type: ignore[arg-type]
    bert = Bert(ttnn, device, plan, check.empty_weights(ttnn, device, plan))
    inputs = send_batch(ttnn, device, plan, check.empty_batch(plan))
    meter = Meter(device, plan)
    bert._tt = meter
    ttnn.deallocate(bert.forward(inputs))
    free_batch(ttnn, inputs)
    return {each.op: [meter.found[each.op], (each.circular, each.buffers, each.depth)] for each in usage(plan)}


def measures(cases: list[list[Any]]) -> list[Any]:
    with open_device() as device:
        return [measure(device, *case) for case in cases]


def leaks(_: Any) -> dict[str, list[int]]:
    """Bytes allocated of L1 and DRAM after the first and the hundredth forward pass."""
    with open_device() as device:
        plan = plan_bert(SHAPES["tiny"], 8, 128, chip_of(device, ttnn))
        bert = Bert(ttnn, device, plan, check.empty_weights(ttnn, device, plan))
        after = {}
        for i in range(1, 101):
            inputs = send_batch(ttnn, device, plan, check.empty_batch(plan))
            ttnn.deallocate(bert.forward(inputs))
            free_batch(ttnn, inputs)
            if i in (1, 100):
                kinds = (ttnn.BufferType.L1, ttnn.BufferType.DRAM)
                after[str(i)] = [ttnn.get_memory_view(device, kind).total_bytes_allocated_per_bank for kind in kinds]
        return after


class NoBias(Bert):
    def _linear(self, states: Any, linear: Any, op: Any) -> Any:
        return super()._linear(states, replace(linear, bias=None), op)


class SwappedHeads(Bert):
    def _split_heads(self, fused: Any) -> Any:
        query, key, value = super()._split_heads(fused)
        query.value[:, [0, 1]] = query.value[:, [1, 0]]
        return query, key, value


class NoMask(Bert):
    def _attend(self, states: Any, mask: Any, layer: Any) -> Any:
        return super()._attend(states, shadow.ShadowTensor(mask.device, mask.value * 0), layer)


def half_shard(plan: Plan) -> Plan:
    shard = plan.sharded.memory.shard
    assert shard
    return replace(plan, sharded=replace(plan.sharded, memory=replace(plan.sharded.memory, shard=replace(shard, width=32))))


def other_split(plan: Plan) -> Plan:
    """By the op that reads head by head, which TT-NN accepts for two heads a core."""
    return replace(plan, heads=replace(plan.heads, in_pairs=False))


WRONG: dict[str, tuple[type[Bert], Callable[[Plan], Plan]]] = {
    "right": (Bert, lambda plan: plan),
    "shard width halved": (Bert, half_shard),
    "bias dropped": (NoBias, lambda plan: plan),
    "heads swapped": (SwappedHeads, lambda plan: plan),
    "heads split by the other op": (Bert, other_split),
    "mask skipped": (NoMask, lambda plan: plan),
}


def load(cache_folder: str, name: str) -> CachedModel:
    cache = Places(cache_folder).open()
    return CachedModel(cache, convert(plan_conversion(Wanted(name)), cache).cached)


def questions(model: CachedModel, size: int, tokens: int) -> tuple[Batch, list[str]]:
    """A batch of the built-in questions with its contexts, short enough that there is padding to mask."""
    encoder = Encoder(model.tokenizer, tokens, tokens // 4)
    chosen = [each._replace(context=each.context[: 2 * tokens - 56]) for each in built_in_questions()[:size]]
    windows = [encoder.windows(each.question, each.context)[0] for each in chosen]
    return next(make_batches(windows, size, tokens, pad_id=encoder.pad_id)), [each.context for each in chosen]


def compared(names: list[str]) -> list[Any]:
    """The shadow runs of models, the first of the names being of the cache's folder."""
    answers = []
    with open_device() as device:
        for name in names[1:]:
            model = load(names[0], name)
            plan = plan_bert(model.shape, 2, 128, chip_of(device, ttnn))
            comparison = check.compare(ttnn, device, plan, model, *questions(model, 2, 128))
            answers.append({"pcc": comparison.pcc, "worst": min(each.pcc for each in comparison.ops)})
    return answers


def read_back(cache_folder: str) -> Any:
    """The same model with what each op made read back from the device: from a shadow, which computes, and from the mock."""
    model = load(cache_folder, "bundled")
    batch, contexts = questions(model, 2, 128)
    with open_device() as device:
        plan = plan_bert(model.shape, 2, 128, chip_of(device, ttnn))

        def compare(tt: Any, **how: bool) -> Any:
            return asdict(check.compare(tt, device, plan, model, batch, contexts, **how))

        return compare(ttnn), compare(shadow.Shadow(ttnn), computes=True), compare(ttnn, computes=True)


def wrong(cache_folder: str) -> dict[str, Any]:
    """For each of WRONG: TT-NN's refusal, or the PCC of the logits and of the worst op."""
    model = load(cache_folder, "bundled")
    batch, contexts = questions(model, 2, 128)
    answers = {}
    with open_device() as device:
        plan = plan_bert(model.shape, 2, 128, chip_of(device, ttnn))
        for case, (kind, change) in WRONG.items():
            check.Bert = kind  # type: ignore[misc]
            try:
                comparison = check.compare(ttnn, device, change(plan), model, batch, contexts)
                answers[case] = {"pcc": comparison.pcc, "worst": min(each.pcc for each in comparison.ops)}
            except (RuntimeError, DeviceError) as error:
                answers[case] = {"refused": first_line(error)}
            finally:
                check.Bert = bert_module.Bert  # type: ignore[misc]
    return answers


if __name__ == "__main__":
    work: dict[str, Callable[[Any], Any]] = {
        "measures": measures,
        "leaks": leaks,
        "compared": compared,
        "read_back": read_back,
        "wrong": wrong,
    }
    print("\nanswer:" + json.dumps(work[sys.argv[1]](json.loads(sys.argv[2]))))
