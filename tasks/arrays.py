"""Data sets made from what a user has: arrays, tensors, or torch's data sets."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import gymnasium
import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from torch import Tensor

from ..configs.suggest import suggest
from .dataset import Dataset, Target

Array = npt.NDArray[Any]

_MOST_CLASSES = 1_000_000  # that labels may imply: beyond, they are hardly classes, and a head for them has no memory


class MapDataset(Protocol):
    """What torch calls a map-style data set, of pairs (input, label)."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


Data: TypeAlias = Dataset | tuple[Array | Tensor, Array | Tensor | Mapping[str, Array | Tensor]] | MapDataset
"""What a user may give to learn from: a Dataset, arrays (inputs, targets), or a torch data set of such pairs."""


def from_arrays(
    inputs: Array | Tensor,
    targets: Array | Tensor | Mapping[str, Array | Tensor],
    *,
    names: Mapping[str, Sequence[str]] | None = None,
    lengths: Array | Tensor | None = None,
    space: gymnasium.Space[Any] | None = None,
) -> Dataset:
    """A data set of N samples; arrays are copied.

    inputs: [N, *obs], or with lengths [N, T, *obs]. They stay as they are if uint8 or float32, and are tokens if
    they are integers [N, T] with lengths; all else becomes float32. Unless `space` says what a row is.
    targets: integers and bools are classes, floats are numbers; a lone one is called "class" or "value".
    names: of a target's classes, which else are 0 to the highest that occurs.
    Raises ValueError in one line, as Dataset.
    """
    values = tensor("inputs", inputs)
    rows = None if lengths is None else tensor("lengths", lengths)
    names = {} if names is None else names
    if not isinstance(targets, Mapping):
        lone = tensor("target", targets)
        targets = {"value" if lone.is_floating_point() else "class": lone}
    if unknown := [name for name in names if name not in targets]:
        raise ValueError(f"names: there is no target {unknown[0]!r}{suggest(unknown[0], targets)}")
    if space is None:
        if values.ndim == 1 if rows is None else values.ndim == 2 and values.is_floating_point():
            values = values.unsqueeze(-1)  # lone numbers: rows of one
        space = _space(values, rows)
    made = {name: _target(name, each, names.get(name), _inside(values, rows)) for name, each in targets.items()}
    return Dataset(values, made, space, rows)


def from_torch(dataset: MapDataset, *, space: gymnasium.Space[Any] | None = None) -> Dataset:
    """All samples of a torch data set of pairs (input, label), as from_arrays makes them; its `classes` are the names.

    Raises ValueError that names the first sample that is no such pair, or is of another shape or type than the first.
    """
    if not hasattr(dataset, "__len__") or not len(dataset):
        raise ValueError(f"data set {type(dataset).__name__}: must have a length, of at least 1")
    if not hasattr(dataset, "__getitem__"):
        raise ValueError(
            f"data set {type(dataset).__name__}: must give the sample at an index, as data[0] (no DataLoader)"
        )
    inputs: list[Array] = []
    labels: list[Array] = []
    for index in range(len(dataset)):
        pair = dataset[index]
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise ValueError(f"sample {index}: must be a pair (input, label), got {type(pair).__name__}")
        for kind, found, value in (("input", inputs, pair[0]), ("label", labels, pair[1])):
            # A copy: a data set may use its memory again.
            array = np.array(value.numpy(force=True) if isinstance(value, Tensor) else value)
            if found and (array.shape, array.dtype) != (found[0].shape, found[0].dtype):
                forms = [f"{each.dtype}{list(each.shape)}" for each in (array, found[0])]
                raise ValueError(f"sample {index}: its {kind} is {forms[0]}, that of sample 0 {forms[1]}")
            found.append(array)
    classes = getattr(dataset, "classes", None)
    if not isinstance(classes, list | tuple) or labels[0].dtype.kind == "f":
        classes = None
    names = None if classes is None else {"class": [str(name) for name in classes]}
    return from_arrays(np.stack(inputs), np.stack(labels), names=names, space=space)


def as_dataset(data: Data) -> Dataset:
    """Data in any of the forms that a user may have them in."""
    if isinstance(data, Dataset):
        return data
    if isinstance(data, tuple):
        if len(data) != 2:
            raise ValueError(f"data: must be a pair (inputs, targets), got {len(data)} values")
        return from_arrays(*data)
    if isinstance(data, str | Path):
        raise ValueError(f"data={data}: must be arrays or a data set; a file goes by its name, data.name={data}")
    return from_torch(data)


def tensor(name: str, values: Array | Tensor) -> Tensor:
    """Numbers as a tensor; arrays are copied. ValueError for text and objects."""
    if isinstance(values, Tensor):
        return values.detach()
    array = np.array(values, order="C")  # a copy: torch would share the memory, which may be read-only
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name}: must be numbers, got {array.dtype} (text and objects are refused)")
    native = np.dtype(np.float64) if array.dtype.itemsize > 8 else array.dtype.newbyteorder("=")
    return torch.from_numpy(array.astype(native, copy=False))


def _target(name: str, values: Array | Tensor, names: Sequence[str] | None, inside: Tensor | None) -> Target:
    """inside: [N, T], the rows that sequences have."""
    numbers = tensor(f"target {name!r}", values)
    if numbers.is_floating_point():
        return Target(numbers, None, tuple(names or ()))
    if names is not None:
        return Target(numbers, len(names), tuple(names))
    return Target(numbers, _count(f"target {name!r}", numbers, inside))


def _space(inputs: Tensor, lengths: Tensor | None) -> gymnasium.Space[Any]:
    """Of one row of such inputs."""
    shape = tuple(inputs.shape[1 if lengths is None else 2 :])
    if lengths is not None and not shape:
        return spaces.Discrete(_count("inputs", inputs, _inside(inputs, lengths)))
    if inputs.dtype == torch.uint8:
        return spaces.Box(0, 255, shape, np.uint8)
    return spaces.Box(-np.inf, np.inf, shape, np.float32)


def _inside(inputs: Tensor, lengths: Tensor | None) -> Tensor | None:
    """[N, T] which rows are no padding; None where there are no sequences, or the lengths cannot be right."""
    if lengths is None or inputs.ndim < 2 or lengths.shape != inputs.shape[:1]:
        return None
    return torch.arange(inputs.shape[1], device=lengths.device) < lengths.unsqueeze(1)


def _count(name: str, numbers: Tensor, inside: Tensor | None) -> int:
    """One more than the highest number, padding aside."""
    meant = numbers if inside is None or inside.shape != numbers.shape else numbers[inside]
    highest = int(meant.max()) if meant.numel() else 0
    if highest >= _MOST_CLASSES:
        raise ValueError(f"{name}: the number {highest} occurs; classes and tokens are numbered from 0, without gaps")
    return max(highest, 0) + 1
