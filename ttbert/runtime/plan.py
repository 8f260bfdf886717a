"""The plan: how one chip runs a BERT on a batch, worked out from the model's shape, the batch, the tokens and the chip.

The hidden dimension is split over `shape.spread` cores in one dimension of the grid, the batch over the other, as in
tt-metal's BERT-large demo (models/demos/metal_BERT_large_11), whose blocking these rules give for its shape:

- activations are block-sharded: a core holds all tokens of one input and its part of the hidden dimension;
- Q, K, V, scores and context are height-sharded: a core holds its own heads, so attention sends nothing between cores;
- the states that go from layer to layer are bfloat16 where L1 has room for them beside whole inner blocks: what is rounded
  there adds up over the layers, and bfloat8_b throughout, as in the demo, costs BERT-large's logits a PCC of 0.01;
- a matmul takes the widest inner block that L1 has room for, and the largest subblock that the registers hold.

What does not fit is a BoardError that names the op. The model of L1 is in `l1`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace

from ..boards import GRAYSKULL, Chip, Grid, largest_batch
from ..errors import BoardError
from ..frozen import Frozen
from ..model import REGISTERS, TILE, BertShape
from ..recipe.policy import DEFAULT_POLICY, POLICIES
from .l1 import Usage, usage
from .ops import (
    L1,
    Add,
    Blocks,
    Embed,
    JoinHeads,
    Kernel,
    Linear,
    Matmul,
    Memory,
    Move,
    Norm,
    Op,
    Shard,
    Softmax,
    SplitHeads,
    ToInterleaved,
    ToShards,
)

FIDELITY = {"bfp8": "HiFi2", "bf16": "HiFi4", "bfp4": "LoFi"}
"""Math fidelity of matmuls by policy: enough passes over the mantissas for the weights' format (7 bits need two passes, those
of bfloat4_b one); softmax and norms have HiFi4 always. The gelu of bf16 is not approximated, as it is in tt-metal's demo: off
by up to 0.02, it would cost more of the logits' PCC than all that bfloat16 rounds."""


class Plan(Frozen):
    """Every op in the order it runs: embeddings, one encoder layer (each is planned alike), and the answer head."""

    shape: BertShape
    policy: str
    chip: Chip
    batch: int
    tokens: int
    grid: Grid
    column_major: bool

    word: Embed
    token_type: Embed
    summed: Add
    embedded: Norm
    sharded: ToShards
    moved: Move | None

    qkv: Linear
    heads: SplitHeads
    scores: Matmul
    softmax: Softmax
    context: Matmul
    joined: JoinHeads
    out: Linear
    attention_norm: Norm
    up: Linear
    down: Linear
    norm: Norm

    unsharded: ToInterleaved
    answer: Linear | None

    def ops(self) -> Iterator[Op]:
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, Op):
                yield value

    def op(self, name: str) -> Op:
        return next(each for each in self.ops() if each.name == name)

    @property
    def layer_ops(self) -> tuple[Op, ...]:
        """The ops of one encoder layer."""
        return (
            self.qkv,
            self.heads,
            self.scores,
            self.softmax,
            self.context,
            self.joined,
            self.out,
            self.attention_norm,
            self.up,
            self.down,
            self.norm,
        )

    @property
    def flops(self) -> int:
        """Of one batch, through all layers; matmuls only."""
        layer = {op.name for op in self.layer_ops}
        return sum(op.flops * (self.shape.layers if op.name in layer else 1) for op in self.ops())


def plan_bert(shape: BertShape, batch: int, tokens: int, chip: Chip, policy: str = DEFAULT_POLICY) -> Plan:
    """The plan for one chip. BoardError, with the largest batch that fits, where the grid or L1 is too small."""
    _check_request(shape, batch, tokens, chip, policy)
    try:
        return _fit(shape, batch, tokens, chip, policy)
    except _DoesNotFit as error:
        hint = _instead(shape, batch, tokens, chip, policy)
        raise BoardError(f"batch {batch} of {tokens} tokens does not fit: {error}", hint) from None


