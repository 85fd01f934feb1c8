"""Single environments from a config."""

from collections.abc import Callable
from typing import Annotated

import gymnasium
from pydantic import Field, JsonValue

from ..configs.config import Config
from ..configs.suggest import suggest
from ..spaces import one_line
from .address import AnyEnv
from .memory import PartialObservation


class EnvConfig(Config):
    id: str  # as gymnasium.make takes it; "module:id" imports the module first
    num_envs: Annotated[int, Field(gt=0)] = 1
    asynchronous: bool = False  # one process an environment: pays where a step takes longer than about 100 us
    max_episode_steps: Annotated[int, Field(gt=0)] | None = None  # truncate there; None leaves it to the environment
    observe: tuple[int, ...] | None = None  # entries of a vector observation that are shown; None shows all
    kwargs: dict[str, JsonValue] = Field(default_factory=dict)  # passed on to gymnasium.make


def env_maker(config: EnvConfig) -> Callable[[], AnyEnv]:
    """A function that makes the environment anew; ValueError names an unknown id or an argument it refuses."""

    def make() -> AnyEnv:
        try:
            env: AnyEnv = gymnasium.make(
                config.id, max_episode_steps=config.max_episode_steps, disable_env_checker=True, **config.kwargs
            )
        except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
            reason = one_line(error)
            raise ValueError(f"env.id={config.id} needs a package that is not installed: {reason}") from error
        except gymnasium.error.UnregisteredEnv as error:
            reason = one_line(error).partition(" Did you mean")[0].rstrip(".")
            raise ValueError(f"env.id={config.id}: {reason}{suggest(config.id, gymnasium.registry)}") from error
        except Exception as error:  # whatever an environment makes of arguments that it does not take
            reason = f"{type(error).__name__}: {one_line(error)}"
            raise ValueError(f"env.id={config.id} with env.kwargs={config.kwargs} cannot be made: {reason}") from error
        return env if config.observe is None else PartialObservation(env, config.observe)

    return make
