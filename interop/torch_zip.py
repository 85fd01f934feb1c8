"""The tensors of a file that `torch.save` wrote of a `state_dict`, without running any of it.

Such a file is a zip: the bytes of each tensor, and a pickle that says what they are. A pickle is a program for a stack
machine that may call anything. Here it is read operation by operation, and only those of a table of tensors are known,
as plain data: nothing is imported, and nothing is called. What else a file asks for ends the reading.
"""

import pickletools
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from .archive import Archive, shown

TABLE_LIMIT = 1 << 20  # bytes of the pickle: some 5,000 tensors
_MOST_AXES = 8

# As the pickle names them; those that a state_dict of torch's modules has.
_DTYPES = {
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}
_NOT_TENSORS = "not a table of weights"
_TABLE, _TENSOR = "collections.OrderedDict", "torch._utils._rebuild_tensor_v2"


def read_tensors(data: bytes, name: str) -> dict[str, Tensor]:
    """The tensors by name, as `torch.save(module.state_dict())` wrote them; two may share memory.

    Of no axis of size 0. name: what errors call the file. ValueError, in one line, for anything but a flat table of
    tensors, and for a tensor that lies outside its bytes or has more entries than they hold.
    """
    archive = Archive(data, name)
    tables = [member for member in archive.members if member.count("/") == 1 and member.endswith("/data.pkl")]
    if len(tables) != 1:
        raise ValueError(f"{name}: is no file of torch.save: it has {len(tables)} members called data.pkl, not one")
    # torch stores what it does not compress. So what is unpacked is never larger than the file.
    total = sum(member.file_size for member in archive.members.values())
    if total > len(data):
        raise ValueError(f"{name}: its members say they have {total:,} bytes, the file has {len(data):,}")
    return _Reader(archive, tables[0].removesuffix("data.pkl")).tensors()


@dataclass(frozen=True)
class _Global:
    """Something of a module that the pickle names; only the name is ever looked at."""

    name: str


@dataclass(frozen=True)
class _Mark:
    """Where the items of a tuple or a table begin on the stack."""


