"""A supervised run made into parts."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from operator import le
from typing import Any, NamedTuple

import torch

from ..engine import StateDict, load_weights
from ..networks import Encoder
from ..tasks import (
    Batches,
    DataConfig,
    Dataset,
    Ensemble,
    HeadConfig,
    Model,
    MultiBatches,
    Part,
    Schema,
    Splits,
    Supervised,
    TaskNetwork,
    Validation,
    chosen,
    chosen_weights,
    divide,
    load,
    loss_of,
    schema_of,
    targets_of,
)
from ..training.seeding import Seeds
from ..training.trainer import Periods
from .build import device_of, in_memory
from .config import TaskRunConfig
from .graft import comes_to_learn_batch_norm, prepare, thawing, transplanted
from .parts import Objects, Parts

# Of the part that a run is judged by while it goes on; train/ is what the updates themselves tell.
_TITLES = {"train": "training", "validation": "validation"}


@dataclass(frozen=True)
class Feed:
    """Data that some of the heads learn from, in batches of one size."""

    name: str
    config: DataConfig
    splits: Splits
    batch_size: int
    heads: tuple[str, ...]


class Origin(NamedTuple):
    """Where data are from."""

    config: DataConfig
    is_given: bool  # in Python, in place of what the config names


def build_task(config: TaskRunConfig, objects: Objects, source: Encoder | None) -> Parts:
    """The parts of a supervised run; ValueError for whatever is wrong. source: of weights, where one is grafted."""
    seeds, device = Seeds(config.seed), device_of(config)
    feeds, schema = read_feeds(config, objects.data)
    training = {head: feed.splits.train for feed in feeds for head in feed.heads}
    network = build_network(config, schema, objects, source, training)
    sources = {feed.name: _batches(feed, schema, seeds, device) for feed in feeds}
    learns_batch_norm = comes_to_learn_batch_norm(network.encoder, config.graft)
    for name, each in sources.items():
        if each.smallest_batch == 1 and learns_batch_norm:
            raise ValueError(
                f"task.batch_size: an epoch's {each.epoch_samples} samples of {name} end with a batch of one, of "
                "which batch norm can tell no deviation; choose another size, or another norm"
            )
    batches = MultiBatches(sources)
    epoch = batches.epoch_samples
    largest = [len(feed.splits.train) for feed in feeds].index(epoch)  # the first of equals, as MultiBatches counts
    learner = Supervised(network, config.task, [feed.heads for feed in feeds], epoch, seeds, device, largest)
    if schema.inputs.is_sequence and learns_batch_norm:
        raise ValueError(
            "graft.unfreeze_period: the batch norm that it would set free takes the padding of sequences for rows of "
            "theirs; leave it out"
        )
    part = "train" if any(feed.splits.validation is None for feed in feeds) else "validation"
    if part == "train" and config.evaluation.patience is not None:
        raise ValueError("evaluation.patience: stopping early needs a validation part; set data.validation above 0")
    num_parameters = sum(parameter.numel() for parameter in network.parameters())
    samples = ", ".join(f"{len(feed.splits.train):,} samples of {feed.name}" for feed in feeds)
    return Parts(
        title=f"{', '.join(schema.heads)} from {samples}, seed {config.seed}, {config.epochs:,} epochs",
        source=batches,
        learner=thawing(learner, network.encoder, config.graft, lambda: learner.step, epoch),
        evaluator=Validation(learner, parts_of(feeds, part), _TITLES[part], epoch, config.evaluation.patience),
        steps=config.epochs * epoch,
        periods=Periods(config.log.period * epoch, config.evaluation.period * epoch, config.checkpoint.period * epoch),
        notes=[f"{num_parameters:,} parameters; a step is a sample, {epoch:,} of them an epoch"],
        result=lambda state: chosen_model(config, schema, objects, state),
        close=lambda: None,
        schema=schema,
    )


def build_network(
    config: TaskRunConfig,
    schema: Schema,
    objects: Objects,
    source: Encoder | None = None,
    training: dict[str, Dataset] | None = None,
) -> TaskNetwork | Ensemble:
    """With fresh or grafted weights. training: each head's part, for its units; None where weights are to be loaded."""
    if objects.network is not None:
        raise ValueError("network: a task makes its own heads; give it an encoder")

    def network() -> Any:
        encoder = objects.encoder
        if encoder is None and config.graft.run is not None:
            encoder = transplanted(config.graft, config.task.encoder, schema.inputs.space(), source)
        return config.task.network(schema, Seeds(config.seed), encoder, training)

    built: TaskNetwork | Ensemble = in_memory("task", network)
    if isinstance(built, TaskNetwork):
        prepare(built.encoder, config.graft)
    elif config.graft != type(config.graft)():
        raise ValueError(f"task.members={config.task.members}: an ensemble's encoders start apart; graft nothing on it")
    return built


