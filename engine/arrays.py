"""The few operations that NumPy and torch name differently, so that one text computes with both."""

from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

Array: TypeAlias = Any  # of NumPy on the CPU, otherwise a tensor


class NumPyOps:
    """What is not called the same in NumPy and torch. For such small arrays NumPy takes half as long."""

    def array(self, tensor: Tensor) -> Array:
        """The same memory."""
        return tensor.numpy()

    def tensor(self, array: Array) -> Tensor:
        return torch.from_numpy(array)

    def arange(self, size: int, device: torch.device) -> Array:
        return np.arange(size)

    def counts(self, *masks: Array) -> list[int]:
        return [int(np.count_nonzero(mask)) for mask in masks]

    def nonzero(self, mask: Array, count: int) -> Array:
        """Places of those that are true, in order; count: of them."""
        return mask.reshape(-1).nonzero()[0]

    def concatenate(self, parts: list[Array]) -> Array:
        return np.concatenate(parts)

    def whole(self, array: Array) -> Array:
        return array.astype(np.int64)

    def single(self, array: Array) -> Array:
        return array.astype(np.float32)

    def ceil(self, array: Array) -> Array:
        return np.ceil(array)

    def rows(self, table: Array, index: Array) -> Array:
        return table.take(index, 0)

    def least(self, array: Array) -> Array:
        # In half the time of min(); NaN too if any is.
        return array[array.argmin()]

    def most(self, array: Array) -> Array:
        return array[array.argmax()]

    def row_sums(self, table: Array) -> Array:
        # Of such short rows in half the time of sum(1).
        return np.add.reduceat(table.reshape(-1), np.arange(0, table.size, table.shape[1]))

    def search(self, ascending: Array, values: Array) -> Array:
        """The first place whose number is higher."""
        return ascending.searchsorted(values, "right")

    def put_highest(self, array: Array, index: Array, values: Array) -> None:
        """Assign, of two values for a place the higher."""
        array[index] = 0
        np.maximum.at(array, index, values)


class TorchOps:
    """The same on other devices."""

    def array(self, tensor: Tensor) -> Array:
        return tensor

    def tensor(self, array: Array) -> Tensor:
        found: Tensor = array
        return found

    def arange(self, size: int, device: torch.device) -> Array:
        return torch.arange(size, device=device)

    def counts(self, *masks: Array) -> list[int]:
        return torch.stack([mask.sum() for mask in masks]).tolist()  # the device is waited for once

    def nonzero(self, mask: Array, count: int) -> Array:
        return torch.nonzero_static(mask.flatten(), size=count).squeeze(1)

    def concatenate(self, parts: list[Array]) -> Array:
        return torch.cat(parts)

    def whole(self, array: Array) -> Array:
        return array.long()

    def single(self, array: Array) -> Array:
        return array.float()

    def ceil(self, array: Array) -> Array:
        return array.ceil()

    def rows(self, table: Array, index: Array) -> Array:
        return table.index_select(0, index)

    def least(self, array: Array) -> Array:
        return array.min()

    def most(self, array: Array) -> Array:
        return array.max()

    def row_sums(self, table: Array) -> Array:
        return table.sum(1)

    def search(self, ascending: Array, values: Array) -> Array:
        return torch.searchsorted(ascending, values, right=True)

    def put_highest(self, array: Array, index: Array, values: Array) -> None:
        # A plain assignment would leave to chance, on a GPU, which of two stays.
        array.scatter_reduce_(0, index, values, "amax", include_self=False)


def ops_of(device: torch.device) -> NumPyOps | TorchOps:
    """For arrays that lie there."""
    return NumPyOps() if device.type == "cpu" else TorchOps()
