"""The tensors in a checkpoint's weight files, read one at a time.

Names, shapes and stored types are known without reading a tensor; a tensor is read when asked for, as float32, and
nothing of it is kept. Which names a model must have, and what is made of them, is not the concern of this module.

Safetensors files are validated by the safetensors library. Their tensors are looked at where they lie in the page cache, one
at a time, where nobody can cut the file meanwhile, and read elsewhere.
"""

from __future__ import annotations

import json
import struct
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError, NotCached, TtbertError, UnreadableError
from ..frozen import Frozen
from ..recipe.steps import Array
from ..text import count_text, error_text, some_text
from .mapped import MappedFile
from .source import Source, size_of

if TYPE_CHECKING:
    import torch

_SINGLE = ("model.safetensors", "pytorch_model.bin")
_LOOKED_FOR = tuple(name for single in _SINGLE for name in (single, f"{single}.index.json"))
_FOREIGN = {
    ".h5": "TensorFlow",
    ".msgpack": "Flax",
    ".onnx": "ONNX",
    ".gguf": "GGUF",
    ".ot": "Rust",
    ".ckpt": "TensorFlow",
}
_POINTER = b"version https://git-lfs.github.com/spec/"
_MAX_INDEX = 64 << 20
_REMAP_AFTER = 256 << 20
_SMALL = 1 << 16
"""Bytes that take less time to read than to look for in the page cache."""
_PIECE = 1 << 18
"""Values that are looked at at once, few enough to stay in the processor's cache."""
_TO_SAFETENSORS = "convert the file to safetensors: load it with transformers and save_pretrained() it"
_SAVED = "give a model saved by transformers' save_pretrained()"
_NUMPY = {"F32": "<f4", "F16": "<f2", "F64": "<f8", "BF16": "<u2"}


def weight_files(source: Source) -> tuple[str, ...]:
    """The names of the files that hold the weights, safetensors before pickles, one file before shards.

    Raises CheckpointError if there are none or an index cannot be followed; NotCached if `source` is only what a local
    cache holds, so that they may exist elsewhere.
    """
    return tuple(_located(source)[0])


def open_checkpoint(source: Source) -> Checkpoint:
    """Fetch the weight files of a checkpoint, and only those, and open them."""
    names, index = _located(source)
    return Checkpoint([source.path(name) for name in names], index)


