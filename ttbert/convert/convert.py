"""A conversion: plan it from the checkpoint's metadata, look it up, and only on a miss read weights, pack and publish."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from .. import __version__
from ..cache.cache import Cache, Cached
from ..cache.digest import blake3_of
from ..cache.manifest import FileEntry, Manifest, PackEntry, Provenance, SourceEntry, TensorEntry
from ..cache.refs import Ref
from ..errors import UntrustedError
from ..model import parse_config
from ..recipe.bert import bert_recipe, canonical_names, check_tensors
from ..recipe.policy import POLICIES
from ..recipe.recipe import CONFIG, MEMORY, RECIPE, TOKENIZER, Action, PackRecipe, TensorRecipe
from ..recipe.steps import run_steps
from .checkpoint import open_checkpoint, weight_files
from .codec import choose_codec
from .source import Source
from .tensorbin import file_bytes
from .tokenizer import build_tokenizer, tokenizer_files
from .wanted import BUNDLED, Wanted

_WORKERS = 2
"""Packs in work at once: one is made while another is written. More would cost memory and gain nothing."""


@dataclass(frozen=True)
class Plan:
    """What a conversion would do, known without reading a weight of a checkpoint on the hub."""

    source: Source
    ref: Ref
    action: Action
    weights: tuple[str, ...]
    tokenizer: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes of the packed tensors, without their headers."""
        return sum(tensor.payload for tensor in self.action.recipe.tensors)


@dataclass(frozen=True)
class Conversion:
    """A model that is in the cache now; `hit` if it was there before."""

    cached: Cached
    ref: Ref
    hit: bool


Progress = Callable[[TensorEntry], None]


def plan_conversion(wanted: Wanted) -> Plan:
    """The plan for a model. Of one on the hub only small files are fetched.

    Raises InputError or CheckpointError for what cannot be converted, NotCached while offline, StoreUnavailable for a hub
    that cannot be reached.
    """
    source = wanted.open_source()
    shape = parse_config(source.read(CONFIG), f"{source.label}/{CONFIG}")
    weights, tokenizer = weight_files(source), tokenizer_files(source.files)
    roles = {CONFIG: "config", **dict.fromkeys(weights, "weights"), **dict.fromkeys(tokenizer, "tokenizer")}
    action = Action(
        bert_recipe(shape, POLICIES[wanted.policy]), tuple((role, source.digest(name)) for name, role in roles.items())
    )
    return Plan(source, wanted.ref, action, weights, tokenizer)


def find_converted(plan: Plan, cache: Cache) -> Conversion | None:
    """The conversion, if its whole result is in the cache.

    UntrustedError for one that may not be used; to somebody who signs, it is a miss, since their own replaces it.
    """
    try:
        cached = cache.find(plan.action.key)
    except UntrustedError:
        if cache.trust.signer is None:
            raise
        return None
    return Conversion(cached, plan.ref, hit=True) if cached else None


def find_by_name(wanted: Wanted, cache: Cache) -> Conversion | None:
    """What the ref of a model leads to, if all of it is there. Whether the hub has something newer is not asked."""
    cached = cache.resolve(wanted.ref)
    if cached is None or cache.missing(cached.manifest):
        return None
    return Conversion(cached, wanted.ref, hit=True)


def convert(plan: Plan, cache: Cache, progress: Progress = lambda entry: None) -> Conversion:
    """Make sure that the planned model is in the cache under its ref, converting it on a miss.

    `progress` is called with each tensor that was made, from a worker thread. Raises CheckpointError where the
    weights are not what the recipe expects, UntrustedError where only signed models are used and no trusted key is at hand
    to sign this one, and errors of the store; what was published until then is harmless and
    found again.
    """
    conversion = find_converted(plan, cache)
    if conversion is None:
        cache.trust.check_may_publish()
        conversion = Conversion(_run(plan, cache, progress), plan.ref, hit=False)
    cache.move_ref(plan.ref, conversion.cached, _repo(plan), plan.source.commit)
    return conversion


def _run(plan: Plan, cache: Cache, progress: Progress) -> Cached:
    # Small and likely wrong things first, a store that cannot be written to among them: they need neither a download of
    # weights nor TT-NN.
    recipe, source = plan.action.recipe, plan.source
    contents = {
        CONFIG: source.read(CONFIG),
        TOKENIZER: build_tokenizer({name: source.read(name) for name in plan.tokenizer}, recipe.shape.vocabulary),
        RECIPE: plan.action.to_bytes(),
    }
    files = tuple(FileEntry(name, cache.publish_blob(content), len(content)) for name, content in contents.items())
    checkpoint = open_checkpoint(source)
    names = canonical_names(checkpoint.shapes)
    check_tensors(recipe, {name: checkpoint.shapes[stored] for name, stored in names.items()})
    checkpoint.check_dtypes(names[name] for name in recipe.sources)
    codec = choose_codec()

    def make(tensor: TensorRecipe, target: memoryview) -> TensorEntry:
        arrays = [checkpoint.read(names[name]) for name in tensor.sources]
        codec.pack_into(target, run_steps(tensor.steps, arrays), tensor.dtype, tensor.layout)
        entry = _entry(tensor, target)
        progress(entry)
        return entry

    def publish(pack: PackRecipe) -> PackEntry:
        sizes = [file_bytes(each.shape, each.dtype, each.layout) for each in pack.tensors]
        content = memoryview(np.empty(sum(sizes), np.uint8))
        ends = np.cumsum(sizes)
        entries = [make(each, content[end - size : end]) for each, size, end in zip(pack.tensors, sizes, ends, strict=True)]
        return PackEntry(pack.name, cache.publish_blob(content), tuple(entries))

    with ThreadPoolExecutor(_WORKERS) as workers:
        try:
            packs = tuple(workers.map(publish, recipe.packs))
        except BaseException:
            workers.shutdown(wait=False, cancel_futures=True)
            raise
    source.check_unchanged()
    manifest = Manifest(
        action=plan.action.key,
        architecture=recipe.shape.architecture,
        policy=recipe.policy,
        packs=packs,
        files=files,
        provenance=Provenance(
            repo=_repo(plan), commit=source.commit, sources=_sources(plan), versions=_versions(codec.name)
        ),
    )
    return cache.publish_manifest(manifest)


def _entry(tensor: TensorRecipe, made: memoryview) -> TensorEntry:
    return TensorEntry(
        name=tensor.name,
        shape=tensor.shape,
        dtype=tensor.dtype,
        layout=tensor.layout,
        tile=tensor.tile,
        memory=MEMORY,
        digest=blake3_of(made),
        size=len(made),
    )


def _repo(plan: Plan) -> str:
    return BUNDLED if plan.ref.name == BUNDLED else plan.source.label


def _sources(plan: Plan) -> tuple[SourceEntry, ...]:
    names = sorted({CONFIG, *plan.weights, *plan.tokenizer})
    return tuple(SourceEntry(name, plan.source.digest(name), plan.source.files[name].size) for name in names)


def _versions(packer: str) -> Mapping[str, str]:
    return {"ttbert": __version__, "packer": packer, "numpy": np.__version__, "python": platform.python_version()}
