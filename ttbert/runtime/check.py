"""Checks of a plan: whether TT-NN accepts it on a mock device, and whether its values are those of the reference.

`judge` needs no values; `compare` runs a cached model in the shadow of a mock device (see `shadow`), or on a device that
computes, and sets it beside the reference on the processor, which shares no code with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import AccuracyError
from ..frozen import Frozen
from ..recipe.bert import bert_recipe
from ..recipe.policy import POLICIES
from ..tt import first_line
from .bert import Bert
from .inputs import empty_batch, free_batch, send_batch
from .pcc import pcc
from .plan import Plan

if TYPE_CHECKING:
    import torch

    from .loader import CachedModel
    from .qa import Answer
    from .tokens import Batch

LEAST_PCC = 0.99
"""Correlation with the reference's logits that a plan must reach with matmul weights of 8 bits or more."""

TIE = 0.1
"""Two answers tie if the logarithms of the reference's scores are as close. A score depends on two logits, and bfloat16, in
which the device's come, has steps of 0.03 to 0.06 where they are 4 to 16."""


class Verdict(Frozen):
    """What TT-NN says of a plan: accepted, or the op that it refuses and its own reason in one line."""

    accepted: bool
    op: str = ""
    reason: str = ""
    ops: int = 0
    """Ops that ran, in one forward pass."""


class OpCorrelation(Frozen):
    """An op's value set beside the reference's; `layer` is None outside the encoder."""

    op: str
    layer: int | None
    pcc: float


class Comparison(Frozen):
    """A run set beside the reference, by PCC; of several chips that of the worst.

    `outputs` are the `start` and `end` logits, or the last `states` of a model without an answer head. `gaps` has for each
    input how much the reference prefers its own answer to the one found here, by the logarithm of the score: 0 if they are
    the same, None if the reference does not have it among its best.
    """

    outputs: Mapping[str, float]
    ops: tuple[OpCorrelation, ...]
    gaps: tuple[float | None, ...]

    @property
    def pcc(self) -> float:
        return min(self.outputs.values())

    @property
    def same(self) -> int:
        """Inputs with the same answer."""
        return sum(gap == 0 for gap in self.gaps)

    @property
    def tied(self) -> int:
        """Inputs with another answer that ties with the reference's own."""
        return sum(gap is not None and 0 < gap <= TIE for gap in self.gaps)


def find_fault(what: str, pcc: float, policy: str, hint: str) -> AccuracyError | None:
    """The error for outputs, such as "the logits'", that agree too little with the reference's; bfp4's may, as they will."""
    if pcc >= LEAST_PCC or policy == "bfp4":
        return None
    return AccuracyError(f"{what} PCC with the reference is {pcc:.4f}, below {LEAST_PCC}", hint)


def judge(ttnn: Any, device: Any, plan: Plan, weights: Mapping[str, Any]) -> Verdict:
    """Run the whole model on a mock device; `weights` are its tensors there."""
    names = op_names(plan)
    done: list[str] = []
    watched = _Watched(ttnn, lambda name, made: done.append(name))
    try:
        bert = Bert(watched, device, plan, weights)
        done.clear()
        inputs = send_batch(ttnn, device, plan, empty_batch(plan))
        ttnn.deallocate(bert.forward(inputs))
        free_batch(ttnn, inputs)
    except RuntimeError as error:
        name = names[len(done)][1] if len(done) < len(names) else "set-up"
        return Verdict(False, name, first_line(error), len(done))
    return Verdict(True, ops=len(done))


def compare(
    ttnn: Any, device: Any, plan: Plan, model: CachedModel, batch: Batch, contexts: Sequence[str], computes: bool = False
) -> Comparison:
    """Run a cached model in the shadow of the device, and the reference; every op the reference also has is set beside it.

    Of a device that `computes`, every op's output is read back instead. `contexts` are the texts that the batch's windows are
    of, in which answers are looked for.
    """
    from .qa import decode
    from .shadow import Shadow

    expected = _record(model, batch)
    names = iter(op_names(plan))
    found: list[OpCorrelation] = []

    def on_op(called: str, *values: torch.Tensor) -> None:
        layer, name = next(names)
        beside = expected.pop((layer, name), None)
        if beside is not None:
            found.append(OpCorrelation(name, layer, min(pcc(value, beside) for value in values)))

    runs = _ReadBack(ttnn) if computes else Shadow(ttnn)
    bert = Bert(runs, device, plan, {entry.name: runs.shadow(host, device) for entry, host in model.tensors()})
    inputs = send_batch(runs, device, plan, batch)
    runs.on_op = on_op
    outputs = [value[:, 0] for value in runs.values(bert.forward(inputs))]
    free_batch(runs, inputs)
    if not plan.answer:
        return Comparison({"states": min(pcc(each, expected[None, "states"]) for each in outputs)}, tuple(found), ())
    starts, ends = outputs[0][..., 0], outputs[0][..., 1]
    start, end = expected[None, "start"].numpy(), expected[None, "end"].numpy()
    gaps = []
    for row, (window, context) in enumerate(zip(batch.windows, contexts, strict=True)):
        [chosen] = decode([window], [starts[row]], [ends[row]], context)
        gaps.append(_gap(chosen, decode([window], [start[row]], [end[row]], context, top_k=20)))
    worst = {
        name: min(pcc(each[..., column], logits) for each in outputs)
        for column, (name, logits) in enumerate((("start", start), ("end", end)))
    }
    return Comparison(worst, tuple(found), tuple(gaps))


