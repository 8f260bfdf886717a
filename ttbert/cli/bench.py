"""`ttbert bench`: how fast a device is, and how exact."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from ..boards import AUTO, BOARDS
from ..console import say, show_result, table, tell
from ..errors import DeviceError
from ..text import count_text, size_text
from .options import (
    batch_option,
    json_option,
    model_option,
    offline_option,
    places_option,
    progress_option,
    trace_option,
    wanted_option,
)
from .tiers import supply_to_load
from .units import NumberRange

if TYPE_CHECKING:
    from ..cache.places import Places
    from ..convert.wanted import Wanted
    from ..runtime.bench import Measured
    from ..runtime.target import Target

_board_option = click.option(
    "--board", type=click.Choice((AUTO, *BOARDS)), default=AUTO, show_default=True, help="The device; auto is the one here."
)


@click.command("bench")
@model_option
@wanted_option
@_board_option
@batch_option
@trace_option
@click.option("--seconds", type=NumberRange(0, 3600), default=5.0, show_default=True, help="How long to run batch after batch.")
@places_option
@offline_option
@progress_option
@json_option
def bench_command(
    wanted: Wanted,
    board: str,
    batch: int,
    trace: bool | None,
    seconds: float,
    places: Places,
    as_json: bool,
) -> None:
    """Measure a device: seconds of loading, throughput with a trace and without, and the PCC of its logits with the CPU's.

    Runs the built-in questions over and over. Needs a device; what a mock device cannot tell is left out.

    \b
    ttbert bench --board n150 --batch 8 --json
    ttbert bench --model bundled
    """
    from ..runtime.check import find_fault
    from ..runtime.target import choose_target

    target = choose_target(board, batch, trace)
    of = [wanted.model, *wanted.options()]
    if not target.is_device:
        plan = shlex.join(["ttbert", "plan", *of, "--batch", str(batch), "--check"])
        raise DeviceError("no Tenstorrent device is here to be measured", f"without one, try `{plan}`")
    cache = places.open(wanted.offline)
    cached = supply_to_load(wanted, places, cache)

    from ..demo.inputs import built_in_questions
    from ..runtime.bench import measure
    from ..runtime.loader import CachedModel
    from ..runtime.tokens import whole_batches

    loaded = CachedModel(cache, cached)
    loaded.require_answer_head()
    tokens = loaded.shape.window
    tell(f"measuring {wanted} on {target.name}, {target.chips * batch} inputs of {tokens} tokens at once")
    batches = list(whole_batches(loaded.encoder(tokens), built_in_questions(), target.chips * batch))
    measured = measure(target, loaded, batches, batch, tokens, seconds)
    below = None
    if measured.pcc is not None:
        approximate = (
            "" if wanted.policy == "bf16" else "; the fast gelu of this policy alone can cost 0.01, bf16 has the exact one"
        )
        hint = f"see which op is off: {shlex.join(['ttbert', 'check', *of, '--device'])}{approximate}"
        below = find_fault("the logits'", measured.pcc, wanted.policy, hint)
    if as_json:
        about = {"model": wanted.model, "policy": wanted.policy, "manifest": str(cached.digest)}
        show_result({**about, **_document(measured, target, tokens)}, below)
    else:
        _print(measured, target)
    if below:
        raise below


def _document(measured: Measured, target: Target, tokens: int) -> dict[str, Any]:
    return {
        "board": target.name,
        "tokens": tokens,
        "device": measured.device,
        "loading_seconds": asdict(measured.loading),
        "speeds": [asdict(each) for each in measured.speeds],
        "pcc": measured.pcc,
    }


def _print(measured: Measured, target: Target) -> None:
    rows: list[tuple[str, ...]] = [
        ("trace", "inputs/s", "ms a batch", "latency ms", "host ms", "batches", "PCC of starts", "of ends")
    ]
    for each in measured.speeds:
        told = (
            (each.inputs_per_second, 2),
            (each.batch_ms, 2),
            (each.latency_ms, 2),
            (each.host_ms, 2),
            (each.batches, 0),
            (each.start_pcc, 6),
            (each.end_pcc, 6),
        )
        figures = ("" if figure is None else f"{figure:.{digits}f}" for figure, digits in told)
        rows.append(("yes" if each.traced else "no", *figures))
    say(table(rows, right=range(1, 8)))
    for each in measured.speeds:
        if each.untraced:
            say(f"TT-NN records no trace here: {each.untraced}")
    loading = measured.loading
    say()
    say(f"opening the device  {loading.opening:.3f} s")
    say(f"reading weights     {loading.reading:.3f} s ({size_text(loading.bytes)}, digests checked)")
    say(f"sending weights     {loading.sending:.3f} s, to {count_text(target.chips, 'chip')}")
    say(f"building programs   {loading.compiling:.3f} s")
    if target.is_mock:
        say("no throughput and no PCC with the CPU: a mock device takes no time and computes nothing")
