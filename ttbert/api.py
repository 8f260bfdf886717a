"""ttbert in a program of your own: load a model from the cache, take its tensors, ask it questions.

What stands in `__all__` stays as it is from one version to the next; everything else in the package may change.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import AbstractContextManager
from os import PathLike, fspath

from .boards import AUTO, BOARDS, CPU
from .cache.places import user_places
from .convert.supply import supply_model
from .convert.wanted import Wanted
from .errors import InputError, Interrupted, ReportedError, TtbertError
from .recipe.policy import FLOAT32, POLICIES, PRECISIONS
from .runtime import reader
from .runtime.loader import CachedModel
from .runtime.qa import Answer
from .runtime.reader import Reader
from .runtime.target import choose_target

__all__ = ["Answer", "CachedModel", "Reader", "TtbertError", "load_model", "open_reader"]


def load_model(
    model: str | PathLike[str],
    *,
    revision: str | None = None,
    policy: str | None = None,
    cache: str | PathLike[str] | None = None,
    local: str | PathLike[str] | None = None,
    offline: bool = False,
) -> CachedModel:
    """A model of the cache, converted first if it is not there: an id on the hub, a folder, `bundled`, or a name in the cache.

    Everything means what it means to `ttbert demo`, defaults, variables and settings included. The tensors are read when they
    are asked for. A conversion runs in a process of its own and shows its progress on stderr.

    TtbertError, of a class for each kind of failure, with what to do about it as its `hint`.
    """
    if policy is not None:
        _require("policy", policy, POLICIES)
    places = user_places(*(None if each is None else fspath(each) for each in (cache, local)))
    wanted = Wanted.parse(fspath(model), revision, policy, offline)
    opened = places.open(offline)
    try:
        found = supply_model(wanted, opened, places.options(), on_miss=lambda plan: None)
    except ReportedError as error:
        if error.exit_code == Interrupted.exit_code:  # with this process, by one Ctrl-C
            raise KeyboardInterrupt from error
        raise error.as_its_kind() from None
    opened.fetch_as_read(found.cached, found.ref)
    return CachedModel(opened, found.cached)


def open_reader(
    model: CachedModel, *, board: str = AUTO, batch: int = 8, precision: str = FLOAT32
) -> AbstractContextManager[Reader]:
    """A reader in a `with`, which has the model loaded on the device that is here, or else on the CPU, until its end.

    `board` names what to run on, `batch` is how many windows are read at once on each chip, and `precision` is of matmuls on
    the CPU, as for `ttbert demo`. It is for one thread at a time.

    InputError and DeviceError for a board that is not one, or not here, BoardError for a batch that does not fit it,
    CheckpointError for a model that cannot answer, IntegrityError where one of its tensors is damaged.
    """
    _require("board", board, (AUTO, CPU, *BOARDS))
    _require("precision", precision, PRECISIONS)
    if batch < 1:
        raise InputError(f"a batch of {batch}", "it must be 1 or more")
    return reader.open_reader(choose_target(board, batch, precision=precision), model, batch)


def _require(what: str, name: str, known: Collection[str]) -> None:
    if name not in known:
        raise InputError(f"{name!r:.60} is no {what}", f"there are {', '.join(known)}")
