"""BERT's forward pass on TT-NN, from top to bottom: embeddings, encoder layers, answer head.

Each op is one call with its entry of the plan. Shapes are in comments, b the batch, t the tokens, h the hidden size, n the
heads and d the size of one. What is no longer needed is freed at once, since L1 holds little more than one layer needs.

`tt` is the ttnn module, or `shadow.Shadow`, which computes values as well where the device is a mock.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..frozen import Frozen
from .inputs import Inputs, embed_positions
from .lower import LoweredPlan, lower_plan
from .plan import Plan

Tensor = Any


class Linear(Frozen):
    weight: Tensor
    bias: Tensor


class Layer(Frozen):
    """The tensors of one encoder layer; norms have a weight and a bias too."""

    qkv: Linear
    out: Linear
    attention_norm: Linear
    up: Linear
    down: Linear
    norm: Linear


class Bert:
    """A model on a device, for one plan. `tensors` are its cached tensors on that device, by name."""

    def __init__(self, tt: Any, device: Any, plan: Plan, tensors: Mapping[str, Tensor]) -> None:
        self.plan = plan
        self._tt = tt
        self._ops: LoweredPlan = lower_plan(plan, tt)
        self._word, self._token_type = tensors["embeddings.word"], tensors["embeddings.token_type"]
        self._norm = _linear(tensors, "embeddings.norm")
        self._layers = [
            Layer(**{part: _linear(tensors, f"layers.{i}.{part}") for part in Layer.__dataclass_fields__})
            for i in range(plan.shape.layers)
        ]
        self._answer = _linear(tensors, "answer") if plan.answer else None
        self._positions = embed_positions(tt, device, plan, tensors["embeddings.position"])

    def forward(self, inputs: Inputs) -> Tensor:
        """Logits (b, 1, t, 32), of which column 0 is start and 1 is end; without a head the last states, (b, 1, t, h)."""
        states = self._embed(inputs)
        for layer in self._layers:
            states = self._attend(states, inputs.mask, layer)
            states = self._feed_forward(states, layer)
        return self._head(states)

    def _embed(self, inputs: Inputs) -> Tensor:
        tt, ops = self._tt, self._ops
        word = tt.embedding(inputs.ids, self._word, layout=tt.TILE_LAYOUT, memory_config=ops.word.memory)  # (b, t, h)
        kind = tt.embedding(
            inputs.token_types, self._token_type, layout=tt.TILE_LAYOUT, memory_config=ops.token_type.memory
        )  # (b, t, h)
        summed = tt.add(word, kind, memory_config=ops.summed.memory)  # (b, t, h)
        self._free(word, kind)
        embedded = tt.layer_norm(
            tt.reshape(summed, ops.embedded.shape),  # (b, 1, t, h), the same memory
            residual_input_tensor=self._positions,
            epsilon=ops.embedded.op.epsilon,
            weight=self._norm.weight,
            bias=self._norm.bias,
            memory_config=ops.embedded.memory,
            compute_kernel_config=ops.embedded.kernel,
        )
        self._free(summed)
        states = tt.interleaved_to_sharded(embedded, ops.sharded.memory, ops.sharded.dtype)  # (b, 1, t, h), sharded
        self._free(embedded)
        return tt.reallocate(states) if ops.moved else states

    def _attend(self, states: Tensor, mask: Tensor, layer: Layer) -> Tensor:
        tt, ops = self._tt, self._ops
        fused = self._linear(states, layer.qkv, ops.qkv)  # (b, 1, t, 3h): on each core Q, K and V of its heads
        query, key, value = self._split_heads(fused)  # (b, n, t, d), (b, n, d, t), (b, n, t, d)
        self._free(fused)
        scores = self._matmul(query, key, ops.scores)  # (b, n, t, t)
        self._free(query, key)
        flat = tt.experimental.view(scores, ops.softmax.shape)  # (b, 1, n * t, t), the same memory
        flat = tt.scale_mask_softmax_in_place(
            flat, ops.softmax.op.scale, mask, program_config=ops.softmax.program, compute_kernel_config=ops.softmax.kernel
        )
        weights = tt.experimental.view(flat, ops.scores.shape)  # (b, n, t, t)
        context = self._matmul(weights, value, ops.context)  # (b, n, t, d)
        self._free(weights, value)
        joined = tt.experimental.nlp_concat_heads(context, memory_config=ops.joined.memory)  # (b, 1, t, h)
        self._free(context)
        attended = self._linear(joined, layer.out, ops.out)  # (b, 1, t, h)
        self._free(joined)
        return self._add_and_norm(states, attended, layer.attention_norm, ops.attention_norm)

    def _feed_forward(self, states: Tensor, layer: Layer) -> Tensor:
        grown = self._linear(states, layer.up, self._ops.up)  # (b, 1, t, 4h), with gelu
        shrunk = self._linear(grown, layer.down, self._ops.down)  # (b, 1, t, h)
        self._free(grown)
        return self._add_and_norm(states, shrunk, layer.norm, self._ops.norm)

    def _head(self, states: Tensor) -> Tensor:
        tt, ops = self._tt, self._ops
        gathered = tt.sharded_to_interleaved(states, ops.unsharded.memory, ops.unsharded.dtype)  # (b, 1, t, h)
        self._free(states)
        if self._answer is None:
            return gathered
        logits = self._linear(gathered, self._answer, ops.answer)  # (b, 1, t, 32)
        self._free(gathered)
        return logits

    def _linear(self, states: Tensor, linear: Linear, op: Any) -> Tensor:
        return self._tt.linear(
            states,
            linear.weight,
            bias=linear.bias,
            program_config=op.program,
            memory_config=op.memory,
            dtype=op.dtype,
            compute_kernel_config=op.kernel,
        )

    def _matmul(self, left: Tensor, right: Tensor, op: Any) -> Tensor:
        return self._tt.matmul(
            left,
            right,
            program_config=op.program,
            memory_config=op.memory,
            dtype=op.dtype,
            compute_kernel_config=op.kernel,
        )

    def _add_and_norm(self, states: Tensor, change: Tensor, norm: Linear, op: Any) -> Tensor:
        """In the place of `states`; `change` is freed."""
        normed = self._tt.layer_norm(
            states,
            residual_input_tensor=change,
            epsilon=op.op.epsilon,
            weight=norm.weight,
            bias=norm.bias,
            program_config=op.program,
            memory_config=op.memory,
            compute_kernel_config=op.kernel,
        )
        self._free(change)
        return normed

    def _split_heads(self, fused: Tensor) -> Any:
        experimental, op = self._tt.experimental, self._ops.heads
        if op.op.in_pairs:
            return experimental.split_query_key_value_and_split_heads(
                fused, compute_with_storage_grid_size=op.grid, memory_config=op.memory, num_heads=op.op.heads
            )
        return experimental.create_qkv_heads(
            fused, num_heads=op.op.heads, num_kv_heads=op.op.heads, transpose_k_heads=True, memory_config=op.memory
        )

    def _free(self, *tensors: Tensor) -> None:
        for each in tensors:
            self._tt.deallocate(each)


def _linear(tensors: Mapping[str, Tensor], name: str) -> Linear:
    return Linear(tensors[f"{name}.weight"], tensors[f"{name}.bias"])
