"""What the files of a run tell of how it went, finished or not."""

import json
from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field, JsonValue

from ..runs.config import AnyRunConfig, RunConfig, TaskRunConfig
from ..runs.session import CONFIG
from ..runs.stages import StagesConfig
from ..tasks import ClassScores, DataConfig, Schema
from ..training.trackers import EVALUATIONS

Array = npt.NDArray[np.float64]
Summary: TypeAlias = dict[str, JsonValue]


class Played(BaseModel, frozen=True):
    """A line of an agent's evaluations.jsonl."""

    step: int
    mean: float
    std: float
    episodes: int
    returns: tuple[float, ...] = Field(min_length=1)


class HeadScored(BaseModel, frozen=True):
    """A head's scores; a number that was not finite is not in the file."""

    loss: float = nan
    accuracy: float | None = None
    f1: float | None = None
    confusion: tuple[tuple[int, ...], ...] | None = None
    rmse: float | None = None
    mae: float | None = None
    r2: float | None = None

    def headline(self) -> dict[str, JsonValue]:
        names = ("loss", "accuracy", "f1", "rmse", "mae", "r2")
        values: dict[str, float | None] = {name: getattr(self, name) for name in names}
        return {name: value for name, value in values.items() if value is not None and np.isfinite(value)}


class Scored(BaseModel, frozen=True):
    """A line of a task's evaluations.jsonl."""

    step: int
    part: str
    epoch: float = Field(gt=0)
    loss: float = nan
    heads: dict[str, HeadScored]


@dataclass(frozen=True)
class AgentRecord:
    """How an agent's run went. E evaluations, M rows of metrics."""

    run_dir: Path
    config: RunConfig
    evaluations: tuple[Played, ...]  # at least one
    metrics: tuple[dict[str, float], ...]
    stage: str | None = None  # its name, in a run of several

    @property
    def step(self) -> Array:
        """Environment steps of the evaluations, [E]."""
        return np.array([row.step for row in self.evaluations], float)

    @property
    def mean(self) -> Array:
        """Greedy return, [E]."""
        return np.array([row.mean for row in self.evaluations], float)

    @property
    def is_done(self) -> bool:
        return self.evaluations[-1].step >= self.config.steps

    @property
    def training(self) -> Array:
        """Environment step and mean return of the training episodes since the row before, [M, 2]."""
        rows = [(row["step"], row["episode/return"]) for row in self.metrics if "episode/return" in row]
        return np.array(rows, float).reshape(-1, 2)

    @property
    def task(self) -> str:
        """The environment, with what changes it."""
        env = self.config.env
        names = ("protocol", "observe", "max_episode_steps", "kwargs")
        changes = {name: getattr(env, name) for name in names}
        if env.frame_stack > 1 and env.protocol is None:
            changes["frame_stack"] = env.frame_stack
        own = [f"own {name}" for name in self.config.objects if name in ("env", "wrapper")]
        return ", ".join([env.id, *(f"{name} {short(value)}" for name, value in changes.items() if value), *own])

    @property
    def name(self) -> str:
        """The algorithm and the network that it trains."""
        own = [name for name in self.config.objects if name in ("encoder", "network")]
        return f"{self.config.agent.kind} ({f'own {own[0]}' if own else self.config.agent.encoder.kind})"

    def summary(self) -> Summary:
        """Plain values: which run, and its newest evaluation."""
        newest = self.evaluations[-1].model_dump(include={"step", "mean", "std", "episodes"})
        return {"run_dir": str(self.run_dir), "env": self.task, "agent": self.name, "seed": self.config.seed, **newest}


