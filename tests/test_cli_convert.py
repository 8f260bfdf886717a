"""What `ttbert convert` promises: the same tensors of every format, nothing done twice, and one clear error for each cause."""

from __future__ import annotations

import json
import os
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from forks import Forks
from hub_server import HubServer
from program import NO_SOCKETS, Done, command, environment, imported, make_hook, objects, ttbert

from ttbert.cache.digest import Digest
from ttbert.cache.lease import leased
from ttbert.cache.manifest import Manifest
from ttbert.cache.places import Places
from ttbert.cache.refs import Ref, RefEntry
from ttbert.cache.stores.open import open_store
from ttbert.errors import CheckpointError

NEEDED = {"config.json", "vocab.txt", "model.safetensors"}


@dataclass(frozen=True)
class Converted:
    """The tiny model, converted from a folder, offline, by a process that may not open a socket."""

    folder: Path
    cache: Path
    done: Done

    @property
    def manifest(self) -> str:
        return str(self.done.document["manifest"])


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Converted:
    root = tmp_path_factory.mktemp("converted")
    folder, cache = tiny.write(root / "tiny", tiny.checkpoint()), root / "cache"
    hook = make_hook(root / "hook", NO_SOCKETS)
    return Converted(folder, cache, ttbert("convert", folder, "--offline", "--json", "--cache", cache, hook=hook).succeeded())


def manifest_of(cache: Path, ref: Ref) -> Manifest:
    found = Places(str(cache)).open().resolve(ref)
    assert found is not None
    return found.manifest


def entry_of(cache: Path, ref: Ref) -> RefEntry:
    found = Places(str(cache)).open().read_ref(ref)
    assert found is not None
    return found


def no_model_in(cache: Path) -> bool:
    """Whether the cache holds blobs at most, which nobody looks at without a manifest, and a word on why the work failed."""
    left = [path for path in objects(cache) if not path.startswith("leases/") or "/failed-" not in path]
    return all(path.startswith("blobs/") and "/." not in path for path in left)


# What it makes


def test_every_format_of_one_checkpoint_gives_the_same_tensors(forks: Forks, converted: Converted, tmp_path: Path) -> None:
    weights = tiny.arrays()
    formats = {"shards": tiny.sharded(weights), "pickle": {"pytorch_model.bin": tiny.pickled(weights)}}
    rest = {name: content for name, content in tiny.checkpoint().items() if name != "model.safetensors"}
    expected = manifest_of(converted.cache, Ref("local/tiny", None, "bfp8")).packs
    for name, files in formats.items():
        folder = tiny.write(tmp_path / name, {**rest, **files})
        done = forks.ttbert("convert", folder, "--json", cache=tmp_path / "cache").succeeded()
        assert not done.document["hit"]
        assert manifest_of(tmp_path / "cache", Ref(f"local/{name}", None, "bfp8")).packs == expected
    blobs = [path for path in objects(tmp_path / "cache") if path.startswith("blobs/")]
    assert len(blobs) == len(expected) + 4, "two recipes, one tokenizer and one config beside them"


def test_manifest_says_where_a_model_came_from_and_what_made_it(converted: Converted) -> None:
    import hashlib

    document = ttbert("cache", "show", "local/tiny", "--json", "--cache", converted.cache).succeeded().document
    assert document["manifest"] == converted.manifest and document["architecture"] == "BertForQuestionAnswering"
    provenance = document["provenance"]
    assert provenance["repo"] == str(converted.folder) and provenance["commit"] is None
    assert {each["name"]: each["digest"] for each in provenance["sources"]} == {
        name: f"sha256:{hashlib.sha256(content).hexdigest()}" for name, content in tiny.checkpoint().items()
    }
    assert provenance["versions"].keys() == {"ttbert", "packer", "numpy", "python"}


def test_second_conversion_is_a_hit_and_imports_nothing_that_converts(converted: Converted) -> None:
    before = objects(converted.cache)
    done = ttbert("convert", converted.folder, "--json", "--cache", converted.cache, PYTHONPROFILEIMPORTTIME="1").succeeded()
    assert done.document == {**converted.done.document, "hit": True, "seconds": done.document["seconds"]}
    assert not imported(done) & {"ttnn", "torch", "transformers", "huggingface_hub", "numpy", "tokenizers", "safetensors"}
    assert objects(converted.cache) == before


def test_people_are_told_of_a_hit_in_one_line_without_progress(converted: Converted) -> None:
    done = ttbert("convert", converted.folder, "--cache", converted.cache).succeeded()
    assert done.out.startswith("local/tiny:bfp8: already in the cache, nothing converted\n") and converted.manifest in done.out
    assert done.err == ""


