"""Everything that defines a run."""

import re
from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, Field, model_validator

from ..agents import AgentConfig, DQNConfig
from ..configs import ConfigError, Tree, validate
from ..configs.config import Config
from ..envs import EnvConfig
from ..envs.native import GAMES
from ..networks import Freeze
from ..tasks import DataConfig, SupervisedConfig

NonNegative = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(gt=0)]


def _device(name: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise ValueError(f"{name!r} must be auto, cpu, cuda, or cuda:N for the N-th GPU, counted from 0")
    return name


Device = Annotated[str, AfterValidator(_device)]
Threads = Annotated[int, Field(gt=0, le=1024)]  # torch crashes the process on numbers far beyond


class EvaluationConfig(Config):
    period: NonNegative = 10_000  # environment steps between evaluations; 0 evaluates at the end only
    episodes: Positive = 10
    num_envs: Positive = 10  # environments that play them side by side


class ValidationConfig(Config):
    period: Positive = 1  # epochs between looks at the validation part
    patience: Positive | None = None  # looks without a lower loss until the run ends, with the weights of the lowest


class CheckpointConfig(Config):
    period: NonNegative = 10_000  # environment steps between checkpoints; 0 saves at the end and on a signal only
    keep: Positive = 3  # newest checkpoints that stay


class EpochCheckpointConfig(CheckpointConfig):
    period: NonNegative = 5  # epochs between checkpoints; 0 saves at the end and on a signal only


class LogConfig(Config):
    period: Positive = 1_000  # environment steps between two rows of metrics
    layers: bool = False  # each row tells of every layer's activations and gradients too


class EpochLogConfig(LogConfig):
    period: Positive = 1  # epochs between two rows of metrics


class WandbConfig(Config):
    project: str = "graftwork"
    entity: str | None = None
    mode: Literal["online", "offline", "disabled"] | None = None  # None leaves it to WANDB_MODE


class GraftConfig(Config):
    """An encoder that was trained elsewhere, and what of it goes on learning."""

    run: str | None = None  # run directory whose encoder the run begins with; None: its own, or one given in Python
    freeze: Freeze = 0  # all of it, its first so many blocks, or layers by name: they stay as they are
    unfreeze_period: Positive | None = None  # environment steps, or epochs, until one more block is set free again
    rate_decay: Annotated[float, Field(gt=0, le=1)] = (
        1.0  # each block learns at this share of the rate of the one after
    )

    @model_validator(mode="after")
    def _can_be_unfrozen(self) -> "GraftConfig":
        if self.unfreeze_period is not None and isinstance(self.freeze, tuple):
            raise ValueError("graft.unfreeze_period: layers frozen by name have no order; freeze a number, or all")
        if self.unfreeze_period is not None and self.freeze == 0:
            raise ValueError(f"graft.unfreeze_period={self.unfreeze_period}: nothing is frozen; set graft.freeze")
        return self


class Settings(Config):
    """What every run has, whatever it learns."""

    seed: NonNegative = 0  # every random number of the run follows from it
    run_dir: str | None = None  # None names it after the preset and the seed, under runs/
    device: Device = "cpu"  # auto is cuda if there is one
    threads: Threads | None = None  # of torch on a CPU; None is 1 for a network of under a million parameters
    accelerate: bool = True  # compile, beside the run, what comes to the same bits in less time
    tracker: Literal["files", "wandb", "tensorboard"] = "files"  # local files are written in any case
    wandb: WandbConfig = WandbConfig()
    graft: GraftConfig = GraftConfig()
    objects: tuple[Literal["env", "wrapper", "encoder", "network", "data"], ...] = ()  # from Python; to resume, again

    @property
    def seed_text(self) -> str:
        return f"seed {self.seed}"


class RunConfig(Settings):
    """An agent on an environment."""

    env: EnvConfig
    agent: AgentConfig
    seeds: Positive = 1  # independent agents side by side, of seed, seed + 1, ...; whatever is counted is of each
    steps: Positive  # environment steps over all environments; a run ends with the first batch that reaches them
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    log: LogConfig = LogConfig()

    @property
    def all_seeds(self) -> range:
        return range(self.seed, self.seed + self.seeds)

    @property
    def seed_text(self) -> str:
        return super().seed_text if self.seeds == 1 else f"seeds {self.seed} to {self.all_seeds[-1]}"

    @model_validator(mode="after")
    def _can_be_many(self) -> "RunConfig":
        if self.seeds == 1:
            return self
        given, agent = f"seeds={self.seeds}", self.agent
        if self.env.backend != "native":
            raise ValueError(
                f"{given}: env.id={self.env.id} with env.backend={self.env.backend} is no native environment; "
                f"use seeds=1, or one of {', '.join(GAMES)}"
            )
        if not isinstance(agent, DQNConfig):
            raise ValueError(f"{given}: agent.kind={agent.kind} trains one seed at a time; use seeds=1, or dqn")
        if agent.prioritised is not None:
            raise ValueError(f"{given}: agent.prioritised draws for one seed at a time; use null")
        if agent.sequence_length > 1:
            raise ValueError(f"{given}: agent.sequence_length={agent.sequence_length} is drawn for one seed; use 1")
        if self.graft != GraftConfig():
            raise ValueError(f"{given}: graft is for one seed at a time; leave it out")
        if self.log.layers:
            raise ValueError(f"{given}: log.layers=true tells of one network; use false")
        return self


class TaskRunConfig(Settings):
    """A supervised task on data."""

    data: DataConfig = DataConfig()
    task: SupervisedConfig = SupervisedConfig()
    epochs: Positive  # passes over the training part
    evaluation: ValidationConfig = ValidationConfig()
    checkpoint: EpochCheckpointConfig = EpochCheckpointConfig()
    log: EpochLogConfig = EpochLogConfig()


AnyRunConfig: TypeAlias = RunConfig | TaskRunConfig

_OF_AGENTS, _OF_TASKS = ("env", "agent", "steps"), ("data", "task", "epochs")


def run_config(tree: Tree, source: str = "") -> AnyRunConfig:
    """The tree as the kind of run that its fields tell; ConfigError as configs.validate."""
    agents, tasks = ([name for name in names if name in tree] for names in (_OF_AGENTS, _OF_TASKS))
    if agents and tasks:
        wrong, others = sorted((agents, tasks), key=len)
        raise ConfigError(
            f"{wrong[0]}: an agent's run has {', '.join(_OF_AGENTS)}, a task's {', '.join(_OF_TASKS)}, "
            f"and this one has {', '.join(others)}{f' (in {source})' if source else ''}"
        )
    return validate(TaskRunConfig, tree, source) if tasks else validate(RunConfig, tree, source)
