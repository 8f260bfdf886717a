"""Plans: tt-metal's own blocking for BERT-large, rules that hold for every shape, and clear refusals of what cannot fit."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from checkpoints import make_checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st
from models import flip_bit
from program import ttbert
from safetensors.numpy import load_file, save_file
from shapes import MANY_HEADS, SHAPES, shape

from ttbert.boards import BOARDS, Chip, Grid, largest_batch
from ttbert.errors import BoardError
from ttbert.model import TILE, BertShape
from ttbert.recipe.bert import bert_recipe
from ttbert.recipe.policy import POLICIES
from ttbert.runtime.check import TIE
from ttbert.runtime.l1 import usage
from ttbert.runtime.lower import lower_plan
from ttbert.runtime.ops import Blocks, Linear, Matmul
from ttbert.runtime.plan import Plan, largest_fitting_batch, plan_bert
from ttbert.tt import host_ttnn

LARGE = SHAPES["large"]
N150, P150, E150 = (BOARDS[name].chip for name in ("n150", "p150", "e150"))


def peak(plan: Plan) -> int:
    return max(each.needed for each in usage(plan))


@pytest.mark.parametrize(("policy", "fast"), [("bfp8", 1), ("bfp4", 1), ("bf16", 0)])
def test_gelu_of_bf16_is_not_approximated(policy: str, fast: int) -> None:
    """By the parameter of TT-NN's gelu, which is off by up to 0.02 where it is fast."""
    lowered = lower_plan(plan_bert(LARGE, 2, 384, N150, policy), host_ttnn())
    assert lowered.up.program.fused_activation.params == [fast]


@pytest.mark.parametrize(("chip", "batch"), [(E150, 7), (E150, 8), (E150, 12), (N150, 7), (N150, 8), (P150, 8), (P150, 11)])
def test_bert_large_has_the_blocking_of_tt_metals_demo(chip: Chip, batch: int) -> None:
    """models/demos/metal_BERT_large_11/tt/model_config.py, BFLOAT8_B-SHARDED."""
    plan = plan_bert(LARGE, batch, 384, chip)
    assert plan.qkv.blocks == Blocks(4, 12, 12, (1, 6))
    assert plan.scores.blocks == Blocks(2, 24, 12, (1, 6))
    assert plan.softmax.blocks == (24, 12, 6)
    assert plan.context.blocks == Blocks(12, 24, 2, (4, 2))
    assert plan.out.blocks == Blocks(4, 12, 4, (2, 4))
    assert plan.up.blocks == Blocks(4, 12, 16, (1, 8))
    assert plan.up.gelu
    assert plan.down.blocks == Blocks(16, 12, 4, (2, 4))
    assert plan.attention_norm.blocks == plan.norm.blocks == (12, 4, 4)
    assert plan.sharded.memory.shard and (plan.sharded.memory.shard.height, plan.sharded.memory.shard.width) == (384, 128)


def test_orientation_is_tt_metals() -> None:
    """Rows where they hold the batch, columns where only they do; on Grayskull columns first."""
    assert plan_bert(LARGE, 8, 384, N150).grid == Grid(8, 8)
    assert not plan_bert(LARGE, 10, 384, P150).column_major
    assert plan_bert(LARGE, 11, 384, P150).column_major and plan_bert(LARGE, 11, 384, P150).grid == Grid(11, 8)
    assert plan_bert(LARGE, 7, 384, E150).column_major and plan_bert(LARGE, 12, 384, E150).grid == Grid(12, 8)
    less = replace(E150, arch=replace(E150.arch, l1_base=E150.arch.l1_base + 1))
    assert plan_bert(LARGE, 7, 384, less).column_major, "as a device of that generation would tell of itself"


def test_grid_of_the_device_decides() -> None:
    harvested = replace(N150, grid=Grid(8, 7))
    assert largest_fitting_batch(LARGE, 384, harvested) == 8 - 1
    assert largest_fitting_batch(LARGE, 384, replace(N150, grid=Grid(7, 7))) == 0


heads_and_widths = st.sampled_from([*range(1, 17), 24, 32, 48, 64])


@given(
    heads=heads_and_widths,
    head_tiles=st.integers(1, 3),
    inner=st.integers(1, 4),
    batch=st.integers(1, 12),
    token_tiles=st.integers(1, 16),
    board=st.sampled_from(tuple(BOARDS)),
    policy=st.sampled_from(tuple(POLICIES)),
)
@settings(max_examples=300, deadline=None)
def test_every_plan_is_whole_or_refused(
    heads: int, head_tiles: int, inner: int, batch: int, token_tiles: int, board: str, policy: str
) -> None:
    hidden, tokens = heads * head_tiles * TILE, token_tiles * TILE
    model = shape(2, hidden, heads, hidden * inner)
    chip = BOARDS[board].chip
    try:
        plan = plan_bert(model, batch, tokens, chip, policy)
    except BoardError as error:
        assert error.hint
        check_hint(error, model, batch, tokens, chip, policy)
        return
    assert peak(plan) <= chip.l1
    assert plan.grid.columns <= chip.grid.columns and plan.grid.rows <= chip.grid.rows
    assert plan.grid.cores == plan.batch * model.spread
    for op in plan.ops():
        if isinstance(op, Linear | Matmul):
            check_blocks(op)
    recipe = {each.name for each in bert_recipe(model, POLICIES[policy]).tensors}
    layer = {op.name for op in plan.layer_ops}
    read = {f"layers.0.{name}" if op.name in layer else name for op in plan.ops() for name in op.weights}
    assert read <= recipe
    assert recipe - read - {name for name in recipe if name.startswith("layers.1.")} == {"embeddings.position"}


