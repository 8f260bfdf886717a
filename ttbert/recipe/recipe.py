"""The recipe: everything that decides the bytes of a conversion, as data.

A recipe together with the digests of the source files, in canonical JSON, is the *action*; its BLAKE3 digest is the
action key. Whatever could change a byte of the result is in it, so equal keys mean equal tensors and there is nothing
to invalidate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from ..cache.digest import Digest, blake3_of
from ..cache.document import Fields, canonical
from ..cache.manifest import PackEntry
from ..frozen import Frozen
from ..model import TILE, BertShape
from .steps import STEPS, Step

SCHEMA = "ttbert.recipe/2"

SERIALIZATION = "tensorbin/1"
"""TT-NN's file format for one tensor, as written by ttnn 0.80 and 0.81; `codec` makes sure that whatever packs writes it."""

MEMORY = "dram_interleaved"
"""Where every weight lands: in DRAM, interleaved over its banks. Activations, not weights, are sharded."""

TOKENIZER_VERSION = "tokenizers/1"
"""How the tokenizer file is made: the checkpoint's own tokenizer.json, or one built of its vocab.txt."""

CONFIG, TOKENIZER, RECIPE = "config.json", "tokenizer.json", "recipe.json"
"""The files that a manifest carries beside its tensors."""

BITS = {"bfloat16": 16.0, "bfloat8_b": 8 + 8 / 16, "bfloat4_b": 4 + 8 / 16}
"""Bits an element takes; in the block formats sixteen elements share an exponent of eight bits."""


class TensorRecipe(Frozen):
    """How one device tensor is made: its source tensors by canonical name and shape, the steps, and how it is packed."""

    name: str
    sources: Mapping[str, tuple[int, ...]]
    steps: tuple[Step, ...]
    shape: tuple[int, ...]
    dtype: str
    layout: str

    @property
    def tile(self) -> tuple[int, int] | None:
        return (TILE, TILE) if self.layout == "tile" else None

    @property
    def payload(self) -> int:
        """Bytes of the packed tensor, without the header of its file."""
        return payload_size(self.shape, self.dtype, self.layout)

    def document(self) -> dict[str, object]:
        return {
            "name": self.name,
            "sources": list(self.sources),
            "steps": [step.document() for step in self.steps],
            "shape": list(self.shape),
            "dtype": self.dtype,
            "layout": self.layout,
            "tile": list(self.tile) if self.tile else None,
            "memory": MEMORY,
        }


class PackRecipe(Frozen):
    """Tensors that are stored as one blob, in this order."""

    name: str
    tensors: tuple[TensorRecipe, ...]

    def document(self) -> dict[str, object]:
        return {"name": self.name, "tensors": [tensor.document() for tensor in self.tensors]}


class Recipe(Frozen):
    """How a model is converted, before it is known which checkpoint."""

    policy: str
    shape: BertShape
    packs: tuple[PackRecipe, ...]

    @property
    def tensors(self) -> tuple[TensorRecipe, ...]:
        """The tensors of all packs."""
        return tuple(tensor for pack in self.packs for tensor in pack.tensors)

    def document(self) -> dict[str, object]:
        used = {step.name for tensor in self.tensors for step in tensor.steps}
        return {
            "schema": SCHEMA,
            "policy": self.policy,
            "model": asdict(self.shape),
            "grid": self.shape.spread,
            "serialization": SERIALIZATION,
            "tokenizer": TOKENIZER_VERSION,
            "steps": {name: STEPS[name][0] for name in used},
            "packs": [pack.document() for pack in self.packs],
        }

    @property
    def sources(self) -> dict[str, tuple[int, ...]]:
        """Every source tensor that is read, with the shape it must have."""
        return {name: shape for tensor in self.tensors for name, shape in tensor.sources.items()}


class Action(Frozen):
    """A recipe over certain source files; `sources` are (role, digest) pairs, a role being weights, config or tokenizer."""

    recipe: Recipe
    sources: tuple[tuple[str, Digest], ...]

    def to_bytes(self) -> bytes:
        """Canonical JSON; its digest is the action key, and it is kept with the model as `recipe.json`."""
        sources = [{"role": role, "digest": str(digest)} for role, digest in sorted(self.sources)]
        return canonical({"recipe": self.recipe.document(), "sources": sources})

    @property
    def key(self) -> Digest:
        return blake3_of(self.to_bytes())


def payload_size(shape: Sequence[int], dtype: str, layout: str) -> int:
    """Bytes of a packed tensor, without the header of its file; in tiles, the last two dimensions are padded to whole ones."""
    *outer, rows, columns = (1, *shape)
    if layout == "tile":
        rows, columns = -(-rows // TILE) * TILE, -(-columns // TILE) * TILE
    elements = rows * columns
    for each in outer:
        elements *= each
    return elements * int(2 * BITS[dtype]) // 16  # whole numbers, so that no size in a manifest is ever rounded


def matches(recipe: Recipe, action: bytes, packs: Sequence[PackEntry]) -> bool:
    """Whether an action's document is of exactly this recipe, and these are the packs that it makes."""
    made = [
        (pack.name, each.name, each.shape, each.dtype, each.layout, each.tile, each.memory)
        for pack in packs
        for each in pack.tensors
    ]
    planned = [
        (pack.name, each.name, each.shape, each.dtype, each.layout, each.tile, MEMORY)
        for pack in recipe.packs
        for each in pack.tensors
    ]
    return made == planned and canonical(Fields.parse(action, RECIPE).take("recipe", dict)) == canonical(recipe.document())
