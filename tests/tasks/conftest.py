"""A supervised task put together from its config and data, as a run does it."""

from collections.abc import Callable
from typing import NamedTuple

import pytest

from graftwork.tasks import (
    Batches,
    Dataset,
    Ensemble,
    MultiBatches,
    Part,
    Schema,
    Supervised,
    SupervisedConfig,
    TaskNetwork,
    schema_of,
    targets_of,
)
from graftwork.training.seeding import Seeds


class Task(NamedTuple):
    schema: Schema
    network: TaskNetwork | Ensemble
    learner: Supervised
    batches: MultiBatches
    part: Part


def make(config: SupervisedConfig, data: Dataset, seed: int = 0) -> Task:
    """Of one source; a head without a target tells the one of its name, or else the main one."""
    seeds, heads = Seeds(seed), tuple(config.heads) or (data.main,)
    configs = {name: config.heads.get(name) for name in heads}
    targets = {name: head and head.target for name, head in configs.items()}
    targets = {name: target or (name if name in data.targets else data.main) for name, target in targets.items()}
    schema = schema_of(
        dict.fromkeys(heads, data), targets, {name: head and head.given for name, head in configs.items()}
    )
    network = config.network(schema, seeds, data=dict.fromkeys(heads, data))
    generators = (seeds.generator(name) for name in ("shuffling", "augmentation"))
    batches = Batches(data, config.batch_size, *generators, targets=targets_of(schema, heads))
    learner = Supervised(network, config, [heads], len(data), seeds)
    return Task(schema, network, learner, MultiBatches({"data": batches}), Part(data, heads))


@pytest.fixture
def make_task() -> Callable[..., Task]:
    return make
