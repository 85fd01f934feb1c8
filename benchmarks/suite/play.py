"""How good a peer's policy has become, on environments of this suite's own: the same question to every library."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from .clock import EPISODES

Act = Callable[[npt.NDArray[Any]], Any]  # observations [1, *obs] -> greedy actions [1]


def make_env(env_id: str) -> Any:
    import gymnasium

    if env_id.startswith("MinAtar/"):
        from graftwork.envs import minatar

        minatar.register()
    return gymnasium.make(env_id, disable_env_checker=True)


def env_class(env_id: str) -> type[Any]:
    """What is stepped in the end, whatever wraps it."""
    found: type[Any]
    if env_id.startswith("MinAtar/"):
        from graftwork.envs.minatar import MinAtar

        found = MinAtar
    else:
        from gymnasium.envs.classic_control import CartPoleEnv

        found = CartPoleEnv
    return found


def greedy_return(act: Act, env_id: str, episodes: int = EPISODES) -> float:
    """Mean return of whole episodes, of at most 10,000 steps."""
    env, total = make_env(env_id), 0.0
    for episode in range(episodes):
        observation, _ = env.reset(seed=1_000_000 + episode)
        for _ in range(10_000):
            action = int(np.asarray(act(np.asarray(observation)[None])).reshape(()))
            observation, reward, terminated, truncated, _ = env.step(action)
            total += float(reward)
            if terminated or truncated:
                break
    return total / episodes
