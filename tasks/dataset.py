"""Labelled data in memory: inputs, and what is to be told from each."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import gymnasium
import torch
from gymnasium import spaces
from torch import Tensor

from ..configs.suggest import suggest
from ..spaces import Leaf, leaves, one_line


@dataclass(frozen=True, eq=False)
class Target:
    """What is to be told from each input. A Dataset checks and completes it."""

    values: Tensor  # int64 [N] classes, int64 [N, T] classes of a sequence's rows, or float32 [N, ...] numbers
    num_classes: int | None = None  # None: numbers, for regression
    names: tuple[str, ...] = ()  # of the classes; their numbers unless given


@dataclass(frozen=True, eq=False)
class Dataset:
    """N labelled samples that can be trained on as they are: equal in number, finite, in range, of the types below.

    Floats of other precision become float32; other integers and bools become int64 where classes or tokens are meant,
    float32 where quantities are. Beyond a sequence's length inputs and labels may hold anything, and are set to zero.
    Raises ValueError that names the first sample and entry at fault.
    """

    inputs: Tensor  # [N, *obs], or with lengths [N, T, *obs]
    targets: dict[str, Target]  # the first is the main one
    space: gymnasium.Space[Any]  # of one row of input: a Box, Discrete, MultiDiscrete, MultiBinary or Text
    lengths: Tensor | None = None  # int64 [N], rows of each sequence, 1 to T; None where samples are no sequences

    def __post_init__(self) -> None:
        leaf = leaves(self.space).get("")
        if leaf is None:
            raise ValueError(f"space: {one_line(self.space)} has several entries; a data set's inputs are one tensor")
        if not self.targets:
            raise ValueError("targets: there must be at least one")
        _check_shape("inputs", self.inputs, leaf, is_sequence=self.lengths is not None)
        inside = None
        if self.lengths is not None:
            object.__setattr__(self, "lengths", _checked_lengths(self.lengths, self.inputs))
            inside = torch.arange(self.inputs.shape[1], device=self.lengths.device) < self.lengths.unsqueeze(1)
        # A task's yes and no are quantities, 0 and 1, as its schema has them.
        dtype = torch.float32 if leaf.dtype == torch.bool else leaf.dtype
        inputs = _checked("inputs", self.inputs, dtype, _sizes(leaf.space, self.inputs.device), inside)
        object.__setattr__(self, "inputs", inputs)
        targets = {name: _checked_target(name, target, inputs, inside) for name, target in self.targets.items()}
        object.__setattr__(self, "targets", targets)

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def main(self) -> str:
        """The name of the first target."""
        return next(iter(self.targets))

    def target(self, name: str) -> Target:
        """The target of that name; ValueError if there is none."""
        if name not in self.targets:
            hint = suggest(name, self.targets) or f"; there are {', '.join(self.targets)}"
            raise ValueError(f"target {name!r}: the data have none of that name{hint}")
        return self.targets[name]

    def select(self, index: Tensor) -> "Dataset":
        """The samples at `index` [M] int64, in its order. ValueError if there are none."""
        index = index.to(self.inputs.device)
        return replace(
            self,
            inputs=self.inputs[index],
            targets={name: replace(target, values=target.values[index]) for name, target in self.targets.items()},
            lengths=None if self.lengths is None else self.lengths[index],
        )

    def keep_classes(self, target: str, classes: Sequence[int]) -> "Dataset":
        """The samples of these classes alone; the i-th of `classes` becomes class i. Other targets stay as they are.

        ValueError if one is not among the target's classes, or given twice.
        """
        old, size = self._classes(target)
        for position, label in enumerate(classes):
            if not 0 <= label < size or label in classes[:position]:
                problem = "is given twice" if 0 <= label < size else f"is no class of {target!r}: 0 to {size - 1}"
                raise ValueError(f"classes={list(classes)}: {label} {problem}")
        if not classes:
            raise ValueError("classes=[]: give at least one")
        renumbered = old.values.new_full((size,), -1)
        renumbered[list(classes)] = torch.arange(len(classes), device=renumbered.device)
        values = renumbered[old.values]
        kept = (values >= 0).nonzero().squeeze(1)
        if not len(kept):
            raise ValueError(f"classes={list(classes)}: the data have no sample of them")
        subset = self.select(kept)
        new = Target(values[kept], len(classes), tuple(old.names[label] for label in classes))
        return replace(subset, targets={**subset.targets, target: new})

    def few(self, target: str, per_class: int, generator: torch.Generator) -> "Dataset":
        """`per_class` samples of each class of the target, drawn without replacement, in the order they had.

        ValueError names a class that has fewer.
        """
        drawn_from, size = self._classes(target)
        if per_class < 1:
            raise ValueError(f"per_class={per_class}: must be at least 1")
        order = permutation(self, generator)
        labels = drawn_from.values[order]
        drawn = []
        for label in range(size):
            members = order[labels == label]
            if len(members) < per_class:
                name = drawn_from.names[label]
                raise ValueError(f"per_class={per_class}: {target} {name!r} has only {len(members)} samples")
            drawn.append(members[:per_class])
        return self.select(torch.cat(drawn).sort().values)

    def _classes(self, name: str) -> tuple[Target, int]:
        """A target that is one class a sample, and the number of its classes."""
        target = self.target(name)
        if target.num_classes is None or target.values.ndim > 1:
            kind = "numbers" if target.num_classes is None else "a class for each row"
            raise ValueError(f"target {name!r}: is {kind}; samples are chosen by a target that is one class for each")
        return target, target.num_classes


def permutation(dataset: Dataset, generator: torch.Generator) -> Tensor:
    """The samples' numbers in random order, on the data's device."""
    order = torch.randperm(len(dataset), generator=generator, device=generator.device)
    return order.to(dataset.inputs.device)


def _sizes(space: gymnasium.Space[Any], device: torch.device) -> Tensor | int | None:
    """How many values an entry, or each entry, can have; None where they are quantities."""
    if isinstance(space, spaces.MultiDiscrete):
        return torch.as_tensor(space.nvec, device=device)
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    if isinstance(space, spaces.Text):
        return len(space.character_set) + 1
    return 2 if isinstance(space, spaces.MultiBinary) else None


def _check_shape(name: str, values: Tensor, leaf: Leaf, *, is_sequence: bool) -> None:
    _check_tensor(name, values)
    lead = 2 if is_sequence else 1
    if values.ndim < lead or tuple(values.shape[lead:]) != leaf.shape:
        expected = ", ".join(map(str, ("N", "T")[:lead] + leaf.shape))
        raise ValueError(f"{name}: the shape is {list(values.shape)}, must be [{expected}] for {one_line(leaf.space)}")
    if not values.numel():
        raise ValueError(f"{name}: the shape is {list(values.shape)}; there must be at least one sample and entry")


def _check_tensor(name: str, values: object) -> None:
    if not isinstance(values, Tensor):
        raise ValueError(f"{name}: must be a tensor, got {type(values).__name__}; from_arrays makes one of an array")


def _checked_lengths(lengths: Tensor, inputs: Tensor) -> Tensor:
    _check_tensor("lengths", lengths)
    if lengths.shape != inputs.shape[:1]:
        raise ValueError(f"lengths: the shape is {list(lengths.shape)}, must be [{len(inputs)}], one for each sample")
    lengths = _converted("lengths", lengths, torch.int64).to(inputs.device)
    bad = (lengths < 1) | (lengths > inputs.shape[1])
    if bad.any():
        raise ValueError(f"lengths: {_first(bad, lengths)}; allowed: 1 to {inputs.shape[1]}")
    return lengths


def _checked_target(name: str, target: Target, inputs: Tensor, inside: Tensor | None) -> Target:
    """The target in its final form. inside: [N, T], the rows that sequences have."""
    where, size = f"target {name!r}", target.num_classes
    _check_tensor(where, target.values)
    values = target.values.to(inputs.device)
    if not name or "." in name or "/" in name:
        raise ValueError(f"{where}: a name must not be empty or contain '.' or '/'")
    if len(values.shape) == 0 or len(values) != len(inputs):
        raise ValueError(f"{where}: the shape is {list(values.shape)}, but there are {len(inputs)} inputs")
    if size is None:
        if not values.numel():
            raise ValueError(f"{where}: the shape is {list(values.shape)}; there must be at least one number each")
        if target.names:
            raise ValueError(f"{where}: has names of classes, but no num_classes")
        return Target(_checked(where, values, torch.float32, None, None))
    if size < 1 or len(target.names) not in (0, size):
        raise ValueError(f"{where}: has {size} classes and {len(target.names)} names of them")
    per_row = inside is not None and values.shape == inside.shape
    if values.ndim > 1 and not per_row:
        rows = "" if inside is None else f", or {list(inside.shape)} for a class of each row"
        if inside is None and values.shape == inputs.shape[:2]:
            rows = "; for a class of each row of a sequence give lengths, too"
        raise ValueError(f"{where}: the shape is {list(values.shape)}; classes must be [{len(inputs)}]{rows}")
    values = _checked(where, values, torch.int64, size, inside if per_row else None)
    return Target(values, size, target.names or tuple(map(str, range(size))))


def _checked(
    name: str, values: Tensor, dtype: torch.dtype, sizes: Tensor | int | None, inside: Tensor | None
) -> Tensor:
    """The values as `dtype`, zero where not inside; each finite, and in 0..size - 1 where there are sizes."""
    given, values = values, _converted(name, values, dtype)
    if inside is not None:
        values = values.masked_fill(~inside.view(*inside.shape, *[1] * (values.ndim - 2)), 0)
    bad = ~values.isfinite() if sizes is None else (values < 0) | (values >= sizes)
    if bad.any():
        limit = sizes.expand_as(values)[bad][0].item() if isinstance(sizes, Tensor) else sizes
        rule = "must be finite (in float32)" if limit is None else f"allowed: 0 to {limit - 1}"
        raise ValueError(f"{name}: {_first(bad, given)}; {rule}")
    return values


def _converted(name: str, values: Tensor, dtype: torch.dtype) -> Tensor:
    given = values.dtype
    is_whole = not given.is_floating_point
    fits = {torch.float32: True, torch.int64: is_whole, torch.uint8: given in (torch.uint8, torch.bool)}[dtype]
    if given.is_complex or not fits:
        wanted = {torch.float32: "real", torch.int64: "whole", torch.uint8: "whole uint8"}[dtype]
        raise ValueError(f"{name}: the type is {str(given).removeprefix('torch.')}, must be {wanted} numbers")
    return values.to(dtype)


def _first(bad: Tensor, values: Tensor) -> str:
    """Where the first bad value is, and what."""
    place = bad.nonzero()[0].tolist()
    entry = f", entry {place[1:]}" if place[1:] else ""
    return f"sample {place[0]}{entry} is {values[tuple(place)].tolist()}"