def test_the_bundled_model_is_called_that_under_any_name(tmp_path: Path) -> None:
    ttbert("convert", "bundled", "--name", "mine", "--cache", tmp_path).succeeded()
    assert ttbert("cache", "show", "mine", "--json", "--cache", tmp_path).document["provenance"]["repo"] == "bundled"
    (row,) = ttbert("cache", "ls", "--json", "--cache", tmp_path).document
    assert row["ref"] == "mine:bfp8" and row["repo"] == "bundled"


def test_a_copy_under_another_name_is_a_hit(converted: Converted, tmp_path: Path) -> None:
    folder = tiny.write(tmp_path / "a copy", tiny.checkpoint())
    done = ttbert("convert", folder, "--json", "--cache", converted.cache).succeeded()
    assert done.document["hit"] and done.document["manifest"] == converted.manifest
    assert done.document["ref"] == "local/a-copy:bfp8"


def test_a_name_that_another_folder_had_is_said_to_have_meant_something_else(forks: Forks, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    one, other = (
        tiny.write(tmp_path / place / "model", tiny.checkpoint(tiny.arrays(seed=seed))) for place, seed in (("a", 1), ("b", 2))
    )
    first = forks.ttbert("convert", one, "--json", cache=cache).succeeded()
    assert first.err == "" or "meant" not in first.err
    second = forks.ttbert("convert", other, "--json", cache=cache).succeeded()
    assert first.document["ref"] == second.document["ref"] == "local/model:bfp8"
    was = first.document["manifest"].removeprefix("blake3:")[:12]
    assert f"warning: local/model:bfp8 meant {was} of {one} until now" in second.err and "--name" in second.err
    tiny.write(other, tiny.checkpoint(tiny.arrays(seed=3)))
    assert "meant" not in forks.ttbert("convert", other, cache=cache).succeeded().err  # the same one, trained on


def test_a_folder_with_letters_of_any_script_gives_its_name(forks: Forks, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    names = {"模型": "模型", "हिन्दी v2": "हिन्दी-v2", "u\u0308ml": "\u00fcml", "a $x/b": "b", "it's": "it-s"}
    for folder, name in names.items():
        place = tiny.write(tmp_path / folder, tiny.checkpoint())
        assert forks.ttbert("convert", place, "--json", cache=cache).succeeded().document["ref"] == f"local/{name}:bfp8"
        assert f"local/{name}:bfp8" in forks.ttbert("cache", "show", f"local/{name}", cache=cache).succeeded().out


def test_name_files_the_model_under_it(converted: Converted) -> None:
    done = ttbert("convert", converted.folder, "--name", "team/best-1", "--json", "--cache", converted.cache).succeeded()
    assert done.document["ref"] == "team/best-1:bfp8" and done.document["hit"]
    assert "team/best-1:bfp8" in ttbert("cache", "ls", "--cache", converted.cache).succeeded().out


@pytest.mark.parametrize("name", ["", "../up", "a b", "x@y", "x:y", "/etc"])
def test_names_that_could_not_be_refs_are_refused(converted: Converted, name: str) -> None:
    ttbert("convert", converted.folder, "--name", name, "--cache", converted.cache).failed_at_once(2, repr(name))


@pytest.mark.parametrize("options", [(), ("--rebuild",)])
def test_folder_whose_name_is_too_long_is_refused_at_once_and_found_under_another(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    folder, cache = tiny.write(tmp_path / ("模" * 40), tiny.checkpoint()), tmp_path / "cache"
    refused = ttbert("convert", folder, *options, "--cache", cache)
    refused.failed_at_once(2, "is too long for a ref", f"`ttbert convert MODEL --name NAME --cache {cache}`")
    assert objects(cache) == {}
    ttbert("convert", folder, "--name", "short", "--cache", cache).succeeded()
    assert ttbert("convert", folder, "--dry-run", "--json", "--cache", cache).succeeded().document["hit"]


def test_plain_bert_model_converts_without_a_head_and_pooler_is_ignored(
    forks: Forks, converted: Converted, tmp_path: Path
) -> None:
    weights = {name: array for name, array in tiny.arrays(prefix="").items() if not name.startswith("qa_")}
    weights["pooler.dense.weight"] = np.zeros((64, 64), np.float32)
    weights["pooler.dense.bias"] = np.zeros(64, np.float32)
    weights["embeddings.position_ids"] = np.arange(96, dtype=np.int64)[None]
    folder = tiny.write(tmp_path / "plain", tiny.checkpoint(weights, architectures=["BertModel"]))
    forks.ttbert("convert", folder, cache=tmp_path / "cache").succeeded()
    manifest = manifest_of(tmp_path / "cache", Ref("local/plain", None, "bfp8"))
    names = {each.name: each.shape for each in manifest.tensors}
    assert manifest.architecture == "BertModel" and len(names) == 5 + 12 * tiny.LAYERS
    assert not any("answer" in name or "pooler" in name for name in names)


def test_gamma_and_beta_of_old_checkpoints_are_weight_and_bias(forks: Forks, converted: Converted, tmp_path: Path) -> None:
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): array
        for name, array in tiny.arrays().items()
    }
    assert any("gamma" in name for name in old)
    folder = tiny.write(tmp_path / "old", tiny.checkpoint(old))
    forks.ttbert("convert", folder, cache=tmp_path / "cache").succeeded()
    expected = manifest_of(converted.cache, Ref("local/tiny", None, "bfp8")).tensors
    assert manifest_of(tmp_path / "cache", Ref("local/old", None, "bfp8")).tensors == expected


# Precision

DTYPES: dict[str, Callable[[str], str]] = {
    "bf16": lambda name: "bfloat16",
    "bfp8": lambda name: "bfloat16" if "embeddings" in name or "norm" in name else "bfloat8_b",
    "bfp4": lambda name: (
        "bfloat16"
        if "embeddings" in name or "norm" in name
        else "bfloat4_b"
        if name.endswith((".up.weight", ".down.weight"))
        else "bfloat8_b"
    ),
}


@pytest.mark.parametrize("policy", DTYPES)
def test_policy_decides_the_type_of_each_tensor(forks: Forks, converted: Converted, policy: str) -> None:
    done = forks.ttbert("convert", converted.folder, "--policy", policy, "--json", cache=converted.cache).succeeded()
    assert done.document["ref"] == f"local/tiny:{policy}" and done.document["hit"] == (policy == "bfp8")
    manifest = manifest_of(converted.cache, Ref("local/tiny", None, policy))
    assert {each.name: each.dtype for each in manifest.tensors} == {
        each.name: DTYPES[policy](each.name) for each in manifest.tensors
    }


def test_policies_share_the_packs_that_are_of_one_precision_in_both(forks: Forks, converted: Converted) -> None:
    packs = {}
    for policy in DTYPES:
        forks.ttbert("convert", converted.folder, "--policy", policy, cache=converted.cache).succeeded()
        packs[policy] = {each.name: each.blob for each in manifest_of(converted.cache, Ref("local/tiny", None, policy)).packs}
    different = {policy: {name for name, blob in packs["bfp8"].items() if packs[policy][name] != blob} for policy in DTYPES}
    feed_forward = {f"layers.{i}.feed_forward" for i in range(tiny.LAYERS)}
    assert different == {"bfp8": set(), "bfp4": feed_forward, "bf16": packs["bfp8"].keys() - {"embeddings"}}


# Dry run


def test_dry_run_prints_the_plan_and_makes_not_even_the_cache_folder(converted: Converted, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    done = ttbert("convert", converted.folder, "--dry-run", "--cache", cache, PYTHONPROFILEIMPORTTIME="1").succeeded()
    assert not cache.exists() and not imported(done) & {"ttnn", "torch"}
    rows = {line.split()[0]: line for line in done.out.splitlines() if line}
    for entry in manifest_of(converted.cache, Ref("local/tiny", None, "bfp8")).tensors:
        assert entry.dtype in rows[entry.name] and " x ".join(map(str, entry.shape)) in rows[entry.name]
    assert converted.done.document["action"] in rows["action"] and "no:" in rows["in"]


def test_dry_run_as_json_agrees_with_the_conversion(converted: Converted, tmp_path: Path) -> None:
    arguments = ("convert", converted.folder, "--dry-run", "--json", "--cache")
    document = ttbert(*arguments, tmp_path / "cache").succeeded().document
    assert document["action"] == converted.done.document["action"] and document["hit"] is False
    assert document["recipe"]["policy"] == "bfp8" and document["recipe"]["schema"] == "ttbert.recipe/2"
    manifest = manifest_of(converted.cache, Ref("local/tiny", None, "bfp8"))
    headers = sum(each.size for each in manifest.tensors) - document["bytes"]
    assert 0 < headers < 1000 * len(manifest.tensors)
    assert ttbert(*arguments, converted.cache).succeeded().document == {**document, "hit": True}


# The hub


@dataclass
class Hub:
    """A hub from which the tiny model was converted once, with everything that was sent for it."""

    server: HubServer
    home: Path
    cache: Path
    commit: str
    done: Done
    sent: Counter[str]

    def convert(self, repo: str, *options: object, home: Path | None = None, hook: Path | None = None) -> tuple[Done, Any]:
        """How a conversion ended, and the bytes sent for it by file name."""
        before = Counter(self.server.bytes_sent)
        env = self.server.env(home or self.home)
        done = ttbert("convert", repo, "--json", "--cache", self.cache, *options, env=env, hook=hook)
        return done, self.server.bytes_sent - before


@pytest.fixture(scope="module")
def hubbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    root = tmp_path_factory.mktemp("hub")
    with HubServer() as server:
        others = {
            "README.md": b"#",
            "tf_model.h5": bytes(9999),
            "pytorch_model.bin": bytes(9999),
            "onnx/model.onnx": bytes(9999),
        }
        commit = server.add("org/tiny", {**tiny.checkpoint(), **others})
        hub = Hub(server, root / "hf", root / "cache", commit, Done(0, "", ""), Counter())
        done, sent = hub.convert("org/tiny")
        yield Hub(server, hub.home, hub.cache, commit, done.succeeded(), sent)


def test_first_conversion_downloads_the_files_it_needs_and_no_others(hubbed: Hub) -> None:
    assert {name for name, count in hubbed.sent.items() if count} == NEEDED
    assert sum(hubbed.sent.values()) == sum(map(len, tiny.checkpoint().values()))
    assert hubbed.done.document["ref"] == "org/tiny@main:bfp8"
    assert manifest_of(hubbed.cache, Ref("org/tiny", "main", "bfp8")).provenance.commit == hubbed.commit


def test_model_of_the_hub_and_its_files_in_a_folder_have_one_action_key(hubbed: Hub, converted: Converted) -> None:
    assert hubbed.done.document["action"] == converted.done.document["action"]


def test_second_conversion_downloads_nothing(hubbed: Hub) -> None:
    done, sent = hubbed.convert("org/tiny")
    assert done.succeeded().document["hit"] and not sent


def test_same_files_in_another_repo_are_a_hit_without_a_byte_of_weights(hubbed: Hub, tmp_path: Path) -> None:
    hubbed.server.add("other/copy", tiny.checkpoint())
    done, sent = hubbed.convert("other/copy", home=tmp_path / "fresh")
    assert done.succeeded().document["hit"] and done.document["manifest"] == hubbed.done.document["manifest"]
    assert "model.safetensors" not in sent and sum(sent.values()) < 1500
    assert not list((tmp_path / "fresh").rglob("model.safetensors"))
    assert entry_of(hubbed.cache, Ref("other/copy", "main", "bfp8")).repo == "other/copy"


def test_dry_run_of_a_hub_model_downloads_no_weights(hubbed: Hub, tmp_path: Path) -> None:
    hubbed.server.add("org/unseen", tiny.checkpoint(tiny.arrays(seed=5)))
    done, sent = hubbed.convert("org/unseen", "--dry-run", home=tmp_path / "fresh")
    assert done.succeeded().document["hit"] is False and "model.safetensors" not in sent


def test_branch_is_recorded_with_the_commit_it_meant(hubbed: Hub) -> None:
    files = {**tiny.checkpoint(), "README.md": b"only this differs"}
    commit = hubbed.server.add("org/tiny", files, branch="dev/v2")
    done, _ = hubbed.convert("org/tiny", "--revision", "dev/v2")
    assert done.succeeded().document["hit"] and done.document["ref"] == "org/tiny@dev/v2:bfp8"
    assert entry_of(hubbed.cache, Ref("org/tiny", "dev/v2", "bfp8")).commit == commit != hubbed.commit
    assert f"org/tiny@{commit[:12]}" in ttbert("cache", "show", "org/tiny@dev/v2", "--cache", hubbed.cache).succeeded().out


# Offline


@pytest.fixture(scope="module")
def no_sockets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_hook(tmp_path_factory.mktemp("hook"), NO_SOCKETS)


def test_the_hook_ends_a_process_that_turns_to_the_network(hubbed: Hub, no_sockets: Path) -> None:
    done, _ = hubbed.convert("org/tiny", hook=no_sockets)
    assert done.exit_code == 99 and "opened a socket" in done.err


def test_offline_converts_what_the_hugging_face_cache_holds(hubbed: Hub, no_sockets: Path, tmp_path: Path) -> None:
    hub = Hub(hubbed.server, hubbed.home, tmp_path / "cache", hubbed.commit, hubbed.done, hubbed.sent)
    done, sent = hub.convert("org/tiny", "--offline", hook=no_sockets)
    assert not done.succeeded().document["hit"] and not sent
    assert done.document["manifest"] == hubbed.done.document["manifest"]


def test_offline_finds_a_model_by_its_name_when_the_checkpoint_is_gone(hubbed: Hub, no_sockets: Path, tmp_path: Path) -> None:
    hubbed.server.add("org/kept", tiny.checkpoint())
    hubbed.convert("org/kept", home=tmp_path / "first")[0].succeeded()
    done, sent = hubbed.convert("org/kept", "--offline", home=tmp_path / "empty", hook=no_sockets)
    assert done.succeeded().document["hit"] and not sent
    assert "whether the hub has newer files was not checked" in done.err


@pytest.mark.parametrize("options", [(), ("--revision", "v9"), ("--policy", "bf16")])
def test_offline_miss_says_what_would_help(no_sockets: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    arguments = ("convert", "org/never-seen", "--offline", *options, "--cache", tmp_path / "cache")
    done = ttbert(*arguments, hook=no_sockets, HF_HOME=str(tmp_path / "hf"))
    done.failed_at_once(6, "org/never-seen", "without --offline", "local folder")
    assert "--model" not in done.err, "an option that convert does not have"
    assert not (tmp_path / "cache").exists()


# What is not wanted any more


def test_moved_branch_moves_the_ref_and_the_old_model_stays_until_gc(hubbed: Hub) -> None:
    ref = Ref("org/moving", "main", "bfp8")
    hubbed.server.add("org/moving", tiny.checkpoint())
    hubbed.convert("org/moving")[0].succeeded()
    before = entry_of(hubbed.cache, ref).manifest
    for other in Places(str(hubbed.cache)).open().list_refs():
        if other != ref:
            ttbert("cache", "rm", other, "--yes", "--cache", hubbed.cache).succeeded()

    commit = hubbed.server.add("org/moving", tiny.checkpoint(tiny.arrays(seed=1)))
    done, sent = hubbed.convert("org/moving")
    assert not done.succeeded().document["hit"] and sent["model.safetensors"]
    after = entry_of(hubbed.cache, ref)
    assert after.manifest != before and after.commit == commit
    assert Places(str(hubbed.cache)).open().manifest(before).digest == before

    gc = ttbert("cache", "gc", "--grace", "0", "--yes", "--json", "--cache", hubbed.cache).succeeded().document
    assert f"manifests/{before.hex[:2]}/{before.hex}" in {each["key"] for each in gc["delete"]} and gc["freed"] > 0
    assert hubbed.convert("org/moving")[0].succeeded().document["hit"]
    ttbert("cache", "verify", "--cache", hubbed.cache).succeeded()


# Errors: of models that are not a BERT ttbert knows


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model_type": "roberta", "architectures": ["RobertaForQuestionAnswering"]}, "'roberta'"),
        ({"architectures": ["BertForMaskedLM"]}, "BertForMaskedLM"),
        ({"architectures": None}, "architecture None"),
        ({"position_embedding_type": "relative_key_query"}, "relative_key_query"),
        ({"hidden_act": "relu"}, "'relu'"),
        ({"is_decoder": True}, "is_decoder"),
        ({"hidden_size": 80}, "hidden size 80"),
        ({"num_attention_heads": 4}, "head size 16"),
        ({"num_attention_heads": 3}, "64 wide is not a multiple of its 3 heads"),
        ({"intermediate_size": 100}, "intermediate size 100"),
        ({"num_hidden_layers": "2"}, "num_hidden_layers"),
        ({"vocab_size": -1}, "vocab_size"),
        ({"layer_norm_eps": 0}, "layer_norm_eps"),
    ],
)
def test_other_models_are_refused_by_name(forks: Forks, tmp_path: Path, changes: dict[str, object], says: str) -> None:
    folder = tiny.write(tmp_path / "model", tiny.checkpoint({}, **changes))
    forks.ttbert("convert", folder, cache=tmp_path / "cache").failed_at_once(3, says, "config.json")
    assert not (tmp_path / "cache").exists()


# Errors: of weights


def without(name: str) -> tiny.Arrays:
    weights = tiny.arrays()
    del weights[name]
    return weights


QUERY = "bert.encoder.layer.1.attention.self.query.weight"


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        (without(QUERY), "missing: encoder.layer.1.attention.self.query.weight"),
        ({**tiny.arrays(), "bert.encoder.layer.1.adapter.weight": np.zeros(4, np.float32)}, "encoder.layer.1.adapter.weight"),
        (tiny.arrays(layers=3), "not known: encoder.layer.2."),
        ({f"module.{name}": array for name, array in tiny.arrays().items()}, "embeddings.LayerNorm.bias, "),
        ({f"module.{name}": array for name, array in tiny.arrays().items()}, "attention.output.LayerNorm.bias and 33 more"),
        ({**tiny.arrays(), QUERY: np.zeros((64, 32), np.float32)}, "(64, 32), not (64, 64)"),
        ({**tiny.arrays(), QUERY.removeprefix("bert."): np.zeros((64, 64), np.float32)}, f"both {QUERY} and "),
    ],
    ids=["missing", "extra", "too many layers", "prefix", "many", "shape", "twice"],
)
def test_tensors_must_be_exactly_those_of_the_model(forks: Forks, tmp_path: Path, weights: tiny.Arrays, says: str) -> None:
    folder = tiny.write(tmp_path / "model", tiny.checkpoint(weights))
    forks.ttbert("convert", folder, cache=tmp_path / "cache").failed_at_once(3, says)
    assert no_model_in(tmp_path / "cache")


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        (
            {**tiny.arrays(), QUERY: np.array([np.nan, -np.inf, *range(4094)], np.float32).reshape(64, 64)},
            "2 values that are NaN",
        ),
        ({**tiny.arrays(), QUERY: np.ones((64, 64), np.int8)}, "is stored as I8"),
    ],
    ids=["nan", "int8"],
)
def test_weights_that_are_not_numbers_are_refused(forks: Forks, tmp_path: Path, weights: tiny.Arrays, says: str) -> None:
    folder = tiny.write(tmp_path / "model", tiny.checkpoint(weights))
    forks.ttbert("convert", folder, cache=tmp_path / "cache").failed(3, says, QUERY)
    assert no_model_in(tmp_path / "cache")


