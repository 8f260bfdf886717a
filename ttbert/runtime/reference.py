"""BERT on the CPU, in torch and float32, with the values that a device would hold: the reference for every other runtime.

The weights are the cached tensors as TT-NN decodes them: Q, K and V fused, the answer head padded to a tile. Only the
columns of Q, K and V, which cores hold side by side for each group of heads, are put in the order of all Q, all K and all V
once at the start, so that each of the three is a view of what the matmul gives. This is the board that is called `cpu`.

Where it is asked for, matmuls and attention take bfloat16 instead. That rounds activations and no weight, since every
format that weights are cached in is a part of bfloat16; sums within a matmul, the softmax, norms and what is handed on
between layers stay float32. It is not the reference, and faster on a processor that multiplies bfloat16. torch's matmuls of
bfloat16 take seven times as long as float32 on one that does not, so there the same numbers are rounded, and multiplied
as float32.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from ..model import BertShape
from ..recipe.policy import BFLOAT16, FLOAT32
from ..tt import host_ttnn
from .loader import CachedModel
from .runtime import Logits

if TYPE_CHECKING:
    from .tokens import Batch


_LINEAR = ("qkv", "out", "up", "down", "answer")


class Reference:
    """A loaded model; `run` gives logits."""

    def __init__(self, model: CachedModel, precision: str = FLOAT32) -> None:
        """Load and decode every tensor. IntegrityError where one is damaged."""
        host_ttnn()  # decoding takes what it has for a device, and is to leave a card to others
        self._keep(model.shape, ((entry.name, tensor.to_torch().float()) for entry, tensor in model.tensors()), precision)

    @classmethod
    def of_arrays(cls, shape: BertShape, arrays: Mapping[str, npt.NDArray[np.float32]]) -> Reference:
        """The same forward pass over float32 arrays that a recipe's steps made and nobody packed, by tensor name."""
        reference = cls.__new__(cls)
        reference._keep(shape, ((name, torch.from_numpy(array)) for name, array in arrays.items()), FLOAT32)
        return reference

    def _keep(self, shape: BertShape, tensors: Iterable[tuple[str, torch.Tensor]], precision: str) -> None:
        _require_threads()
        self.shape = shape
        self.precision = precision
        dtype = torch.bfloat16 if precision == BFLOAT16 and _takes_onednn(torch.bfloat16) else torch.float32
        self._rounds = precision == BFLOAT16 and dtype == torch.float32
        self._tensors: dict[str, torch.Tensor] = {}
        for name, tensor in tensors:
            linear = name.split(".")[-2]
            if linear in _LINEAR:
                tensor = tensor[0, 0].T.squeeze(-1)  # a weight (out, in), a bias (out,)
                if linear == "qkv":
                    groups = tensor.reshape(shape.qkv_groups, 3, -1, *tensor.shape[1:])
                    tensor = groups.transpose(0, 1).reshape(tensor.shape)
                # The answer head is small, and logits rounded to 8 bits would be full of ties.
                tensor = _for_matmul(tensor.contiguous(), torch.float32 if linear == "answer" else dtype)
            self._tensors[name] = tensor
        _keep_freed_memory()

    @torch.inference_mode()
    def run(self, batch: Batch) -> tuple[Logits, Logits]:
        """Start and end logits of a batch, each (batch, tokens), float32. RuntimeError in a process that was forked."""
        _require_threads()
        states = self.encode(batch)
        logits = self._linear(states, "answer").to_dense()[..., :2].numpy()
        return logits[..., 0], logits[..., 1]

    def stream(self, batches: Iterable[Batch]) -> Iterator[tuple[Logits, Logits]]:
        """`run` of each batch, one after the other."""
        return map(self.run, batches)

    @torch.inference_mode()
    def encode(self, batch: Batch) -> torch.Tensor:
        """The last hidden states, (batch, tokens, hidden)."""
        mask = torch.from_numpy(batch.attention_mask).bool()[:, None, None, :]  # (batch, 1, 1, tokens)
        states = self._embed(torch.from_numpy(batch.ids), torch.from_numpy(batch.token_types))
        for i in range(self.shape.layers):
            states = self._layer(states, mask, f"layers.{i}")
        return states

    def _embed(self, ids: torch.Tensor, token_types: torch.Tensor) -> torch.Tensor:
        word, position, token_type = (self._tensors[f"embeddings.{kind}"] for kind in ("word", "position", "token_type"))
        summed = word[ids] + token_type[token_types] + position[: ids.shape[1]]
        return self._norm(summed, "embeddings.norm")

    def _layer(self, states: torch.Tensor, mask: torch.Tensor, name: str) -> torch.Tensor:
        attended = self._linear(self._attend(states, mask, name), f"{name}.out")
        states = self._norm(states + attended.to_dense(torch.float32), f"{name}.attention_norm")
        grown = F.gelu(self._linear(states, f"{name}.up"))
        return self._norm(states + self._linear(grown, f"{name}.down").to_dense(torch.float32), f"{name}.norm")

    def _attend(self, states: torch.Tensor, mask: torch.Tensor, name: str) -> torch.Tensor:
        query, key, value = self._split_heads(states, name)
        context = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return context.transpose(1, 2).reshape(states.shape)

    def _split_heads(self, states: torch.Tensor, name: str) -> tuple[torch.Tensor, ...]:
        """Q, K and V, each (batch, heads, tokens, head size), a view of what the matmul gives."""
        fused = self._linear(states, f"{name}.qkv").to_dense()  # (batch, tokens, 3 * hidden)
        parts = fused.view(*states.shape[:2], 3, self.shape.heads, self.shape.head_size)
        return tuple(part.transpose(1, 2) for part in parts.unbind(2))

    def _linear(self, states: torch.Tensor, name: str) -> torch.Tensor:
        """In the form and type of the weight; `to_dense` gives the plain tensor."""
        weight, bias = self._tensors[f"{name}.weight"], self._tensors[f"{name}.bias"]  # (out, in), (out,)
        rounds = self._rounds and name != "answer"
        if rounds:
            states = _rounded(states)
        if weight.is_mkldnn and not states.is_mkldnn:
            states = states.to_mkldnn(weight.dtype)
        made = F.linear(states.to(weight.dtype), weight, bias)
        return _rounded(made) if rounds else made

    def _norm(self, states: torch.Tensor, name: str) -> torch.Tensor:
        weight, bias = (self._tensors[f"{name}.{part}"].flatten() for part in ("weight", "bias"))
        return F.layer_norm(states, weight.shape, weight, bias, self.shape.norm_epsilon)


