"""A state as bytes: its tensors as a safetensors file, the rest as JSON; the same state gives the same bytes."""

import json
import sys
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from ..engine.stateful import StateDict

_TENSOR = {"/": "tensor"}  # the mark: no key of a state may hold a slash, so no state can look like it
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


def split(state: StateDict, owner: str = "state") -> tuple[object, dict[str, Tensor]]:
    """The state with a mark in the place of each tensor, and the tensors by slash-joined path.

    Raises ValueError that names the place of anything but tensors, None, bool, int, float, str, list and dict with
    slash-free str keys.
    """
    tensors: dict[str, Tensor] = {}

    def visit(node: object, path: str) -> object:
        where = f"{owner} at {path!r}"
        if isinstance(node, Tensor):
            if node.dtype not in _DTYPES or node.layout != torch.strided or node.is_meta:
                raise ValueError(f"{where}: cannot save a tensor of {node.dtype}, {node.layout} on {node.device}")
            tensors[path] = node
            return _TENSOR
        if isinstance(node, dict):
            for key in node:
                # `__metadata__` is safetensors' own; a lone surrogate has no UTF-8.
                if type(key) is not str or key in ("", "__metadata__") or "/" in key or not _is_utf8(key):
                    raise ValueError(f"{where}: a key must be a non-empty UTF-8 str without '/', got {key!r}")
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

    return visit(state, ""), tensors


def join(node: object, tensors: dict[str, Tensor], path: str = "") -> object:
    """The inverse of `split`; takes from `tensors` what it places."""
    if node == _TENSOR:
        return tensors.pop(path)
    if isinstance(node, dict):
        return {key: join(value, tensors, f"{path}/{key}" if path else key) for key, value in node.items()}
    if isinstance(node, list):
        return [join(value, tensors, f"{path}/{index}") for index, value in enumerate(node)]
    return node


def tensor_bytes(tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """The bytes of a safetensors file, a tensor at a time.

    Written here and not by the library, whose `save` holds a second copy of everything, whose `save_file` must be read
    back to be hashed, and which refuses tensors that share storage.
    Layout: https://github.com/huggingface/safetensors#format
    """
    assert sys.byteorder == "little", "safetensors is little-endian"
    # Widest first, as the library does, so that each tensor in the mapped file is aligned.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header, start = {}, 0
    for name in names:
        tensor = tensors[name]
        end = start + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in names:
        flat = tensors[name].detach().resolve_neg().cpu().contiguous()
        # One element may come with any stride, which `contiguous` leaves and a view of bytes refuses.
        yield flat.as_strided((flat.numel(),), (1,)).view(torch.uint8).numpy().data


def plain_bytes(content: object) -> bytes:
    """JSON, with Python's NaN and Infinity, which its own reader understands."""
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def _is_utf8(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)