def read_feeds(config: TaskRunConfig, given: Dataset | None) -> tuple[list[Feed], Schema]:
    """The data of all heads, each read once, and what they ask of a network. given: in place of the run's data."""
    seeds = Seeds(config.seed)
    read: dict[Origin, tuple[Dataset, Splits]] = {}

    def origin_of(head: HeadConfig) -> Origin:
        origin = Origin(head.data or config.data, given is not None and head.data is None)
        if origin not in read:
            dataset = chosen(given, origin.config) if given is not None and origin.is_given else load(origin.config)
            read[origin] = (dataset, divide(dataset, origin.config, seeds))
        return origin

    heads = config.task.heads or {read[origin_of(HeadConfig())][0].main: HeadConfig()}
    grouped: dict[tuple[Origin, int], list[str]] = {}
    training: dict[str, Dataset] = {}
    for name, head in heads.items():
        origin = origin_of(head)
        grouped.setdefault((origin, head.batch_size or config.task.batch_size), []).append(name)
        training[name] = read[origin][1].train
        _check_names(name, head, training[name])
    feeds: list[Feed] = []
    for (origin, size), members in grouped.items():
        taken = {feed.name for feed in feeds}
        name = "the data given" if origin.is_given else origin.config.name.replace("/", "_")
        name = name if name not in taken else f"{name} ({', '.join(members)})"
        feeds.append(Feed(name, origin.config, read[origin][1], size, tuple(members)))
    targets = {name: head.target or _own_target(name, training[name]) for name, head in heads.items()}
    schema = schema_of(training, targets, {name: head.given for name, head in heads.items()})
    for name, head in heads.items():
        try:
            loss_of(head, schema.heads[name])
        except ValueError as error:
            raise ValueError(f"task.heads.{name}.{error}") from error
    return feeds, schema


def parts_of(feeds: Sequence[Feed], name: str) -> list[Part]:
    """That part of each feed's data; ValueError if one has none."""
    parts = []
    for feed in feeds:
        dataset: Dataset | None = getattr(feed.splits, name)
        if dataset is None:
            raise ValueError(f"data.{name}=0: there is no {name} part of {feed.name}")
        parts.append(Part(dataset, feed.heads))
    return parts


def chosen_model(config: TaskRunConfig, schema: Schema, objects: Objects, state: StateDict) -> Model:
    """The model that a trainer with this state would give: with the weights of the lowest validation loss, if kept."""
    network = build_network(config, schema, replace(objects, encoder=deepcopy(objects.encoder)))
    load_weights("network", network, chosen_weights(state))
    return Model(network.to(device_of(config)))


def check_form(trained: Schema, found: Schema) -> None:
    """ValueError unless a model can be scored on data of the form found. They may have fewer classes and tokens."""
    ours, theirs = trained.inputs, found.inputs
    is_inside = len(ours.sizes) == len(theirs.sizes) and all(map(le, theirs.sizes, ours.sizes))
    if theirs.model_copy(update={"sizes": ours.sizes}) != ours or not is_inside:
        raise ValueError(f"data: inputs are {theirs}, the model takes {ours}")
    if found.heads.keys() != trained.heads.keys():
        raise ValueError(f"data: the target is {', '.join(found.heads)}, the model tells {', '.join(trained.heads)}")
    for name, head in trained.heads.items():
        for field, theirs_ in found.heads[name]:
            ours_ = getattr(head, field)
            is_less = theirs_ == ours_[: len(theirs_)] if field == "classes" and theirs_ else theirs_ == ours_
            if not is_less and not (field == "choices" and theirs_ < ours_):
                raise ValueError(f"data: the {field} of {name} are {theirs_}, those of the model {ours_}")


def _check_names(name: str, head: HeadConfig, dataset: Dataset) -> None:
    """ValueError for a head whose name cannot be saved, or that asks for a target that is not there."""
    if not name or "." in name or "/" in name:
        raise ValueError(f"task.heads.{name}: a head's name must not be empty or contain '.' or '/'")
    for target in (head.target, head.given):
        try:
            if target is not None:
                dataset.target(target)
        except ValueError as error:
            raise ValueError(f"task.heads.{name}: {error}") from error


def _own_target(head: str, dataset: Dataset) -> str:
    """A head is called as the target that it tells, or tells the main one."""
    return head if head in dataset.targets else dataset.main


def _batches(feed: Feed, schema: Schema, seeds: Seeds, device: torch.device) -> Batches:
    return Batches(
        feed.splits.train,
        feed.batch_size,
        seeds.generator(f"shuffling {feed.name}"),
        seeds.generator(f"augmentation {feed.name}", device),
        targets=targets_of(schema, feed.heads),
        augment=feed.config.augment,
        device=device,
    )