class Intruder:
    """What a pickle may do to whoever loads it carelessly."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch intruded",)


def unsafe_pickle() -> bytes:
    import io

    import torch

    stream = io.BytesIO()
    torch.save({"bert.weight": Intruder()}, stream)
    return stream.getvalue()


WHOLE = tiny.checkpoint()
NO_WEIGHTS = {name: content for name, content in WHOLE.items() if name != "model.safetensors"}


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({**WHOLE, "model.safetensors": WHOLE["model.safetensors"][:-4]}, "model.safetensors is damaged"),
        ({**WHOLE, "model.safetensors": b"<html>"}, "model.safetensors is damaged"),
        ({**WHOLE, "model.safetensors": tiny.overlapping_safetensors()}, "model.safetensors is damaged"),
        ({**NO_WEIGHTS, "pytorch_model.bin": unsafe_pickle()}, "could run code; it was not loaded"),
        ({**NO_WEIGHTS, "tf_model.h5": b"x"}, "only weights for TensorFlow"),
        ({**NO_WEIGHTS, "model.safetensors.index.json": b'{"weight_map": {"a": "gone.safetensors"}}'}, "gone.safetensors"),
        ({**NO_WEIGHTS, "model.safetensors.index.json": b'{"weight_map": {"a": "../x.safetensors"}}'}, "../x.safetensors"),
        ({name: content for name, content in WHOLE.items() if name != "config.json"}, "'config.json'; there are: "),
        ({**WHOLE, "config.json": b"{'hidden_size': 64}"}, "config.json is not JSON"),
        ({**WHOLE, "config.json": b"[]"}, "config.json is not a JSON object"),
        ({name: content for name, content in WHOLE.items() if name != "vocab.txt"}, "neither tokenizer.json nor vocab.txt"),
        ({**WHOLE, "vocab.txt": tiny.VOCAB_TXT + b"more\nwords\n" * 9}, "the model only up to 47"),
        ({**WHOLE, "vocab.txt": b"[PAD]\n[UNK]\n[SEP]\nword\n"}, "vocab.txt has no [CLS]"),
        ({**WHOLE, "vocab.txt": b"[PAD]\n\xff\n"}, "vocab.txt is not UTF-8"),
        ({**WHOLE, "tokenizer.json": b'{"version": "1.0"}'}, "tokenizer.json cannot be read"),
        ({**WHOLE, "tokenizer_config.json": b"not json"}, "tokenizer_config.json is damaged"),
    ],
    ids=lambda value: value.replace("/", "-") if isinstance(value, str) else "",
)
def test_damaged_and_incomplete_folders_are_refused(forks: Forks, tmp_path: Path, files: tiny.Files, says: str) -> None:
    folder = tiny.write(tmp_path / "model", files)
    forks.ttbert("convert", folder, cache=tmp_path / "cache").failed_at_once(3, says)
    assert no_model_in(tmp_path / "cache") and not Path("intruded").exists()


def test_a_conversion_that_failed_elsewhere_is_not_tried_by_those_who_waited_and_again_by_who_asks_again(
    tmp_path: Path,
) -> None:
    """The test is the machine that is at work on it, and fails."""
    folder, cache = tiny.write(tmp_path / "tiny", tiny.checkpoint()), tmp_path / "cache"
    action = ttbert("convert", folder, "--dry-run", "--json", "--cache", cache).succeeded().document["action"]
    with (
        pytest.raises(CheckpointError),
        leased(open_store(str(cache)), Digest.parse(action), lambda: None, final=CheckpointError),
    ):
        waiting = subprocess.Popen(
            command("convert", folder, "--cache", cache), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert waiting.stderr
        line = waiting.stderr.readline().decode()
        assert "is at work on this already; waiting for it" in line
        raise CheckpointError("tensor 'x' holds 3 values that are NaN", "choose another one")
    out, err = waiting.communicate(timeout=100)
    done = Done(waiting.returncode, out.decode(), err.decode())
    done.failed_at_once(3, "tensor 'x' holds 3 values that are NaN (so found ", "hint: choose another one")
    assert not any(path.startswith("blobs/") for path in objects(cache))
    assert not ttbert("convert", folder, "--json", "--cache", cache).succeeded().document["hit"]


# Errors: of what was asked for


def test_model_must_be_a_folder_or_an_id(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"")
    ttbert("convert", tmp_path / "gone").failed_at_once(2, "is not there")
    ttbert("convert", file).failed_at_once(2, f"{file} is a file", "give the folder that it is in")
    ttbert("convert", "a/b/c").failed_at_once(2, "'a/b/c' is neither a folder nor a model's id")
    ttbert("convert", "bundled", "--revision", "main").failed_at_once(2, "--revision")
    ttbert("convert", tmp_path, "--revision", "main").failed_at_once(2, "--revision")


def test_repo_or_revision_that_is_not_on_the_hub_is_refused(hub: HubServer, tmp_path: Path) -> None:
    env = hub.env(tmp_path / "hf")
    ttbert("convert", "org/unknown", env=env).failed_at_once(2, "there is no model org/unknown")
    hub.add("org/known", tiny.checkpoint())
    ttbert("convert", "org/known", "--revision", "v9", env=env).failed_at_once(3, "no revision 'v9'")


def test_hub_that_cannot_be_reached_is_named(tmp_path: Path) -> None:
    env = {"HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": "http://127.0.0.1:9"}
    ttbert("convert", "org/model", "--cache", tmp_path / "cache", **env).failed_at_once(11, "http://127.0.0.1:9", "--offline")


def test_usage_errors_are_two_lines_as_well(tmp_path: Path) -> None:
    for arguments in (("convert",), ("convert", "bundled", "--policy", "fp8"), ("convert", "bundled", "--nonsense")):
        ttbert(*arguments).failed_at_once(2, "see `ttbert convert --help`")


def test_a_value_that_cannot_be_is_said_to_be_the_options_or_the_variables() -> None:
    ttbert("demo", "--board", "nonsense").failed_at_once(2, "'--board': 'nonsense' is not one of")
    ttbert("demo", TTBERT_BOARD="nonsense").failed_at_once(2, "TTBERT_BOARD: 'nonsense' is not one of")
    ttbert("demo", TTBERT_READ_ONLY="maybe").failed_at_once(2, "TTBERT_READ_ONLY: 'maybe'")
    ttbert("demo", "--batch", "0", TTBERT_BOARD="cpu").failed_at_once(2, "'--batch': 0 is not")


def test_error_as_json_is_one_document_beside_the_two_lines(tmp_path: Path) -> None:
    done = ttbert("convert", tmp_path / "gone", "--json")
    assert done.exit_code == 2 and len(done.err.splitlines()) <= 2
    error = done.document["error"]
    assert error["kind"] == "InputError" and error["exit_code"] == 2 and error["message"] in done.err


def test_traceback_is_shown_only_when_asked_for(tmp_path: Path) -> None:
    plain, traced = (ttbert("convert", tmp_path / "gone", "--json", TTBERT_DEBUG=debug) for debug in ("0", "1"))
    assert "Traceback" not in plain.err and "Traceback" in traced.err and traced.err.endswith(plain.err)
    assert (traced.exit_code, traced.out) == (plain.exit_code, plain.out)


ODD = """
import sys
def fail(event, arguments):
    if event == "os.scandir":
        raise RuntimeError("odd")
