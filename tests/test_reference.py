"""The CPU reference against transformers' own BertForQuestionAnswering."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from checkpoints import make_checkpoint
from transformers import BertForQuestionAnswering, BertModel

from ttbert.cache.cache import Cache
from ttbert.cache.places import Places
from ttbert.convert.convert import convert, plan_conversion
from ttbert.convert.wanted import BUNDLED, BUNDLED_FOLDER, Wanted
from ttbert.demo.inputs import built_in_questions
from ttbert.errors import CheckpointError, IncompatibleError
from ttbert.recipe.policy import BFLOAT16, FLOAT32, POLICIES, PRECISIONS
from ttbert.runtime.loader import CachedModel
from ttbert.runtime.reference import Reference
from ttbert.runtime.tokens import Batch, Encoder, make_batches
from ttbert.tt import host_ttnn

MINILM = Path(__file__).parents[2] / "shared" / "models" / "minilm-squad2"

LOGIT_ERROR = 1e-4
"""Largest difference allowed between two float32 implementations that are fed the same weights."""

PCC = {"bf16": 0.999, "bfp8": 0.99, "bfp4": 0.9}
"""Least correlation of the logits with those of the float32 checkpoint."""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return Places(str(tmp_path_factory.mktemp("cache"))).open()


def load(cache: Cache, model: str, policy: str = "bfp8") -> CachedModel:
    return CachedModel(cache, convert(plan_conversion(Wanted(model, policy=policy)), cache).cached)


def batch_of(model: CachedModel, size: int = 4, tokens: int = 384) -> Batch:
    encoder = Encoder(model.tokenizer, tokens)
    questions = built_in_questions()[:size]
    windows = [encoder.windows(each.question, each.context, number)[0] for number, each in enumerate(questions)]
    return next(make_batches(windows, size, tokens, pad_id=encoder.pad_id))


def transformers_logits(model: BertForQuestionAnswering, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    with torch.inference_mode():
        output = model.eval()(
            input_ids=torch.from_numpy(batch.ids).long(),
            token_type_ids=torch.from_numpy(batch.token_types).long(),
            attention_mask=torch.from_numpy(batch.attention_mask).long(),
        )
    return output.start_logits.numpy(), output.end_logits.numpy()


def put_back(model: CachedModel, target: torch.nn.Module) -> None:
    """Write the cached values into a model of transformers, undoing by hand what the recipe did."""
    host_ttnn()
    cached = {entry.name: tensor.to_torch().float() for entry, tensor in model.tensors()}
    shape = model.shape
    groups = {2: shape.spread}.get(shape.heads // shape.spread, shape.heads)
    width = shape.hidden // groups
    state = {}

    def part(fused: torch.Tensor, number: int) -> torch.Tensor:
        columns = [fused[..., (3 * group + number) * width : (3 * group + number + 1) * width] for group in range(groups)]
        return torch.cat(columns, dim=-1)

    def linear(theirs: str, ours: str, outputs: int) -> None:
        state[f"{theirs}.weight"] = cached[f"{ours}.weight"][0, 0, :, :outputs].T
        state[f"{theirs}.bias"] = cached[f"{ours}.bias"][0, 0, 0, :outputs]

    def norm(theirs: str, ours: str) -> None:
        for each in ("weight", "bias"):
            state[f"{theirs}.{each}"] = cached[f"{ours}.{each}"].flatten()

    prefix = "bert." if shape.has_answer_head else ""
    for theirs, ours in (("word", "word"), ("position", "position"), ("token_type", "token_type")):
        state[f"{prefix}embeddings.{theirs}_embeddings.weight"] = cached[f"embeddings.{ours}"]
    norm(f"{prefix}embeddings.LayerNorm", "embeddings.norm")
    for i in range(shape.layers):
        theirs, ours = f"{prefix}encoder.layer.{i}", f"layers.{i}"
        for number, name in enumerate(("query", "key", "value")):
            state[f"{theirs}.attention.self.{name}.weight"] = part(cached[f"{ours}.qkv.weight"][0, 0], number).T
            state[f"{theirs}.attention.self.{name}.bias"] = part(cached[f"{ours}.qkv.bias"][0, 0, 0], number)
        linear(f"{theirs}.attention.output.dense", f"{ours}.out", shape.hidden)
        norm(f"{theirs}.attention.output.LayerNorm", f"{ours}.attention_norm")
        linear(f"{theirs}.intermediate.dense", f"{ours}.up", shape.intermediate)
        linear(f"{theirs}.output.dense", f"{ours}.down", shape.hidden)
        norm(f"{theirs}.output.LayerNorm", f"{ours}.norm")
    if shape.has_answer_head:
        linear("qa_outputs", "answer", 2)
    missing, unexpected = target.load_state_dict(state, strict=False)
    assert not unexpected
    assert all("position_ids" in name for name in missing)


def pcc(left: np.ndarray, right: np.ndarray, mask: np.ndarray) -> float:
    return float(np.corrcoef(left[mask], right[mask])[0, 1])


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_bundled_model_equals_transformers_on_the_decoded_weights(cache: Cache, policy: str) -> None:
    model = load(cache, BUNDLED, policy)
    theirs = BertForQuestionAnswering.from_pretrained(BUNDLED_FOLDER, dtype=torch.float32)
    put_back(model, theirs)
    batch = batch_of(model)
    for ours, expected in zip(Reference(model).run(batch), transformers_logits(theirs, batch), strict=True):
        real = batch.attention_mask.astype(bool)
        assert np.abs(ours - expected)[real].max() < LOGIT_ERROR


SHAPES = {
    "bert-large, 2 layers": {"hidden": 1024, "heads": 16},
    "bert-base, 2 layers": {"hidden": 768, "heads": 12},
    "MiniLM, head size 32": {"hidden": 384, "heads": 12},
    "5 heads, so a grid of 5": {"hidden": 160, "heads": 5},
    "11 heads, so a grid of 1": {"hidden": 352, "heads": 11},
    "9 heads, so 3 a core": {"hidden": 288, "heads": 9},
    "one head": {"hidden": 96, "heads": 1, "intermediate": 32},
    "1 layer": {"hidden": 64, "heads": 2, "layers": 1},
}


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_equals_transformers_on_the_decoded_weights(cache: Cache, tmp_path: Path, name: str) -> None:
    folder = make_checkpoint(tmp_path / "model", **SHAPES[name])
    model = load(cache, str(folder))
    theirs = BertForQuestionAnswering.from_pretrained(folder, dtype=torch.float32)
    put_back(model, theirs)
    batch = batch_of(model, size=2, tokens=256)
    for ours, expected in zip(Reference(model).run(batch), transformers_logits(theirs, batch), strict=True):
        real = batch.attention_mask.astype(bool)
        assert np.ptp(expected[real]) > 0.5, "logits so flat prove nothing"
        assert np.abs(ours - expected)[real].max() < LOGIT_ERROR


@pytest.mark.parametrize("policy", sorted(POLICIES))
@pytest.mark.parametrize("folder", [BUNDLED_FOLDER, MINILM], ids=["bundled", "minilm-squad2"])
def test_logits_correlate_with_the_float32_checkpoint(cache: Cache, folder: Path, policy: str) -> None:
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here")
    model = load(cache, str(folder), policy)
    theirs = BertForQuestionAnswering.from_pretrained(folder, dtype=torch.float32)
    batch = batch_of(model, size=8)
    for ours, expected in zip(Reference(model).run(batch), transformers_logits(theirs, batch), strict=True):
        assert pcc(ours, expected, batch.attention_mask.astype(bool)) >= PCC[policy]


def test_plain_model_gives_the_hidden_states_of_transformers(cache: Cache, tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "plain", hidden=128, heads=2, head=False)
    model = load(cache, str(folder), "bf16")
    theirs = BertModel.from_pretrained(folder, dtype=torch.float32, add_pooling_layer=False)
    put_back(model, theirs)
    batch = batch_of(model, size=2)
    with torch.inference_mode():
        expected = theirs.eval()(
            input_ids=torch.from_numpy(batch.ids).long(),
            token_type_ids=torch.from_numpy(batch.token_types).long(),
            attention_mask=torch.from_numpy(batch.attention_mask).long(),
        ).last_hidden_state
    real = batch.attention_mask.astype(bool)
    assert np.abs(Reference(model).encode(batch).numpy() - expected.numpy())[real].max() < LOGIT_ERROR
    with pytest.raises(CheckpointError, match="no question-answering head"):
        model.require_answer_head()


def test_padding_changes_no_logit(cache: Cache) -> None:
    model = load(cache, BUNDLED)
    runtime = Reference(model)
    long, short = batch_of(model, size=2, tokens=384), batch_of(model, size=2, tokens=256)
    for left, right in zip(runtime.run(long), runtime.run(short), strict=True):
        real = short.attention_mask.astype(bool)
        assert np.abs(left[:, :256] - right)[real].max() < LOGIT_ERROR


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_bfloat16_rounds_activations_and_no_weight(cache: Cache, policy: str) -> None:
    model = load(cache, BUNDLED, policy)
    runtime, reference = Reference(model, BFLOAT16), Reference(model)
    for name, tensor in runtime._tensors.items():
        rounded, exact = (
            each.to_dense().float() if each.is_mkldnn else each.float() for each in (tensor, reference._tensors[name])
        )
        assert torch.equal(rounded, exact), name
    batch = batch_of(model)
    real = batch.attention_mask.astype(bool)
    for rounded, exact in zip(runtime.run(batch), reference.run(batch), strict=True):
        assert 1e-3 < np.abs(rounded - exact)[real].max() < 1 and pcc(rounded, exact, real) > 0.999


@pytest.mark.parametrize("precision", PRECISIONS)
def test_processor_without_onednn_gives_the_same_logits(cache: Cache, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(cache, BUNDLED)
    batch = batch_of(model)
    real = batch.attention_mask.astype(bool)
    usual = Reference(model, precision).run(batch)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    plain = Reference(model, precision)
    assert not any(tensor.is_mkldnn for tensor in plain._tensors.values())
    for left, right in zip(usual, plain.run(batch), strict=True):
        assert np.abs(left - right)[real].max() < (LOGIT_ERROR if precision == FLOAT32 else 1)
        assert pcc(left, right, real) > 0.999


def test_processor_without_bfloat16_rounds_to_the_same_numbers(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch's own bfloat16 matmuls do it: to the last bit, but for sums in another order."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    model = load(cache, BUNDLED)
    runtime = Reference(model, BFLOAT16)
    states = torch.randn(2, 40, model.shape.hidden, generator=torch.Generator().manual_seed(7))
    for linear in ("qkv", "out", "up"):
        weight, bias = (runtime._tensors[f"layers.1.{linear}.{part}"] for part in ("weight", "bias"))
        assert weight.dtype == torch.float32
        made = runtime._linear(states, f"layers.1.{linear}")
        theirs = F.linear(states.bfloat16(), weight.to_dense().bfloat16(), bias.to_dense().bfloat16()).float()
        assert torch.equal(made, made.bfloat16().float())
        assert torch.allclose(made, theirs, rtol=2**-7, atol=2**-9) and (made == theirs).float().mean() > 0.98


def test_swapped_heads_are_noticed(cache: Cache) -> None:
    model = load(cache, BUNDLED)
    theirs = BertForQuestionAnswering.from_pretrained(BUNDLED_FOLDER, dtype=torch.float32)
    put_back(model, theirs)
    query = theirs.bert.encoder.layer[0].attention.self.query.weight.data
    query[:64] = query[:64].roll(32, dims=0)
    batch = batch_of(model)
    assert np.abs(Reference(model).run(batch)[0] - transformers_logits(theirs, batch)[0]).max() > 100 * LOGIT_ERROR


def test_model_of_another_recipe_is_refused(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when the runtime's steps have moved on since the model was converted."""
    from ttbert.recipe import steps

    cached = convert(plan_conversion(Wanted(BUNDLED)), cache).cached
    version, function = steps.STEPS["interleave"]
    monkeypatch.setitem(steps.STEPS, "interleave", (version + 1, function))
    with pytest.raises(IncompatibleError, match="a recipe that this version of ttbert does not run"):
        CachedModel(cache, cached)
