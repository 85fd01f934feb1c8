"""Batches of labelled data: a Source for the Trainer, and several side by side."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..engine.stateful import StateDict, expect_keys
from ..envs.contract import Episode
from .augment import AugmentConfig, augment
from .dataset import Dataset


class Samples(NamedTuple):
    """N samples, time-major like a Rollout; T is 1 where they are no sequences."""

    observation: Tensor  # [T, N, *obs]
    valid: Tensor  # [T, N] bool, the row is part of the sequence and not padding
    targets: tuple[Tensor, ...]  # in the order asked for: [N] or numbers [N, ...], or [T, N] for a class of each row


class Batches:
    """An endless source: every epoch hands out each sample once, in a new order; the last batch of one may be short.

    Everything lives on `device`. Each epoch's order comes from one generator, each batch's augmentation from the other.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        shuffling: torch.Generator,
        augmenting: torch.Generator,
        *,
        targets: Sequence[str] | None = None,
        augment: AugmentConfig | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        """targets: their names, None for all. ValueError for an unknown one, or inputs that cannot be augmented."""
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: must be at least 1")
        self._augment = AugmentConfig() if augment is None else augment
        self._augment.check(dataset.space, is_sequence=dataset.lengths is not None)
        self._rows = _Rows(dataset, targets, device)
        self._batch_size = min(batch_size, len(dataset))
        self._shuffling, self._augmenting = shuffling, augmenting
        self._order = torch.empty(0, dtype=torch.int64, device=device)  # of the epoch under way
        self._position = 0  # in it
        self.epoch_samples = len(dataset)
        self.num_steps = 0  # samples handed out so far

    @property
    def smallest_batch(self) -> int:
        """Samples in the smallest batch of an epoch; a batch norm cannot train on one."""
        return self.epoch_samples % self._batch_size or self._batch_size

    def next(self) -> Samples:
        if self._position == len(self._order):
            shuffling = self._shuffling
            order = torch.randperm(self.epoch_samples, generator=shuffling, device=shuffling.device)
            self._order, self._position = order.to(self._order.device), 0
        index = self._order[self._position : self._position + self._batch_size]
        self._position += len(index)
        self.num_steps += len(index)
        samples = self._rows.at(index)
        if not self._augment.is_on:
            return samples
        images = augment(samples.observation[0], self._augment, self._augmenting)
        return samples._replace(observation=images.unsqueeze(0))

    def finished(self) -> list[Episode]:
        """None: samples are no episodes."""
        return []

    def state_dict(self) -> StateDict:
        return {
            "num_steps": self.num_steps,
            "order": self._order,
            "position": self._position,
            "shuffling": self._shuffling.get_state(),
            "augmenting": self._augmenting.get_state(),
        }

    def load_state_dict(self, state: StateDict) -> None:
        """ValueError, before anything changes, if it comes from a data set of another size."""
        expect_keys("batches", state, {"num_steps", "order", "position", "shuffling", "augmenting"})
        if len(state["order"]) not in (0, self.epoch_samples):
            raise ValueError(
                f"data: the checkpoint was trained on {len(state['order'])} samples, these are {self.epoch_samples}; "
                "leave the data, the shares of the splits and their seed as they were"
            )
        # Copied: the state stays whole whatever becomes of it, and the generators insist on the CPU.
        self._order = state["order"].to(self._order.device, copy=True)
        self._position, self.num_steps = state["position"], state["num_steps"]
        self._shuffling.set_state(state["shuffling"].cpu())
        self._augmenting.set_state(state["augmenting"].cpu())


class MultiBatches:
    """Several sources side by side, each with its own batch size; all are endless, so smaller ones begin anew.

    Steps and epochs are those of the largest, the first of equals.
    """

    def __init__(self, sources: Mapping[str, Batches]) -> None:
        if not sources:
            raise ValueError("data: there must be at least one source")
        self._sources = dict(sources)
        self._largest = max(self._sources.values(), key=lambda source: source.epoch_samples)
        self.epoch_samples = self._largest.epoch_samples
        self.num_steps = 0  # samples that the largest has handed out so far

    @property
    def names(self) -> tuple[str, ...]:
        """Of the sources, in the order of what `next` gives."""
        return tuple(self._sources)

    def next(self) -> tuple[Samples, ...]:
        """One batch of each source, in their order."""
        batches = tuple(source.next() for source in self._sources.values())
        self.num_steps = self._largest.num_steps
        return batches

    def finished(self) -> list[Episode]:
        """None: samples are no episodes."""
        return []

    def state_dict(self) -> StateDict:
        return {name: source.state_dict() for name, source in self._sources.items()}

    def load_state_dict(self, state: StateDict) -> None:
        expect_keys("data", state, set(self._sources))
        for name, source in self._sources.items():
            source.load_state_dict(state[name])
        self.num_steps = self._largest.num_steps


def in_order(
    dataset: Dataset, batch_size: int, targets: Sequence[str] | None = None, device: torch.device | str = "cpu"
) -> Iterator[Samples]:
    """Each sample once, in the data set's order and not augmented; the last batch may be short."""
    rows = _Rows(dataset, targets, device)
    index = torch.arange(len(dataset), device=device)
    for start in range(0, len(dataset), batch_size):
        yield rows.at(index[start : start + batch_size])


class _Rows:
    """A data set on a device, laid out so that a batch is one gather of each tensor."""

    def __init__(self, dataset: Dataset, targets: Sequence[str] | None, device: torch.device | str) -> None:
        chosen = [dataset.target(name) for name in (dataset.targets if targets is None else targets)]
        inputs, lengths = dataset.inputs.to(device), dataset.lengths
        if lengths is None:
            self._inputs = inputs.unsqueeze(0)  # [1, N, *obs]
            self._valid = torch.ones(1, len(dataset), dtype=torch.bool, device=device)
        else:
            self._inputs = inputs.transpose(0, 1)  # [T, N, *obs]
            self._valid = torch.arange(inputs.shape[1], device=device).unsqueeze(1) < lengths.to(device)
        values = [target.values.to(device) for target in chosen]
        per_row = [target.num_classes is not None and target.values.ndim == 2 for target in chosen]
        # Classes of rows are time-major as well, so their samples are the second dimension.
        self._targets = [(each.T, 1) if rows else (each, 0) for each, rows in zip(values, per_row, strict=True)]

    def at(self, index: Tensor) -> Samples:
        return Samples(
            observation=self._inputs.index_select(1, index),
            valid=self._valid.index_select(1, index),
            targets=tuple(values.index_select(dimension, index) for values, dimension in self._targets),
        )
