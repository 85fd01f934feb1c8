"""What networks say of sequences of rows, and sequences in parts.

Letters as everywhere: rows of N sequences are [rows, N, ...]. Of an optional part there is one tensor or none.
"""

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from ..networks import Network, State
from ..spaces import Observation, columns_of, rows_of

Maybe: TypeAlias = tuple[Tensor, ...]


def maybe(tensor: Tensor | None) -> Maybe:
    return () if tensor is None else (tensor,)


def features_of(
    network: Network[Tensor], observation: Observation, is_first: Tensor, state: State, rows: slice
) -> Tensor:
    """Features of those rows, [rows, N, F]; a recurrent network first burns in on the ones before them.

    Each network burns in with its own weights from the stored state (Kapturowski et al. 2019, section 3).
    """
    if rows.start and state:
        before = slice(rows.start)
        with torch.no_grad():
            _, state = network.encoder(rows_of(observation, before), state, is_first[before])
    features: Tensor = network.encoder(rows_of(observation, rows), state, is_first[rows])[0]
    return features


def successors(rows: Tensor, successor: Maybe, count: int) -> Tensor:
    """The successors of the first `count` rows, [rows, N, ...] -> [count, N, ...]: the last ones if none are named."""
    if not successor:
        return rows[-count:]
    return rows[successor[0], torch.arange(rows.shape[1], device=rows.device)]


def to_branches(part: Tensor, shape: torch.Size) -> Tensor:
    """[rows, N, K] -> [rows, N, D, K], the same for each."""
    return part.unsqueeze(-2).expand(*shape, part.shape[-1])


def inputs_in_columns(
    observation: Observation, is_first: Tensor, state: State, size: int
) -> tuple[list[Observation], Sequence[Tensor], Sequence[State]]:
    """Observations, is_first and states, each in parts of `size` columns."""
    if size >= is_first.shape[1]:
        return [observation], [is_first], [state]
    observations = columns_of(observation, size)
    states = list(zip(*(torch.split(part, size) for part in state), strict=True)) or [()] * len(observations)
    return observations, torch.split(is_first, size, 1), states


def in_columns(part: Tensor | tuple[Tensor, ...], size: int, count: int) -> Sequence[Tensor | tuple[Tensor, ...]]:
    """A tensor [rows, N, ...], or each of some, in `count` parts of `size` columns."""
    if isinstance(part, Tensor):
        return torch.split(part, size, 1)
    return list(zip(*(torch.split(each, size, 1) for each in part), strict=True)) or [()] * count