sys.addaudithook(fail)
"""


PANIC = """
import sys
def fail(event, arguments):
    if event == "os.scandir":
        from tokenizers import Tokenizer
        Tokenizer.from_str('{"version": "1.0", "normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}}')
sys.addaudithook(fail)
"""


def test_a_panic_of_a_library_in_rust_is_told_like_the_others(tmp_path: Path) -> None:
    done = ttbert("cache", "ls", "--json", "--cache", tmp_path, hook=make_hook(tmp_path / "hook", PANIC))
    assert done.exit_code == 1 and "PanicException" in done.document["error"]["message"] and "Traceback" not in done.err
    told, to_do = done.err.splitlines()[-2:]
    assert told.startswith("error: ttbert failed in a way it should not: PanicException: ") and "report it" in to_do


def test_an_error_that_nobody_thought_of_is_told_like_the_others(tmp_path: Path) -> None:
    hook = make_hook(tmp_path / "hook", ODD)
    plain, traced = (ttbert("cache", "ls", "--json", "--cache", tmp_path, hook=hook, TTBERT_DEBUG=debug) for debug in ("", "1"))
    assert plain.exit_code == traced.exit_code == 1 and plain.document["error"]["exit_code"] == 1
    told, to_do = plain.err.splitlines()
    assert told == "error: ttbert failed in a way it should not: RuntimeError: odd" and "TTBERT_DEBUG=1" in to_do
    assert "Traceback" in traced.err and traced.err.splitlines()[-2] == told and "please report it" in traced.err


# Errors: of the cache


def test_cache_path_that_is_a_file_is_refused(converted: Converted, tmp_path: Path) -> None:
    file = tmp_path / "cache"
    file.write_bytes(b"mine")
    ttbert("convert", converted.folder, "--cache", file).failed_at_once(5, f"{file} is a file", "--cache or TTBERT_CACHE")
    assert file.read_bytes() == b"mine"


def test_full_disk_leaves_nothing_visible_and_more_space_finishes_the_work(converted: Converted, small_disk: Path) -> None:
    done = ttbert("convert", converted.folder, "--cache", small_disk, "--no-space-check")
    done.failed(10, str(small_disk), "free")
    found = {path: content for path, content in objects(small_disk).items() if not path.startswith("leases/")}
    assert found and no_model_in(small_disk)
    ttbert("cache", "verify", "--cache", small_disk).succeeded()

    subprocess.run(["mount", "-o", "remount,size=10m", small_disk], check=True)
    again = ttbert("convert", converted.folder, "--json", "--cache", small_disk).succeeded()
    assert again.document["manifest"] == converted.manifest
    assert found.items() <= objects(small_disk).items()


def test_read_only_cache_serves_hits_and_refuses_conversions(converted: Converted, small_disk: Path, tmp_path: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=10m", small_disk], check=True)
    subprocess.run(["cp", "-a", f"{converted.cache}/.", small_disk], check=True)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    done = ttbert("convert", converted.folder, "--json", "--cache", small_disk).succeeded()
    assert done.document["hit"] and done.document["manifest"] == converted.manifest
    other = tiny.write(tmp_path / "other", tiny.checkpoint(tiny.arrays(seed=2)))
    ttbert("convert", other, "--cache", small_disk).failed_at_once(9, str(small_disk), "TTBERT_CACHE")


def test_checkpoint_that_changes_meanwhile_publishes_no_model(tmp_path: Path) -> None:
    folder = tiny.write(tmp_path / "model", tiny.checkpoint())
    weights, cache = folder / "model.safetensors", tmp_path / "cache"
    hook = make_hook(
        tmp_path / "hook",
        f"""
