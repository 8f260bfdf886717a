"""`ttbert plan` and `ttbert check`: how a board would run a model, and whether TT-NN and the reference agree with that."""

from __future__ import annotations

from dataclasses import asdict
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..boards import AUTO, BOARDS, Board
from ..console import say, show_result, table, tell
from ..errors import BoardError, DeviceError
from ..model import TILE
from ..text import size_text
from .options import json_option, offline_option, places_option, progress_option, wanted_option
from .tiers import supply

if TYPE_CHECKING:
    from ..cache.places import Places
    from ..convert.wanted import Wanted
    from ..model import BertShape
    from ..runtime.check import Comparison, Verdict
    from ..runtime.l1 import Usage
    from ..runtime.ops import Op
    from ..runtime.plan import Plan

_board_option = click.option("--board", type=click.Choice(tuple(BOARDS)), default="n150", show_default=True, help="A board.")
_batch_option = click.option("--batch", type=click.IntRange(1, 512), default=8, show_default=True, help="Inputs on each chip.")


def _whole_tiles(context: click.Context, parameter: click.Parameter, tokens: int | None) -> int | None:
    if tokens and tokens % TILE:
        raise click.BadParameter(f"{tokens} is not a multiple of {TILE}.")
    return tokens


_tokens_option = click.option(
    "--tokens",
    type=click.IntRange(TILE, 512),
    callback=_whole_tiles,
    metavar="N",
    help="Tokens of an input, a multiple of 32.  [default: 384, or what the model takes]",
)


@click.command("plan")
@click.argument("model")
@wanted_option
@_board_option
@_batch_option
@_tokens_option
@click.option("--check", "wants_check", is_flag=True, help="Let TT-NN judge the plan on a mock device of the board.")
@click.option("--picture", type=click.Path(path_type=Path), metavar="FILE", help="Draw L1 over the ops: a .svg or .png.")
@offline_option
@progress_option
@json_option
def plan_command(
    wanted: Wanted,
    board: str,
    batch: int,
    tokens: int | None,
    wants_check: bool,
    picture: Path | None,
    as_json: bool,
) -> None:
    """Show how a board would run MODEL: each op's cores, shards, precision and memory. Needs no board and no weights.

    MODEL is an id on the Hugging Face hub, a folder in the Hugging Face format, or `bundled`; of its files only
    config.json is read.

    \b
    ttbert plan bundled --board n150 --batch 8 --check
    ttbert plan phiyodr/bert-large-finetuned-squad2 --board p150 --batch 11 --picture l1.svg
    """
    from ..model import parse_config
    from ..recipe.recipe import CONFIG
    from ..runtime.plan import plan_bert

    source = wanted.open_source()
    shape = parse_config(source.read(CONFIG), f"{source.label}/{CONFIG}")
    plan = plan_bert(shape, batch, tokens or shape.window, BOARDS[board].chip, wanted.policy)
    verdict = _judge(board, plan) if wants_check else None
    if picture:
        from ..picture import draw_l1

        draw_l1(plan, picture, f"{wanted.model} on {board}, batch {batch} of {plan.tokens} tokens, {wanted.policy}")
        tell(f"drew {picture}")
    refused = None
    if verdict and not verdict.accepted:
        said = f"TT-NN refuses {verdict.op}: {verdict.reason}"
        refused = BoardError(said, "please report it: a plan should never be refused")
    if as_json:
        show_result(_plan_document(plan, BOARDS[board], verdict), refused)
    else:
        _print_plan(plan, BOARDS[board], verdict)
    if refused:
        raise refused


