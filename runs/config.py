"""Everything that defines a run."""

from typing import Annotated, Literal

from pydantic import Field

from ..agents import AgentConfig
from ..configs.config import Config
from ..envs import EnvConfig

NonNegative = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(gt=0)]
Threads = Annotated[int, Field(gt=0, le=1024)]  # torch crashes the process on numbers far beyond


class EvaluationConfig(Config):
    period: NonNegative = 10_000  # environment steps between evaluations; 0 evaluates at the end only
    episodes: Positive = 10
    num_envs: Positive = 10  # environments that play them side by side


class CheckpointConfig(Config):
    period: NonNegative = 10_000  # environment steps between checkpoints; 0 saves at the end and on a signal only
    keep: Positive = 3  # newest checkpoints that stay


class LogConfig(Config):
    period: Positive = 1_000  # environment steps between two rows of metrics


class WandbConfig(Config):
    project: str = "graftwork"
    entity: str | None = None
    mode: Literal["online", "offline", "disabled"] | None = None  # None leaves it to WANDB_MODE


class RunConfig(Config):
    env: EnvConfig
    agent: AgentConfig
    steps: Positive  # environment steps over all environments; a run ends with the first batch that reaches them
    seed: NonNegative = 0  # every random number of the run follows from it
    run_dir: str | None = None  # None names it after the preset and the seed, under runs/
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "cpu"  # auto is cuda if there is one
    threads: Threads | None = None  # of torch on a CPU; None is 1 for a network of under a million parameters
    tracker: Literal["files", "wandb", "tensorboard"] = "files"  # local files are written in any case
    wandb: WandbConfig = WandbConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    log: LogConfig = LogConfig()
    objects: tuple[Literal["env", "wrapper", "encoder", "network"], ...] = ()  # given in Python; needed again to resume
