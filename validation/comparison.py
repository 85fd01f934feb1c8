"""What is compared with Stable-Baselines3, and how: declared in comparisons/*.yaml before it is run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, model_validator

from ..configs import load, presets, suggest, validate
from ..configs.config import Config
from ..configs.yaml_text import ConfigError, Value, parse
from ..runs import RunConfig
from ..runs.config import EvaluationConfig, run_config
from .arguments import A2CBaseline, Arguments, check_env, dqn_arguments
from .record import VERDICT_SEEDS, SideName, is_failure
from .settings import Settings, digest

Positive = Annotated[int, Field(gt=0)]

FINAL_EPISODES = 100  # fresh ones, whose mean is what a seed came to
SB3_SEED_STRIDE = 1000  # SB3 seeds environment i with seed + i: the seeds of two runs must not be neighbours


class ScoreRange(Config):
    """Returns that count as 0 and as 1."""

    random: float
    best: float

    @model_validator(mode="after")
    def _has_width(self) -> "ScoreRange":
        if self.best <= self.random:
            raise ValueError(f"range.best={self.best:g} must be above range.random={self.random:g}")
        return self

    def is_failure(self, return_: float) -> bool:
        """In the lower half."""
        return is_failure(return_, self.random, self.best)


class Along(Config):
    """Evaluations during training."""

    period: Positive | None = None  # environment steps; None: a twentieth of all
    episodes: Positive = 10


class DQNBaseline(Config):
    """SB3's DQN with the settings of `equal`."""

    kind: Literal["dqn"] = "dqn"
    title: str = "SB3 DQN"


Baseline: TypeAlias = Annotated[DQNBaseline | A2CBaseline, Field(discriminator="kind")]


class Comparison(Config):
    name: str
    preset: str  # ours, as `graftwork list` names it
    equal: str | None = None  # a preset with the settings of SB3's side; None where the algorithms differ
    overrides: tuple[str, ...] = ()  # of the preset, such as schedules that end with the steps
    baseline: Baseline
    range: ScoreRange
    steps: Positive  # environment steps of every side
    margin: Annotated[float, Field(gt=0, lt=1)] = 0.05  # of equivalence, as a share of the range
    seeds: Annotated[int, Field(ge=VERDICT_SEEDS)] = 20  # of each side, that the verdict is of
    first_seed: Annotated[int, Field(ge=0)] = 0  # of those; one that repeats another comparison needs seeds of its own
    evaluation: Along = Along()
    notes: str = ""  # how the sides differ beyond their settings

    @model_validator(mode="after")
    def _dqn_has_equal(self) -> "Comparison":
        if isinstance(self.baseline, DQNBaseline) and self.equal is None:
            raise ValueError("equal: required with baseline.kind=dqn, whose settings are read off it")
        return self

    def sides(self) -> "dict[SideName, Side]":
        """What is trained, SB3's side last. ValueError for a preset that SB3 can't be given."""
        found: dict[SideName, Side] = {}
        if self.equal is not None:
            found["equal"] = self._ours(f"graftwork {self.equal}", self.equal, ())
        if self.preset != self.equal:
            changed = f" with {' '.join(self.overrides)}" if self.overrides else ""
            found["preset"] = self._ours(f"graftwork {self.preset}{changed}", self.preset, self.overrides)
        config = found["preset" if self.equal is None else "equal"].config
        arguments: Arguments
        if isinstance(self.baseline, DQNBaseline):
            arguments = dqn_arguments(config, self.steps)
        else:
            check_env(config.env)
            arguments = self.baseline
        env = config.env.model_copy(update={"num_envs": arguments.num_envs})
        found["sb3"] = Side(self.baseline.title, config.model_copy(update={"env": env}), arguments)
        return found

    def _ours(self, title: str, preset: str, overrides: Sequence[str]) -> "Side":
        config = _agent_config(preset, overrides)
        # Nothing of the preset's: all sides play the same episodes, on as many environments.
        period = self.evaluation.period or max(self.steps // 20, 1)
        evaluation = EvaluationConfig(period=period, episodes=self.evaluation.episodes)
        return Side(
            title,
            config.model_copy(update={"steps": self.steps, "threads": 1, "evaluation": evaluation}),
            None,
        )


@dataclass(frozen=True)
class Side:
    """One of those compared."""

    title: str
    config: RunConfig  # of SB3's side only the environment, steps and evaluations count
    arguments: Arguments | None  # of SB3's model; None: ours

    @property
    def settings(self) -> Settings:
        """Everything that defines it, but for the seed."""
        tree = self.config.model_dump(mode="json")
        common: Settings = {name: tree[name] for name in ("env", "steps", "evaluation", "device", "threads")}
        common["final_episodes"] = FINAL_EPISODES
        if self.arguments is None:
            return {"agent": tree["agent"], "graft": tree["graft"], **common}
        return {"sb3": self.arguments.model_dump(mode="json"), "seed_stride": SB3_SEED_STRIDE, **common}

    @property
    def digest(self) -> str:
        return digest(self.settings)


def declared() -> dict[str, Comparison]:
    """Every packaged comparison by name, sorted."""
    folder = files(__package__ or __name__) / "comparisons"
    found: dict[str, Comparison] = {}
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name.rpartition(".")[0]):
        name, _, kind = entry.name.rpartition(".")
        if kind == "yaml":
            found[name] = _comparison(parse(entry.read_text(encoding="utf-8"), entry.name), name)
    return found


def find(preset: str, range_: ScoreRange | None = None) -> Comparison:
    """The comparison declared with that preset, or of that name; else, given a range, a DQN preset's with SB3's DQN.

    ValueError in one line where there is none.
    """
    known = declared()
    with_preset = [comparison for comparison in known.values() if preset in (comparison.preset, comparison.equal)]
    named = known.get(preset) or next(iter(with_preset), None)
    if named is not None:
        if range_ is not None:
            declared_range = f"{named.range.random:g} to {named.range.best:g}"
            raise ValueError(f"--range: that of {named.name} is declared, {declared_range}; leave it out")
        return named
    if preset not in presets():
        raise ValueError(f"{preset}: no such preset{suggest(preset, [*presets(), *known]) or _offer(known)}")
    if range_ is None:
        raise ValueError(
            f"{preset}: no comparison is declared; give --range RANDOM BEST, its returns that count as 0 and 1"
        )
    config = _agent_config(preset, ())
    dqn_arguments(config, config.steps)
    return Comparison(
        name=preset.replace("/", "-"),
        preset=preset,
        equal=preset,
        baseline=DQNBaseline(),
        range=range_,
        steps=config.steps,
    )


def _agent_config(preset: str, overrides: Sequence[str]) -> RunConfig:
    """ValueError unless it is an agent's."""
    tree = load(preset, overrides)
    config = None if "stages" in tree else run_config(tree, f"preset {preset}")
    if not isinstance(config, RunConfig):
        raise ValueError(f"{preset}: trains on data or in stages; what is compared with SB3 is an agent's return")
    return config


def _offer(known: Mapping[str, Comparison]) -> str:
    return f"; declared: {', '.join(dict.fromkeys(comparison.preset for comparison in known.values()))}"


def _comparison(tree: Value, name: str) -> Comparison:
    if not isinstance(tree, dict):
        raise ConfigError(f"comparisons/{name}.yaml: must be a mapping of fields")
    return validate(Comparison, {**tree, "name": name}, f"comparisons/{name}.yaml")
