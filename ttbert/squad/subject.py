"""What is scored: a cached model, or its original checkpoint in float32 to compare it with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ..cache.cache import Cache, Cached
from ..convert.checkpoint import open_checkpoint
from ..convert.convert import plan_conversion
from ..convert.tokenizer import build_tokenizer
from ..convert.wanted import Wanted
from ..errors import CheckpointError
from ..model import BertShape
from ..recipe.bert import canonical_names, check_tensors
from ..recipe.steps import run_steps
from ..runtime.loader import CachedModel
from ..runtime.reference import Reference
from ..runtime.tokens import STRIDE, TOKENS, Batch, Encoder

FLOAT32 = "float32"

Logits = npt.NDArray[np.float32]


class Runtime(Protocol):
    """What gives logits for batches."""

    def run(self, batch: Batch) -> tuple[Logits, Logits]:
        """Start and end logits, each (batch, tokens)."""


@dataclass(frozen=True)
class Origin:
    """Where a model came from, as far as it decides or explains a score."""

    model: str
    revision: str | None
    policy: str
    manifest: str | None
    """The digest of the cached model; of one that is not cached, there is none."""
    recipe: str | None
    """The action key: recipe and source files."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """The digests of the checkpoint's files."""

    def __str__(self) -> str:
        return f"{self.model} ({self.policy})"

    def document(self) -> dict[str, object]:
        return {
            "model": self.model,
            "revision": self.revision,
            "policy": self.policy,
            "manifest": self.manifest,
            "recipe": self.recipe,
            "sources": dict(self.sources),
        }


@dataclass(frozen=True, eq=False)
class Subject:
    """A model ready to run."""

    origin: Origin
    encoder: Encoder
    runtime: Runtime
    weight_bytes: int

    def identity(self) -> dict[str, object]:
        """What decides the logits of a window."""
        return {
            "manifest": self.origin.manifest,
            "sources": dict(self.origin.sources),
            "policy": self.origin.policy,
            "tokens": self.encoder.tokens,
            "stride": self.encoder.stride,
        }


def load_cached(wanted: Wanted, cache: Cache, cached: Cached) -> Subject:
    """A model of the cache on the CPU. CheckpointError if it has no question-answering head."""
    model = CachedModel(cache, cached)
    model.require_answer_head()
    provenance = cached.manifest.provenance
    origin = Origin(
        model=wanted.model,
        revision=provenance.commit,
        policy=wanted.policy,
        manifest=str(cached.digest),
        recipe=str(cached.manifest.action),
        sources={each.name: str(each.digest) for each in provenance.sources},
    )
    weights = sum(entry.size for entry in cached.manifest.tensors)
    return Subject(origin, _encoder(model.tokenizer, model.shape), Reference(model), weights)


def load_float32(wanted: Wanted) -> Subject:
    """A checkpoint as it is, its tensors arranged by the recipe's steps and not packed: float32 on the CPU.

    Errors as of a conversion, and CheckpointError if it has no question-answering head.
    """
    plan = plan_conversion(wanted)
    recipe, source = plan.action.recipe, plan.source
    if not recipe.shape.has_answer_head:
        raise CheckpointError(
            f"{wanted.model} is a {recipe.shape.architecture}, which has no question-answering head",
            "choose a model that was trained to answer questions",
        )
    tokenizer = build_tokenizer({name: source.path(name).read_bytes() for name in plan.tokenizer}, recipe.shape.vocabulary)
    with open_checkpoint(source) as checkpoint:
        names = canonical_names(checkpoint.shapes)
        check_tensors(recipe, {name: checkpoint.shapes[stored] for name, stored in names.items()})
        arrays = {
            tensor.name: np.ascontiguousarray(run_steps(tensor.steps, [checkpoint.read(names[name]) for name in tensor.sources]))
            for tensor in recipe.tensors
        }
    origin = Origin(
        model=wanted.model,
        revision=source.commit,
        policy=FLOAT32,
        manifest=None,
        recipe=None,
        sources={name: str(source.digest(name)) for name in sorted({*plan.weights, *plan.tokenizer, "config.json"})},
    )
    runtime = Reference.of_arrays(recipe.shape, arrays)
    return Subject(origin, _encoder(tokenizer, recipe.shape), runtime, sum(array.nbytes for array in arrays.values()))


def _encoder(tokenizer: bytes, shape: BertShape) -> Encoder:
    tokens = min(TOKENS, shape.positions)
    return Encoder(tokenizer, tokens, min(STRIDE, tokens // 2))