def _gap(chosen: Answer, ranked: Sequence[Answer]) -> float | None:
    """How much the best of the answers is preferred to the one that was chosen, as in `Comparison.gaps`."""
    score = next((each.score for each in ranked if each.text.lower() == chosen.text.lower()), 0.0)
    return math.log(ranked[0].score / score) if score else None


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
    """The ttnn module, or one below it, telling of each op that is done, and what it made."""

    def __init__(self, module: Any, tell: Callable[[str, Any], None]) -> None:
        self._module, self._tell = module, tell

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._module, name)
        if name == "experimental":
            return _Watched(found, self._tell)
        if name not in OPS:
            return found

        def call(*arguments: Any, **settings: Any) -> Any:
            made = found(*arguments, **settings)
            self._tell(name, made)
            return made

        return call


class _ReadBack(_Watched):
    """Has ttnn's names. `on_op` is called after each op with its name and its (first) output's value on each chip."""

    def __init__(self, ttnn: Any) -> None:
        super().__init__(ttnn, self._read)
        self.on_op: Callable[..., None] = lambda name, *values: None

    def shadow(self, host: Any, device: Any) -> Any:
        """A host tensor, such as a cached weight, on the device in DRAM."""
        return self._module.to_device(host, device, memory_config=self._module.DRAM_MEMORY_CONFIG)

    def values(self, tensor: Any) -> list[torch.Tensor]:
        """A tensor's value on each chip, float32."""
        import torch

        tt = self._module
        host = tt.to_dtype(tt.from_device(tensor), tt.float32)
        return [torch.from_numpy(each.to_numpy()) for each in tt.get_device_tensors(host)]

    def _read(self, name: str, made: Any) -> None:
        self.on_op(name, *self.values(made[0] if isinstance(made, tuple | list) else made))


def _record(model: CachedModel, batch: Batch) -> dict[tuple[int | None, str], torch.Tensor]:
    """The reference's values by (layer, op), in the shapes of the plan's ops, and `start` and `end` logits or last `states`."""
    import torch

    from .reference import Reference

    values: dict[tuple[int | None, str], torch.Tensor] = {}

    def keep(name: str, value: torch.Tensor) -> None:
        *layer, op = name.removeprefix("layers.").split(".")
        if layer == ["embeddings"]:
            values[None, "embedded"] = value
        else:
            values[int(layer[0]) if layer else None, op] = value.to_dense()

    class Recording(Reference):
        def _linear(self, states: torch.Tensor, name: str) -> torch.Tensor:
            before = {"out": "joined", "down": "up"}.get(name.rpartition(".")[2])
            if before:
                keep(name.rpartition(".")[0] + "." + before, states)
            value = super()._linear(states, name)
            if name.endswith(".qkv"):
                keep(name, _by_group(value.to_dense(), self.shape.qkv_groups))
            elif not name.endswith(".up"):  # the plan's `up` has gelu in it, so it is what `down` reads
                keep(name, value)
            return value

        def _norm(self, states: torch.Tensor, name: str) -> torch.Tensor:
            value = super()._norm(states, name)
            keep(name, value)
            return value

        def _attend(self, states: torch.Tensor, mask: torch.Tensor, name: str) -> torch.Tensor:
            """Written out, for the values that torch's own attention does not give; that makes the result."""
            query, key, value = self._split_heads(states, name)
            scores = query @ key.transpose(2, 3)
            weights = torch.softmax((scores * self.shape.head_size**-0.5).masked_fill(~mask, -torch.inf), dim=-1)
            for op, made in (("heads", query), ("scores", scores), ("softmax", weights), ("context", weights @ value)):
                keep(f"{name}.{op}", made)
            return super()._attend(states, mask, name)

    reference = Recording(model)
    if model.shape.has_answer_head:
        starts, ends = reference.run(batch)
        values[None, "start"], values[None, "end"] = torch.from_numpy(starts), torch.from_numpy(ends)
    else:
        values[None, "states"] = reference.encode(batch)
    return values


def _by_group(fused: torch.Tensor, groups: int) -> torch.Tensor:
    """All Q, all K and all V (..., 3 * hidden) in the device's order: for each group of heads its Q, its K and its V."""
    return fused.view(*fused.shape[:-1], 3, groups, -1).transpose(-3, -2).reshape(fused.shape)


def by_op(comparison: Comparison) -> Iterator[tuple[str, float, float]]:
    """Each op with its PCC in the first layer and the lowest of all layers, in the order they run."""
    for name in dict.fromkeys(each.op for each in comparison.ops):
        found = [each.pcc for each in comparison.ops if each.op == name]
        yield name, found[0], min(found)