@click.command("check")
@click.argument("model")
@wanted_option
@_board_option
@click.option("--batch", type=click.IntRange(1, 512), default=2, show_default=True, help="Inputs on each chip.")
@_tokens_option
@click.option(
    "--device", "on_device", is_flag=True, help="Run it on the device that is here, and read back what each op makes."
)
@places_option
@offline_option
@progress_option
@json_option
def check_command(
    wanted: Wanted,
    board: str,
    batch: int,
    tokens: int | None,
    on_device: bool,
    places: Places,
    as_json: bool,
) -> None:
    """Run MODEL on a mock device with values from TT-NN's golden functions, and compare each op with the reference.

    Shapes, data types, memory and program configurations are judged by TT-NN itself; how exact a card's arithmetic is
    cannot be seen here. With --device it can: a device computes, and the table has the op with which a wrong result begins.
    The model is converted first if it is not in the cache.

    \b
    ttbert check bundled --board n150 --batch 2
    ttbert check bundled --device
    """
    from ..demo.inputs import built_in_questions
    from ..model import parse_config
    from ..recipe.recipe import CONFIG
    from ..runtime.check import find_fault
    from ..runtime.checker import Request, compare_here, compare_on
    from ..runtime.plan import plan_bert

    here = _device_that_computes(batch) if on_device else None
    _require_runs(board)

    def require_fit(shape: BertShape) -> None:
        if not here:  # a device is planned for as it is found
            plan_bert(shape, batch, tokens or shape.window, BOARDS[board].chip, wanted.policy)

    cache = places.open(wanted.offline)
    cached = supply(wanted, places, cache, require=require_fit)
    config = cached.manifest.file(CONFIG)
    assert config
    shape = parse_config(cache.load(config), f"{cached.digest}: {CONFIG}")
    require_fit(shape)
    tokens = tokens or shape.window
    where = f"on {here}, reading back every op" if here else f"in the shadow of a mock {board}"
    tell(f"running {wanted} {where}, batch {batch} of {tokens} tokens{'' if here else '; no device is used'}")
    questions = built_in_questions()
    request = Request(shape, batch, tokens, wanted.policy, places, wanted.offline, str(cached.digest), questions)
    comparison = compare_here(request) if here else compare_on(board, request)
    below = find_fault("the output's", comparison.pcc, wanted.policy, "please report it with the table")
    if as_json:
        on = here or f"mock {board}"
        about = {"model": wanted.model, "policy": wanted.policy, "board": on, "batch": batch, "tokens": tokens}
        show_result({**about, "pcc": comparison.pcc, **asdict(comparison)}, below)
    else:
        _print_comparison(comparison)
    if below:
        raise below


def _device_that_computes(batch: int) -> str:
    """The name of the device that is here."""
    from ..runtime.target import choose_target

    target = choose_target(AUTO, batch)
    if not target.is_device:
        raise DeviceError(
            "no Tenstorrent device is here to be checked", "leave out --device: TT-NN's golden functions compute then"
        )
    if target.is_mock:
        raise DeviceError("a mock device computes nothing that could be checked", "leave out --device")
    return target.board


def _require_runs(board: str) -> None:
    if not BOARDS[board].runs:
        raise DeviceError(
            f"no TT-NN since v0.55 supports Grayskull, so nothing can be checked on an {board}",
            "choose another board; `ttbert plan` without --check works for it",
        )


def _judge(board: str, plan: Plan) -> Verdict:
    from ..runtime.checker import Request, judge_on

    _require_runs(board)
    tell(f"opening a mock {board} for TT-NN to judge the plan")
    [verdict] = judge_on(board, [Request(plan.shape, plan.batch, plan.tokens, plan.policy)])
    return verdict


def _weight_bytes(plan: Plan) -> dict[str, int]:
    """Bytes of DRAM of each op's weights, of one layer in the encoder."""
    from ..recipe.bert import bert_recipe
    from ..recipe.policy import POLICIES

    sizes = {each.name: each.payload for each in bert_recipe(plan.shape, POLICIES[plan.policy]).tensors}
    in_layer = {op.name for op in plan.layer_ops}
    return {
        op.name: sum(sizes[f"layers.0.{name}" if op.name in in_layer else name] for name in op.weights) for op in plan.ops()
    }


def _dram_bytes(plan: Plan) -> int:
    """Weights, the position states that are looked up once, and the inputs of one batch."""
    from ..recipe.bert import bert_recipe
    from ..recipe.policy import POLICIES

    weights = sum(each.payload for each in bert_recipe(plan.shape, POLICIES[plan.policy]).tensors)
    return weights + plan.batch * plan.tokens * (2 * plan.shape.hidden + 2 * 4)


def _fidelity(op: Op) -> str:
    kernel = getattr(op, "kernel", None)
    return kernel.fidelity if kernel else ""


def _grid_text(op: Op) -> str:
    grid = op.memory.shard.grid if op.memory.shard else getattr(op, "grid", None)
    return str(grid) if grid else "any"