def check_hint(error: BoardError, model: BertShape, batch: int, tokens: int, chip: Chip, policy: str) -> None:
    """The batch that a refusal recommends fits, and no batch between it and the one refused does."""
    found = re.search(r"--batch (\d+)", error.hint)
    most = int(found.group(1)) if found else 0
    if most > 0:
        plan_bert(model, most, tokens, chip, policy)
    for larger in range(most + 1, batch):
        with pytest.raises(BoardError):
            plan_bert(model, larger, tokens, chip, policy)


def check_blocks(op: Linear | Matmul) -> None:
    height, width = op.blocks.subblock
    assert op.blocks.rows % height == 0 and op.blocks.columns % width == 0 and height * width <= 8
    assert height == 1 or width == op.blocks.columns
    assert op.inner // TILE % op.blocks.inner == 0
    if op.memory.shard:
        assert (op.blocks.rows * TILE, op.blocks.columns * TILE) == (op.memory.shard.height, op.memory.shard.width)


def test_what_does_not_fit_names_the_op_and_its_memory() -> None:
    with pytest.raises(BoardError, match=r"scores needs 1,\d+,\d+ bytes of L1 a core .*, there are 1,393,312") as caught:
        plan_bert(LARGE, 8, 512, N150, "bf16")
    assert "no batch fits" in caught.value.hint and "bfp8" in caught.value.hint


def test_batch_beyond_the_grid_names_the_largest() -> None:
    with pytest.raises(BoardError, match="8 x 8 cores hold at most 8") as caught:
        plan_bert(LARGE, 9, 384, N150)
    assert caught.value.hint == "pass --batch 8 or less"


def test_little_memory_makes_narrower_blocks() -> None:
    small = replace(N150, arch=replace(N150.arch, l1_base=N150.arch.l1_base + 520_000))
    plan = plan_bert(LARGE, 8, 384, small)
    assert plan.down.blocks.inner < 16 and peak(plan) <= small.l1
    assert plan.norm.dtype == "bfloat8_b"


def test_states_have_16_bits_where_they_fit() -> None:
    assert plan_bert(LARGE, 8, 384, N150).norm.dtype == "bfloat16"
    assert plan_bert(LARGE, 8, 384, E150).norm.dtype == "bfloat8_b"


@pytest.mark.parametrize("tokens", [31, 100, 513])
def test_tokens_that_no_model_takes_are_a_mistake_on_the_command_line(tokens: int) -> None:
    ttbert("plan", "bundled", "--tokens", tokens).failed_at_once(2, f"'--tokens': {tokens} is not")


@pytest.mark.parametrize("tokens", [0, 100, 544])
def test_tokens_are_whole_tiles_that_the_model_takes(tokens: int) -> None:
    with pytest.raises(BoardError, match=f"inputs of {tokens} tokens"):
        plan_bert(LARGE, 1, tokens, N150)


def test_heads_are_split_by_the_op_that_reads_their_layout() -> None:
    """Two heads a core by tt-metal's op for BERT-large, any other number by the one that reads head by head."""
    for model in [*SHAPES.values(), *MANY_HEADS.values()]:
        plan = plan_bert(model, 1, 128, N150)
        assert plan.heads.in_pairs == (model.heads == 2 * model.spread)
        assert model.heads // model.qkv_groups == (2 if plan.heads.in_pairs else 1)


def test_batch_beyond_the_grid_is_told_the_largest_that_also_fits_l1() -> None:
    many = MANY_HEADS["eight a core"]
    assert largest_fitting_batch(many, 256, N150, "bf16") == 0
    with pytest.raises(BoardError, match="cores hold at most 8") as caught:
        plan_bert(many, 9, 256, N150, "bf16")
    assert caught.value.hint == "no batch fits: pass --tokens 192 or less, or --policy bfp8"
    plan_bert(many, 8, 256, N150, "bfp8")
    plan_bert(many, 8, 192, N150, "bf16")


@pytest.mark.parametrize("board", [name for name in BOARDS if name != "e150"])
def test_the_largest_batch_by_grid_is_planned(board: str) -> None:
    chip = BOARDS[board].chip
    for model in SHAPES.values():
        most = largest_batch(chip.grid, model.spread)
        for tokens in (128, 384, 512):
            assert largest_fitting_batch(model, tokens, chip) == most


