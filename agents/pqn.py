"""Parallelised Q-network (Gallici et al. 2024): Q-learning from fresh rollouts of many environments side by side.

No replay and no target network: a norm in the network keeps the values from diverging, and many environments keep the
experience varied. Minibatches are whole columns of a rollout, so recurrence needs no second algorithm.
"""

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from ..configs.config import Config
from ..engine import (
    AdamConfig,
    Agent,
    GradientStep,
    Metrics,
    Recorded,
    Rollout,
    StateDict,
    Step,
    expect_keys,
    load_weights,
)
from ..engine.agent import check_causal
from ..engine.exploration import EpsilonGreedy
from ..envs import EnvSpec
from ..losses import huber, lambda_return, masked_mean, squared
from ..networks import (
    DuelingQHead,
    Encoder,
    EncoderConfig,
    Initialisation,
    MLPConfig,
    Network,
    QHead,
    State,
    has_batch_norm,
    initialise,
    mode,
    parameter_groups,
)
from ..spaces import Observation, map_leaves
from ..training.schedules import Constant, Linear, Probability, Rate
from ..training.seeding import Seeds
from .action_values import among, taken
from .sequences import maybe

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]

_NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.BatchNorm1d, nn.BatchNorm2d)


class PQNConfig(Config):
    kind: Literal["pqn"] = "pqn"
    encoder: EncoderConfig = MLPConfig(hidden=(128, 128), norm="layer")
    initialisation: Initialisation = "uniform"  # of the encoder and the head
    discount: Share = 0.99
    trace_decay: Share = 0.65  # lambda: 0 bootstraps after one step, 1 at the end of the rollout or of the episode
    learning_rate: Rate = Constant(value=5e-4)
    adam_epsilon: Annotated[float, Field(gt=0)] = 1e-8
    max_gradient_norm: Annotated[float, Field(gt=0)] | None = 10.0
    loss: Literal["huber", "squared"] = "squared"
    dueling: bool = False  # a state value and what each action has over the mean (Wang et al. 2016)
    epsilon: Probability = Linear(start=1.0, end=0.05, steps=50_000)  # chance of a random action, by environment step
    rollout_rows: Annotated[int, Field(gt=0, le=65_536)] = 32  # rows (steps of each environment) between calls to learn
    epochs: Positive = 4  # passes over a rollout
    minibatches: Positive = 4  # updates a pass, each from its share of the environments; at most as many as these

    def network(self, spec: EnvSpec, seeds: Seeds, encoder: Encoder | None = None) -> Network[Tensor]:
        """A network with weights drawn from `seeds`; `encoder`, as it is, in place of the config's."""
        generator = seeds.generator("network")
        if encoder is None:
            encoder = self.encoder.build(spec.observation_space)
            initialise(encoder, self.initialisation, generator)
        width, shape = encoder.out_features, spec.value_shape("pqn")
        head = DuelingQHead(width, shape, legal=spec.padding) if self.dueling else QHead(width, shape)
        initialise(head, self.initialisation, generator)
        return Network(encoder, head)

    def build(
        self, network: Network[Tensor], spec: EnvSpec, num_envs: int, seeds: Seeds, device: torch.device
    ) -> "PQN":
        """The agent; draws its random numbers from `seeds`."""
        exploration, minibatches, dropout = (
            seeds.generator(name, device) for name in ("exploration", "minibatches", "dropout")
        )
        return PQN(network.to(device), self, spec, num_envs, exploration, minibatches, dropout)


class Minibatch(NamedTuple):
    """All rows of some environments of a rollout."""

    observation: Observation  # [T, N, *obs]
    state: State  # before row 0, each [N, ...]
    is_first: Tensor  # [T, N]
    action: Tensor  # [T, N], or [T, N, D] for D branches
    return_: Tensor  # [T, N]
    valid: Tensor  # [T, N]


