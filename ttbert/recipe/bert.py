"""BERT's table: which source tensors make which device tensor, by which steps, in which format.

Source names are canonical: without the `bert.` prefix that a model with a head has, and with `weight` and `bias` for
the `gamma` and `beta` of the first TensorFlow conversions. The device side follows tt-metal's BERT-large demo
(models/demos/metal_BERT_large_11): matmul weights transposed and tiled, Q, K and V fused and interleaved so that each
core finds its own heads (`BertShape.qkv_groups`), embeddings and norms row-major.

Packs are about what is fetched, and what is shared, at once. A tensor each would be 295 objects of a BERT-large, and an
object costs a shared store and a cold disk more than its bytes do; the whole model in one would share nothing. So:
- the embeddings, the same in every policy, are one pack (65 MB of a BERT-large);
- a layer is two: its feed-forward weights (9 MB in bfp8), which alone differ between bfp8 and bfp4, and all the rest (5 MB);
- the answer head is one of its own, tiny as it is, so that an encoder with and without a head shares all else.
Layers stay apart, since a model that was tuned with its lower layers frozen shares those with its base.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import CheckpointError
from ..model import TILE, BertShape
from ..text import count_text, some_text
from .policy import Policy
from .recipe import PackRecipe, Recipe, TensorRecipe
from .steps import Step

_PREFIX = "bert."
_RENAMED = {".LayerNorm.gamma": ".LayerNorm.weight", ".LayerNorm.beta": ".LayerNorm.bias"}

IGNORED = ("embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias")
"""Source tensors that are not used: a constant that old checkpoints store, and the pooler, which question answering and
sentence embeddings from token states do without."""


def bert_recipe(shape: BertShape, policy: Policy) -> Recipe:
    """The recipe of a model of this shape: 5 tensors, 12 a layer, and 2 more for a question-answering head."""
    packs = [_embeddings(shape)]
    for i in range(shape.layers):
        packs += _layer(shape, policy, f"layers.{i}", f"encoder.layer.{i}")
    if shape.has_answer_head:
        # Two columns, start and end, padded to a whole tile.
        answer = _linear("answer", "qa_outputs", (2, shape.hidden), policy.attention, policy.bias, pad=TILE)
        packs.append(PackRecipe("answer", answer))
    return Recipe(policy.name, shape, tuple(packs))


def canonical_names(names: Iterable[str]) -> dict[str, str]:
    """Canonical name -> name in the file; CheckpointError where two names mean the same tensor."""
    found: dict[str, str] = {}
    for name in sorted(names):
        canonical = name.removeprefix(_PREFIX)
        for old, new in _RENAMED.items():
            if canonical.endswith(old):
                canonical = canonical.removesuffix(old) + new
        if canonical in found:
            raise CheckpointError(
                f"the checkpoint has both {found[canonical]} and {name}, which mean the same tensor",
                "save the model again with transformers' save_pretrained()",
            )
        found[canonical] = name
    return found


def check_tensors(recipe: Recipe, found: dict[str, tuple[int, ...]]) -> None:
    """Every tensor that the recipe reads is there with its exact shape, and every other one is on the ignore list."""
    expected = recipe.sources
    missing = sorted(set(expected) - set(found))
    extra = sorted(set(found) - set(expected) - set(IGNORED))
    wrong = [f"{name} {found[name]}, not {shape}" for name, shape in expected.items() if name in found and found[name] != shape]
    problems = [
        f"{title}: {some_text(names, 6)}"
        for title, names in (("missing", missing), ("not known", extra), ("of another shape", wrong))
        if names
    ]
    if problems:
        raise CheckpointError(
            f"the tensors are not those of a {recipe.shape.architecture} with {count_text(recipe.shape.layers, 'layer')}: "
            + "; ".join(problems),
            "does config.json belong to these weights?",
        )


def _embeddings(shape: BertShape) -> PackRecipe:
    hidden = shape.hidden
    return PackRecipe(
        "embeddings",
        (
            _table("embeddings.word", "embeddings.word_embeddings.weight", shape.vocabulary, hidden),
            _table("embeddings.position", "embeddings.position_embeddings.weight", shape.positions, hidden),
            _table("embeddings.token_type", "embeddings.token_type_embeddings.weight", shape.token_types, hidden),
            *_norm("embeddings.norm", "embeddings.LayerNorm", hidden),
        ),
    )


def _layer(shape: BertShape, policy: Policy, name: str, source: str) -> tuple[PackRecipe, PackRecipe]:
    hidden, inner = shape.hidden, shape.intermediate
    attention, up, down = f"{source}.attention", f"{source}.intermediate.dense", f"{source}.output.dense"
    up_weight, up_bias = _linear(f"{name}.up", up, (inner, hidden), policy.feed_forward, policy.bias)
    down_weight, down_bias = _linear(f"{name}.down", down, (hidden, inner), policy.feed_forward, policy.bias)
    common = (
        *_qkv(f"{name}.qkv", f"{attention}.self", shape, policy),
        *_linear(f"{name}.out", f"{attention}.output.dense", (hidden, hidden), policy.attention, policy.bias),
        *_norm(f"{name}.attention_norm", f"{attention}.output.LayerNorm", hidden),
        up_bias,
        down_bias,
        *_norm(f"{name}.norm", f"{source}.output.LayerNorm", hidden),
    )
    return PackRecipe(f"{name}.common", common), PackRecipe(f"{name}.feed_forward", (up_weight, down_weight))


def _qkv(name: str, source: str, shape: BertShape, policy: Policy) -> tuple[TensorRecipe, TensorRecipe]:
    hidden = shape.hidden
    parts = [f"{source}.{part}" for part in ("query", "key", "value")]
    fuse = Step("interleave", {"grid": shape.qkv_groups})
    return (
        TensorRecipe(
            f"{name}.weight",
            {f"{part}.weight": (hidden, hidden) for part in parts},
            (Step("transpose"), fuse, Step("to_matrix")),
            (1, 1, hidden, 3 * hidden),
            policy.attention,
            "tile",
        ),
        TensorRecipe(
            f"{name}.bias",
            {f"{part}.bias": (hidden,) for part in parts},
            (fuse, Step("to_matrix")),
            (1, 1, 1, 3 * hidden),
            policy.bias,
            "tile",
        ),
    )


def _linear(
    name: str, source: str, size: tuple[int, int], weight: str, bias: str, pad: int | None = None
) -> tuple[TensorRecipe, TensorRecipe]:
    """Weight (out, in) and bias (out,) -> (1, 1, in, out) and (1, 1, 1, out), tiled."""
    outer, inner = size
    width = pad or outer
    padded = (Step("pad_columns", {"width": pad}),) if pad else ()
    matrix = Step("to_matrix")
    return (
        TensorRecipe(
            f"{name}.weight",
            {f"{source}.weight": size},
            (Step("transpose"), *padded, matrix),
            (1, 1, inner, width),
            weight,
            "tile",
        ),
        TensorRecipe(f"{name}.bias", {f"{source}.bias": (outer,)}, (*padded, matrix), (1, 1, 1, width), bias, "tile"),
    )


def _norm(name: str, source: str, hidden: int) -> list[TensorRecipe]:
    shape = (1, 1, hidden // TILE, TILE)
    return [
        TensorRecipe(f"{name}.{part}", {f"{source}.{part}": (hidden,)}, (Step("to_norm"),), shape, "bfloat16", "row_major")
        for part in ("weight", "bias")
    ]


def _table(name: str, source: str, rows: int, hidden: int) -> TensorRecipe:
    return TensorRecipe(name, {source: (rows, hidden)}, (), (rows, hidden), "bfloat16", "row_major")
