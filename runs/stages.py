"""Several runs that build on each other, as one: each stage is an ordinary run directory inside the common one."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, JsonValue

from ..configs import ConfigError, Tree
from ..configs.config import Config
from ..configs.suggest import suggest
from .config import AnyRunConfig, Device, NonNegative, RunConfig, TaskRunConfig, Threads, WandbConfig, run_config

_SHARED = {"seed", "device", "threads", "tracker", "wandb"}  # that every stage takes over, unless it says otherwise


@contextmanager
def naming(stage: str) -> Iterator[None]:
    """Errors say which stage they are about: stages.NAME.FIELD."""
    try:
        yield
    except ValueError as error:
        field = re.match(r"\w*", str(error))
        is_field = field is not None and field[0] in RunConfig.model_fields | TaskRunConfig.model_fields
        text = f"stages.{stage}{'.' if is_field or isinstance(error, ConfigError) else ': '}{error}"
        raise ValueError(text) from error.__cause__ or error


class StagesConfig(Config):
    """Runs one after the other; `graft.run` of one may be the name of an earlier one."""

    stages: Annotated[dict[str, dict[str, JsonValue]], Field(min_length=1)]  # configs of runs by name, in order
    seed: NonNegative = 0
    run_dir: str | None = None  # None names it after the preset and the seed, under runs/
    device: Device = "cpu"
    threads: Threads | None = None
    tracker: Literal["files", "wandb", "tensorboard"] = "files"
    wandb: WandbConfig = WandbConfig()

    def resolved(self, directory: Path, label: str) -> dict[str, AnyRunConfig]:
        """Each stage's own config, to be run in a directory of its name; ConfigError says which is wrong."""
        shared = {name: value for name, value in self.model_dump(mode="json").items() if name in _SHARED}
        configs: dict[str, AnyRunConfig] = {}
        for name, own in self.stages.items():
            if not re.fullmatch(r"[\w-]+", name):
                raise ValueError(f"stages.{name}: a stage's name is that of its directory: letters, digits, - and _")
            if not {"env", "data"} & own.keys():
                raise ValueError(f"stages.{name}: has neither env, as an agent's run, nor data, as a task")
            if "run_dir" in own:
                raise ValueError(f"stages.{name}.run_dir: a stage's directory is inside that of all, called as it is")
            tree: Tree = {**shared, **own, "run_dir": str(directory / name)}
            graft = tree.get("graft")
            if isinstance(graft, dict) and isinstance(graft.get("run"), str):
                tree["graft"] = {**graft, "run": self._path(directory, name, str(graft["run"]), list(configs))}
            with naming(name):
                configs[name] = run_config(tree, label)
        return configs

    def _path(self, directory: Path, stage: str, source: str, earlier: list[str]) -> str:
        """Of the run that a stage grafts from."""
        if source in earlier:
            return str(directory / source)
        if source in self.stages or not Path(source).expanduser().is_dir():
            hint = suggest(source, earlier) or (f"; earlier stages: {', '.join(earlier)}" if earlier else "")
            raise ValueError(f"stages.{stage}.graft.run={source}: must be an earlier stage or a run directory{hint}")
        return source
