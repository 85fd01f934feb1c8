"""Every switch of DQN beside every other: all pairs, and a sample of larger combinations.

Each learns from random rollouts, acts legally, and goes on bit for bit from its state.
"""

import random
from copy import deepcopy
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from graftwork.agents import DQN, DQNConfig
from graftwork.engine import Rollout
from graftwork.engine.history import History
from graftwork.envs import EnvSpec
from graftwork.networks import (
    CombinedConfig,
    ConvConfig,
    ConvLayer,
    EncoderConfig,
    GRUConfig,
    LSTMConfig,
    MLPConfig,
    ResNetConfig,
)
from graftwork.spaces import Observation, leaves, map_leaves, observation_of, rows_of
from graftwork.training.seeding import Seeds

T, CALLS = 4, 4  # rows of a rollout; rollouts
MLP = MLPConfig(hidden=(8,))
ENCODERS: dict[str, EncoderConfig] = {
    "mlp": MLP,
    "conv": ConvConfig(layers=(ConvLayer(channels=3, kernel=3, stride=2),), hidden=8),
    "resnet": ResNetConfig(blocks=(1,), width=3),
    "lstm": LSTMConfig(hidden_size=5, inner=MLP),
    "gru": GRUConfig(hidden_size=5, inner=MLP),
}
MEMORY = {"sequence_length": 5, "burn_in": 1}
# Of the fields of one group there can be one. What names no field of the config is about the environment.
GROUPS: dict[str, dict[str, dict[str, Any]]] = {
    "double": {"double": {"double": True}},
    "dueling": {"dueling": {"head": {"dueling": True}}},
    "hidden": {"hidden": {"head": {"hidden": 6}}},
    "n-step": {"n-step": {"n_step": 3}},
    "prioritised": {"prioritised": {"prioritised": {"importance": 0.5}}},
    "noisy": {"noisy": {"head": {"noise": 0.5}}},
    "munchausen": {"munchausen": {"munchausen": {}}},
    "soft": {"soft": {"target_rate": 0.3}},
    "rescaled": {"rescaled": {"value_rescaling": True}},
    "value": {
        "squared": {"value": {"kind": "scalar", "loss": "squared"}},
        "categorical": {"value": {"kind": "categorical", "num_atoms": 5}},
        "quantile": {"value": {"kind": "quantile", "num_quantiles": 4}},
        "implicit": {
            "value": {"kind": "implicit", "num_fractions": 3, "num_target_fractions": 2, "num_acting_fractions": 4}
        },
    },
    "encoder": {
        "conv": {},
        "resnet": {},
        "lstm": MEMORY,
        "gru": MEMORY,
        "lstm-zero": MEMORY | {"stored_state": False},
        "mlp-sequences": {"sequence_length": 3},
    },
    "masked": {"masked": {}},
    "dict": {"dict": {}},
    "actions": {"branches": {}, "unequal": {}},
    "one-env": {"one-env": {}},
}
OPTIONS = {name: group for group, options in GROUPS.items() for name in options}


def compatible(names: tuple[str, ...]) -> bool:
    return len({OPTIONS[name] for name in names}) == len(names)


PAIRS = [names for names in combinations(OPTIONS, 2) if compatible(names)]
CHOICE = random.Random(0)
LARGER = [
    tuple(CHOICE.choice(list(GROUPS[group])) for group in CHOICE.sample(list(GROUPS), CHOICE.randint(4, len(GROUPS))))
    for _ in range(60)
]


def spec_of(names: tuple[str, ...]) -> EnvSpec:
    sees = {"conv", "resnet"} & {*names}
    space: spaces.Space[Any] = spaces.Box(0, 255, (1, 5, 6), np.uint8) if sees else spaces.Box(-1, 1, (3,))
    if "dict" in names:
        space = spaces.Dict({"eye": space, "extra": spaces.Discrete(4)})
    spec = EnvSpec("Test-v0", space, 4, 0, "Discrete(4)", has_action_mask="masked" in names)
    for name, branches in (("branches", (3, 3)), ("unequal", (2, 5, 1))):
        if name in names:
            spec = replace(spec, num_actions=None, branches=branches, action_start=(0,) * len(branches))
    return spec


def config_of(names: tuple[str, ...]) -> DQNConfig:
    fields: dict[str, Any] = {
        **{"learning_starts": 0, "train_period": T, "batch_size": 3, "replay_capacity": 60, "target_period": 10},
        **{"double": False, "updates": 2},
    }
    for name in names:
        for field, value in GROUPS[OPTIONS[name]][name].items():
            fields[field] = fields.get("head", {}) | value if field == "head" else value
    kind = next((name.split("-")[0] for name in names if OPTIONS[name] == "encoder"), "mlp")
    encoder = ENCODERS[kind]
    if "dict" in names and kind in ("conv", "resnet"):
        encoder = CombinedConfig(encoders={"eye": encoder})
    return DQNConfig(encoder=encoder, **fields)


