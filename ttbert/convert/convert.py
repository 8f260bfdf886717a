"""A conversion: plan it from the checkpoint's metadata, look it up, and only on a miss read weights, pack and publish."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from threading import Semaphore

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
from ..recipe.recipe import CONFIG, MEMORY, RECIPE, TOKENIZER, Action, PackRecipe, Recipe, TensorRecipe
from ..recipe.steps import run_steps
from .checkpoint import open_checkpoint, weight_files
from .codec import choose_codec
from .source import Source
from .tensorbin import file_bytes
from .tokenizer import build_tokenizer, tokenizer_files
from .wanted import BUNDLED, Wanted

_MAKERS, _PUBLISHERS = 2, 4
"""Threads that read and pack, and threads that hash the weights or write. Writing is mostly waiting for the disk."""
_HELD = 32
"""Packs in memory at most, from their making until they are written. BERT-large's have 8 MB on average."""


@dataclass(frozen=True)
class Plan:
    """What a conversion would do, known without reading a weight."""

    source: Source
    ref: Ref
    recipe: Recipe
    weights: tuple[str, ...]
    tokenizer: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes of the packed tensors, without their headers."""
        return sum(tensor.payload for tensor in self.recipe.tensors)

    @property
    def is_identified(self) -> bool:
        """Whether the action can be told without long reading."""
        return all(self.source.known_digest(name) is not None for name in self._roles)

    @cached_property
    def action(self) -> Action:
        """The recipe over these very files. Reads a large local file that was not met before, to its end."""
        return Action(self.recipe, tuple((role, self.source.digest(name)) for name, role in self._roles.items()))

    @property
    def _roles(self) -> dict[str, str]:
        weights, tokenizer = dict.fromkeys(self.weights, "weights"), dict.fromkeys(self.tokenizer, "tokenizer")
        return {CONFIG: "config", **weights, **tokenizer}


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
    return Plan(source, wanted.ref, bert_recipe(shape, POLICIES[wanted.policy]), weights, tokenizer)


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


def convert(
    plan: Plan,
    cache: Cache,
    progress: Progress = lambda entry: None,
    note: Callable[[str], None] = lambda text: None,
) -> Conversion:
    """Make sure that the planned model is in the cache under its ref, converting it on a miss.

    `progress` is called with each tensor that was made, from a worker thread; `note` with what the user should know of the
    way in which tensors are packed here. Raises CheckpointError where the
    weights are not what the recipe expects, UntrustedError where only signed models are used and no trusted key is at hand
    to sign this one, and errors of the store; what was published until then is harmless and
    found again.
    """
    found = find_converted(plan, cache) if plan.is_identified else None
    conversion = found or _run(plan, cache, progress, note)
    cache.move_ref(plan.ref, conversion.cached, _repo(plan), plan.source.commit)
    return conversion


def _run(plan: Plan, cache: Cache, progress: Progress, note: Callable[[str], None]) -> Conversion:
    recipe, source = plan.recipe, plan.source
    config = source.read(CONFIG)
    tokenizer = build_tokenizer({name: source.read(name) for name in plan.tokenizer}, recipe.shape.vocabulary)
    checkpoint = open_checkpoint(source)
    names = canonical_names(checkpoint.shapes)
    check_tensors(recipe, {name: checkpoint.shapes[stored] for name, stored in names.items()})
    checkpoint.check_dtypes(names[name] for name in recipe.sources)
    codec = choose_codec()
    if codec.remark:
        note(codec.remark)

    def look_up() -> tuple[FileEntry, ...] | Conversion:
        """What is there already; else the small files, published first, since a store may turn out not to take any."""
        found = find_converted(plan, cache)
        if found:
            return found
        cache.trust.check_may_publish()
        contents = {CONFIG: config, TOKENIZER: tokenizer, RECIPE: plan.action.to_bytes()}
        return tuple(FileEntry(name, cache.publish_blob(content), len(content)) for name, content in contents.items())

    def make(pack: PackRecipe) -> tuple[memoryview, tuple[TensorEntry, ...]]:
        sizes = [file_bytes(each.shape, each.dtype, each.layout) for each in pack.tensors]
        content = np.empty(sum(sizes), np.uint8).data
        entries = []
        for tensor, size, end in zip(pack.tensors, sizes, np.cumsum(sizes), strict=True):
            part = content[end - size : end]
            arrays = [checkpoint.read(names[name]) for name in tensor.sources]
            codec.pack_into(part, run_steps(tensor.steps, arrays), tensor.dtype, tensor.layout)
            entries.append(_entry(tensor, part))
            progress(entries[-1])
        return content, tuple(entries)

    def publish(pack: PackRecipe, made: Future[tuple[memoryview, tuple[TensorEntry, ...]]]) -> PackEntry | None:
        try:
            content, entries = made.result()
            is_there = isinstance(looked_up.result(), Conversion)
            return None if is_there else PackEntry(pack.name, cache.publish_blob(content), entries)
        finally:
            held.release()

    # Packs are made while the weights are hashed, and published when it is known that they are not there already.
    held = Semaphore(_HELD)
    published = []
    with ThreadPoolExecutor(_MAKERS) as makers, ThreadPoolExecutor(_PUBLISHERS) as publishers:
        try:
            looked_up = publishers.submit(look_up)
            for pack in recipe.packs:
                held.acquire()
                published.append(publishers.submit(publish, pack, makers.submit(make, pack)))
            packs = tuple(filter(None, [each.result() for each in published]))
        except BaseException:
            makers.shutdown(wait=False, cancel_futures=True)
            publishers.shutdown(wait=False, cancel_futures=True)
            raise
    files = looked_up.result()
    if isinstance(files, Conversion):
        return files
    source.check_unchanged()
    manifest = Manifest(
        action=plan.action.key,
        architecture=recipe.shape.architecture,
        policy=recipe.policy,
        packs=packs,
        files=files,
        provenance=Provenance(repo=_repo(plan), commit=source.commit, sources=_sources(plan), versions=_versions(codec.name)),
    )
    return Conversion(cache.publish_manifest(manifest), plan.ref, hit=False)


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
