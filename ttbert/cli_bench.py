"""`ttbert bench`: how fast a device is, and how exact."""

from __future__ import annotations

from dataclasses import asdict
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any

import click

from .boards import AUTO, BOARDS
from .cli_options import (
    batch_option,
    cache_option,
    json_option,
    model_option,
    offline_option,
    policy_option,
    revision_option,
    trace_option,
)
from .console import say, show, size_text, table, tell
from .errors import AccuracyError, DeviceError

if TYPE_CHECKING:
    from .runtime.bench import Measured
    from .runtime.loader import CachedModel
    from .runtime.target import Target
    from .runtime.tokens import Batch

_board_option = click.option(
    "--board", type=click.Choice((AUTO, *BOARDS)), default=AUTO, show_default=True, help="The device; auto is the one here."
)


@click.command("bench")
@model_option
@revision_option
@policy_option
@_board_option
@batch_option
@trace_option
@click.option(
    "--seconds", type=click.FloatRange(0, 3600), default=5.0, show_default=True, help="How long to run batch after batch."
)
@cache_option
@offline_option
@json_option
def bench_command(
    model: str,
    revision: str | None,
    policy: str,
    board: str,
    batch: int,
    trace: bool | None,
    seconds: float,
    cache_url: str,
    offline: bool,
    as_json: bool,
) -> None:
    """Measure a device: seconds of loading, throughput with a trace and without, and the PCC of its logits with the CPU's.

    Runs the built-in questions over and over. Needs a device; what a mock device cannot tell is left out.

    \b
    ttbert bench --board n150 --batch 8 --json
    ttbert bench --model bundled
    """
    from .cache.cache import open_cache
    from .convert.wanted import Wanted
    from .demo.supply import supply_model
    from .runtime.check import LEAST_PCC
    from .runtime.target import choose_target

    target = choose_target(board, batch, trace)
    if not target.is_device:
        raise DeviceError("no Tenstorrent device is here to be measured", "without one, try `ttbert plan --check`")
    cache = open_cache(cache_url)
    miss = f"{model} ({policy}) is not in the cache {cache.store.url}: converting it first"
    cached = supply_model(Wanted(model, revision, policy, offline), cache, lambda: tell(miss))

    from .runtime.bench import measure
    from .runtime.loader import CachedModel
    from .runtime.tokens import TOKENS

    loaded = CachedModel(cache, cached)
    loaded.require_answer_head()
    tokens = min(TOKENS, loaded.shape.positions)
    tell(f"measuring {model} ({policy}) on {target.name}, {target.chips * batch} inputs of {tokens} tokens at once")
    measured = measure(target, loaded, _batches(loaded, target.chips * batch, tokens), batch, tokens, seconds)
    if as_json:
        about = {"model": model, "policy": policy, "manifest": str(cached.digest)}
        show({**about, **_document(measured, target, tokens)})
    else:
        _print(measured, target)
    if measured.pcc is not None and not measured.pcc >= LEAST_PCC and policy != "bfp4":
        raise AccuracyError(
            f"the logits' PCC with the reference is {measured.pcc:.4f}, below {LEAST_PCC}", "please report it with the output"
        )


def _batches(model: CachedModel, rows: int, tokens: int) -> list[Batch]:
    """The built-in questions in whole batches, over again where they do not fill the last one."""
    from .demo.inputs import built_in_questions
    from .runtime.tokens import STRIDE, Encoder, make_batches

    encoder = Encoder(model.tokenizer, tokens, min(STRIDE, tokens // 2))
    windows = [encoder.windows(each.question, each.context)[0] for each in built_in_questions()]
    count = -(-len(windows) // rows) * rows
    filled = [window for window, _ in zip(chain.from_iterable(repeat(windows)), range(count), strict=False)]
    return list(make_batches(filled, rows, tokens, pad_id=encoder.pad_id))


def _document(measured: Measured, target: Target, tokens: int) -> dict[str, Any]:
    return {
        "board": target.name,
        "tokens": tokens,
        "device": measured.device,
        "loading_seconds": asdict(measured.loading),
        "speeds": [asdict(each) for each in measured.speeds],
        "pcc": None if measured.pcc is None else {"start": measured.start_pcc, "end": measured.end_pcc},
    }


def _print(measured: Measured, target: Target) -> None:
    rows: list[tuple[str, ...]] = [("trace", "inputs/s", "ms a batch", "latency ms", "host ms", "batches")]
    for each in measured.speeds:
        figures = (each.inputs_per_second, each.batch_ms, each.latency_ms, each.host_ms)
        told = ["" if figure is None else f"{figure:.2f}" for figure in figures]
        rows.append(("yes" if each.traced else "no", *told, str(each.batches)))
    say(table(rows, right=(1, 2, 3, 4, 5)))
    for each in measured.speeds:
        if each.untraced:
            say(f"TT-NN records no trace here: {each.untraced}")
    loading = measured.loading
    say()
    say(f"opening the device  {loading.opening:.3f} s")
    say(f"reading weights     {loading.reading:.3f} s ({size_text(loading.bytes)}, digests checked)")
    say(f"sending weights     {loading.sending:.3f} s, to {target.chips} chip{'s' if target.chips > 1 else ''}")
    say(f"building programs   {loading.compiling:.3f} s")
    if measured.pcc is None:
        say("PCC with the CPU    none, and no throughput: a mock device computes nothing and takes no time")
    else:
        say(f"PCC with the CPU    start {measured.start_pcc:.6f}, end {measured.end_pcc:.6f}")
