"""Labelled data from an environment: what a random player saw, did, and was led to."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces

from ..envs.address import episode_seed
from ..envs.make import EnvConfig, env_maker
from ..spaces import one_line
from .dataset import Dataset, Target

Array = npt.NDArray[Any]

_SEED, _STREAM = 0, 3  # one data set for all runs, of episodes that none of the streams in envs/ plays


def transitions(env_id: str, samples: int) -> Dataset:
    """`samples` transitions of a uniformly random player; always the same ones.

    Inputs are observations. Targets: change (the next observation less this one, flattened), reward, action (a class)
    and terminated (a class: no, yes).
    Raises ValueError unless observations are a Box of floats and actions Discrete.
    """
    env = env_maker(EnvConfig(id=env_id))()
    try:
        space, actions = env.observation_space, env.action_space
        if not isinstance(space, spaces.Box) or space.dtype == np.uint8 or not isinstance(actions, spaces.Discrete):
            raise ValueError(
                f"observes {one_line(space)} and acts in {one_line(actions)}; allowed: a Box of floats, and Discrete"
            )
        player = np.random.default_rng(_SEED)
        rows: list[tuple[Array, Array, int, float, bool]] = []
        observation, ends, episode = np.empty(0), True, 0
        while len(rows) < samples:
            # Copies, at once: an environment may use its memory again.
            if ends:
                observation = np.array(env.reset(seed=episode_seed(_SEED, _STREAM, 0, episode))[0])
                episode += 1
            action = int(player.integers(actions.n))
            successor, reward, terminated, truncated, _ = env.step(action + int(actions.start))
            after = np.array(successor)
            rows.append((observation, after, action, float(reward), bool(terminated)))
            observation, ends = after, terminated or truncated
    finally:
        env.close()
    observations, successors, taken, rewards, terminations = zip(*rows, strict=True)
    before = torch.from_numpy(np.stack(observations)).float()
    after_ = torch.from_numpy(np.stack(successors)).float()
    targets = {
        "change": Target((after_ - before).reshape(samples, -1)),
        "reward": Target(torch.tensor(rewards)),
        "action": Target(torch.tensor(taken), int(actions.n)),
        "terminated": Target(torch.tensor(terminations).long(), 2, ("no", "yes")),
    }
    return Dataset(before, targets, space)
