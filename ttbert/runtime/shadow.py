"""A stand-in for the ttnn module under which `bert` computes values on a mock device, where kernels do not run.

Every op is called on the mock device, which checks its arguments, builds its program and says what comes out: shape, dtype,
layout, memory. Its value is computed beside that by the op's golden function, which is Tenstorrent's own torch reference,
in float32, and then rounded to that dtype by TT-NN packing and unpacking it. Ops without a golden function, and those whose
golden function does not know about shards, have a few lines of torch here that do what their kernel does.

What it cannot show is the arithmetic of a kernel: math fidelity, approximated exponentials, 16 bit partial sums.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ..errors import DeviceError

Values = torch.Tensor | tuple[torch.Tensor, ...]


@dataclass
class ShadowTensor:
    """A tensor on the mock device and its value, float32 or integers; no value once it is freed."""

    device: Any
    value: torch.Tensor | None

    @property
    def shape(self) -> Any:
        return self.device.shape


@dataclass
class Shadow:
    """Has ttnn's names. `on_op` is called after each op with its name and its (first) output's value."""

    ttnn: Any
    on_op: Callable[[str, torch.Tensor], None] = field(default=lambda name, value: None)

    def __getattr__(self, name: str) -> Any:
        return self._wrap(name, getattr(self.ttnn, name))

    @property
    def experimental(self) -> Any:
        return _Experimental(self)

    def Tensor(self, array: Any, data_type: Any, layout: Any) -> Any:
        """A host tensor whose `to` makes a shadow of it on the device."""
        return _HostShadow(self.ttnn.Tensor(array, data_type=data_type, layout=layout))

    def shadow(self, host: Any, device: Any) -> ShadowTensor:
        """A host tensor, such as a cached weight, on the device in DRAM."""
        return self.to_device(host, device, self.ttnn.DRAM_MEMORY_CONFIG)

    def values(self, tensor: ShadowTensor) -> list[torch.Tensor]:
        """A tensor's value on each chip, of which a shadow has one."""
        return [_value(tensor)]

    def to_device(self, host: Any, device: Any, memory_config: Any) -> ShadowTensor:
        return ShadowTensor(self.ttnn.to_device(host, device, memory_config=memory_config), host.to_torch().float())

    def copy_host_to_device_tensor(self, host: _HostShadow, target: ShadowTensor, cq_id: int = 0) -> None:
        self.ttnn.copy_host_to_device_tensor(host.host, target.device, cq_id=cq_id)
        target.value = host.value

    def from_device(self, source: ShadowTensor, blocking: bool = True) -> _HostShadow:
        """The value on the host, as the mock device's own is zero."""
        return _HostShadow(self.ttnn.from_device(source.device, blocking=blocking), source.value)

    def copy(self, source: ShadowTensor, target: ShadowTensor) -> None:
        self.ttnn.copy(source.device, target.device)
        target.value = source.value

    def to_dtype(self, host: _HostShadow, dtype: Any) -> _HostShadow:
        return _HostShadow(self.ttnn.to_dtype(host.host, dtype), host.value)

    def get_device_tensors(self, host: _HostShadow) -> list[_HostShadow]:
        """Of the one chip that a shadow has."""
        return [host]

    def deallocate(self, tensor: ShadowTensor) -> None:
        self.ttnn.deallocate(tensor.device)
        tensor.value = None

    def _wrap(self, name: str, found: Any) -> Any:
        compute = _COMPUTE.get(name)
        if compute is None:
            return found

        def call(*arguments: Any, **settings: Any) -> Any:
            device = found(*map(_on_device, arguments), **{key: _on_device(each) for key, each in settings.items()})
            given = [_value(each) for each in arguments]
            values = compute(found, arguments[0], given, {key: _value(each) for key, each in settings.items()})
            several = isinstance(values, tuple)
            made = [
                ShadowTensor(out, self._rounded(name, value, out))
                for out, value in zip(device if several else [device], values if several else [values], strict=True)
            ]
            if name not in _SAME_MEMORY and made[0].value is not None:
                self.on_op(name, made[0].value)
            return tuple(made) if several else made[0]

        return call

    def _rounded(self, name: str, value: torch.Tensor, out: Any) -> torch.Tensor:
        """The value as the output's dtype holds it."""
        if tuple(value.shape) != tuple(out.shape):
            raise DeviceError(f"{name} should make {tuple(value.shape)}, but the device makes {tuple(out.shape)}")
        if name in _SAME_MEMORY:
            return value
        host = self.ttnn.Tensor(value.float().contiguous().numpy(), data_type=out.dtype, layout=out.layout)
        rounded: torch.Tensor = host.to_torch().float()
        return rounded


class _Experimental:
    def __init__(self, shadow: Shadow) -> None:
        self._shadow = shadow

    def __getattr__(self, name: str) -> Any:
        return self._shadow._wrap(name, getattr(self._shadow.ttnn.experimental, name))


class _HostShadow:
    """A host tensor, and its value where that came from a device."""

    def __init__(self, host: Any, value: torch.Tensor | None = None) -> None:
        self.host = host
        self._value = value

    @property
    def value(self) -> torch.Tensor:
        if self._value is not None:
            return self._value
        value = self.host.to_torch()
        # Ids stay integers; torch has few operations for unsigned ones.
        return value.float() if value.is_floating_point() else torch.from_numpy(value.numpy().astype(np.int64))

    def to(self, device: Any, memory: Any) -> ShadowTensor:
        return ShadowTensor(self.host.to(device, memory), self.value)

    def to_numpy(self) -> Any:
        return self.value.numpy()