def _print_plan(plan: Plan, board: Board, verdict: Verdict | None) -> None:
    from ..runtime.l1 import usage

    weights, layer = _weight_bytes(plan), {op.name for op in plan.layer_ops}
    used = {each.op: each for each in usage(plan)}
    rows = [("op", "grid", "output", "where", "dtype", "fidelity", "L1 a core", "weights", "GFLOP")]
    for op in plan.ops():
        rows.append(
            (
                f"{'  ' if op.name in layer else ''}{op.name}",
                _grid_text(op),
                " x ".join(map(str, op.shape)),
                str(op.memory),
                op.dtype,
                _fidelity(op),
                f"{used[op.name].needed:,}",
                f"{weights[op.name]:,}" if weights[op.name] else "",
                f"{op.flops / 1e9:.2f}" if op.flops else "",
            )
        )
    say(table(rows, right=(6, 7, 8)))
    say()
    peak = max(used.values(), key=lambda each: each.needed)
    order = "column" if plan.column_major else "row"
    chips = f"{board.chips} chips" if board.chips > 1 else "one chip"
    total = f" on each chip, {board.chips * plan.batch} in all" if board.chips > 1 else ""
    say(f"board       {board.name}: {chips} of {plan.chip.arch.name} with {plan.chip.grid} cores")
    say(f"batch       {plan.batch} of {plan.tokens} tokens{total}")
    say(f"grid        {plan.grid} cores, one input in each {order}; the {plan.shape.layers} layers are all planned alike")
    say(f"peak L1     {peak.needed:,} of {plan.chip.l1:,} bytes a core, in {peak.op}: {_peak_text(peak)}")
    say(f"DRAM        {size_text(_dram_bytes(plan))} of {size_text(plan.chip.dram)}{' on each chip' if total else ''}")
    say(f"work        {plan.flops / 1e9:.0f} GFLOP a batch, {plan.flops / plan.batch / 1e9:.1f} an input, matmuls only")
    if verdict:
        done = f"accepted by TT-NN on a mock {board.name}: {verdict.ops} ops, all {plan.shape.layers} layers"
        say(f"check       {done if verdict.accepted else 'refused'}")


def _peak_text(peak: Usage) -> str:
    gaps = peak.depth - peak.buffers
    return f"{peak.circular:,} circular buffers, {peak.buffers:,} tensors, {gaps:,} gaps"


def _plan_document(plan: Plan, board: Board, verdict: Verdict | None) -> dict[str, Any]:
    from ..runtime.l1 import usage

    weights = _weight_bytes(plan)
    used = {each.op: each for each in usage(plan)}
    layer = {op.name for op in plan.layer_ops}
    return {
        "board": board.name,
        "chips": board.chips,
        "arch": plan.chip.arch.name,
        "policy": plan.policy,
        "batch": plan.batch,
        "inputs": board.chips * plan.batch,
        "tokens": plan.tokens,
        "layers": plan.shape.layers,
        "grid": [plan.grid.columns, plan.grid.rows],
        "column_major": plan.column_major,
        "l1": {"usable": plan.chip.l1, "peak": max(each.needed for each in used.values())},
        "dram": {"size": plan.chip.dram, "used": _dram_bytes(plan)},
        "flops": plan.flops,
        "ops": [
            {
                **asdict(op),
                "elements": prod(op.shape),
                "in_layer": op.name in layer,
                "l1": {"circular": used[op.name].circular, "buffers": used[op.name].buffers, "needed": used[op.name].needed},
                "weight_bytes": weights[op.name],
                "flops": op.flops,
            }
            for op in plan.ops()
        ],
        "check": asdict(verdict) if verdict else None,
    }


def _print_comparison(comparison: Comparison) -> None:
    from ..runtime.check import by_op

    rows = [("op", "PCC, first layer", "PCC, lowest")]
    rows += [(name, f"{first:.6f}", f"{lowest:.6f}") for name, first, lowest in by_op(comparison)]
    say(table(rows, right=(1, 2)))
    say()
    for name, pcc in comparison.outputs.items():
        say(f"{name:7}  PCC {pcc:.6f}")
    if comparison.gaps:
        tied = f", {comparison.tied} in a tie with another" if comparison.tied else ""
        say(f"answers  the same in {comparison.same} of {len(comparison.gaps)} inputs{tied}")
