"""Getting a model for a run: from the cache, or converted first."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

from ..cache.cache import Cache, Cached
from ..convert.convert import find_by_name, find_converted, plan_conversion
from ..convert.wanted import Wanted
from ..errors import NotCached, ReportedError, StoreUnavailable


def supply_model(wanted: Wanted, cache: Cache, on_miss: Callable[[], None]) -> Cached:
    """The wanted model from the cache, converted first on a miss, after a call of `on_miss`.

    A hub model is found by its name alone and then needs no network. A folder is found by its content, which may have
    changed since it was converted.
    """
    if wanted.is_on_the_hub:
        found = find_by_name(wanted, cache)
        if found:
            return found.cached
    try:
        plan = plan_conversion(wanted)
    except (NotCached, StoreUnavailable) as error:
        hint = error.hint if "bundled" in error.hint else f"{error.hint}; --model bundled needs no network"
        raise type(error)(error.message, hint) from error
    found = find_converted(plan, cache)
    if found:
        return found.cached
    on_miss()
    _convert_elsewhere(wanted, cache)
    found = find_converted(plan, cache)
    if found is None:
        raise NotCached(
            f"{wanted.model} was converted, but is not whole in {cache.store.url}",
            "is somebody deleting there, or changing the model? convert it again",
        )
    return found.cached


def _convert_elsewhere(wanted: Wanted, cache: Cache) -> None:
    """Run `ttbert convert` in a process of its own: packing puts TT-NN into mock mode for good, and takes memory."""
    command = [sys.executable, "-m", "ttbert", "convert", wanted.model, "--policy", wanted.policy, "--cache", cache.store.url]
    if wanted.revision:
        command += ["--revision", wanted.revision]
    if wanted.offline:
        command.append("--offline")
    done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise ReportedError("the conversion failed", done.returncode)