class PQN(Agent):
    """Epsilon-greedy on a learned action value; each environment flips its own coin."""

    def __init__(
        self,
        network: Network[Tensor],
        config: PQNConfig,
        spec: EnvSpec,
        num_envs: int,
        generator: torch.Generator,
        order: torch.Generator,
        dropout: torch.Generator | None = None,
    ) -> None:
        """generator: of actions; order: of environments in minibatches; dropout: of what the network draws while it
        learns, None for torch's own stream."""
        _check_parts(network, config, spec)
        self.network, self.config, self.spec = network.eval(), config, spec
        self.rollout_rows = config.rollout_rows
        self.step = 0  # environment steps learnt from
        self._num_envs, self._generator, self._order = num_envs, generator, order
        # Where branches have unequal numbers of actions, some that the values have room for are never legal.
        self._padding = None if spec.padding is None else spec.padding.to(generator.device)
        num_actions = spec.value_shape("pqn")[-1]
        self._explore = EpsilonGreedy(
            num_actions, config.epsilon.at, config.rollout_rows, generator, legal=self._padding
        )
        self._policy, self._targets = Recorded(self.policy, network), Recorded(self._returns, network)
        optimizer = AdamConfig(epsilon=config.adam_epsilon).build(parameter_groups(network))
        self._update = GradientStep(self._loss, network, optimizer, config.max_gradient_norm, dropout)

    def notes(self) -> list[str]:
        found = []
        if self._num_envs < self.config.minibatches:
            found.append(
                f"agent.minibatches={self.config.minibatches}, but env.num_envs={self._num_envs}: a minibatch is made "
                f"of whole environments, so there are {self._num_envs}"
            )
        if not any(isinstance(module, _NORMS) for module in self.network.modules()):
            found.append("agent.encoder has no norm: without a target network values may diverge; see its field norm")
        return found

    def policy(
        self,
        network: Network[Tensor],
        observation: Observation,
        state: State,
        is_first: Tensor,
        action_mask: Tensor | None,
        chance: Sequence[Tensor],
    ) -> Step:
        """The legal action of the highest value, or by chance another."""
        q, state = network.step(observation, state, is_first)
        action = among(q, *maybe(self._padding), *maybe(action_mask)).argmax(-1)
        return Step(self._explore.explored(action, chance, action_mask), state)

    def chance(self, num_envs: int, *, is_free: bool) -> Sequence[Tensor]:
        return self._explore.draw((num_envs, *self.spec.value_shape("pqn")[:-1]), is_free=is_free)

    def learn(self, batch: Rollout) -> Metrics:
        """`epochs * minibatches` updates towards one target for each row, which stands still meanwhile."""
        self.step += int(batch.valid.sum())
        self._explore.begin(self.step)
        with torch.no_grad():
            return_ = self._targets(batch)
        with mode(self.network, training=True):
            return self._update(self._minibatches(batch, return_), self.config.learning_rate.at(self.step))

    def examine(self, wanted: bool) -> None:
        self._update.examine(wanted)

    @property
    def num_updates(self) -> int:
        return self._update.num_updates

    def _returns(self, network: Network[Tensor], batch: Rollout) -> Tensor:
        """What the action values of each row should be, [T, B]: Peng's Q(lambda) by the network as it acted."""
        columns = torch.arange(batch.batch_size, device=batch.reward.device)
        # In the parts that an update takes, and so in no more memory.
        parts = (_inputs(batch, part, batch.num_rows + 1) for part in self._split(columns))
        q = torch.cat([network(*part)[0] for part in parts], 1)
        value = among(q, *maybe(self._padding), *maybe(batch.action_mask)).amax(-1)
        # Of branches the mean, one target for all of them (Tavakoli et al. 2018, eq. 6).
        next_value = value.view(*value.shape[:2], -1).mean(-1)[1:]
        # Termination ends the return, truncation does not: its successor is the true final observation.
        discount = self.config.discount * batch.terminated.logical_not()
        cut = batch.done | ~batch.valid
        return lambda_return(batch.reward, discount, next_value, cut, self.config.trace_decay)

    def _minibatches(self, batch: Rollout, return_: Tensor) -> Iterator[Minibatch]:
        for _ in range(self.config.epochs):
            order = torch.randperm(batch.batch_size, generator=self._order, device=self._order.device)
            for columns in self._split(order):
                told = (each.index_select(1, columns) for each in (batch.action, return_, batch.valid))
                yield Minibatch(*_inputs(batch, columns, batch.num_rows), *told)

    def _split(self, columns: Tensor) -> tuple[Tensor, ...]:
        """In as many parts as there are minibatches, whose sizes differ by one at most."""
        return columns.tensor_split(min(self.config.minibatches, len(columns)))

    def _loss(self, network: Network[Tensor], batch: Minibatch) -> tuple[Tensor, Metrics]:
        q, _ = network(batch.observation, batch.state, batch.is_first)
        q_taken = taken(q, batch.action).view(*batch.return_.shape, -1)  # a branch, or one column of the lone action
        td_error = batch.return_.unsqueeze(-1) - q_taken
        error = huber(td_error) if self.config.loss == "huber" else squared(td_error)
        loss, q_mean, td_size = (
            masked_mean(each.mean(-1), batch.valid) for each in (error, q_taken.detach(), td_error.detach().abs())
        )
        return loss, {"q": q_mean, "td_error": td_size}

    def state_dict(self) -> StateDict:
        return {
            "network": self.network.state_dict(),
            "optimizer": self._update.state_dict(),
            "generator": self._generator.get_state(),
            "order": self._order.get_state(),
            "step": self.step,
        }

    def load_state_dict(self, state: StateDict) -> None:
        expect_keys("pqn", state, {"network", "optimizer", "generator", "order", "step"})
        load_weights("network", self.network, state["network"])
        self._update.load_state_dict(state["optimizer"])
        self._generator.set_state(state["generator"])
        self._order.set_state(state["order"])
        self.step = state["step"]
        self._explore.begin(self.step)


def _inputs(batch: Rollout, columns: Tensor, rows: int) -> tuple[Observation, State, Tensor]:
    """What a network is given of the first `rows` rows of some environments."""
    observation = map_leaves(lambda leaf: leaf[:rows].index_select(1, columns), batch.observation)
    state = tuple(part.index_select(0, columns) for part in batch.state)
    return observation, state, batch.is_first[:rows].index_select(1, columns)


def _check_parts(network: Network[Tensor], config: PQNConfig, spec: EnvSpec) -> None:
    """Raise ValueError for parts that do not go together."""
    check_causal(network)
    told, expected = network.probe(spec.observation_space), spec.value_shape("pqn")
    if not isinstance(told, Tensor) or told.shape[2:] != expected:
        shape = tuple(told.shape[2:]) or (1,) if isinstance(told, Tensor) else None
        given = type(told).__name__ if shape is None else f"{' x '.join(map(str, shape))} values"
        needed = " x ".join(map(str, expected))
        raise ValueError(f"the network gives {given}, but env.id={spec.id} has {needed} actions")
    if config.rollout_rows == 1 and network.initial_state(1):
        raise ValueError("agent.rollout_rows=1: a recurrent encoder learns from sequences of at least 2 rows")
    if config.rollout_rows == 1 and has_batch_norm(network):
        raise ValueError(
            "agent.rollout_rows=1: batch norm can tell no deviation of one row; use at least 2, or another norm"
        )