class Checkpoint:
    """The tensors in one or more weight files, by the names that they have there.

    `index`, if there is one, says which file each tensor is to be in, by the file's name. Raises CheckpointError if a
    file is damaged or unsafe, or if files and index contradict one another.
    """

    def __init__(self, paths: Sequence[Path], index: Mapping[str, str] | None = None) -> None:
        self._file_of: dict[str, _WeightFile] = {}
        for path in paths:
            _refuse_pointer(path)
            file = _SafetensorsFile(path) if path.name.endswith(".safetensors") else _PickleFile(path)
            twice = sorted(file.tensors.keys() & self._file_of.keys())
            if twice:
                first = self._file_of[twice[0]].path.name
                raise CheckpointError(f"{some_text(twice)} in {first} and again in {path.name}", _SAVED)
            self._file_of.update(dict.fromkeys(file.tensors, file))
        lost = [name for name, shard in (index or {}).items() if not self._is_in(name, shard)]
        if lost:
            raise CheckpointError(f"the index promises tensors that its shards do not have: {some_text(lost)}", _SAVED)
        found = {name: file.tensors[name] for name, file in self._file_of.items()}
        self.shapes: Mapping[str, tuple[int, ...]] = MappingProxyType({k: v.shape for k, v in found.items()})
        self.dtypes: Mapping[str, str] = MappingProxyType({k: v.dtype for k, v in found.items()})
        """As safetensors writes them: F32, BF16, I64."""

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *error: object) -> None:
        """Forget the files; nothing can be read any more."""
        self._file_of.clear()

    def check_dtypes(self, names: Iterable[str]) -> None:
        """CheckpointError if one of these tensors is stored in a type other than F32, F16, BF16 or F64."""
        for name in names:
            if self.dtypes[name] not in _NUMPY:
                raise CheckpointError(
                    f"tensor {name!r} is stored as {self.dtypes[name]}; F32, F16, BF16 and F64 can be converted",
                    "give the checkpoint from before it was quantized",
                )

    def read(self, name: str) -> Array:
        """A tensor as an array in C order; KeyError if there is none of this name.

        Raises CheckpointError if its type is not supported, or if it holds NaN or infinity.
        """
        import numpy as np

        self.check_dtypes([name])
        array = np.empty(self.shapes[name], np.float32)
        self._file_of[name].read_into(array, name)
        self.check_finite(array, name)
        return array

    @contextmanager
    def look(self, name: str, memory: Array) -> Iterator[Array]:
        """Inside of `with`, the same, not to be written to. NaN is not looked for.

        It is where its file is in the page cache, or read into `memory`, a vector of as many values: to touch fresh memory
        takes as long as to read.
        """
        self.check_dtypes([name])
        with self._file_of[name].look(name, memory.reshape(self.shapes[name])) as array:
            yield array

    def check_finite(self, array: Array, name: str) -> None:
        """CheckpointError, with their number, if there are NaN or infinity in what was read as that tensor."""
        import numpy as np

        flat = array.reshape(-1)
        pieces = (flat[start : start + _PIECE] for start in range(0, flat.size, _PIECE))
        bad = array.size - sum(int(np.count_nonzero(np.isfinite(piece))) for piece in pieces)
        if bad:
            values = count_text(bad, "value that is", "values that are")
            raise CheckpointError(
                f"tensor {name!r} holds {values} NaN or infinite as float32, of {array.size:,}",
                "the checkpoint is damaged or its training diverged; choose another one",
            )

    def _is_in(self, name: str, shard: str) -> bool:
        file = self._file_of.get(name)
        return file is not None and file.path.name == shard


class _Tensor(Frozen):
    shape: tuple[int, ...]
    dtype: str
    start: int = 0
    """Where its bytes begin in the file, if they are read from there."""


class _WeightFile(ABC):
    path: Path
    tensors: Mapping[str, _Tensor]

    @abstractmethod
    def read_into(self, array: Array, name: str) -> None:
        """Fill a float32 array in C order with a tensor of its shape and a supported type."""

    @contextmanager
    def look(self, name: str, array: Array) -> Iterator[Array]:
        """Inside of `with`, the same, or the tensor in its file."""
        self.read_into(array, name)
        yield array


class _SafetensorsFile(_WeightFile):
    def __init__(self, path: Path) -> None:
        from safetensors import SafetensorError, safe_open

        self.path = path
        self._mapped = MappedFile(path, size_of(path))
        try:
            # Checks that the header is well formed, and that the tensors fill the file without a gap or an overlap.
            with safe_open(path, framework="numpy") as file:
                names = set(file.keys())
            with path.open("rb") as stream:
                (length,) = struct.unpack("<Q", stream.read(8))
                header = json.loads(stream.read(length), object_pairs_hook=_without_repeats)
            header.pop("__metadata__", None)
            self.tensors = {
                name: _Tensor(tuple(entry["shape"]), entry["dtype"], 8 + length + entry["data_offsets"][0])
                for name, entry in header.items()
            }
            if names != self.tensors.keys():
                raise ValueError("the header can be read in two ways")
        except (SafetensorError, OSError, ValueError, TypeError, LookupError, struct.error) as error:
            raise _damaged(path, error) from error

    @contextmanager
    def look(self, name: str, array: Array) -> Iterator[Array]:
        with ExitStack() as stack:
            stored = self._in_page_cache(self.tensors[name], array, stack)
            if stored is None:
                self.read_into(array, name)
            yield array if stored is None else stored

    def _in_page_cache(self, tensor: _Tensor, array: Array, stack: ExitStack) -> Array | None:
        """The tensor where it lies, until `stack` is closed; None where that is not possible, or it is not like that array."""
        import numpy as np

        if tensor.dtype != "F32" or tensor.start % array.itemsize or array.nbytes < _SMALL:
            return None
        try:
            look = stack.enter_context(self._mapped.leased())
            stored = stack.enter_context(look(tensor.start, array.nbytes))
        except OSError:
            return None
        return np.frombuffer(stored, _NUMPY["F32"]).reshape(array.shape)

    def read_into(self, array: Array, name: str) -> None:
        import numpy as np

        tensor = self.tensors[name]
        stored = array if tensor.dtype == "F32" else np.empty(tensor.shape, _NUMPY[tensor.dtype])
        view = stored.reshape(-1).view(np.uint8).data
        done = 0
        try:
            with self.path.open("rb", buffering=0) as stream:
                stream.seek(tensor.start)
                while done < len(view):
                    got = stream.readinto(view[done:])
                    if not got:
                        raise EOFError(f"it ends inside of tensor {name!r}")
                    done += got
        except (OSError, EOFError) as error:
            raise _damaged(self.path, error) from error
        if tensor.dtype == "BF16":
            np.left_shift(stored, 16, out=array.view(np.uint32), dtype=np.uint32)
        elif tensor.dtype != "F32":
            with np.errstate(over="ignore"):
                np.copyto(array, stored, casting="same_kind")


