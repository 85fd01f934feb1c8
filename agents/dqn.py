"""Deep Q-networks (Mnih et al. 2015), double (van Hasselt et al. 2016), recurrent (Kapturowski et al. 2019).

Recurrence needs no second algorithm: a feed-forward network learns from sequences of one row.
"""

from copy import deepcopy
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor

from ..configs.config import Config
from ..engine import (
    AdamConfig,
    Agent,
    GradientStep,
    Metrics,
    Recorded,
    ReplayBuffer,
    Rollout,
    StateDict,
    Step,
    expect_keys,
    load_weights,
)
from ..engine.agent import check_causal
from ..engine.exploration import EpsilonGreedy
from ..envs import EnvSpec
from ..losses import double_q_learning, huber, q_learning, squared
from ..networks import (
    Encoder,
    EncoderConfig,
    Initialisation,
    MLPConfig,
    Network,
    QHead,
    State,
    follow,
    has_batch_norm,
    initialise,
    mode,
    parameter_groups,
)
from ..spaces import Observation, columns_of, rows_of
from ..training.schedules import Constant, Linear, Probability, Rate, crossed
from ..training.seeding import Seeds
from .auxiliary import AuxiliaryConfig

Positive = Annotated[int, Field(gt=0)]

_CACHED_ROWS = 512


class DQNConfig(Config):
    kind: Literal["dqn"] = "dqn"
    encoder: EncoderConfig = MLPConfig(hidden=(256, 256))
    initialisation: Initialisation = "uniform"  # of the encoder and the heads
    discount: Annotated[float, Field(ge=0, le=1)] = 0.99
    learning_rate: Rate = Constant(value=5e-4)
    adam_epsilon: Annotated[float, Field(gt=0)] = 1e-8
    max_gradient_norm: Annotated[float, Field(gt=0)] | None = 10.0
    loss: Literal["huber", "squared"] = "huber"
    double: bool = True
    auxiliary: AuxiliaryConfig = AuxiliaryConfig()
    epsilon: Probability = Linear(start=1.0, end=0.05, steps=10_000)  # chance of a random action, by environment step
    replay_capacity: Positive = 100_000  # transitions
    learning_starts: Annotated[int, Field(ge=0)] = 1_000  # environment steps before the first update
    train_period: Positive = 4  # rows (steps of each environment) between calls to learn
    updates: Positive = 1  # gradient updates a call to learn
    batch_size: Positive = 64  # sequences an update
    sequence_length: Positive = 1  # rows of a sequence, burn-in included; 1 for a feed-forward encoder
    burn_in: Annotated[int, Field(ge=0)] = 0  # first rows of a sequence, which only warm up the recurrent state
    target_period: Positive = 1_000  # environment steps between copies to the target; unused if target_rate < 1
    target_rate: Annotated[float, Field(gt=0, le=1)] = 1.0  # below 1, a soft target: its move to online at each update

    @model_validator(mode="after")
    def _check(self) -> "DQNConfig":
        if self.sequence_length <= self.burn_in:
            raise ValueError(
                f"agent.sequence_length={self.sequence_length} must exceed agent.burn_in={self.burn_in}: "
                "burn-in rows are part of the sequence and nothing is learnt on them"
            )
        if self.replay_capacity < max(self.batch_size, self.learning_starts):
            raise ValueError(
                f"agent.replay_capacity={self.replay_capacity} must hold at least "
                f"agent.batch_size={self.batch_size} and agent.learning_starts={self.learning_starts} transitions"
            )
        return self

    @property
    def rollout_rows(self) -> int | None:
        """Rows of a rollout."""
        return self.train_period

    def network(self, spec: EnvSpec, seeds: Seeds, encoder: Encoder | None = None) -> Network[Tensor]:
        """A network with weights drawn from `seeds`; `encoder`, as it is, in place of the config's."""
        generator = seeds.generator("network")
        if encoder is None:
            encoder = self.encoder.build(spec.observation_space)
            initialise(encoder, self.initialisation, generator)
        num_actions, width = spec.discrete("dqn"), encoder.out_features
        head, auxiliary = QHead(width, num_actions), self.auxiliary.heads(width, num_actions, spec)
        initialise(head, self.initialisation, generator)
        if auxiliary is not None:
            initialise(auxiliary, self.initialisation, generator)
        return Network(encoder, head, auxiliary)

    def build(
        self, network: Network[Tensor], spec: EnvSpec, num_envs: int, seeds: Seeds, device: torch.device
    ) -> "DQN":
        """The agent with an empty replay; draws its random numbers from `seeds`."""
        network = network.to(device)
        replay = ReplayBuffer(
            self.replay_capacity,
            num_envs,
            spec.observation_space,
            seeds.generator("replay", device),
            state=network.initial_state(num_envs),
            rollout_rows=self.rollout_rows,
        )
        exploration, dropout = (seeds.generator(name, device) for name in ("exploration", "dropout"))
        return DQN(network, replay, self, spec, exploration, dropout)


