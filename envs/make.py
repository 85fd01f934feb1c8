"""Environments from a config."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import gymnasium
import torch
from pydantic import Field, JsonValue, model_validator

from ..configs.config import Config
from ..configs.suggest import suggest
from ..spaces import one_line
from . import atari, minatar, native
from .address import AnyEnv
from .frame_stack import MOST_FRAMES, FrameStack
from .gymnasium_envs import TRAINING
from .memory import PartialObservation


class EnvConfig(Config):
    id: str  # as gymnasium.make takes it; "module:id" imports the module first
    num_envs: Annotated[int, Field(gt=0)] = 1
    asynchronous: bool = False  # one process an environment: pays where a step takes longer than about 100 us
    max_episode_steps: Annotated[int, Field(gt=0)] | None = None  # truncate there; None leaves it to the environment
    observe: tuple[int, ...] | None = None  # entries of a vector observation that are shown; None shows all
    frame_stack: Annotated[int, Field(gt=0, le=MOST_FRAMES)] = 1  # frames that an observation shows, see FrameStack
    protocol: atari.ProtocolName | None = None  # how Atari is played, see atari.Protocol; None leaves it to ale-py
    # ale: ale-py's own vector environment, see AtariVectorEnvs; native: see NativeEnvs, the default where id is one.
    backend: Literal["gymnasium", "ale", "native"] = "gymnasium"
    kwargs: dict[str, JsonValue] = Field(default_factory=dict)  # passed on to gymnasium.make, or to the native game

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, tree: Any) -> Any:
        """Defaults that follow from other fields."""
        if not isinstance(tree, dict):
            return tree
        filled: dict[str, Any] = {}
        if tree.get("protocol") is not None:
            filled["frame_stack"] = atari.FRAME_STACK
        if tree.get("id") in native.GAMES:
            filled["backend"] = "native"
        return filled | tree

    @model_validator(mode="after")
    def _check(self) -> "EnvConfig":
        if self.protocol is not None:
            if not atari.is_id(self.id):
                raise ValueError(f"env.protocol={self.protocol} needs an env.id such as ALE/Pong-v5, got {self.id}")
            for name in atari.FIXED:
                if name in self.kwargs:
                    given = f"env.kwargs.{name}={self.kwargs[name]}"
                    raise ValueError(f"{given} contradicts env.protocol={self.protocol}, which settles it; remove one")
            if self.max_episode_steps is not None and self.max_episode_steps > atari.MAX_STEPS:
                given = f"env.max_episode_steps={self.max_episode_steps}"
                raise ValueError(f"{given}: env.protocol={self.protocol} ends a game after {atari.MAX_STEPS}")
        if self.backend == "ale":
            if self.protocol is None:
                raise ValueError(f"env.backend=ale needs an env.protocol: {' or '.join(atari.PROTOCOLS)}")
            if self.kwargs:
                raise ValueError(f"env.backend=ale takes no env.kwargs, got {self.kwargs}; env.backend=gymnasium does")
            if self.asynchronous:
                raise ValueError("env.asynchronous=true: env.backend=ale has threads of its own; remove one")
            if self.observe is not None:
                raise ValueError(f"env.observe={list(self.observe)}: env.backend=ale shows images")
        if self.backend == "native":
            self._check_native()
        return self

    def _check_native(self) -> None:
        if self.id not in native.GAMES:
            known = f"must be one of {', '.join(native.GAMES)}{suggest(self.id, native.GAMES)}"
            raise ValueError(f"env.id={self.id} with env.backend=native: {known}")
        native.make_game(self.id, self.kwargs)
        if self.asynchronous:
            raise ValueError(f"env.asynchronous=true: env.id={self.id} steps all environments at once; remove one")
        if self.frame_stack > 1:
            given = f"env.frame_stack={self.frame_stack}"
            raise ValueError(f"{given}: env.id={self.id} shows one frame; env.backend=gymnasium stacks them")


def env_maker(config: EnvConfig, *, training: bool = True) -> Callable[[], AnyEnv]:
    """A function that makes the environment anew; ValueError names an unknown id or an argument it refuses.

    Without `training` an episode is a whole game with its own rewards, where a protocol trains on something else.
    """

    def make() -> AnyEnv:
        with explained(config):
            env = _made(config, training)
        if config.observe is not None:
            env = PartialObservation(env, config.observe)
        return env if config.frame_stack == 1 else FrameStack(env, config.frame_stack)

    return make


def native_envs(
    config: EnvConfig,
    num_envs: int,
    seed: int | Sequence[int],
    *,
    stream: int = TRAINING,
    autoreset: bool = True,
    device: torch.device | str = "cpu",
    record: Callable[[native.Function], native.Function] = native.as_it_is,
) -> native.NativeEnvs:
    """Environments of a config whose backend is native; see NativeEnvs."""
    return native.NativeEnvs(
        native.make_game(config.id, config.kwargs),
        num_envs,
        seed,
        stream=stream,
        autoreset=autoreset,
        max_episode_steps=config.max_episode_steps,
        observe=config.observe,
        device=device,
        record=record,
    )


@contextmanager
def explained(config: EnvConfig) -> Iterator[None]:
    """ValueError, in one line, for whatever keeps an environment from being made."""
    try:
        yield
    except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
        reason = one_line(error)
        raise ValueError(f"env.id={config.id} needs a package that is not installed: {reason}") from error
    except gymnasium.error.UnregisteredEnv as error:
        reason = one_line(error).partition(" Did you mean")[0].rstrip(".")
        raise ValueError(f"env.id={config.id}: {reason}{suggest(config.id, gymnasium.registry)}") from error
    except Exception as error:  # whatever an environment makes of arguments that it does not take
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise ValueError(f"env.id={config.id} with env.kwargs={config.kwargs} cannot be made: {reason}") from error


def _made(config: EnvConfig, training: bool) -> AnyEnv:
    if atari.is_id(config.id):
        atari.register()
    if config.protocol is not None:
        protocol = atari.PROTOCOLS[config.protocol]
        return atari.make(config.id, protocol, training, config.max_episode_steps, config.kwargs)
    if config.id.startswith(minatar.NAMESPACE):
        return minatar.make(config.id, config.max_episode_steps, config.kwargs)
    env: AnyEnv = gymnasium.make(
        config.id, max_episode_steps=config.max_episode_steps, disable_env_checker=True, **config.kwargs
    )
    return env