def largest_fitting_batch(
    shape: BertShape, tokens: int, chip: Chip, policy: str = DEFAULT_POLICY, below: int | None = None
) -> int:
    """The most inputs of so many tokens that the chip takes at once, of those `below`; 0 if not even one."""
    most = largest_batch(chip.grid, shape.spread)
    batches = range(most if below is None else min(most, below - 1), 0, -1)
    return next((batch for batch in batches if _fits(shape, batch, tokens, chip, policy)), 0)


def _instead(shape: BertShape, batch: int, tokens: int, chip: Chip, policy: str) -> str:
    """What to choose for a batch that does not fit."""
    most = largest_fitting_batch(shape, tokens, chip, policy, below=batch)
    if most:
        return f"pass --batch {most} or less"
    batch = min(batch, largest_batch(chip.grid, shape.spread))
    fewer = next((each for each in range(tokens - TILE, 0, -TILE) if _fits(shape, batch, each, chip, policy)), 0)
    choices = [f"--tokens {fewer} or less"] if fewer else []
    choices += ["--policy bfp8"] if policy == "bf16" and _fits(shape, batch, tokens, chip, "bfp8") else []
    return f"no batch fits: {'pass ' + ', or '.join(choices) if choices else 'choose a board with more memory a core'}"


class _DoesNotFit(Exception):
    """An op needs more of L1 than there is, whatever its blocking."""


def _fits(shape: BertShape, batch: int, tokens: int, chip: Chip, policy: str) -> bool:
    try:
        _fit(shape, batch, tokens, chip, policy)
    except _DoesNotFit:
        return False
    return True


def _check_request(shape: BertShape, batch: int, tokens: int, chip: Chip, policy: str) -> None:
    if batch < 1:
        raise ValueError(f"a batch of {batch}")
    if tokens % TILE or not 0 < tokens <= shape.positions:
        raise BoardError(
            f"inputs of {tokens} tokens are not supported",
            f"choose a multiple of {TILE}, at most the model's {shape.positions}",
        )
    if shape.intermediate // TILE % shape.spread:
        raise BoardError(
            f"the intermediate size {shape.intermediate} cannot be split evenly over {shape.spread} cores",
            "choose another model, or --board cpu",
        )
    most = largest_batch(chip.grid, shape.spread)
    if batch > most:
        what = f"batch {batch} does not fit: {chip.grid} cores hold {f'at most {most}' if most else 'none'}"
        hint = _instead(shape, batch, tokens, chip, policy) if most else "choose a larger board"
        raise BoardError(f"{what}, the hidden dimension taking {shape.spread} cores of each", hint)


def _fit(shape: BertShape, batch: int, tokens: int, chip: Chip, policy: str) -> Plan:
    """The first plan that fits: with whole inner blocks, and states in 16 bits or else in 8; then with narrower blocks.

    Of each kind without the move of the states if it fits without.
    """
    exact = _draft(shape, batch, tokens, chip, policy, "bfloat16")
    compact = _draft(shape, batch, tokens, chip, policy, _dtype(policy))
    for plan in (exact, compact):
        for each in (replace(plan, moved=None), plan):
            if all(step.needed <= chip.l1 for step in usage(each)):
                return each
    try:
        return _narrowed(replace(compact, moved=None))
    except _DoesNotFit:
        return _narrowed(compact)


def _narrowed(plan: Plan) -> Plan:
    """The plan with the widest inner block for each matmul with which it fits."""
    while True:
        over = next((each for each in usage(plan) if each.needed > plan.chip.l1), None)
        if over is None:
            return plan
        narrower = _narrower(plan, over)
        if narrower is None:
            raise _DoesNotFit(
                f"{over.op} needs {over.needed:,} bytes of L1 a core ({over.circular:,} for circular buffers), "
                f"there are {plan.chip.l1:,}"
            )
        plan = narrower