_first_process: int | None = None
"""In which a model was first loaded."""


def _require_threads() -> None:
    """RuntimeError in a process that was forked after a model was loaded: it has not the threads for which torch would wait."""
    global _first_process
    _first_process = _first_process or os.getpid()
    if _first_process != os.getpid() and torch.get_num_threads() > 1:
        raise RuntimeError(
            "this process was forked after a model was loaded on the CPU, and would wait for ever for torch's threads, "
            "which it has not; have `multiprocessing` start processes with 'spawn'"
        )


def _rounded(states: torch.Tensor) -> torch.Tensor:
    """The values as bfloat16 has them, in float32. oneDNN, too, would round them, in twenty times the time."""
    return states.to_dense().bfloat16().float()


def _for_matmul(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A weight or bias as a matmul of that type takes it: in oneDNN's form where that can be had.

    Plain float32 matmuls are MKL's, which uses AVX-512 on Intel's processors alone and is half as fast on others; plain
    bfloat16 ones are oneDNN's too, but first fill the output with the bias. And between two of them gelu needs no other form.
    """
    return tensor.to_mkldnn(dtype) if _takes_onednn(dtype) else tensor.to(dtype)


def _takes_onednn(dtype: torch.dtype) -> bool:
    """Whether torch has linear layers in oneDNN's form here; for bfloat16 they want AVX-512."""
    if dtype == torch.bfloat16 and not torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
        return False
    return torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call, no-any-return]


def _keep_freed_memory() -> None:
    """Have glibc keep for this process what it frees, as long as it runs: a layer makes what the one before it has freed.

    As it comes, glibc returns buffers of many megabytes to the kernel, which clears their pages for the next layer.
    Numbers as in malloc.h, meanings as in mallopt(3); torch and TT-NN have wheels for glibc only.
    """
    trim_threshold, mmap_max = -1, -4
    libc = ctypes.CDLL(None)
    libc.mallopt(trim_threshold, -1)  # never
    libc.mallopt(mmap_max, 0)
