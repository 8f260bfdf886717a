"""Getting a model for a run: from the cache, or converted first."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress

from ..cache.cache import Cache, require_lasting
from ..child import python_command
from ..errors import NotCached, ReportedError, StoreUnavailable, TtbertError, signal_of
from .convert import Conversion, Plan, find_by_name, find_converted, plan_conversion
from .wanted import Wanted


def supply_model(wanted: Wanted, cache: Cache, options: Sequence[str], on_miss: Callable[[Plan], None]) -> Conversion:
    """The wanted model from the cache, converted first on a miss, after a call of `on_miss`, which may refuse it by an error.

    `options` are what names that cache to a command of ttbert.

    A hub model, or one that was filed under a name of its own, is found by that alone and then needs no network. A folder is
    found by its content, which may have changed since it was converted.
    """
    if wanted.is_on_the_hub:
        found = find_by_name(wanted, cache)
        if found:
            return found
    try:
        plan = plan_conversion(wanted)
    except (NotCached, StoreUnavailable) as error:
        if wanted.offline:
            _require_whole(wanted, cache)
        error.hint += "; --model bundled needs no network"
        raise
    found = find_converted(plan, cache)
    if found:
        return found
    require_lasting(cache)
    on_miss(plan)
    _convert_elsewhere(wanted, options)
    found = find_converted(plan, cache)
    if found is None:
        raise NotCached(
            f"{wanted.model} was converted, but is not whole in {cache.store.url}",
            "is somebody deleting there, or changing the model? convert it again",
        )
    return found


def _require_whole(wanted: Wanted, cache: Cache) -> None:
    """NotCached, with a list of what is missing, where a part of the model is in the cache."""
    cached = cache.resolve(wanted.ref)
    lacking = cache.missing(cached.manifest) if cached else []
    if cached and lacking:
        names = ", ".join(each.name for each in lacking[:8]) + (", ..." if len(lacking) > 8 else "")
        parts = len(list(cached.manifest.entries()))
        raise NotCached(
            f"{wanted.ref} lacks {len(lacking)} of its {parts} parts in {cache.store.url} (offline): {names}",
            f"run `ttbert cache pull {wanted.ref}`, or this without --offline, once with a network",
        )


def _convert_elsewhere(wanted: Wanted, places: Sequence[str]) -> None:
    """Run `ttbert convert` in a process of its own: where TT-NN has to pack, it is in mock mode for good."""
    options = [*wanted.options(), *places, "--json"]
    if wanted.offline:
        options.append("--offline")
    program = f"from ttbert.child import end_with; end_with({os.getpid()}); from ttbert.__main__ import main; main()"
    command = python_command(program, "convert", *options, "--", wanted.model)
    # In a session of its own, where Ctrl-C does not reach it: it is stopped once, by this process, and ends in good order.
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as process:
        try:
            said, _ = process.communicate()
        except KeyboardInterrupt as stop:
            process.send_signal(signal_of(stop))
            with suppress(ValueError):  # it was done just now, or had not begun
                raise ReportedError.parse(process.communicate()[0]) from None
            raise
    if process.returncode:
        raise _failure(process.returncode, said)


def _failure(returncode: int, said: bytes) -> TtbertError:
    try:
        return ReportedError.parse(said)
    except ValueError:
        ended = f"was ended by signal {-returncode}" if returncode < 0 else f"left with {returncode}"
        return TtbertError(f"the conversion {ended} and gave no reason", "is memory short? try `ttbert convert` alone")
