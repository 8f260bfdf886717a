"""A conversion: plan it from the checkpoint's metadata, look it up, and only on a miss read weights, pack and publish."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import cached_property
from typing import TYPE_CHECKING

from .. import __version__
from ..cache.cache import Cache, Cached
from ..cache.digest import Digest
from ..cache.lease import leased
from ..cache.manifest import FileEntry, Manifest, Provenance, SourceEntry
from ..cache.refs import Ref, entry_numbers
from ..cache.space import left_behind, require_space
from ..errors import CheckpointError, NoSpaceError, UntrustedError
from ..frozen import Frozen
from ..model import parse_config
from ..recipe.bert import bert_recipe
from ..recipe.policy import POLICIES
from ..recipe.recipe import CONFIG, RECIPE, TOKENIZER, Action, Recipe
from ..recipe.tensorbin import HEADER_SIZE
from .checkpoint import weight_files
from .source import Source
from .tokenizer import build_tokenizer, tokenizer_files
from .wanted import Wanted

Note = Callable[[str], None]

if TYPE_CHECKING:
    from .maker import Progress
    from .publisher import Publisher


class Plan(Frozen):
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
    def pack_sizes(self) -> list[int]:
        """Bytes of each pack: its packed tensors with their headers."""
        return [sum(each.payload + HEADER_SIZE for each in pack.tensors) for pack in self.recipe.packs]

    @property
    def stored_size(self) -> int:
        """Bytes of all packs."""
        return sum(self.pack_sizes)

    @property
    def unidentified(self) -> tuple[str, ...]:
        """Files that have to be read, and that takes long, before the action can be told."""
        return tuple(name for name in self._roles if self.source.known_digest(name) is None)

    @cached_property
    def action(self) -> Action:
        """The recipe over these very files. Reads large local files that were not met before, to their end."""
        return Action(self.recipe, tuple((role, self.source.digest(name)) for name, role in self._roles.items()))

    @cached_property
    def tokenizer_json(self) -> bytes:
        """The tokenizer as the runtime reads it. CheckpointError where it is not that of a BERT."""
        files = {name: self.source.read(name) for name in (CONFIG, *self.tokenizer)}
        return build_tokenizer(files, self.recipe.shape.vocabulary)

    @property
    def _roles(self) -> dict[str, str]:
        weights, tokenizer = dict.fromkeys(self.weights, "weights"), dict.fromkeys(self.tokenizer, "tokenizer")
        return {CONFIG: "config", **weights, **tokenizer}


class Conversion(Frozen):
    """A model that is in the cache now; `hit` if it was there before."""

    cached: Cached
    ref: Ref
    hit: bool


class Rebuilt(Conversion):
    """A model that came out as it is stored. Of its blobs, `healed` were damaged or missing there, and are sound now."""

    healed: tuple[str, ...] = ()


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
    """The conversion, if its whole result is in the cache; UntrustedError as of `find_result`."""
    cached = find_result(plan, cache, cache.find)
    return Conversion(cached, plan.ref, hit=True) if cached else None


def find_result(plan: Plan, cache: Cache, find: Callable[[Digest], Cached | None]) -> Cached | None:
    """What `find` of the cache gives for the plan's action.

    UntrustedError for what may not be used. To somebody who can sign it is a miss: their own will replace it.
    """
    try:
        return find(plan.action.key)
    except UntrustedError:
        if cache.trust.signer is None:
            raise
        return None


def find_by_name(wanted: Wanted, cache: Cache) -> Conversion | None:
    """What a name of the model leads to, if all of it is there. Whether the hub has something newer is not asked."""
    for ref in wanted.refs:
        cached = cache.resolve(ref)
        if cached and not cache.missing(cached.manifest):
            return Conversion(cached, ref, hit=True)
    return None


def convert(
    plan: Plan,
    cache: Cache,
    progress: Progress = lambda entry: None,
    note: Note = lambda text: None,
) -> Conversion:
    """Make sure that the planned model is in the cache under its ref, converting it on a miss.

    `progress` and `note` are called as `Maker` says. Raises CheckpointError where the weights are not what the recipe expects,
    UntrustedError where only signed models are used and no trusted key is at hand to sign this one, and errors of the store;
    what was published until then is harmless and found again. NoSpaceError, unless the cache does not check that, comes
    before anything is written, and so does InputError for a name under which nothing can be filed.
    """
    plan.ref.check()
    with ExitStack() as stack:

        def open_publisher() -> Publisher:
            from .maker import Maker  # and numpy, which take as long as all else where nothing has to be made
            from .publisher import Publisher

            maker = stack.enter_context(Maker(plan.source, plan.recipe, progress, note))
            return stack.enter_context(Publisher(maker, cache))

        # Weights that have to be hashed are packed meanwhile, and written if it is likely that they are new.
        ahead, is_likely = None, False
        if unidentified := plan.unidentified:
            stack.enter_context(plan.source.hashing(unidentified))
            is_likely = _is_likely_wanted(plan, cache)
            if is_likely:  # the smallest file first: where even that cannot be published, nothing has to be packed
                cache.publish_blob(plan.source.read(CONFIG))
            ahead = open_publisher()
            drafts = is_likely and cache.drafts is not None
            ahead.start(drafts)
            if drafts:  # what is likely wrong next; in a network it would take several requests to publish it twice
                cache.publish_blob(plan.tokenizer_json)
        conversion = find_converted(plan, cache.authority)
        if conversion is None or not cache.authority.claim(conversion.cached):
            if not is_likely:
                _check_may_write(plan, cache)
            # Of several that want it at once, one converts and the others wait. What is wrong with a checkpoint is so for all.
            with leased(
                cache.store, plan.action.key, lambda: find_converted(plan, cache.authority), final=CheckpointError
            ) as found:
                conversion = found or Conversion(_publish(plan, cache, lambda: ahead or open_publisher()), plan.ref, hit=False)
    cache.move_ref(plan.ref, conversion.cached, plan.source.label, plan.source.commit)
    return conversion


def small_files(plan: Plan) -> dict[str, bytes]:
    """What goes beside the tensors. CheckpointError where the tokenizer is not that of a BERT."""
    return {CONFIG: plan.source.read(CONFIG), TOKENIZER: plan.tokenizer_json, RECIPE: plan.action.to_bytes()}


def _is_likely_wanted(plan: Plan, cache: Cache) -> bool:
    """Whether nothing was ever filed under the name, and it may be.

    Then it has to be written, even where the model is there under another one.
    """
    if entry_numbers(cache.store, plan.ref):
        return False
    try:
        _check_may_write(plan, cache)
    except (UntrustedError, NoSpaceError):  # which matters only if it is not there already
        return False
    return True


def _check_may_write(plan: Plan, cache: Cache) -> None:
    cache.check_may_publish()
    if cache.check_space:

        def there() -> int:
            return left_behind(cache.authority, plan.pack_sizes, plan.action.key)  # which may have to wait for digests

        require_space(cache.store, plan.stored_size, str(plan.ref), there=there)


def _publish(plan: Plan, cache: Cache, open_publisher: Callable[[], Publisher]) -> Cached:
    # Small and likely wrong things first, a store that cannot be written to among them: they need no download of weights.
    recipe, source = plan.recipe, plan.source
    contents = small_files(plan)
    files = tuple(FileEntry(name, cache.publish_blob(content), len(content)) for name, content in contents.items())
    publisher = open_publisher()
    packs = publisher.publish()
    source.check_unchanged()
    manifest = Manifest(
        action=plan.action.key,
        architecture=recipe.shape.architecture,
        policy=recipe.policy,
        packs=packs,
        files=files,
        provenance=Provenance(source.label, source.commit, _sources(plan), _versions(publisher.packer)),
    )
    return cache.publish_manifest(manifest)


def _sources(plan: Plan) -> tuple[SourceEntry, ...]:
    names = sorted({CONFIG, *plan.weights, *plan.tokenizer})
    return tuple(SourceEntry(name, plan.source.digest(name), plan.source.files[name].size) for name in names)


def _versions(packer: str) -> Mapping[str, str]:
    import numpy

    return {"ttbert": __version__, "packer": packer, "numpy": numpy.__version__, "python": platform.python_version()}