class _Reader:
    """The stack machine, for the operations that a table of tensors is made of."""

    def __init__(self, archive: Archive, folder: str) -> None:
        self._archive, self._folder = archive, folder
        self._storages: dict[tuple[str, torch.dtype], Tensor] = {}
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def tensors(self) -> dict[str, Tensor]:
        archive, folder = self._archive, self._folder
        order = archive.read(f"{folder}byteorder", 16) if f"{folder}byteorder" in archive.members else b"little"
        if order.decode("ascii", "replace") != sys.byteorder:
            raise self._error(f"its bytes are in the order {shown(order)}, this machine's in {sys.byteorder}")
        table = self._run(archive.read(f"{folder}data.pkl", TABLE_LIMIT))
        if not isinstance(table, dict):
            raise self._error(f"holds one {type(table).__name__}: {_NOT_TENSORS}")
        for name, tensor in table.items():
            if not isinstance(tensor, Tensor):
                raise self._error(f"{shown(name)} is of type {type(tensor).__name__}: {_NOT_TENSORS}")
        return table

    def _run(self, program: bytes) -> Any:
        try:
            with warnings.catch_warnings(action="ignore"):  # genops says what it makes of odd text
                for operation, argument in self._operations(program):
                    self._step(operation, argument)
            return self._pop()
        except (IndexError, KeyError) as error:  # of the stack and the memo
            raise self._error("its table of weights is damaged") from error

    def _operations(self, program: bytes) -> Iterator[tuple[str, Any]]:
        """Those before STOP, with their arguments."""
        try:
            for operation, argument, _ in pickletools.genops(program):
                if operation.name != "STOP":
                    yield operation.name, argument
        except ValueError as error:  # no operation, an argument cut off, or no STOP
            raise self._error(f"its table of weights is damaged ({shown(error)})") from error

    def _step(self, operation: str, argument: Any) -> None:
        stack, memo = self._stack, self._memo
        match operation:
            case "PROTO" | "FRAME":
                pass
            case "MARK":
                stack.append(_Mark())
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[operation])
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINUNICODE" | "SHORT_BINUNICODE":
                stack.append(argument)
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                items = [self._pop() for _ in range(int(operation[-1]))]
                stack.append(tuple(reversed(items)))
            case "TUPLE":
                stack.append(tuple(self._pop_to_mark()))
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "GLOBAL":  # "module name"
                stack.append(self._global(argument.replace(" ", ".", 1)))
            case "STACK_GLOBAL":
                name, module = self._pop(), self._pop()
                stack.append(self._global(f"{shown(module)}.{shown(name)}"))
            case "BINPERSID":
                stack.append(self._storage(self._pop()))
            case "REDUCE":
                arguments, called = self._pop(), self._pop()
                stack.append(self._call(called, arguments))
            case "SETITEM":
                value, key = self._pop(), self._pop()
                self._set([key, value])
            case "SETITEMS":
                self._set(self._pop_to_mark())
            case "BUILD":
                self._ignore_metadata(self._pop())
            case "INST":
                raise self._refusal(argument.replace(" ", ".", 1))
            case _:
                raise self._refusal(operation)

    def _pop(self) -> Any:
        value = self._stack.pop()
        if isinstance(value, _Mark):
            raise self._error("its table of weights is damaged")
        return value

    def _pop_to_mark(self) -> list[Any]:
        items: list[Any] = []
        while not isinstance(item := self._stack.pop(), _Mark):
            items.append(item)
        return items[::-1]

    def _global(self, name: str) -> _Global:
        if name not in (_TABLE, _TENSOR) and name not in _DTYPES:
            raise self._refusal(name)
        return _Global(name)

    def _call(self, called: Any, arguments: Any) -> Any:
        name = called.name if isinstance(called, _Global) else type(called).__name__
        if name == _TABLE and isinstance(arguments, tuple) and not arguments:
            return {}
        if name == _TENSOR and isinstance(arguments, tuple) and len(arguments) == 6:
            return self._tensor(*arguments)
        raise self._refusal(f"a call of {name}")

    def _storage(self, address: Any) -> Tensor:
        """The numbers [n] of a storage, each read once."""
        match address:
            case ("storage", _Global(name=kind), str(key), str(), int(count)) if kind in _DTYPES:
                dtype = _DTYPES[kind]
            case _:
                raise self._refusal("something stored that is no tensor")
        if (key, dtype) not in self._storages:
            size = count * dtype.itemsize
            data = bytearray(self._archive.read(f"{self._folder}data/{key}", sys.maxsize))  # at most what the file has
            if len(data) != size:
                raise self._error(f"data/{shown(key)} has {len(data)} bytes, its table says {size}")
            self._storages[key, dtype] = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        return self._storages[key, dtype]

    def _tensor(self, storage: Any, offset: Any, size: Any, stride: Any, learns: Any, hooks: Any) -> Tensor:
        are_axes = all(isinstance(axes, tuple) and all(type(axis) is int for axis in axes) for axes in (size, stride))
        if not isinstance(storage, Tensor) or type(offset) is not int or not are_axes or hooks != {}:
            raise self._error(f"has a tensor that is none: {_NOT_TENSORS}")
        if len(size) != len(stride) or len(size) > _MOST_AXES or min((offset, *stride), default=0) < 0:
            raise self._error(f"has a tensor of size {shown(size)} with stride {shown(stride)}")
        if min(size, default=1) < 1:
            raise self._error(f"has a tensor of size {shown(size)}, with nothing in it")
        last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
        # As many entries as there are numbers: a stride of 0 would make any number of one.
        if last >= len(storage) or prod(size) > len(storage):
            raise self._error(f"has a tensor of size {shown(size)} outside its {len(storage)} stored numbers")
        # The step along an axis of one entry says nothing, and may be any number.
        return storage.as_strided(
            size, [step if length > 1 else 1 for length, step in zip(size, stride, strict=True)], offset
        )

    def _set(self, items: list[Any]) -> None:
        """Keys and values in turn, into the table on top of the stack."""
        table = self._stack[-1]
        if not isinstance(table, dict) or len(items) % 2:
            raise self._error("its table of weights is damaged")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) is not str:
                raise self._error(f"has names of type {type(key).__name__}: {_NOT_TENSORS}")
            table[key] = value

    def _ignore_metadata(self, state: Any) -> None:
        """Torch's own note on a table: versions of its modules."""
        if not isinstance(self._stack[-1], dict) or not isinstance(state, dict) or state.keys() != {"_metadata"}:
            raise self._refusal("the state of an object")

    def _refusal(self, what: str) -> ValueError:
        return self._error(f"asks for {shown(what)}: {_NOT_TENSORS}")

    def _error(self, what: str) -> ValueError:
        return ValueError(f"{self._archive.name}: {what}")
