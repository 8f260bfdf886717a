"""What is scored: a cached model, or its original checkpoint in float32 to compare it with. Here or on another machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from ..boards import CPU
from ..cache.cache import Cache, Cached
from ..cache.digest import Digest
from ..cache.places import Places
from ..convert.checkpoint import open_checkpoint
from ..convert.convert import plan_conversion, small_files
from ..convert.wanted import Wanted, is_folder
from ..errors import DeviceError
from ..frozen import Frozen
from ..model import BertShape
from ..recipe.bert import canonical_names, check_tensors
from ..recipe.policy import FLOAT32
from ..recipe.recipe import CONFIG, TOKENIZER
from ..recipe.steps import run_steps
from ..runtime.loader import CachedModel
from ..runtime.runtime import Runtime
from ..runtime.target import Target, choose_target, open_runtime
from ..runtime.tokens import Encoder


class Origin(Frozen):
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
    """A model that is known and can be run; its weights are not loaded yet."""

    origin: Origin
    target: Target
    encoder: Encoder
    open: Callable[[], AbstractContextManager[Runtime]]
    """Load it. IntegrityError where a tensor is damaged."""
    elsewhere: Callable[[], Subject]
    """The same in another process, on a machine with the same cache or checkpoint: it can be pickled."""

    def identity(self) -> dict[str, object]:
        """What decides the logits of a window."""
        return {
            "manifest": self.origin.manifest,
            "sources": dict(self.origin.sources),
            "policy": self.origin.policy,
            "tokens": self.encoder.tokens,
            "stride": self.encoder.stride,
            "board": self.target.name,
            "precision": self.target.cpu_precision,
        }


def load_cached(wanted: Wanted, places: Places, cache: Cache, cached: Cached, target: Target, batch: int) -> Subject:
    """A model of the cache, which was opened at `places`, for `batch` inputs on each chip.

    CheckpointError if it has no question-answering head.
    """
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
    encoder = _encoder(model.tokenizer, model.shape)
    return Subject(
        origin,
        target,
        encoder,
        open=partial(open_runtime, target, model, batch, encoder.tokens),
        elsewhere=partial(_load_again, wanted, places.absolute, cached.digest, target, batch),
    )


def _load_again(wanted: Wanted, places: Places, digest: Digest, target: Target, batch: int) -> Subject:
    """As `load_cached`, in another process. DeviceError where another device is, or none."""
    here = choose_target(target.board, batch, target.traces, target.precision) if target.is_device else target
    if here != target:
        raise DeviceError(f"here is {here}, where {target} is wanted", "give all machines the same devices")
    cache = places.open(wanted.offline)
    return load_cached(wanted, places, cache, cache.manifest(digest), target, batch)


def load_float32(wanted: Wanted) -> Subject:
    """A checkpoint as it is, its tensors arranged by the recipe's steps and not packed: float32 on the CPU.

    Errors as of a conversion, and CheckpointError if it has no question-answering head. UnreadableError from opening it if its
    files are not those any more whose digests are in `origin`.
    """
    plan = plan_conversion(wanted)
    recipe, source = plan.recipe, plan.source
    recipe.shape.require_answer_head(wanted.model)
    tokenizer = small_files(plan)[TOKENIZER]
    origin = Origin(
        model=wanted.model,
        revision=source.commit,
        policy=FLOAT32,
        manifest=None,
        recipe=None,
        sources={name: str(source.digest(name)) for name in sorted({*plan.weights, *plan.tokenizer, CONFIG})},
    )

    @contextmanager
    def open_runtime() -> Iterator[Runtime]:
        with open_checkpoint(source) as checkpoint:
            names = canonical_names(checkpoint.shapes)
            check_tensors(recipe, {name: checkpoint.shapes[stored] for name, stored in names.items()})
            arrays = {
                tensor.name: np.ascontiguousarray(
                    run_steps(tensor.steps, [checkpoint.read(names[name]) for name in tensor.sources])
                )
                for tensor in recipe.tensors
            }
        source.check_unchanged()
        from ..runtime.reference import Reference

        yield Reference.of_arrays(recipe.shape, arrays)

    # Another process has another working folder.
    absolute = replace(wanted, model=str(Path(wanted.model).expanduser().absolute())) if is_folder(wanted.model) else wanted
    return Subject(
        origin, Target(CPU), _encoder(tokenizer, recipe.shape), open=open_runtime, elsewhere=partial(load_float32, absolute)
    )


def _encoder(tokenizer: bytes, shape: BertShape) -> Encoder:
    return Encoder(tokenizer, shape.window, vocabulary=shape.vocabulary)