def _narrower(plan: Plan, over: Usage) -> Plan | None:
    """The plan with the next smaller inner block for this op; None if there is none."""
    op = getattr(plan, over.op)
    if not isinstance(op, Linear) or op.blocks.inner == 1:
        return None
    inner = _divisor(op.blocks.inner, op.blocks.inner - 1)
    return replace(plan, **{over.op: replace(op, blocks=replace(op.blocks, inner=inner))})  # type: ignore[arg-type]


def _dtype(policy: str) -> str:
    """The dtype of activations: that of the matmul weights, or eight bits where those have fewer."""
    return "bfloat16" if policy == "bf16" else "bfloat8_b"


def _draft(shape: BertShape, batch: int, tokens: int, chip: Chip, policy: str, states_dtype: str) -> Plan:
    """The plan for unlimited L1; `states_dtype` is of what goes from layer to layer, and of what is added to it."""
    spread, hidden = shape.spread, shape.hidden
    column_major = _is_column_major(batch, spread, chip)
    grid = Grid(batch, spread) if column_major else Grid(spread, batch)
    precision = POLICIES[policy]
    dtype = _dtype(policy)
    kernel = Kernel(FIDELITY[policy], chip.arch.adds_in_packer)
    attention_kernel = replace(kernel, fidelity=FIDELITY["bf16" if policy == "bf16" else "bfp8"])
    exact = replace(kernel, fidelity="HiFi4")
    rows, heads = tokens // TILE, shape.heads // spread
    states = (batch, 1, tokens, hidden)

    def block(width: int) -> Memory:
        return Memory("l1", Shard("block", tokens, width // spread, grid, column_major))

    def height(head_rows: int, width: int) -> Memory:
        return Memory("l1", Shard("height", heads * head_rows, width, grid, column_major))

    def linear(name: str, inner: int, outer: int, weight_dtype: str, linear_kernel: Kernel) -> Linear:
        columns = outer // TILE // spread
        reads_states, makes_states = name in ("qkv", "up"), name in ("out", "down")
        return Linear(
            name=name,
            linear=name,
            shape=(batch, 1, tokens, outer),
            dtype=states_dtype if makes_states else dtype,
            memory=block(outer),
            inner=inner,
            input_dtype=states_dtype if reads_states else dtype,
            weight_dtype=weight_dtype,
            bias_dtype=precision.bias,
            blocks=Blocks(inner // TILE // spread, rows, columns, _subblock(rows, columns)),
            kernel=linear_kernel,
            grid=grid,
            column_major=column_major,
            gelu=name == "up",
        )

    def matmul(name: str, inner: int, width: int) -> Matmul:
        columns = width // TILE
        return Matmul(
            name=name,
            shape=(batch, shape.heads, tokens, width),
            dtype=dtype,
            memory=height(tokens, width),
            inner=inner,
            blocks=Blocks(inner // TILE, heads * rows, columns, _subblock(rows, columns)),
            kernel=attention_kernel,
            grid=grid,
        )

    def norm(name: str) -> Norm:
        width = hidden // TILE // spread
        return Norm(
            name=name,
            norm=name,
            shape=states,
            dtype=states_dtype,
            memory=block(hidden),
            epsilon=shape.norm_epsilon,
            kernel=exact,
            blocks=(rows, width, _divisor(width, REGISTERS)),
        )

    def embed(name: str) -> Embed:
        table = f"embeddings.{name}"
        return Embed(name=name, table=table, shape=(batch, tokens, hidden), dtype="bfloat16", memory=L1)

    return Plan(
        shape=shape,
        policy=policy,
        chip=chip,
        batch=batch,
        tokens=tokens,
        grid=grid,
        column_major=column_major,
        word=embed("word"),
        token_type=embed("token_type"),
        summed=Add(name="summed", shape=(batch, tokens, hidden), dtype="bfloat16", memory=L1),
        embedded=Norm(
            name="embedded",
            norm="embeddings.norm",
            shape=states,
            dtype="bfloat16",
            memory=L1,
            epsilon=shape.norm_epsilon,
            kernel=exact,
        ),
        sharded=ToShards(name="sharded", shape=states, dtype=states_dtype, memory=block(hidden)),
        moved=Move(name="moved", shape=states, dtype=states_dtype, memory=block(hidden)),
        qkv=linear("qkv", hidden, 3 * hidden, precision.attention, attention_kernel),
        heads=SplitHeads(
            name="heads",
            shape=(batch, shape.heads, tokens, shape.head_size),
            dtype=dtype,
            memory=height(tokens, shape.head_size),
            key_memory=height(shape.head_size, tokens),
            heads=shape.heads,
            in_pairs=shape.qkv_groups < shape.heads,
            grid=grid,
        ),
        scores=matmul("scores", shape.head_size, tokens),
        softmax=Softmax(
            name="softmax",
            shape=(batch, 1, shape.heads * tokens, tokens),
            dtype=dtype,
            memory=height(tokens, tokens),
            scale=shape.head_size**-0.5,
            blocks=(heads * rows, rows, _divisor(rows, REGISTERS)),
            kernel=exact,
            grid=grid,
        ),
        context=matmul("context", tokens, shape.head_size),
        joined=JoinHeads(name="joined", shape=states, dtype=dtype, memory=block(hidden)),
        out=linear("out", hidden, hidden, precision.attention, attention_kernel),
        attention_norm=norm("attention_norm"),
        up=linear("up", hidden, shape.intermediate, precision.feed_forward, replace(kernel, approximates=policy != "bf16")),
        down=linear("down", shape.intermediate, hidden, precision.feed_forward, kernel),
        norm=norm("norm"),
        unsharded=ToInterleaved(name="unsharded", shape=states, dtype=states_dtype, memory=L1),
        answer=_answer(shape, batch, tokens, chip, policy, states_dtype, attention_kernel) if shape.has_answer_head else None,
    )


def _answer(shape: BertShape, batch: int, tokens: int, chip: Chip, policy: str, dtype: str, kernel: Kernel) -> Linear:
    """The answer head: one tile of columns, its rows spread over all cores of the chip."""
    rows = -(-batch * tokens // TILE // chip.grid.cores)
    precision = POLICIES[policy]
    return Linear(
        name="answer",
        linear="answer",
        shape=(batch, 1, tokens, TILE),
        dtype="bfloat16",
        memory=L1,
        inner=shape.hidden,
        input_dtype=dtype,
        weight_dtype=precision.attention,
        bias_dtype=precision.bias,
        blocks=Blocks(_divisor(shape.hidden // TILE, REGISTERS), rows, 1, (_divisor(rows, REGISTERS), 1)),
        kernel=kernel,
        grid=chip.grid,
        spread="rows",
    )


def _is_column_major(batch: int, spread: int, chip: Chip) -> bool:
    """Whether the batch runs over columns. Like tt-metal: over rows where it can, on Grayskull over columns where it can."""
    by_row = spread <= chip.grid.columns and batch <= chip.grid.rows
    by_column = batch <= chip.grid.columns and spread <= chip.grid.rows
    return by_column and (chip.arch.name == GRAYSKULL.name or not by_row)


def _subblock(rows: int, columns: int) -> tuple[int, int]:
    """The largest (height, width) that the registers hold, of which several make a block of rows x columns.

    TT-NN wants a sharded output's subblocks to be as wide as the block, or one tile high.
    """
    width = _divisor(columns, REGISTERS)
    return (_divisor(rows, REGISTERS // width) if width == columns else 1, width)


def _divisor(number: int, most: int) -> int:
    """The largest divisor that is at most `most`."""
    return next(each for each in range(min(number, most), 0, -1) if number % each == 0)
