"""What is scored: a cached model, or its original checkpoint in float32 to compare it with."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version

import numpy as np

from ..boards import CPU
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
from ..runtime.on_device import OnDevice
from ..runtime.runtime import Runtime
from ..runtime.target import Target, open_runtime
from ..runtime.tokens import STRIDE, TOKENS, Encoder

FLOAT32 = "float32"


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

    @property
    def engine(self) -> dict[str, object]:
        """What computes the logits, as far as that decides them."""
        if isinstance(self.runtime, OnDevice):
            return self.runtime.document()
        import torch

        return {"torch": version("torch"), "threads": torch.get_num_threads(), "processor": platform.machine()}

    def identity(self) -> dict[str, object]:
        """What decides the logits of a window."""
        return {
            "manifest": self.origin.manifest,
            "sources": dict(self.origin.sources),
            "policy": self.origin.policy,
            "tokens": self.encoder.tokens,
            "stride": self.encoder.stride,
        }


@contextmanager
def open_cached(wanted: Wanted, cached: CachedModel, target: Target, batch: int) -> Iterator[Subject]:
    """A model of the cache on the target, `batch` inputs on each chip. CheckpointError if it has no question-answering head,
    and errors as of `open_runtime`."""
    cached.require_answer_head()
    encoder = _encoder(cached.tokenizer, cached.shape)
    with open_runtime(target, cached, batch, encoder.tokens) as runtime:
        weights = sum(entry.size for entry in cached.manifest.tensors)
        yield Subject(_origin(wanted, cached), encoder, runtime, weights)


def load_cached(wanted: Wanted, cache: Cache, cached: Cached) -> Subject:
    """A model of the cache on the CPU. CheckpointError if it has no question-answering head."""
    with open_cached(wanted, CachedModel(cache, cached), Target(CPU), 0) as subject:
        return subject


def _origin(wanted: Wanted, cached: CachedModel) -> Origin:
    provenance = cached.manifest.provenance
    return Origin(
        model=wanted.model,
        revision=provenance.commit,
        policy=wanted.policy,
        manifest=str(cached.digest),
        recipe=str(cached.manifest.action),
        sources={each.name: str(each.digest) for each in provenance.sources},
    )


def load_float32(wanted: Wanted) -> Subject:
    """A checkpoint as it is, its tensors arranged by the recipe's steps and not packed: float32 on the CPU.

    Errors as of a conversion, and CheckpointError if it has no question-answering head.
    """
    plan = plan_conversion(wanted)
    recipe, source = plan.recipe, plan.source
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
            tensor.name: np.ascontiguousarray(
                run_steps(tensor.steps, [checkpoint.read(names[name]) for name in tensor.sources])
            )
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
    from ..runtime.reference import Reference

    runtime = Reference.of_arrays(recipe.shape, arrays)
    return Subject(origin, _encoder(tokenizer, recipe.shape), runtime, sum(array.nbytes for array in arrays.values()))


def _encoder(tokenizer: bytes, shape: BertShape) -> Encoder:
    tokens = min(TOKENS, shape.positions)
    return Encoder(tokenizer, tokens, min(STRIDE, tokens // 2))