@dataclass(frozen=True)
class TaskRecord:
    """How a run on labelled data went. E evaluations, M rows of metrics."""

    run_dir: Path
    config: TaskRunConfig
    schema: Schema
    evaluations: tuple[Scored, ...]  # at least one
    metrics: tuple[dict[str, float], ...]
    stage: str | None = None  # its name, in a run of several

    @property
    def epoch(self) -> Array:
        """Of the evaluations, [E]."""
        return np.array([row.epoch for row in self.evaluations])

    @property
    def loss(self) -> Array:
        """Of the part that is evaluated, [E]."""
        return np.array([row.loss for row in self.evaluations])

    def metric(self, head: str) -> str:
        """What is looked at first, of that head."""
        return "R²" if self.schema.heads[head].is_regression else "accuracy"

    def scores(self, head: str) -> Array:
        """Of that metric, [E]; NaN where it was not finite."""
        name = "r2" if self.schema.heads[head].is_regression else "accuracy"
        values = [getattr(row.heads[head], name) for row in self.evaluations]
        return np.array([nan if value is None else value for value in values], float)

    @property
    def training(self) -> Array:
        """Epoch and mean training loss since the row before, penalties included, [M, 2]."""
        newest = self.evaluations[-1]
        rows = [(row["step"], row["train/loss"]) for row in self.metrics if "train/loss" in row]
        return np.array(rows, float).reshape(-1, 2) / [newest.step / newest.epoch, 1.0]

    @property
    def chosen(self) -> int:
        """Index of the evaluation whose weights the run's model has: of the lowest loss, if it looked for it."""
        if self.config.evaluation.patience is None or not np.isfinite(self.loss).any():
            return len(self.evaluations) - 1
        return int(np.nanargmin(self.loss))

    @property
    def is_done(self) -> bool:
        """Every epoch is over, or it was stopped early."""
        patience = self.config.evaluation.patience
        stale = len(self.evaluations) - 1 - self.chosen
        return self.evaluations[-1].epoch >= self.config.epochs or (patience is not None and stale >= patience)

    def data(self, head: str) -> str:
        """The data that the head learns from, with what is left out of them."""
        own = self.config.task.heads[head].data if head in self.config.task.heads else None
        is_given = own is None and "data" in self.config.objects
        return "own data" if is_given else _described(own or self.config.data)

    @property
    def name(self) -> str:
        """The network that it trains."""
        if "encoder" in self.config.objects:
            return "own encoder"
        encoder = self.config.task.encoder
        return encoder.inner.kind if encoder.kind == "normalised" else encoder.kind

    def class_scores(self, head: str) -> ClassScores:
        """Of the chosen evaluation. ValueError if its confusion matrix is not one of the head's classes."""
        scores, classes = self.evaluations[self.chosen].heads[head], self.schema.heads[head].classes
        cells = scores.confusion or ()
        if {len(cells), *map(len, cells)} != {len(classes)}:
            where = f"{self.run_dir / EVALUATIONS}: line {self.chosen + 1}"
            raise ValueError(f"{where}: heads.{head}.confusion has not {len(classes)} rows of {len(classes)} classes")
        return ClassScores(scores.loss, cells, classes)

    def summary(self) -> Summary:
        """Plain values: which run, its newest evaluation, and the epoch whose weights its model has."""
        newest = self.evaluations[-1]
        data = dict.fromkeys(self.data(head) for head in self.schema.heads)
        return {
            **{"run_dir": str(self.run_dir), "data": ", ".join(data), "network": self.name, "seed": self.config.seed},
            **{"step": newest.step, "epoch": newest.epoch, "part": newest.part},
            **({"loss": newest.loss} if np.isfinite(newest.loss) else {}),
            "heads": {head: newest.heads[head].headline() for head in self.schema.heads},
            "chosen_epoch": self.evaluations[self.chosen].epoch,
        }


Record: TypeAlias = AgentRecord | TaskRecord


@dataclass(frozen=True)
class StagesRecord:
    """How a run of several stages went; those that have no evaluation yet are left out."""

    run_dir: Path
    config: StagesConfig
    stages: dict[str, Record]  # by name, at least one

    def summary(self) -> Summary:
        stages: dict[str, JsonValue] = {
            name: {**record.summary(), "graft": record.config.graft.model_dump(mode="json")}
            for name, record in self.stages.items()
        }
        return {"run_dir": str(self.run_dir), "seed": self.config.seed, "stages": stages}


AnyRecord: TypeAlias = Record | StagesRecord


def source_of(config: AnyRunConfig, run_dir: Path) -> Path | None:
    """The run whose encoder the one in `run_dir` began with, also where both were moved together."""
    if config.graft.run is None:
        return None
    recorded = Path(config.graft.run).expanduser()
    beside = run_dir.parent / recorded.name
    return beside if (beside / CONFIG).is_file() and not (recorded / CONFIG).is_file() else recorded


def short(value: object) -> str:
    """As it would be typed."""
    return json.dumps(value).replace('"', "")


def _described(data: DataConfig) -> str:
    name = Path(data.name).name if data.name.endswith(".npz") else data.name
    classes = [] if data.classes is None else [f"classes {_ranges(data.classes)}"]
    return ", ".join([name, *classes, *([] if data.per_class is None else [f"{data.per_class} a class"])])


def _ranges(numbers: tuple[int, ...]) -> str:
    """`0 to 4`, or as they are where they do not follow each other."""
    if len(numbers) > 2 and numbers == tuple(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(map(str, numbers))