class _PickleFile(_WeightFile):
    """A file that `torch.save` wrote: a flat dictionary of tensors and nothing that could run code.

    Its tensors are memory-mapped, and mapped anew after every 256 MB read. The format from before PyTorch 1.6 cannot be
    mapped and stays in memory.
    """

    def __init__(self, path: Path) -> None:
        import zipfile

        self.path = path
        self._is_mapped = zipfile.is_zipfile(path)
        # Several threads may read at once: each keeps the mapping that it took from here.
        loaded = self._load()
        self._loaded: dict[str, torch.Tensor] | None = loaded
        self._bytes_read = 0
        self.tensors = {name: _Tensor(tuple(tensor.shape), _dtype_name(tensor)) for name, tensor in loaded.items()}

    def read_into(self, array: Array, name: str) -> None:
        import torch

        loaded = self._loaded
        if loaded is None:
            loaded = self._loaded = self._load()
        try:
            tensor = loaded[name].detach()
            torch.from_numpy(array).copy_(tensor)
        except (KeyError, RuntimeError, TypeError) as error:
            raise _damaged(self.path, error) from error
        self._bytes_read += tensor.numel() * tensor.element_size()
        if self._is_mapped and self._bytes_read >= _REMAP_AFTER:
            self._loaded, self._bytes_read = None, 0

    def _load(self) -> dict[str, torch.Tensor]:
        import torch

        version = tuple(int(part) for part in torch.__version__.split(".")[:2])
        if version < (2, 6):
            raise UnreadableError(
                f"{self.path} is a pickle, which PyTorch {torch.__version__} cannot open safely (CVE-2025-32434)",
                f"use PyTorch 2.6 or later, or {_TO_SAFETENSORS}",
            )
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a pickle that torch did not write: it is told whether that can be read
                loaded = torch.load(self.path, map_location="cpu", weights_only=True, mmap=self._is_mapped)
        except Exception as error:  # Whatever an unpickler meets in a hostile file.
            raise self._refusal(error) from error
        return self._checked(loaded)

    def _refusal(self, error: Exception) -> TtbertError:
        import pickle

        if isinstance(error, MemoryError):
            return UnreadableError(f"{self.path} does not fit into memory", _TO_SAFETENSORS)
        if isinstance(error, pickle.UnpicklingError):
            # PyTorch's own text advises to load the file unsafely.
            return CheckpointError(
                f"{self.path} is damaged, or a pickle with more than tensors in it, which could run code; it was not loaded",
                _TO_SAFETENSORS,
            )
        return _damaged(self.path, error)

    def _checked(self, loaded: Any) -> dict[str, torch.Tensor]:
        import torch

        if not isinstance(loaded, dict):
            raise CheckpointError(f"{self.path} holds a {type(loaded).__name__}, not a dictionary of tensors", _SAVED)
        for name, value in loaded.items():
            plain = type(value) in (torch.Tensor, torch.nn.Parameter) and value.layout == torch.strided
            if isinstance(name, str) and plain and not value.is_quantized and value.device.type == "cpu":
                continue
            nested = " (a training checkpoint?)" if isinstance(value, dict) else ""
            raise CheckpointError(
                f"{self.path} is not a flat dictionary of tensors: {name!r:.80} is a {type(value).__name__}{nested}",
                "save the model's state_dict() itself, or better, save_pretrained() the model",
            )
        return loaded


