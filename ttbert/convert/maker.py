"""The packs of a model, made of its weights by threads of their own, ahead of whoever publishes them."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from math import prod
from threading import Semaphore, local
from types import TracebackType

import numpy as np

from ..cache.digest import blake3_of
from ..cache.manifest import TensorEntry
from ..errors import TtbertError
from ..recipe.bert import canonical_names, check_tensors
from ..recipe.recipe import MEMORY, PackRecipe, Recipe, TensorRecipe
from ..recipe.steps import Array, run_steps
from ..threads import Threads
from .checkpoint import open_checkpoint
from .codec import choose_codec
from .source import Source
from .tensorbin import file_bytes

_THREADS = 2
"""Packs that are made at once, by whoever is waited for."""

_HELD = 32
"""Packs in memory at most. BERT-large's have 8 MB on average."""

_SCRATCH = 8 << 20
"""Values that a thread has memory for, to read a tensor into: enough for all but the words of a BERT-large."""

Progress = Callable[[TensorEntry], None]
Made = tuple[memoryview, tuple[TensorEntry, ...]]
"""A pack's bytes, and its tensors in their order."""


class Maker:
    """Inside of `with`, makes the packs of a recipe in their order, and no more until what was taken is given back.

    Fetches the weights. `progress` is called with each tensor that was made, from a thread; `note` with what the user should
    know of the way in which tensors are packed here. Raises CheckpointError where the weights are not what the recipe expects.
    """

    def __init__(self, source: Source, recipe: Recipe, progress: Progress, note: Callable[[str], None]) -> None:
        self._progress = progress
        self._checkpoint = open_checkpoint(source)
        shapes = self._checkpoint.shapes
        self._names = canonical_names(shapes)
        check_tensors(recipe, {name: shapes[stored] for name, stored in self._names.items()})
        self._checkpoint.check_dtypes(self._names[name] for name in recipe.sources)
        self._codec = choose_codec()
        if self._codec.remark:
            note(self._codec.remark)
        self._held = Semaphore(_HELD)
        self._working = Semaphore(1)
        self._free: defaultdict[int, list[memoryview]] = defaultdict(list)
        self._of_thread = local()
        self._is_over = False
        self._threads = Threads(_THREADS)
        self._left = deque(recipe.packs)
        self._made: deque[tuple[PackRecipe, Future[Made]]] = deque()

    @property
    def packer(self) -> str:
        """Who packs, for the record."""
        return self._codec.name

    def __enter__(self) -> Maker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._is_over = True
        self._held.release(_THREADS)  # for those who wait
        self._threads.shutdown(cancel_futures=True)

    def hurry(self) -> None:
        """Use all threads from now on. Until then there is one, and it takes no core from those who hash the weights."""
        self._working.release(_THREADS - 1)

    def packs(self) -> Iterator[tuple[PackRecipe, Future[Made]]]:
        """Every pack in turn, made or still to be made. Whoever is done with one calls `give_back`."""
        while self._left:
            pack = self._left.popleft()
            self._made.append((pack, self._threads.submit(self._make, pack)))
        while self._made:
            yield self._made.popleft()  # whoever takes it holds it alone

    def give_back(self, content: memoryview) -> None:
        """Take the bytes of a pack that nobody looks at any more; one of the same size is made in their place."""
        self._free[len(content)].append(content)
        self._held.release()

    def _make(self, pack: PackRecipe) -> Made:
        self._held.acquire()
        try:
            with self._working:
                if self._is_over:
                    raise RuntimeError("nobody waits for this pack any more")
                return self._make_held(pack)
        except BaseException:
            self._held.release()  # nobody will give back what was not made
            raise

    def _make_held(self, pack: PackRecipe) -> Made:
        sizes = [file_bytes(each.shape, each.dtype, each.layout) for each in pack.tensors]
        try:
            content = self._free[sum(sizes)].pop()
        except IndexError:
            content = np.empty(sum(sizes), np.uint8).data
        entries = []
        for tensor, size, end in zip(pack.tensors, sizes, np.cumsum(sizes), strict=True):
            part = content[end - size : end]
            self._pack_into(part, tensor)
            entries.append(_entry(tensor, part))
            self._progress(entries[-1])
        return content, tuple(entries)

    def _pack_into(self, target: memoryview, tensor: TensorRecipe) -> None:
        with self._sources(tensor) as sources:
            if not self._codec.pack_into(target, run_steps(tensor.steps, list(sources.values())), tensor.dtype, tensor.layout):
                for name, array in sources.items():
                    self._checkpoint.check_finite(array, name)
                raise TtbertError(f"{self.packer} made NaN or infinity of {tensor.name}", "please report it")

    @contextmanager
    def _sources(self, tensor: TensorRecipe) -> Iterator[dict[str, Array]]:
        """What a tensor is made of. What has to be read takes the place of what this thread read before."""
        *starts, end = np.cumsum([0, *(prod(shape) for shape in tensor.sources.values())])
        memory = np.empty(end, np.float32) if end > _SCRATCH else self._scratch()[:end]
        names = [self._names[name] for name in tensor.sources]
        with ExitStack() as stack:
            parts = zip(names, np.split(memory, starts[1:]), strict=True)
            yield {name: stack.enter_context(self._checkpoint.look(name, part)) for name, part in parts}

    def _scratch(self) -> Array:
        if not hasattr(self._of_thread, "scratch"):
            self._of_thread.scratch = np.empty(_SCRATCH, np.float32)
        scratch: Array = self._of_thread.scratch
        return scratch


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
