"""Rows of environments: memory for many of them at once, and the check of what was put there."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite, prod
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
import torch
from gymnasium.spaces import Dict
from torch import Tensor

from ..spaces import Leaf, Observation, observation_of
from .contract import EnvStep

Array = npt.NDArray[Any]
BoolArray = npt.NDArray[np.bool_]

_MOST_ROWS, _MOST_BYTES = 64, 1 << 19  # of a block; whoever keeps one of its rows keeps them all
_ALIGNMENT = 64  # bytes
_FEW = 32  # numbers: Python has added them up before numpy has begun
_FLOAT32_MAX = float(np.finfo(np.float32).max)


class NonFiniteEnvError(ValueError):
    """An environment gave an observation or reward that is NaN, infinite, or so in float32."""


class Layout:
    """What a block of rows looks like."""

    def __init__(self, space: gymnasium.Space[Any], leaves: Mapping[str, Leaf], num_envs: int) -> None:
        """space: of what environments observe, see Arrays; leaves: what becomes of it."""
        boxes = space.spaces if isinstance(space, Dict) else {"": space}
        self.parts = {name: _Part.of(box, leaves[name], num_envs) for name, box in boxes.items()}
        row_bytes = sum(prod(part.shape) * part.dtype.itemsize for part in self.parts.values())
        self.num_rows, self.num_envs = max(1, min(_MOST_ROWS, _MOST_BYTES // max(1, row_bytes))), num_envs


class Block:
    """T rows of B environments in new memory, to be filled in through its arrays: together in less time than alone."""

    def __init__(self, layout: Layout) -> None:
        shape = layout.num_rows, layout.num_envs
        self.num_rows = layout.num_rows
        self.reward = np.empty(shape)
        self.terminated, self.truncated, self.is_first = np.empty((3, *shape), np.bool_)
        narrow_reward = np.empty(shape, np.float32)
        arrays: dict[str, Array] = {}
        tensors: dict[str, list[Tensor]] = {}
        self._floats: list[Array] = []  # what becomes float32, each [T, B * numbers]
        self._casts = [(narrow_reward, self.reward)]  # what is made of which array, because it is of another type
        for name, part in layout.parts.items():
            wide = narrow = _memory(self.num_rows, part.shape, part.dtype)
            if part.tensor_dtype != part.dtype:
                narrow = _memory(self.num_rows, part.shape, part.tensor_dtype)
                self._casts.append((narrow, wide))
            if part.tensor_dtype == np.float32:
                self._floats.append(wide.reshape(self.num_rows, prod(part.shape)))
            arrays[name], tensors[name] = wide, list(map(torch.from_numpy, narrow))
        self.observation = observation_of(arrays)  # [T, B, *obs] of the environments' own type, or a dict by leaf name
        flags = self.terminated, self.truncated, self.is_first
        columns = (map(torch.from_numpy, column) for column in (narrow_reward, *flags))
        self._steps = list(map(EnvStep, _by_row(tensors), *columns))

    def begin(self, row: int) -> None:
        """Fill in all of a row but the observation, as every environment begins an episode."""
        self.reward[row], self.terminated[row], self.truncated[row], self.is_first[row] = 0.0, False, False, True

    def check(self, row: int) -> None:
        """NonFiniteEnvError for what is not finite in a row."""
        for rows in self._floats:
            if not _are_finite(rows[row]):
                raise self._error(row)
        for reward in self.reward[row].tolist():
            if not -_FLOAT32_MAX <= reward <= _FLOAT32_MAX:
                raise self._error(row)

    def step(self, row: int) -> EnvStep:
        """A row that is filled in, as tensors."""
        for narrow, wide in self._casts:
            narrow[row] = wide[row]
        return self._steps[row]

    def _error(self, row: int) -> NonFiniteEnvError:
        """Names what is found first."""
        is_dict = isinstance(self.observation, dict)
        for name, rows in (self.observation if is_dict else {"": self.observation}).items():
            values = rows[row]
            if not np.all(finite := _finite(values)):
                env, *entry = np.argwhere(~finite)[0].tolist()
                title = f"observation {name!r}" if is_dict else "observation"
                return NonFiniteEnvError(f"{title} of env {env} is {values[env, *entry]} at entry {entry}")
        env = int(np.flatnonzero(~_finite(self.reward[row]))[0])
        return NonFiniteEnvError(f"reward of env {env} is {self.reward[row, env]}")


@dataclass(frozen=True)
class _Part:
    """A leaf in a row of all environments."""

    shape: tuple[int, ...]  # [B, *obs]
    dtype: np.dtype[Any]
    tensor_dtype: np.dtype[Any]

    @staticmethod
    def of(box: gymnasium.Space[Any], leaf: Leaf, num_envs: int) -> "_Part":
        assert box.shape is not None
        assert box.dtype is not None
        return _Part((num_envs, *box.shape), box.dtype, torch.empty(0, dtype=leaf.dtype).numpy().dtype)


def _memory(num_rows: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """[num_rows, *shape]. Each row begins a line of the cache: where factors lie can change a product's last bits."""
    row_bytes = -(-prod(shape) * dtype.itemsize // _ALIGNMENT) * _ALIGNMENT
    # Not torch's memory, which begins at such a line: where rows are large, its pages go back with each block.
    memory = np.empty(num_rows * row_bytes + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    first: Array = np.ndarray(shape, dtype, memory, start)
    return np.ndarray((num_rows, *shape), dtype, memory, start, (row_bytes, *first.strides))


def _by_row(columns: dict[str, list[Tensor]]) -> list[Observation]:
    if columns.keys() == {""}:
        return list(columns[""])
    return [dict(zip(columns, entries, strict=True)) for entries in zip(*columns.values(), strict=True)]


def _are_finite(values: Array) -> bool:
    """Whether all of a flat array are finite as float32."""
    if values.size <= _FEW and values.dtype == np.float32:
        return isfinite(sum(values.tolist()))  # in double precision, where finite ones have a finite sum
    finite = _finite(values)
    return bool(np.count_nonzero(finite) == finite.size)  # counting is a fifth of what `all` takes


def _finite(values: Array) -> BoolArray:
    """Which are finite as float32, which they become."""
    is_wide = values.dtype.kind == "f" and values.dtype.itemsize > 4
    finite: BoolArray = np.abs(values) <= _FLOAT32_MAX if is_wide else np.isfinite(values)
    return finite
