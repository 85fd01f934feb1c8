"""The leaves of a space: their names, shapes and types as tensors, and how its values become such tensors."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from torch import Tensor

from .tree import Observation, observation_of

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Leaf:
    """One tensor of an observation."""

    space: spaces.Space[Any]  # Box, Discrete, MultiDiscrete, MultiBinary or Text
    shape: tuple[int, ...]
    dtype: torch.dtype  # bool, uint8, int64 or float32
    path: tuple[str | int, ...] = ()  # of keys and places, from the whole space down to this leaf

    @cached_property
    def name(self) -> str:
        """Keys and places joined by a dot; empty where the space is its own leaf."""
        return ".".join(map(str, self.path))

    def __str__(self) -> str:
        return f"observation {self.name!r}" if self.path else "observation"

    def find(self, observation: Any) -> Any:
        """Its part of an observation of the whole space: nested as the space is, or flat by leaf name."""
        if isinstance(observation, Mapping) and self.name in observation:
            return observation[self.name]
        for step in self.path:
            if isinstance(step, str) and not isinstance(observation, Mapping):
                kind = type(observation).__name__
                raise ValueError(f"{self}: expected a dict with the entry {step!r}, got {kind}")
            try:
                observation = observation[step]
            except (KeyError, IndexError, TypeError) as error:
                raise ValueError(f"{self}: there is no entry {step!r}") from error
        return observation

    def check(self, value: Any) -> Array:
        """A value of its space as an array, of the type it came in; ValueError for another shape or kind of type."""
        array = self._array(value)
        if array.shape != self.shape:
            raise ValueError(f"{self} has shape {array.shape}, its space says {self.shape}")
        self._check_type(array)
        return array

    def array(self, value: Any) -> Array:
        """A value of its space as [*shape] of the leaf's type; ValueError for another shape, kind of type or range."""
        if isinstance(self.space, spaces.Text):
            return self._text(value)
        return self._converted(self.check(value))

    def tensor(self, value: Any, device: torch.device | str = "cpu") -> Tensor:
        """A value of its space as [*shape], or a batch of them as [B, *shape]. ValueError if it is neither.

        What belongs into a Box is cast, whatever its type.
        """
        if isinstance(self.space, spaces.Box):
            found = value if isinstance(value, Tensor) else self._array(value)
        elif isinstance(self.space, spaces.Text):
            found = self._text(value) if isinstance(value, str) else self._texts(value)
        else:
            found = self._array(value.cpu() if isinstance(value, Tensor) else value)
            self._check_type(found)
            self._check_batch(found.shape)
            found = self._converted(found)
        try:
            tensor = torch.as_tensor(found, dtype=self.dtype, device=device)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{self} is no array of numbers: {one_line(error)}") from error
        self._check_batch(tensor.shape)
        return tensor

    def _array(self, value: Any) -> Array:
        try:
            return np.asarray(value, order="C")  # a flipped image is a view that torch refuses
        except ValueError as error:
            raise ValueError(f"{self} is no array of numbers: {one_line(error)}") from error

    def _check_type(self, array: Array) -> None:
        dtype: Any = self.space.dtype
        if array.dtype != dtype and not np.can_cast(array.dtype, dtype, "same_kind"):
            raise ValueError(f"{self} is of type {array.dtype}, its space says {dtype}")
        if array.dtype.kind in "iu" and dtype.kind in "iu" and not np.can_cast(array.dtype, dtype):
            bounds = np.iinfo(dtype)  # beyond which a cast goes round in silence
            if np.count_nonzero(beyond := (array < bounds.min) | (array > bounds.max)):
                raise ValueError(f"{self} holds {array[beyond].flat[0]}, its space is of type {dtype}")

    def _check_batch(self, shape: tuple[int, ...]) -> None:
        lead = len(shape) - len(self.shape)
        if lead not in (0, 1) or shape[lead:] != self.shape:
            batch = tuple(shape) if lead else (1, *shape)
            raise ValueError(f"{self} has shape {batch}, expected [B, *{self.shape}]")

    def _converted(self, array: Array) -> Array:
        """Of the leaf's type and, where it is a choice, counted from 0."""
        if self._choices is not None:
            start, sizes = self._choices
            number = np.asarray(array.astype(np.int64) - start)
            # Seen without a sign, what is below 0 is above all others.
            if np.count_nonzero(inside := number.view(np.uint64) < sizes) < number.size:
                raise ValueError(f"{self} holds {array[~inside].flat[0]}, which is not in {one_line(self.space)}")
            array = number
        elif array.dtype == np.float64:
            with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite
                array = array.astype(np.float32)
        return np.asarray(array, _NUMPY[self.dtype], order="C")

    @cached_property
    def _choices(self) -> tuple[Any, Any] | None:
        """The first number of each choice and how many there are; None for a Box."""
        if isinstance(self.space, spaces.Discrete):
            return self.space.start, np.uint64(self.space.n)
        if isinstance(self.space, spaces.MultiDiscrete):
            return self.space.start, self.space.nvec.astype(np.uint64)
        return (0, np.uint64(2)) if isinstance(self.space, spaces.MultiBinary) else None

    def _text(self, text: Any) -> Array:
        """[max_length]"""
        assert isinstance(self.space, spaces.Text)
        if not isinstance(text, str):
            raise ValueError(f"{self} is {type(text).__name__}, expected text of {one_line(self.space)}")
        numbers = np.zeros(self.shape, np.int64)
        if len(text) > len(numbers):
            raise ValueError(f"{self} has {len(text)} characters, {one_line(self.space)} at most {len(numbers)}")
        # In order: gymnasium's own numbers of a set's characters are others in each process, before its version 1.4.
        alphabet = self.space.characters
        for place, character in enumerate(text):
            numbers[place] = alphabet.find(character) + 1
            if not numbers[place]:
                raise ValueError(f"{self} has the character {character!r}, which {one_line(self.space)} does not")
        return numbers

    def _texts(self, texts: Any) -> Array:
        """[B, max_length]"""
        found = self._array(texts)
        if found.ndim != 1:
            raise ValueError(f"{self} is {type(texts).__name__}, expected a text or a list of texts")
        return np.array([self._text(text) for text in found.tolist()]).reshape(-1, *self.shape)


