"""How good an agent is: whole greedy episodes on environments of their own."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean, pstdev

import torch

from ..engine.collector import Actor
from ..engine.stateful import StateDict, expect_keys
from ..envs.contract import VectorEnv


@dataclass(frozen=True)
class Evaluation:
    """Undiscounted returns and lengths, in order of episode address."""

    returns: tuple[float, ...]
    lengths: tuple[int, ...]

    @property
    def mean(self) -> float:
        return fmean(self.returns)

    @property
    def std(self) -> float:
        """Population standard deviation over episodes."""
        return pstdev(self.returns)

    def metrics(self) -> dict[str, float]:
        return {"evaluation/return": self.mean, "evaluation/std": self.std}

    def __str__(self) -> str:
        return f"greedy return {self.mean:.1f} ± {self.std:.1f}"

    def record(self) -> dict[str, float | int | list[float] | list[int]]:
        """Plain values, for a file."""
        return {
            "mean": self.mean,
            "std": self.std,
            "episodes": len(self.returns),
            "returns": list(self.returns),
            "lengths": list(self.lengths),
        }


class Interrupted(Exception):
    """The caller's `stop` said so; nothing was concluded."""


class GreedyEvaluator:
    """Plays the same greedy episodes each time it is called; has nothing to remember."""

    is_over = False

    def __init__(self, agent: Actor, env: VectorEnv, episodes: int) -> None:
        self._agent, self._env, self._episodes = agent, env, episodes

    def __call__(self, step: int, stop: Callable[[], bool]) -> Evaluation:
        return evaluate(self._agent, self._env, self._episodes, stop=stop)

    def state_dict(self) -> StateDict:
        return {}

    def load_state_dict(self, state: StateDict) -> None:
        expect_keys("evaluator", state, set())


def evaluate(agent: Actor, env: VectorEnv, episodes: int, *, stop: Callable[[], bool] = lambda: False) -> Evaluation:
    """Greedy returns of the first `episodes` addresses of `env`, which rests between episodes (autoreset=False).

    Always the same episodes, so two agents are compared on equal terms. The environments that a round needs are picked
    by index before it begins, never by who finishes first. Raises Interrupted soon after `stop()` turns true.
    """
    returns: list[float] = []
    lengths: list[int] = []
    env.finished()
    for round_ in range(-(-episodes // env.num_envs)):
        wanted = min(env.num_envs, episodes - len(returns))
        row = env.reset(episode=round_)
        state = agent.initial_state(env.num_envs)
        total = torch.zeros(env.num_envs, dtype=torch.float64, device=row.reward.device)
        length = torch.zeros(env.num_envs, dtype=torch.int64, device=row.reward.device)
        resting = torch.zeros_like(row.is_first)
        while not resting[:wanted].all():
            if stop():
                raise Interrupted
            step = agent.act(row.observation, state, row.is_first, explore=False, action_mask=row.action_mask)
            state = step.state
            row = env.step(step.action)
            total += row.reward
            length += ~row.is_first
            resting |= row.terminated | row.truncated
        returns += total[:wanted].tolist()
        lengths += length[:wanted].tolist()
    env.finished()
    return Evaluation(tuple(returns), tuple(lengths))
