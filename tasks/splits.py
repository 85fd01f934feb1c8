"""A data set in parts that share no sample."""

from typing import NamedTuple

import torch
from torch import Tensor

from .dataset import Dataset, permutation


class Splits(NamedTuple):
    """Parts of one data set that share no sample."""

    train: Dataset
    validation: Dataset | None  # None where a share of 0 was asked for
    test: Dataset | None


def split(dataset: Dataset, validation: float, test: float, generator: torch.Generator) -> Splits:
    """Every sample in exactly one split; validation and test get their share to the nearest sample, but at least one.

    Where the main target is one class a sample, each class is spread over the splits by the same shares, to within two
    samples. Samples keep their order.
    Raises ValueError if a share is not in [0, 1), or nothing is left to train on.
    """
    for name, share in (("validation", validation), ("test", test)):
        if not 0 <= share < 1:
            raise ValueError(f"{name}={share}: must be in [0, 1)")
    total = len(dataset)
    num_validation, num_test = (max(round(share * total), 1) if share else 0 for share in (validation, test))
    if num_validation + num_test >= total:
        raise ValueError(f"validation={validation}, test={test}: of {total} samples none is left to train on")
    main = dataset.targets[dataset.main]
    rest = permutation(dataset, generator)
    if main.num_classes is not None and main.values.ndim == 1:
        rest = rest[main.values[rest].argsort(stable=True)]
    in_test, rest = _spread(rest, num_test, generator)
    in_validation, in_train = _spread(rest, num_validation, generator)

    def part(index: Tensor) -> Dataset | None:
        return dataset.select(index.sort().values) if len(index) else None

    train = part(in_train)
    assert train is not None
    return Splits(train, part(in_validation), part(in_test))


def _spread(order: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """`count` entries at even distances, and the rest: of any run of entries its share, to within one."""
    size = len(order)
    # A random phase: else it would always be the same classes that have one more.
    phase = torch.randint(size, (1,), generator=generator, device=generator.device).to(order.device)
    marks = torch.arange(size + 1, device=order.device) * count + phase
    chosen = marks[1:] // size > marks[:-1] // size
    return order[chosen], order[~chosen]