def _located(source: Source) -> tuple[list[str], Mapping[str, str] | None]:
    """The weight files and, if they are shards, which of them each tensor is to be in."""
    for single in _SINGLE:
        if single in source.files:
            return [single], None
        if f"{single}.index.json" in source.files:
            index = _read_index(source, f"{single}.index.json")
            return sorted(set(index.values())), index
    return _no_weights(source)


def _read_index(source: Source, name: str) -> Mapping[str, str]:
    suffix = Path(name.removesuffix(".index.json")).suffix
    path = source.path(name)
    try:
        if path.stat().st_size > _MAX_INDEX:
            raise ValueError(f"larger than {_MAX_INDEX >> 20} MiB")
        document = json.loads(path.read_bytes(), object_pairs_hook=_without_repeats)
        index = document["weight_map"]
        if not isinstance(index, dict) or not index or not all(isinstance(shard, str) for shard in index.values()):
            raise ValueError("weight_map is not a table of tensor names and file names")
    except (OSError, ValueError, TypeError, LookupError, RecursionError) as error:
        raise _damaged(path, error) from error
    shards = sorted(set(index.values()))
    for shard in shards:
        if "/" in shard or "\\" in shard or not shard.isprintable() or shard.startswith(".") or not shard.endswith(suffix):
            raise CheckpointError(f"{name} of {source.label} names a shard that is not a {suffix} file: {shard!r:.100}", _SAVED)
    missing = [shard for shard in shards if shard not in source.files]
    if missing:
        raise _absent(source, f"{name} of {source.label} names shards {some_text(missing)} that are not there")
    return index


def _no_weights(source: Source) -> tuple[list[str], Mapping[str, str] | None]:
    foreign = sorted({format for name in source.files for end, format in _FOREIGN.items() if name.endswith(end)})
    others = f", only weights for {' and '.join(foreign)}" if foreign else ""
    raise _absent(source, f"{source.label} has none of {', '.join(_LOOKED_FOR)}{others}; {source.listing}")


def _absent(source: Source, message: str) -> TtbertError:
    if source.is_partial:
        return NotCached(
            f"in the local Hugging Face cache, {message}",
            "run once without --offline, or give a local folder",
        )
    return CheckpointError(message, _SAVED)


def _refuse_pointer(path: Path) -> None:
    """CheckpointError for the few lines that git leaves in the place of a large file where git-lfs is not installed."""
    try:
        with path.open("rb") as file:
            is_pointer = file.read(len(_POINTER)) == _POINTER
    except OSError as error:
        raise _damaged(path, error) from error
    if is_pointer:
        raise CheckpointError(
            f"{path} is a git-lfs pointer, not the weights", "run `git lfs pull` in its folder, then try again"
        )


def _damaged(path: Path, error: Exception) -> UnreadableError:
    return UnreadableError(f"{path} is damaged or not what its name says: {error_text(error)}", "fetch or save it again")


def _dtype_name(tensor: torch.Tensor) -> str:
    import torch

    names = {
        torch.float32: "F32",
        torch.float16: "F16",
        torch.bfloat16: "BF16",
        torch.float64: "F64",
        torch.int64: "I64",
    }
    return names.get(tensor.dtype) or str(tensor.dtype).removeprefix("torch.")


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a name is there twice")
    return document
