"""A state as bytes: its tensors as a safetensors file, the rest as JSON; the same state gives the same bytes."""

import json
import math
import sys
from collections.abc import Iterator, Mapping
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from ..engine.history import History
from ..engine.stateful import StateDict

Leaf: TypeAlias = Tensor | History

# The marks: no key of a state may hold a slash, so no state can look like them.
_TENSOR, _HISTORY = {"/": "tensor"}, {"/": "history"}
_DTYPES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.uint16: "U16",
    torch.uint32: "U32",
    torch.uint64: "U64",
    torch.int8: "I8",
    torch.int16: "I16",
    torch.int32: "I32",
    torch.int64: "I64",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float64: "F64",
}


class Form(NamedTuple):
    """What a tensor is before its numbers are known."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class Layout(NamedTuple):
    """A safetensors file before its numbers are known."""

    header: bytes
    offsets: dict[str, int]  # of each tensor's first byte in the file, in their order there
    nbytes: int  # of the whole file


def split(state: StateDict, owner: str = "state") -> tuple[object, dict[str, Leaf]]:
    """The state with a mark in the place of each tensor and history, and these by slash-joined path.

    Raises ValueError that names the place of anything but tensors, histories, None, bool, int, float, str, list and
    dict with slash-free str keys.
    """
    leaves: dict[str, Leaf] = {}

    def visit(node: object, path: str) -> object:
        where = f"{owner} at {path!r}"
        if isinstance(node, Tensor):
            _check_tensor(node, where)
            leaves[path] = node
            return _TENSOR
        if isinstance(node, History):
            for name, rows in node.read(node.first, node.first).items():
                _check_key(name, where)
                _check_tensor(rows, f"{owner} at {f'{path}/{name}'!r}")
            leaves[path] = node
            return _HISTORY
        if isinstance(node, dict):
            for key in node:
                _check_key(key, where)
            return {key: visit(value, f"{path}/{key}" if path else key) for key, value in node.items()}
        if isinstance(node, list):
            return [visit(value, f"{path}/{index}") for index, value in enumerate(node)]
        # Exact types: numpy's float64 and str_, and every enum, are subclasses that would come back as something else.
        if node is not None and type(node) not in (bool, int, float, str):
            kind = f"{type(node).__module__}.{type(node).__qualname__}".removeprefix("builtins.")
            raise ValueError(
                f"{where}: can save tensors, None, bool, int, float, str, list and dict, got {kind} (convert it)"
            )
        return node

    return visit(state, ""), leaves


def join(node: object, leaves: dict[str, Leaf], path: str = "") -> object:
    """The inverse of `split`; takes from `leaves` what it places."""
    if node in (_TENSOR, _HISTORY):
        leaf = leaves.pop(path)
        if isinstance(leaf, History) != (node == _HISTORY):
            raise TypeError(f"{path} is marked as another kind of leaf")
        return leaf
    if isinstance(node, dict):
        return {key: join(value, leaves, f"{path}/{key}" if path else key) for key, value in node.items()}
    if isinstance(node, list):
        return [join(value, leaves, f"{path}/{index}") for index, value in enumerate(node)]
    return node


def layout(forms: Mapping[str, Form]) -> Layout:
    """The file that `tensor_bytes` makes of such tensors (https://github.com/huggingface/safetensors#format)."""
    # Widest first, as the library does, so that each tensor in the mapped file is aligned.
    names = sorted(forms, key=lambda name: (-forms[name].dtype.itemsize, name))
    entries, start, starts = {}, 0, {}
    for name in names:
        starts[name], end = start, start + forms[name].nbytes
        entries[name] = {
            "dtype": _DTYPES[forms[name].dtype],
            "shape": list(forms[name].shape),
            "data_offsets": [start, end],
        }
        start = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    header = len(text).to_bytes(8, "little") + text
    return Layout(header, {name: len(header) + starts[name] for name in names}, len(header) + start)


def form(tensor: Tensor) -> Form:
    return Form(tensor.dtype, tuple(tensor.shape))


def tensor_bytes(tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """The bytes of a safetensors file, a tensor at a time.

    Written here and not by the library, whose `save` holds a second copy of everything, whose `save_file` must be read
    back to be hashed, and which refuses tensors that share storage.
    """
    assert sys.byteorder == "little", "safetensors is little-endian"
    header, offsets, _ = layout({name: form(tensor) for name, tensor in tensors.items()})
    yield header
    yield from (raw(tensors[name]) for name in offsets)


def raw(tensor: Tensor) -> memoryview:
    """The numbers of a tensor as they lie in the file."""
    flat = tensor.detach().resolve_neg().cpu().contiguous()
    # One element may come with any stride, which `contiguous` leaves and a view of bytes refuses.
    return flat.as_strided((flat.numel(),), (1,)).view(torch.uint8).numpy().data


def plain_bytes(content: object) -> bytes:
    """JSON, with Python's NaN and Infinity, which its own reader understands."""
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def _check_tensor(tensor: Tensor, where: str) -> None:
    if tensor.dtype not in _DTYPES or tensor.layout != torch.strided or tensor.is_meta:
        raise ValueError(f"{where}: cannot save a tensor of {tensor.dtype}, {tensor.layout} on {tensor.device}")


def _check_key(key: object, where: str) -> None:
    # `__metadata__` is safetensors' own; a lone surrogate has no UTF-8.
    if type(key) is not str or key in ("", "__metadata__") or "/" in key or not _is_utf8(key):
        raise ValueError(f"{where}: a key must be a non-empty UTF-8 str without '/', got {key!r}")


def _is_utf8(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)