class Batch(NamedTuple):
    """What one update learns from: N sequences of L rows, and what of their loss the online network has no part in.

    The first rows, of number burn_in, only warm up the recurrent state; the others are learnt.
    """

    observation: Observation  # [L (+1, the successor, if double), N, *obs]
    is_first: Tensor  # as observation
    state: State  # before row 0, each [N, ...]
    action: Tensor  # [learnt, N]
    reward: Tensor  # [learnt, N]
    discount: Tensor  # [learnt, N] of the successor
    weight: Tensor  # [learnt, N] in the loss
    next_q: Tensor  # [learnt, N, A] the target network's values of the successor
    told: tuple[Tensor, ...]  # each [learnt, N, ...], what the auxiliary heads should tell


class DQN(Agent):
    """Epsilon-greedy on a learned action value; each environment flips its own coin."""

    def __init__(
        self,
        network: Network[Tensor],
        replay: ReplayBuffer,
        config: DQNConfig,
        spec: EnvSpec,
        generator: torch.Generator,
        dropout: torch.Generator | None = None,
    ) -> None:
        """generator: of actions; dropout: of what the network draws while it learns, None for torch's own stream."""
        _check_parts(network, replay, config, spec)
        self.network, self.replay, self.config, self.spec = network, replay, config, spec
        self.target = deepcopy(network).requires_grad_(False)
        for each in (self.network, self.target):
            each.eval()  # and in train mode only while it learns, see networks.mode
        self.rollout_rows = config.rollout_rows
        self.step = 0  # environment steps learnt from
        self._generator = generator
        self._explore = EpsilonGreedy(spec.discrete("dqn"), config.epsilon.at, config.train_period, generator)
        self._greedy = Recorded(_greedy, network)
        optimizer = AdamConfig(epsilon=config.adam_epsilon).build(parameter_groups(network))
        self._update = GradientStep(self._loss, network, optimizer, config.max_gradient_norm, dropout)

    def notes(self) -> list[str]:
        replay = self.replay
        return [f"replay {replay.nbytes / 1e6:,.1f} MB for {replay.num_rows * replay.num_envs:,} transitions"]

    @torch.no_grad()
    def act(self, observation: Observation, state: State, is_first: Tensor, *, explore: bool) -> Step:
        action, *after = self._greedy(observation, state, is_first)
        return Step(self._explore(action) if explore else action, tuple(after))

    def learn(self, batch: Rollout) -> Metrics:
        """Store the rollout, then update as often as the config says; no metrics before `learning_starts`."""
        config = self.config
        self.replay.add(batch)
        before, self.step = self.step, self.step + int(batch.valid.sum())
        self._explore.begin(self.step)
        if self.step < config.learning_starts or self.replay.num_sequences(config.sequence_length) == 0:
            return {}
        learning_rate = config.learning_rate.at(self.step)
        with mode(self.network, training=True):
            if config.target_rate == 1.0:
                if crossed(config.target_period, before, self.step):
                    follow(self.target, self.network, 1.0)
                # The target stands still for the whole burst: one draw and one pass of it serve every update.
                return self._update(self._batches(config.updates), learning_rate)
            history: list[Metrics] = []
            for _ in range(config.updates):
                history.append(self._update(self._batches(1), learning_rate))
                follow(self.target, self.network, config.target_rate)
            # The first may have measured the layers too, see examine.
            told = {name: [metrics[name] for metrics in history if name in metrics] for name in history[0]}
            return {name: torch.stack(values).mean() for name, values in told.items()}

    def examine(self, wanted: bool) -> None:
        self._update.examine(wanted)

    @torch.no_grad()
    def _batches(self, count: int) -> list[Batch]:
        """One draw for all batches; what the online network has no part in is computed for all of them at once."""
        size, burn_in = self.config.batch_size, self.config.burn_in
        sample = self.replay.sample(count * size, self.config.sequence_length)
        rollout, learnt = sample.rollout, slice(burn_in, None)
        # Termination ends the sum, truncation does not: its successor is the true final observation.
        discount = self.config.discount * rollout.terminated[learnt].logical_not()
        valid = rollout.valid[learnt].view(-1, count, size)
        mean = valid / valid.sum((0, 2), keepdim=True).clamp(min=1)  # of each batch
        # A CPU takes half the time for columns few enough that their activations fit into its cache.
        part = max(_CACHED_ROWS // rollout.num_rows, 1) if rollout.reward.is_cpu else count * size
        next_q = torch.cat([_q(self.target, *columns, burn_in + 1) for columns in _split(rollout, part, None)], 1)
        others = (rollout.action[learnt], rollout.reward[learnt], discount, mean.flatten(1) * sample.weight, next_q)
        told = [torch.split(target[learnt], size, 1) for target in self.config.auxiliary.targets(rollout)]
        inputs = _split(rollout, size, None if self.config.double else -1)
        outputs = [torch.split(other, size, 1) for other in others]
        targets = list(zip(*told, strict=True)) or [()] * count
        return list(map(Batch, *zip(*inputs, strict=True), *outputs, targets))

    def _loss(self, network: Network[Tensor], batch: Batch) -> tuple[Tensor, Metrics]:
        features = _features(network, batch.observation, batch.is_first, batch.state, self.config.burn_in)
        q = network.head(features)
        if self.config.double:
            td_error = double_q_learning(
                q[:-1], batch.action, batch.reward, batch.discount, batch.next_q, q[1:].detach()
            )
        else:
            td_error = q_learning(q, batch.action, batch.reward, batch.discount, batch.next_q)
        error = huber(td_error) if self.config.loss == "huber" else squared(td_error)
        loss, metrics = (error * batch.weight).sum(), {"q": q.detach(), "td_error": td_error.detach().abs()}
        if batch.told:
            # The successor's features tell nothing: they are there for the choice of its action alone.
            learnt = features[: len(batch.action)]
            told, more = self.config.auxiliary.loss(network, learnt, batch.action, batch.told, batch.weight)
            loss, metrics = loss + told, metrics | more
        return loss, metrics

    def state_dict(self) -> StateDict:
        return {
            "network": self.network.state_dict(),
            "target": self.target.state_dict(),
            "optimizer": self._update.state_dict(),
            "replay": self.replay.state_dict(),
            "generator": self._generator.get_state(),
            "step": self.step,
        }

    def load_state_dict(self, state: StateDict) -> None:
        expect_keys("dqn", state, {"network", "target", "optimizer", "replay", "generator", "step"})
        load_weights("network", self.network, state["network"])
        load_weights("target network", self.target, state["target"])
        self._update.load_state_dict(state["optimizer"])
        self.replay.load_state_dict(state["replay"])
        self._generator.set_state(state["generator"])
        self.step = state["step"]
        self._explore.begin(self.step)


def _greedy(network: Network[Tensor], observation: Observation, state: State, is_first: Tensor) -> tuple[Tensor, ...]:
    """Action of the highest value [B], and the state after the observation."""
    q, state = network.step(observation, state, is_first)
    return (q.argmax(-1), *state)


def _q(network: Network[Tensor], observation: Observation, is_first: Tensor, state: State, start: int) -> Tensor:
    """Action values of the rows from `start` on, [rows, N, A]."""
    q: Tensor = network.head(_features(network, observation, is_first, state, start))
    return q


def _features(network: Network[Tensor], observation: Observation, is_first: Tensor, state: State, start: int) -> Tensor:
    """Features of the rows from `start` on, [rows, N, F]; a recurrent network first burns in on those before.

    Each network burns in with its own weights from the stored state (Kapturowski et al. 2019, section 3).
    """
    if start:
        if state:
            with torch.no_grad():
                _, state = network.encoder(rows_of(observation, slice(start)), state, is_first[:start])
        observation, is_first = rows_of(observation, slice(start, None)), is_first[start:]
    features: Tensor = network.encoder(observation, state, is_first)[0]
    return features


def _split(rollout: Rollout, size: int, end: int | None) -> list[tuple[Observation, Tensor, State]]:
    """Observation, is_first and state, rows up to `end`, in parts of `size` columns."""
    observation = columns_of(rows_of(rollout.observation, slice(end)), size)
    is_first = torch.split(rollout.is_first[:end], size, 1)
    states = list(zip(*(torch.split(part, size) for part in rollout.state), strict=True)) or [()] * len(observation)
    return list(zip(observation, is_first, states, strict=True))


def _check_parts(network: Network[Tensor], replay: ReplayBuffer, config: DQNConfig, spec: EnvSpec) -> None:
    """Raise ValueError for parts that do not go together."""
    check_causal(network)
    num_actions = spec.discrete("dqn")
    num_values = network.probe(spec.observation_space).shape[-1]
    if num_values != num_actions:
        raise ValueError(f"the network gives {num_values} values, but env.id={spec.id} has {num_actions} actions")
    config.auxiliary.check(network, num_actions, spec)
    learnt_rows, is_recurrent = config.sequence_length - config.burn_in, bool(network.initial_state(1))
    # Burn-in is a pass of its own.
    if has_batch_norm(network) and config.batch_size * min(learnt_rows + config.double, config.burn_in or 2) == 1:
        raise ValueError(
            "agent.batch_size=1: batch norm can tell no deviation of one row; use at least 2, or another norm"
        )
    if config.burn_in and not is_recurrent:
        raise ValueError(f"agent.burn_in={config.burn_in}: only a recurrent encoder burns in; use 0")
    if is_recurrent and config.sequence_length < 2:
        raise ValueError("agent.sequence_length=1: a recurrent encoder learns from sequences of at least 2 rows")
    if is_recurrent and learnt_rows < config.train_period:
        # Sequences begin where a rollout did: rows between the end of one and the start of the next are never seen.
        raise ValueError(
            f"agent.sequence_length - agent.burn_in = {learnt_rows} must be at least "
            f"agent.train_period={config.train_period}, so that a recurrent encoder learns from every row"
        )
    needed = config.sequence_length + config.train_period
    if replay.num_rows < needed:
        raise ValueError(
            f"agent.replay_capacity={config.replay_capacity} keeps {replay.num_rows} rows of each environment, but "
            f"agent.sequence_length + agent.train_period = {needed} are needed"
        )
