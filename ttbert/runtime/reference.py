"""BERT on the CPU, in torch and float32, with the values that a device would hold: the reference for every other runtime.

The weights are the cached tensors as TT-NN decodes them, laid out as on the device: Q, K and V fused and interleaved,
the answer head padded to a tile. This is the board that is called `cpu`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from ..model import BertShape
from .loader import CachedModel
from .runtime import Logits

if TYPE_CHECKING:
    from .tokens import Batch


class Reference:
    """A loaded model; `run` gives logits."""

    def __init__(self, model: CachedModel) -> None:
        """Load and decode every tensor. IntegrityError where one is damaged."""
        self.shape: BertShape = model.shape
        self._tensors: dict[str, torch.Tensor] = {entry.name: tensor.to_torch().float() for entry, tensor in model.tensors()}

    @classmethod
    def of_arrays(cls, shape: BertShape, arrays: Mapping[str, npt.NDArray[np.float32]]) -> Reference:
        """The same forward pass over float32 arrays that a recipe's steps made and nobody packed, by tensor name."""
        reference = cls.__new__(cls)
        reference.shape = shape
        reference._tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        return reference

    @torch.inference_mode()
    def run(self, batch: Batch) -> tuple[Logits, Logits]:
        """Start and end logits of a batch, each (batch, tokens), float32."""
        states = self.encode(batch)
        logits = self._linear(states, "answer")[..., :2].numpy()
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
        states = self._norm(states + attended, f"{name}.attention_norm")
        grown = F.gelu(self._linear(states, f"{name}.up"))
        return self._norm(states + self._linear(grown, f"{name}.down"), f"{name}.norm")

    def _attend(self, states: torch.Tensor, mask: torch.Tensor, name: str) -> torch.Tensor:
        query, key, value = self._split_heads(states, name)
        context = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return context.transpose(1, 2).reshape(states.shape)

    def _split_heads(self, states: torch.Tensor, name: str) -> tuple[torch.Tensor, ...]:
        """Q, K and V, each (batch, heads, tokens, head size)."""
        batch, tokens, _ = states.shape
        fused = self._linear(states, f"{name}.qkv")  # (batch, tokens, 3 * hidden): per group its Q, its K, its V
        grouped = fused.view(batch, tokens, self.shape.qkv_groups, 3, -1, self.shape.head_size)
        return tuple(
            part.reshape(batch, tokens, self.shape.heads, self.shape.head_size).transpose(1, 2) for part in grouped.unbind(3)
        )

    def _linear(self, states: torch.Tensor, name: str) -> torch.Tensor:
        weight, bias = self._tensors[f"{name}.weight"], self._tensors[f"{name}.bias"]
        return F.linear(states, weight[0, 0].T, bias[0, 0, 0])

    def _norm(self, states: torch.Tensor, name: str) -> torch.Tensor:
        weight, bias = (self._tensors[f"{name}.{part}"].flatten() for part in ("weight", "bias"))
        return F.layer_norm(states, weight.shape, weight, bias, self.shape.norm_epsilon)