def leaves(space: spaces.Space[Any]) -> dict[str, Leaf]:
    """The leaves of a space by name, in gymnasium's order: nested names joined by a dot, a Tuple's entries "0", "1".

    A space that is neither Dict nor Tuple is its own leaf, called "" (empty). Discrete and MultiDiscrete become int64
    counted from 0; MultiBinary and uint8 Boxes uint8, bool Boxes bool; other Boxes float32; Text int64 [max_length],
    the number of each character in the space's alphabet, in order and counted from 1, and 0 after the end.
    Raises ValueError for any other space (Graph, Sequence, OneOf have no fixed shape), and for names that clash.
    """
    found: dict[str, Leaf] = {}
    for leaf in _walk(space, ()):
        name = leaf.name
        if "/" in name or (leaf.path and not all(map(str, leaf.path))):
            raise ValueError(
                f"observation space key {name!r}: must not be empty or contain '/'; rename it in a wrapper"
            )
        if name in found:
            raise ValueError(f"observation space: two entries are called {name!r}; rename one in a wrapper")
        found[name] = leaf
    if not found:
        raise ValueError(f"observation space {one_line(space)} has no entries")
    return found


def to_arrays(space: spaces.Space[Any], observation: Any) -> Array | dict[str, Array]:
    """One observation as the space gives it (numbers, strings, dicts, tuples), as arrays in the form of its tensors.

    ValueError, which names the leaf, for what the space does not hold; bounds of a Box are not looked at.
    """
    found: Array | dict[str, Array] = observation_of(
        {name: leaf.array(leaf.find(observation)) for name, leaf in leaves(space).items()}
    )
    return found


def to_tensors(
    space: spaces.Space[Any], observation: Any, device: torch.device | str = "cpu"
) -> tuple[Observation, bool]:
    """An observation of the space's own, or a batch of them, as [B, *obs]; and whether it was one alone, so that B = 1.

    A batch has its axis first in each entry of a Dict or a Tuple, and entries may stand flat under their leaves' names.
    ValueError, which names the leaf, for what the space does not hold.
    """
    found = leaves(space)
    tensors = {name: leaf.tensor(leaf.find(observation), device) for name, leaf in found.items()}
    rows = {name: len(tensor) if tensor.ndim > len(found[name].shape) else None for name, tensor in tensors.items()}
    if len(set(rows.values())) > 1:
        listed = ", ".join(f"{name!r} {'is one' if number is None else number}" for name, number in rows.items())
        raise ValueError(f"observation: its entries must all be one, or batches of one size; of {listed}")
    is_single = None in rows.values()
    if is_single:
        tensors = {name: tensor.unsqueeze(0) for name, tensor in tensors.items()}
    batch: Observation = observation_of(tensors)
    return batch, is_single


def zeros(space: spaces.Space[Any], *lead: int, device: torch.device | str = "cpu") -> Observation:
    """An observation of zeros [*lead, *obs], which every space but a Box away from zero contains."""
    tensors = {
        name: torch.zeros(*lead, *leaf.shape, dtype=leaf.dtype, device=device) for name, leaf in leaves(space).items()
    }
    observation: Observation = observation_of(tensors)
    return observation


def one_line(value: object) -> str:
    """Its text, for a message: gymnasium prints a space of many bounds over several lines."""
    return " ".join(str(value).split())


_NUMPY: dict[torch.dtype, Any] = {
    torch.bool: np.bool_,
    torch.uint8: np.uint8,
    torch.int64: np.int64,
    torch.float32: np.float32,
}
_KEPT: dict[Any, torch.dtype] = {np.dtype(np.uint8): torch.uint8, np.dtype(np.bool_): torch.bool}  # of Boxes


def _walk(space: spaces.Space[Any], path: tuple[str | int, ...]) -> Iterator[Leaf]:
    if isinstance(space, spaces.Dict):
        for key, part in space.spaces.items():
            yield from _walk(part, (*path, key))
    elif isinstance(space, spaces.Tuple):
        for place, part in enumerate(space.spaces):
            yield from _walk(part, (*path, place))
    else:
        yield Leaf(space, *_form(space), path)


def _form(space: spaces.Space[Any]) -> tuple[tuple[int, ...], torch.dtype]:
    """Shape and type of a leaf as a tensor."""
    if isinstance(space, spaces.Box):
        return tuple(space.shape), _KEPT.get(space.dtype, torch.float32)
    if isinstance(space, spaces.Discrete):
        return (), torch.int64
    if isinstance(space, spaces.MultiDiscrete):
        return tuple(space.shape), torch.int64
    if isinstance(space, spaces.MultiBinary):
        return tuple(space.shape), torch.uint8
    if isinstance(space, spaces.Text):
        return (space.max_length,), torch.int64
    raise ValueError(
        f"observation space {one_line(space)} is not supported: it has no fixed shape; wrap the environment to observe "
        "a Box, Discrete, MultiDiscrete, MultiBinary, Text, or a Dict or Tuple of these"
    )