def observed(space: spaces.Space[Any], rows: int, num_envs: int, generator: torch.Generator) -> Observation:
    parts = {}
    for name, leaf in leaves(space).items():
        shape = (rows, num_envs, *leaf.shape)
        if leaf.dtype == torch.float32:
            parts[name] = torch.rand(shape, generator=generator)
        else:
            parts[name] = torch.randint(
                256 if leaf.dtype == torch.uint8 else 4, shape, generator=generator, dtype=leaf.dtype
            )
    return observation_of(parts)


def choices_of(spec: EnvSpec) -> Tensor:
    """[A] or [D, A] bool: what is an action at all."""
    if spec.branches is None:
        return torch.ones(4, dtype=torch.bool)
    return torch.arange(max(spec.branches)) < torch.tensor(spec.branches).unsqueeze(1)


def rollouts_of(agent: DQN, spec: EnvSpec, num_envs: int) -> list[Rollout]:
    """One stream in parts: random legal actions, ends of both kinds, any state."""
    generator, rows = torch.Generator().manual_seed(1), T * CALLS
    done = torch.rand(rows, num_envs, generator=generator) < 0.25
    is_first = torch.zeros(rows + 1, num_envs, dtype=torch.bool)
    is_first[0] = True
    for t in range(1, rows):
        is_first[t + 1] = done[t - 1]
        done[t] &= ~done[t - 1]
    coin = torch.rand(rows, num_envs, generator=generator) < 0.5
    choices = choices_of(spec)
    legal = (torch.rand(rows + 1, num_envs, *choices.shape, generator=generator) < 0.5) & choices
    legal[..., 0] |= ~legal.any(-1)
    legal = legal if spec.has_action_mask else choices.expand_as(legal)
    weight = torch.rand(legal.shape, generator=generator).masked_fill(~legal, -1.0)
    observation, action = observed(spec.observation_space, rows + 1, num_envs, generator), weight.argmax(-1)
    reward = torch.randn(rows, num_envs, generator=generator)
    parts = []
    for start in range(0, rows, T):
        steps, and_one = slice(start, start + T), slice(start, start + T + 1)
        state = tuple(torch.randn(part.shape, generator=generator).tanh() for part in agent.initial_state(num_envs))
        parts.append(
            Rollout(
                observation=rows_of(observation, and_one),
                is_first=is_first[and_one],
                action=action[steps],
                log_prob=None,
                reward=reward[steps],
                terminated=(done & coin)[steps],
                truncated=(done & ~coin)[steps],
                state=state,
                action_mask=legal[and_one] if spec.has_action_mask else None,
            )
        )
    return parts


def acted(agent: DQN, spec: EnvSpec, rollout: Rollout) -> list[Tensor]:
    """Actions on all of its rows, explored and greedy, each of them legal."""
    found, state = [], rollout.state
    for t in range(T):
        legal = choices_of(spec) if rollout.action_mask is None else rollout.action_mask[t]
        for explore in (True, False):
            step = agent.act(
                map_leaves(lambda leaf, t=t: leaf[t], rollout.observation),
                state,
                rollout.is_first[t],
                explore=explore,
                action_mask=None if rollout.action_mask is None else legal,
            )
            assert step.action.dtype == torch.int64
            assert step.action.shape == rollout.action.shape[1:]
            assert legal.expand(*step.action.shape, -1).gather(-1, step.action.unsqueeze(-1)).all()
            found.append(step.action)
        state = step.state
    return found


def build(config: DQNConfig, spec: EnvSpec, num_envs: int, seed: int) -> DQN:
    seeds = Seeds(seed)
    return config.build(config.network(spec, seeds), spec, num_envs, seeds, torch.device("cpu"))


def whole(state: Any) -> Any:
    """With its rows in the place of each history."""
    if isinstance(state, History):
        return state.read(state.first, state.end)
    return {name: whole(part) for name, part in state.items()} if isinstance(state, dict) else state


@pytest.mark.parametrize("names", [*((name,) for name in OPTIONS), *PAIRS, *LARGER], ids="+".join)
def test_it_learns_acts_legally_and_goes_on_bit_for_bit_from_its_state(names):
    config, spec, num_envs = config_of(names), spec_of(names), 1 if "one-env" in names else 3
    agent = build(config, spec, num_envs, seed=0)
    rollouts = rollouts_of(agent, spec, num_envs)
    before, metrics = deepcopy(dict(agent.network.named_parameters())), {}
    for rollout in rollouts[:-1]:
        acted(agent, spec, rollout)
        metrics = agent.learn(rollout)
    assert metrics["loss"].isfinite()
    assert all(value.isfinite() for value in metrics.values()), metrics
    unchanged = {name for name, value in agent.network.named_parameters() if value.equal(before[name])}
    assert not unchanged

    restored = build(config, spec, num_envs, seed=7)
    restored.load_state_dict(deepcopy(agent.state_dict()))
    for one, other in zip(acted(agent, spec, rollouts[-1]), acted(restored, spec, rollouts[-1]), strict=True):
        assert one.equal(other)
    last = [each.learn(rollouts[-1]) for each in (agent, restored)]
    torch.testing.assert_close(last[0], last[1], rtol=0, atol=0)
    torch.testing.assert_close(whole(agent.state_dict()), whole(restored.state_dict()), rtol=0, atol=0)
