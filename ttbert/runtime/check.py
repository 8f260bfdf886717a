"""Checks of a plan on a mock device: whether TT-NN accepts it, and whether its values are those of the reference.

`judge` needs no weights; `compare` runs a cached model in the shadow of the device (see `shadow`) and sets it beside the
reference on the processor, which shares no code with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..recipe.bert import bert_recipe
from ..recipe.policy import POLICIES
from ..tt import first_line
from .bert import Bert
from .inputs import empty_batch, free_batch, send_batch
from .plan import Plan

if TYPE_CHECKING:
    import torch

    from .loader import CachedModel
    from .tokens import Batch

LEAST_PCC = 0.99
"""Correlation with the reference's logits that a plan must reach with matmul weights of 8 bits or more."""


@dataclass(frozen=True)
class Verdict:
    """What TT-NN says of a plan: accepted, or the op that it refuses and its own reason in one line."""

    accepted: bool
    op: str = ""
    reason: str = ""
    ops: int = 0
    """Ops that ran, in one forward pass."""


@dataclass(frozen=True)
class OpCorrelation:
    """An op's value set beside the reference's; `layer` is None outside the encoder."""

    op: str
    layer: int | None
    pcc: float


@dataclass(frozen=True)
class Comparison:
    """A shadow run set beside the reference: PCC of the logits and of ops, and inputs whose best start and end agree."""

    start_pcc: float
    end_pcc: float
    ops: tuple[OpCorrelation, ...]
    inputs: int
    same_start: int
    same_end: int

    @property
    def pcc(self) -> float:
        return min(self.start_pcc, self.end_pcc)


def judge(ttnn: Any, device: Any, plan: Plan, passes: int = 1) -> Verdict:
    """Run the whole model on a mock device, with weights that are allocated and never written."""
    names = op_names(plan)
    done: list[str] = []
    watched = _Watched(ttnn, done.append)
    weights = empty_weights(ttnn, device, plan)
    try:
        bert = Bert(watched, device, plan, weights)
        done.clear()
        inputs = send_batch(ttnn, device, plan, empty_batch(plan))
        for _ in range(passes):
            done.clear()
            ttnn.deallocate(bert.forward(inputs))
        free_batch(ttnn, inputs)
    except RuntimeError as error:
        name = names[len(done)][1] if len(done) < len(names) else "set-up"
        return Verdict(False, name, first_line(error), len(done))
    finally:
        for tensor in weights.values():
            ttnn.deallocate(tensor)
    return Verdict(True, ops=len(done))


def compare(ttnn: Any, device: Any, plan: Plan, model: CachedModel, batch: Batch) -> Comparison:
    """Run a cached model in the shadow of the device, and the reference; every op the reference also has is set beside it."""
    from .shadow import Shadow, pcc

    expected = _record(model, batch)
    names = iter(op_names(plan))
    found: list[OpCorrelation] = []

    def on_op(called: str, value: torch.Tensor) -> None:
        layer, name = next(names)
        beside = expected.pop((layer, name), None)
        if beside is not None:
            found.append(OpCorrelation(name, layer, pcc(value, beside)))

    shadow = Shadow(ttnn)
    bert = Bert(shadow, device, plan, {entry.name: shadow.shadow(host, device) for entry, host in model.tensors()})
    inputs = send_batch(shadow, device, plan, batch)
    start, end = expected.pop((None, "start")), expected.pop((None, "end"))
    shadow.on_op = on_op
    logits = bert.forward(inputs).value[:, 0]
    free_batch(shadow, inputs)
    starts, ends = logits[..., 0], logits[..., 1]
    rows = batch.rows or len(batch.ids)
    return Comparison(
        pcc(starts, start),
        pcc(ends, end),
        tuple(found),
        rows,
        int((starts.argmax(-1) == start.argmax(-1))[:rows].sum()),
        int((ends.argmax(-1) == end.argmax(-1))[:rows].sum()),
    )


def op_names(plan: Plan) -> list[tuple[int | None, str]]:
    """(layer, name) of each op of a forward pass, in the order that `bert` calls them."""
    layer = [op.name for op in plan.layer_ops]
    names: list[tuple[int | None, str]] = [(None, op.name) for op in plan.ops() if op.name not in layer]
    before = names.index((None, "unsharded"))
    encoder: list[tuple[int | None, str]] = [(i, name) for i in range(plan.shape.layers) for name in layer]
    return [*names[:before], *encoder, *names[before:]]


def empty_weights(ttnn: Any, device: Any, plan: Plan) -> dict[str, Any]:
    """The model's tensors, allocated in DRAM as a load would, but never written."""
    layouts = {"tile": ttnn.TILE_LAYOUT, "row_major": ttnn.ROW_MAJOR_LAYOUT}
    return {
        each.name: ttnn.allocate_tensor_on_device(
            ttnn.Shape(each.shape), getattr(ttnn, each.dtype), layouts[each.layout], device, ttnn.DRAM_MEMORY_CONFIG
        )
        for each in bert_recipe(plan.shape, POLICIES[plan.policy]).tensors
    }


OPS = (
    "embedding",
    "add",
    "layer_norm",
    "interleaved_to_sharded",
    "reallocate",
    "linear",
    "split_query_key_value_and_split_heads",
    "create_qkv_heads",
    "matmul",
    "scale_mask_softmax_in_place",
    "nlp_concat_heads",
    "sharded_to_interleaved",
)
"""What counts as an op: it runs a program on the device. Views and reshapes of the same memory do not."""


class _Watched:
    """The ttnn module, or one below it, telling of each op that is done."""

    def __init__(self, module: Any, tell: Callable[[str], None]) -> None:
        self._module, self._tell = module, tell

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._module, name)
        if name == "experimental":
            return _Watched(found, self._tell)
        if name not in OPS:
            return found

        def call(*arguments: Any, **settings: Any) -> Any:
            made = found(*arguments, **settings)
            self._tell(name)
            return made

        return call


def _record(model: CachedModel, batch: Batch) -> dict[tuple[int | None, str], torch.Tensor]:
    """The reference's values by (layer, op), in the shapes of the plan's ops, and its logits as `start` and `end`."""
    import torch

    from .reference import Reference

    values: dict[tuple[int | None, str], torch.Tensor] = {}

    def keep(name: str, value: torch.Tensor) -> None:
        *layer, op = name.removeprefix("layers.").split(".")
        if layer == ["embeddings"]:
            values[None, "embedded"] = value
        else:
            values[int(layer[0]) if layer else None, op] = value

    class Recording(Reference):
        def _linear(self, states: torch.Tensor, name: str) -> torch.Tensor:
            before = {"out": "joined", "down": "up"}.get(name.rpartition(".")[2])
            if before:
                keep(name.rpartition(".")[0] + "." + before, states)
            value = super()._linear(states, name)
            if not name.endswith(".up"):  # the plan's `up` has gelu in it, so it is what `down` reads
                keep(name, value)
            return value

        def _norm(self, states: torch.Tensor, name: str) -> torch.Tensor:
            value = super()._norm(states, name)
            keep(name, value)
            return value

    starts, ends = Recording(model).run(batch)
    values[None, "start"], values[None, "end"] = torch.from_numpy(starts), torch.from_numpy(ends)
    return values


def by_op(comparison: Comparison) -> Iterator[tuple[str, float, float]]:
    """Each op with its PCC in the first layer and the lowest of all layers, in the order they run."""
    for name in dict.fromkeys(each.op for each in comparison.ops):
        found = [each.pcc for each in comparison.ops if each.op == name]
        yield name, found[0], min(found)