def _on_device(each: Any) -> Any:
    return each.device if isinstance(each, ShadowTensor) else each


def _value(each: Any) -> Any:
    if not isinstance(each, ShadowTensor):
        return each
    if each.value is None:
        raise DeviceError("an op reads a tensor that was freed")
    return each.value


_SAME_MEMORY = ("reshape", "view")
"""These give the memory another shape and compute nothing."""


def _golden(op: Any, source: Any, given: list[Any], settings: dict[str, Any]) -> Values:
    """By the golden function, on copies, since some write into their arguments; the rounding is left to the caller."""
    settings = {key: value for key, value in settings.items() if key not in ("dtype", "memory_config")}
    copies = [each.clone() if isinstance(each, torch.Tensor) else each for each in given]
    values: Values = op.golden_function(*copies, **settings)
    return values


def _first(op: Any, source: Any, given: list[Any], settings: dict[str, Any]) -> Values:
    """Another layout or dtype of the same value."""
    value: torch.Tensor = given[0]
    return value


def _reshaped(op: Any, source: Any, given: list[Any], settings: dict[str, Any]) -> Values:
    value: torch.Tensor = given[0].reshape(*given[1])
    return value


def _norm(op: Any, source: Any, given: list[Any], settings: dict[str, Any]) -> Values:
    """Row-major weights of (1, 1, h / 32, 32) are vectors of h."""
    vectors = {key: settings[key].flatten() for key in ("weight", "bias") if settings.get(key) is not None}
    return _golden(op, source, given, {**settings, **vectors})


def _softmax(op: Any, source: Any, given: list[Any], settings: dict[str, Any]) -> Values:
    """A row-major mask of (b, 1, t / 32, 32) is one row of t for each input."""
    scores, scale, *masks = given
    return _golden(op, source, [scores, scale, *(mask.reshape(len(mask), 1, 1, -1) for mask in masks)], settings)


def _split_pairs(op: Any, source: Any, given: list[Any], settings: dict[str, Any]) -> Values:
    """As the sharded kernels of split_query_key_value_and_split_heads read a core's columns: two heads each of Q, K and V.

    Source: tt-metal, .../split_query_key_value_and_split_heads/device/kernels/dataflow/*_sharded.cpp, whose first argument
    is the constant 2 (`num_heads_per_tensor` in the program factory).
    """
    return _per_core(
        source, given[0], settings["num_heads"], lambda core: core.reshape(*core.shape[:2], 3, 2, -1).movedim(2, 0)
    )


def _split_groups(op: Any, source: Any, given: list[Any], settings: dict[str, Any]) -> Values:
    """As create_qkv_heads reads a core's columns: for each head its Q, K and V.

    Source: tt-metal, .../create_qkv_heads/device/kernels/reader_create_qkv_heads_sharded.cpp.
    """
    heads = settings["num_heads"]
    here = heads // _cores_across(source)
    return _per_core(source, given[0], heads, lambda core: core.reshape(*core.shape[:2], here, 3, -1).movedim(3, 0))


def _per_core(source: Any, fused: torch.Tensor, heads: int, split: Callable[[torch.Tensor], torch.Tensor]) -> Values:
    """Q, K transposed and V of a fused (b, 1, t, 3h); `split` gives (3, b, t, heads, d) of a core's (b, t, 3h / cores)."""
    cores = [split(core[:, 0]) for core in fused.chunk(_cores_across(source), dim=-1)]
    parts = torch.cat(cores, dim=-2).transpose(2, 3)  # (3, b, n, t, d)
    if parts.shape[2] != heads:
        raise DeviceError(f"the kernel reads {parts.shape[2]} heads from the cores, where there are {heads}")
    return parts[0], parts[1].transpose(-1, -2), parts[2]


def _cores_across(source: Any) -> int:
    """Cores over which a block-sharded tensor's columns are spread."""
    width = source.device.memory_config().shard_spec.shape[1]
    return int(source.device.shape[-1] // width)


def _join_heads(op: Any, source: Any, given: list[Any], settings: dict[str, Any]) -> Values:
    """(b, n, t, d) -> (b, 1, t, n * d), as nlp_concat_heads documents itself; it has no golden function."""
    context: torch.Tensor = given[0]
    return context.transpose(1, 2).flatten(2)[:, None]


_COMPUTE: dict[str, Callable[[Any, Any, list[Any], dict[str, Any]], Values]] = {
    "embedding": _golden,
    "add": _golden,
    "layer_norm": _norm,
    "interleaved_to_sharded": _first,
    "sharded_to_interleaved": _first,
    "reallocate": _first,
    "linear": _golden,
    "matmul": _golden,
    "split_query_key_value_and_split_heads": _split_pairs,
    "create_qkv_heads": _split_groups,
    "scale_mask_softmax_in_place": _softmax,
    "nlp_concat_heads": _join_heads,
    "transpose": _golden,
    "untilize_with_unpadding": _golden,
    "reshape": _reshaped,
    "view": _reshaped,
}
"""How each op's value is computed: (op, first argument, values of the arguments, values of the settings)."""