def test_planning_loads_no_ttnn_and_no_torch() -> None:
    program = (
        "import sys, ttbert.runtime.plan, ttbert.boards; from ttbert.model import BertShape; "
        f"ttbert.runtime.plan.plan_bert({LARGE!r}, 8, 384, ttbert.boards.BOARDS['n150'].chip); "
        "sys.exit(bool({'ttnn', 'torch'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_command_prints_the_plan(tmp_path: Path) -> None:
    picture = tmp_path / "l1.svg"
    done = ttbert("plan", "bundled", "--board", "e150", "--batch", 12, "--picture", picture, "--json").succeeded()
    document = done.document
    assert document["grid"] == [12, 6] and document["check"] is None
    assert document["l1"]["peak"] == max(op["l1"]["needed"] for op in document["ops"]) <= document["l1"]["usable"]
    assert picture.read_text().startswith("<?xml")
    text = ttbert("plan", "bundled", "--board", "n150", "--batch", 8).succeeded().out
    assert "peak L1" in text and "attention_norm" in text


def test_command_lets_ttnn_judge() -> None:
    done = ttbert("plan", "bundled", "--board", "n150", "--batch", 2, "--tokens", 128, "--check").succeeded()
    assert "accepted by TT-NN on a mock n150: 73 ops, all 6 layers" in done.out


def test_command_refuses_what_cannot_be() -> None:
    ttbert("plan", "bundled", "--board", "n150", "--batch", 9).failed_at_once(4, "hold at most 8", "--batch 8")
    ttbert("plan", "bundled", "--board", "e150", "--check").failed(12, "Grayskull")
    ttbert("plan", "bundled", "--picture", "l1.txt").failed_at_once(2, ".svg or .png")


def test_check_command_finds_the_reference_s_values_and_answers_on_the_demo_s_inputs(tmp_path: Path) -> None:
    done = ttbert("check", "bundled", "--batch", 8, "--cache", tmp_path, "--json").succeeded()
    assert min(done.document["outputs"].values()) == done.document["pcc"] >= 0.99
    assert {each["op"] for each in done.document["ops"]} >= {"qkv", "softmax", "joined", "up", "norm", "answer"}
    # Another answer only where the reference itself hardly prefers its own.
    assert len(done.document["gaps"]) == 8 and all(gap is not None and gap <= TIE for gap in done.document["gaps"])


def test_a_config_that_cannot_be_read_is_said_in_two_lines(tmp_path: Path) -> None:
    (tmp_path / "config.json").symlink_to("/proc/self/mem")  # a regular file whose first byte is an I/O error
    ttbert("plan", tmp_path).failed_at_once(3, "config.json cannot be read", "whether you may read it")


def test_check_refuses_a_batch_before_it_converts(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    ttbert("check", "bundled", "--batch", 100, "--cache", cache).failed_at_once(
        4, "batch 100 does not fit", "--batch 8 or less"
    )
    assert not cache.exists()


def test_check_command_tells_of_a_damaged_tensor(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    ttbert("convert", "bundled", "--cache", cache).succeeded()
    largest = max((path for path in cache.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    flip_bit(largest, 1000)
    options = ["--batch", 1, "--tokens", 32, "--offline", "--cache", cache]
    ttbert("check", "bundled", *options).failed(7, "embeddings.word", "`ttbert cache verify --repair ")


def test_check_fails_where_all_logits_are_the_same(tmp_path: Path) -> None:
    """They have no correlation, not even with themselves; what says so is one document of JSON, as strict readers take it."""
    folder = make_checkpoint(tmp_path / "flat", hidden=64, heads=2, layers=1)
    weights = load_file(folder / "model.safetensors")
    weights["qa_outputs.weight"][:] = 0
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    done = ttbert("check", folder, "--batch", 1, "--tokens", 64, "--cache", tmp_path / "cache", "--json")
    assert done.exit_code == 13 and "PCC with the reference is 0.0000" in done.err
    document = json.loads(done.out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert document["pcc"] == 0 and document["outputs"] == {"start": 0, "end": 0}
    assert document["error"]["kind"] == "AccuracyError" and document["error"]["exit_code"] == 13


def test_check_command_compares_the_states_of_a_model_without_a_head(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "plain", hidden=64, heads=2, layers=1, head=False)
    options = ["--batch", 1, "--tokens", 64, "--board", "p150", "--cache", tmp_path / "cache"]
    done = ttbert("check", folder, *options).succeeded()
    assert "states   PCC 0.99" in done.out and "answers" not in done.out


def test_an_encoder_that_takes_no_pairs_is_not_checked_with_questions(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "plain", hidden=64, heads=2, layers=1, head=False)
    weights = load_file(folder / "model.safetensors")
    types = "embeddings.token_type_embeddings.weight"
    save_file(weights | {types: weights[types][:1].copy()}, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"type_vocab_size": 1}))
    done = ttbert("check", folder, "--batch", 1, "--tokens", 64, "--cache", tmp_path / "cache")
    done.failed(3, "has one token type, so it takes no question with a passage")