import os, sys
links = 0
def rewrite(event, arguments):
    global links
    if event == "os.link":
        links += 1
        if links == 5:
            with open({str(weights)!r}, "r+b") as file:
                file.seek(-1, 2)
                file.write(b"!")
sys.addaudithook(rewrite)
""",
    )
    ttbert("convert", folder, "--cache", cache, hook=hook).failed(3, f"{weights} changed while it was being read")
    assert objects(cache) and no_model_in(cache)
    ttbert("convert", folder, "--json", "--cache", cache).succeeded()


# Tokenizers


def test_vocabulary_alone_makes_the_tokenizer_of_transformers(converted: Converted, tmp_path: Path) -> None:
    from tokenizers import Tokenizer
    from transformers import BertTokenizer

    manifest = manifest_of(converted.cache, Ref("local/tiny", None, "bfp8"))
    entry = manifest.file("tokenizer.json")
    assert entry is not None
    made = Tokenizer.from_buffer(Places(str(converted.cache)).open().load(entry))
    (tmp_path / "vocab.txt").write_bytes(tiny.VOCAB_TXT)
    theirs = BertTokenizer(str(tmp_path / "vocab.txt"))
    for text in ("tea at ten", "The Hat, that heats!", "Ünïcode 東京", "[MASK] it", ""):
        assert made.encode(text).ids == theirs(text)["input_ids"]


def test_config_and_tokenizer_travel_with_the_model(converted: Converted) -> None:
    manifest = manifest_of(converted.cache, Ref("local/tiny", None, "bfp8"))
    cache = Places(str(converted.cache)).open()
    assert [each.name for each in manifest.files] == ["config.json", "tokenizer.json", "recipe.json"]
    assert json.loads(cache.load(manifest.files[0])) == tiny.config()
