"""How good an agent is: whole greedy episodes on environments of their own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev

import torch
from torch import Tensor

from ..engine import Actor
from ..engine.stateful import StateDict, expect_keys
from ..envs.contract import VectorEnv


@dataclass(frozen=True)
class Evaluation:
    """Undiscounted returns and lengths, in order of episode address; of several agents one's after the other's."""

    returns: tuple[float, ...]
    lengths: tuple[int, ...]
    seeds: tuple[int, ...] = ()  # of the agents, each with as many episodes; () of a lone one

    @property
    def mean(self) -> float:
        return fmean(self.returns)

    @property
    def std(self) -> float:
        """Population standard deviation over episodes."""
        return pstdev(self.returns)

    @property
    def of_seeds(self) -> "dict[int, Evaluation]":
        """Of each agent by its seed; empty of a lone one."""
        count = len(self.returns) // max(len(self.seeds), 1)
        parts = ((seed, slice(place * count, (place + 1) * count)) for place, seed in enumerate(self.seeds))
        return {seed: Evaluation(self.returns[part], self.lengths[part]) for seed, part in parts}

    def metrics(self) -> dict[str, float]:
        metrics = {"evaluation/return": self.mean, "evaluation/std": self.std}
        if means := [each.mean for each in self.of_seeds.values()]:
            metrics |= {"evaluation/lowest_seed": min(means), "evaluation/highest_seed": max(means)}
        return metrics

    def __str__(self) -> str:
        if not self.seeds:
            return f"greedy return {self.mean:.1f} ± {self.std:.1f}"
        means = [each.mean for each in self.of_seeds.values()]
        return f"greedy return {self.mean:.1f}, of {len(means)} seeds from {min(means):.1f} to {max(means):.1f}"

    def record(self) -> dict[str, object]:
        """Plain values, for a file."""
        plain: dict[str, object] = {
            "mean": self.mean,
            "std": self.std,
            "episodes": len(self.returns),
            "returns": list(self.returns),
            "lengths": list(self.lengths),
        }
        if self.seeds:
            plain["seeds"] = {str(seed): each.mean for seed, each in self.of_seeds.items()}
        return plain


class Interrupted(Exception):
    """The caller's `stop` said so; nothing was concluded."""


class GreedyEvaluator:
    """Plays the same greedy episodes each time it is called; has nothing to remember."""

    is_over = False

    def __init__(self, agent: Actor, env: VectorEnv, episodes: int, seeds: Sequence[int] = ()) -> None:
        """seeds: as of `evaluate`."""
        self._agent, self._env, self._episodes, self._seeds = agent, env, episodes, seeds

    def __call__(self, step: int, stop: Callable[[], bool]) -> Evaluation:
        return evaluate(self._agent, self._env, self._episodes, seeds=self._seeds, stop=stop)

    def state_dict(self) -> StateDict:
        return {}

    def load_state_dict(self, state: StateDict) -> None:
        expect_keys("evaluator", state, set())


def evaluate(
    agent: Actor,
    env: VectorEnv,
    episodes: int,
    *,
    seeds: Sequence[int] = (),
    stop: Callable[[], bool] = lambda: False,
) -> Evaluation:
    """Greedy returns of the first `episodes` addresses of `env`, which rests between episodes (autoreset=False).

    Always the same episodes, so two agents are compared on equal terms. The environments that a round needs are picked
    by index before it begins, never by who finishes first. Raises Interrupted soon after `stop()` turns true.
    seeds: of the agents, if these are several, of which each plays as many on its own group of the environments.
    """
    groups = max(len(seeds), 1)
    num_envs = env.num_envs // groups
    returns: list[Tensor] = []  # of each round, [G, wanted]
    lengths: list[Tensor] = []
    env.finished()
    for round_ in range(-(-episodes // num_envs)):
        wanted = min(num_envs, episodes - round_ * num_envs)
        row = env.reset(episode=round_)
        state = agent.initial_state(env.num_envs)
        total = torch.zeros(env.num_envs, dtype=torch.float64, device=row.reward.device)
        length = torch.zeros(env.num_envs, dtype=torch.int64, device=row.reward.device)
        resting = torch.zeros_like(row.is_first)
        while not _of(resting, groups, wanted).all():
            if stop():
                raise Interrupted
            step = agent.act(row.observation, state, row.is_first, explore=False, action_mask=row.action_mask)
            state = step.state
            row = env.step(step.action)
            total += row.reward
            length += ~row.is_first
            resting |= row.terminated | row.truncated
        returns.append(_of(total, groups, wanted))
        lengths.append(_of(length, groups, wanted))
    env.finished()
    all_returns, all_lengths = (torch.cat(rounds, 1).flatten().tolist() for rounds in (returns, lengths))
    return Evaluation(tuple(all_returns), tuple(all_lengths), tuple(seeds))


def _of(entries: Tensor, groups: int, wanted: int) -> Tensor:
    """Those of the first environments of each group, [G * B] -> [G, wanted]."""
    return entries.view(groups, -1)[:, :wanted]
