"""Environments made for the tests, as fixtures: one that is random but determined by its seed, and broken ones."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeAlias

import cloudpickle
import gymnasium
import numpy as np
import numpy.typing as npt
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, Tuple
from torch import Tensor

from graftwork.envs import GymnasiumEnvs, episode_seed
from graftwork.envs.contract import EnvStep
from graftwork.spaces import tensors_of

# A worker process that is not forked cannot import this file.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

Observation: TypeAlias = npt.NDArray[np.float32]
Make: TypeAlias = Callable[[], gymnasium.Env[Any, Any]]
Fault: TypeAlias = Literal[
    "raise", "unpicklable", "nan", "inf reward", "huge reward", "no reward", "shape", "text", "die", "hang"
]


class Walk(gymnasium.Env[Observation, np.int64]):
    """A noisy walk: every observation and reward is random, all of it from the seed; episodes of 1 to 11 steps."""

    def __init__(self) -> None:
        self.observation_space = Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = Discrete(3)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        super().reset(seed=seed)
        self.position, self.step_count = 0.0, 0
        return self.observe(), {}

    def step(self, action: np.int64) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        self.step_count += 1
        self.position += float(action) - 1.0 + self.np_random.normal()
        reward = float(self.np_random.normal())
        terminated, truncated = abs(self.position) > 3.5, self.step_count == 11
        return self.observe(), reward, terminated, truncated, {"lock": sys.stdout}  # of no use to a vector env

    def observe(self) -> Observation:
        return np.array([self.position, self.np_random.normal()], np.float32)


class InDict(gymnasium.ObservationWrapper[Any, Any, Any]):
    """A walk whose observation is a dict with a tuple in it: the position, and the noise with how often it was seen."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        number = Box(-np.inf, np.inf, (1,), np.float64)
        self.observation_space = Dict({"position": number, "others": Tuple([number, Discrete(7, start=2)])})
        self.count = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        self.count = 0
        return super().reset(seed=seed, options=options)

    def observation(self, observation: Observation) -> dict[str, Any]:
        self.count += 1
        wide = observation.astype(np.float64)
        return {"position": wide[:1], "others": (wide[1:], 2 + self.count % 7)}


class Unpicklable(Exception):
    def __init__(self, text: str, number: int) -> None:  # unpickled with one argument, it fails
        super().__init__(text)
        self.lock = threading.Lock()


class Broken(Walk):
    """A walk that is in order but for one step of one episode, known by its seed."""

    def __init__(self, fault: Fault, seed: int, step: int) -> None:
        super().__init__()
        self.fault, self.seed, self.at_step = fault, seed, step

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        self.is_bad = seed == self.seed
        observation, info = super().reset(seed=seed)
        return self.broken(observation, 0.0)[0], info

    def step(self, action: np.int64) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        observation, reward, *_ = super().step(action)
        return *self.broken(observation, reward), False, self.step_count == 11, {}

    def broken(self, observation: Observation, reward: float) -> tuple[Observation, float]:
        if not self.is_bad or self.step_count != self.at_step:
            return observation, reward
        match self.fault:
            case "raise":
                raise RuntimeError("out of\nfuel")
            case "unpicklable":
                raise Unpicklable("no way", 3)
            case "nan":
                observation[1] = np.nan
            case "inf reward":
                return observation, float("inf")
            case "huge reward":
                return observation, -1e300
            case "text":
                return np.array(["a", "b"]), reward  # type: ignore[return-value]
            case "no reward":
                return observation, None  # type: ignore[return-value]
            case "shape":
                return np.zeros(1, np.float32), reward
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "hang":
                time.sleep(60)
        return observation, reward


class Moody(Walk):
    """Not determined by its seed: episodes of 9 steps in the first three objects, and of 4 in the others."""

    made = 0

    def __init__(self) -> None:
        super().__init__()
        Moody.made += 1
        self.length = 9 if Moody.made <= 3 else 4

    def step(self, action: np.int64) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        self.step_count += 1
        return self.observe() + self.length, 1.0, False, self.step_count == self.length, {}


@pytest.fixture(scope="session")
def walk() -> Make:
    return Walk


@pytest.fixture(scope="session")
def in_dict() -> Callable[[Make], Make]:
    """Of a maker of walks, one of walks that observe a dict."""
    return lambda make: lambda: InDict(make())


@pytest.fixture(scope="session", params=["box", "dict"])
def any_walk(request: pytest.FixtureRequest) -> Make:
    return Walk if request.param == "box" else lambda: InDict(Walk())


@pytest.fixture
def moody() -> Make:
    Moody.made = 0
    return Moody


@pytest.fixture(scope="session")
def broken() -> Callable[..., Make]:
    """A maker of walks of which env 1 breaks in episode 2 of run seed 0's training stream, at the step given."""

    def maker(fault: Fault, step: int) -> Make:
        return lambda: Broken(fault, episode_seed(0, 0, 1, 2), step)

    return maker


@pytest.fixture(scope="session")
def plain() -> Callable[[EnvStep], tuple[list[Any], ...]]:
    """A row as plain lists, for comparison."""

    def lists(row: EnvStep) -> tuple[list[Any], ...]:
        tensors = (*tensors_of(row.observation).values(), *row[1:])
        return tuple(None if tensor is None else tensor.tolist() for tensor in tensors)

    return lists


@pytest.fixture
def open_envs() -> Iterator[Callable[..., GymnasiumEnvs]]:
    """Makes environments, three unless told otherwise, that are closed after the test."""
    opened = []

    def open_(make: Make, num_envs: int = 3, seed: int = 0, **options: Any) -> GymnasiumEnvs:
        opened.append(GymnasiumEnvs(make, num_envs, seed, **options))
        return opened[-1]

    yield open_
    for envs in opened:
        envs.close()


@pytest.fixture(scope="session")
def random_actions() -> Callable[..., list[Tensor]]:
    """The same random actions for as many rows as asked."""

    def actions(num_rows: int, num_envs: int = 3) -> list[Tensor]:
        return list(torch.randint(3, (num_rows, num_envs), generator=torch.Generator().manual_seed(5)))

    return actions
