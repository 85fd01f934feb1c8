"""An environment of one's own that only an agent with a memory can solve, and DQN with an LSTM that solves it.

python examples/own_environment.py
"""

from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Box, Discrete

import graftwork as gw

Observation = npt.NDArray[np.float32]


class CuedCorridor(gymnasium.Env[Observation, np.int64]):
    """A sign at the entrance says which way to turn at the junction, some steps later (Bakker 2002).

    Observation: the sign (-1 or 1 in the first cell, else 0), whether this is the junction. Actions: left, right, on.
    The right turn pays 1, the wrong one -1; turning too early, or running into the wall, costs 0.1.
    """

    observation_space = Box(-1.0, 1.0, (2,), np.float32)
    action_space = Discrete(3)

    def __init__(self, length: int = 6) -> None:
        self.length = length

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        super().reset(seed=seed)
        self.cell, self.sign = 0, int(self.np_random.choice((-1, 1)))
        return self._observe(), {}

    def step(self, action: np.int64) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        at_junction, turns = self.cell == self.length, action < 2
        if at_junction and turns:
            return self._observe(), 1.0 if (action == 1) == (self.sign == 1) else -1.0, True, False, {}
        if at_junction or turns:
            return self._observe(), -0.1, False, False, {}
        self.cell += 1
        return self._observe(), 0.0, False, False, {}

    def _observe(self) -> Observation:
        return np.array((self.sign if self.cell == 0 else 0, self.cell == self.length), np.float32)


def make_env() -> gymnasium.Env[Observation, np.int64]:
    return gymnasium.wrappers.TimeLimit(CuedCorridor(), max_episode_steps=30)


def main() -> None:
    without_memory = ("agent.encoder.kind=mlp", "agent.sequence_length=1", "agent.burn_in=0")
    for name, overrides in (("lstm", ("agent.encoder.inner.scale=null",)), ("mlp", without_memory)):
        run = gw.train(
            "dqn/cartpole-memory",
            "steps=20_000",
            "agent.epsilon.steps=10_000",
            *overrides,
            env=make_env,
            run_dir=f"runs/tmaze-{name}",
        )
        print(f"{name}: {run.evaluation} (1 is perfect, a guess gives 0)")


if __name__ == "__main__":
    main()
