"""Deep Q-networks (Mnih et al. 2015), and what has been added to them: each a switch of the config that stands alone.

double             van Hasselt et al. 2016      value: categorical  Bellemare et al. 2017 (C51)
head.dueling       Wang et al. 2016             value: quantile     Dabney et al. 2018a (QR-DQN)
head.noise         Fortunato et al. 2018        value: implicit     Dabney et al. 2018b (IQN)
n_step             Sutton & Barto 2018, ch. 7   prioritised         Schaul et al. 2016
munchausen         Vieillard et al. 2020        value_rescaling     Pohlen et al. 2018
sequence_length    Kapturowski et al. 2019      branches            Tavakoli et al. 2018, for MultiDiscrete actions

Recurrence needs no second algorithm: a feed-forward network learns from sequences of one row.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
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
    Places,
    PrioritySettings,
    Recorded,
    ReplayBuffer,
    Rollout,
    StateDict,
    Step,
    Storage,
    Window,
    expect_keys,
    load_weights,
    sequence_priority,
)
from ..engine.agent import check_causal
from ..engine.exploration import EpsilonGreedy
from ..engine.phases import SAMPLING
from ..engine.storage import byte_text
from ..envs import EnvSpec
from ..losses import log_policy, munchausen_bonus, signed_hyperbolic, signed_parabolic
from ..networks import (
    Encoder,
    EncoderConfig,
    ImplicitQuantileHead,
    Initialisation,
    MLPConfig,
    Network,
    State,
    follow,
    has_batch_norm,
    initialise,
    mode,
    noise,
    noisy_layers,
    parameter_groups,
    resample,
)
from ..spaces import Observation
from ..training.schedules import Constant, Linear, Probability, Rate, crossed
from ..training.seeding import Seeds
from .action_values import HeadConfig, Return, ScalarConfig, ValueConfig, among, taken
from .auxiliary import AuxiliaryConfig
from .sequences import Maybe, features_of, in_columns, inputs_in_columns, maybe, successors, to_branches

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
_CACHED_ROWS = 512


class PrioritisedConfig(Config):
    """What surprised is drawn more often (Schaul et al. 2016, proportional)."""

    exponent: Share = 0.6  # of a priority; 0 draws uniformly
    importance: Probability = Linear(start=0.4, end=1.0, steps=100_000)  # exponent of the weights that make up for it
    sequence_max: Share = 0.9  # of a sequence's errors the largest has this share in its priority, their mean the rest
    floor: Annotated[float, Field(gt=0)] = 1e-6  # added to every error


class MunchausenConfig(Config):
    """A soft policy, and its log-probability of the action taken as a part of the reward (Vieillard et al. 2020)."""

    scale: Share = 0.9  # of that part
    temperature: Annotated[float, Field(gt=0)] = 0.03
    floor: Annotated[float, Field(le=0)] = -1.0  # the least it can be, before `scale`


class DQNConfig(Config):
    kind: Literal["dqn"] = "dqn"
    encoder: EncoderConfig = MLPConfig(hidden=(256, 256))
    initialisation: Initialisation = "uniform"  # of the encoder and the heads
    head: HeadConfig = HeadConfig()
    value: ValueConfig = ScalarConfig()
    discount: Share = 0.99
    learning_rate: Rate = Constant(value=5e-4)
    adam_epsilon: Annotated[float, Field(gt=0)] = 1e-8
    max_gradient_norm: Annotated[float, Field(gt=0)] | None = 10.0
    double: bool = True
    n_step: Positive = 1  # rewards that are summed before the successor's value
    munchausen: MunchausenConfig | None = None
    value_rescaling: bool = False  # learn values on the scale of losses.signed_hyperbolic
    prioritised: PrioritisedConfig | None = None  # None draws uniformly
    auxiliary: AuxiliaryConfig = AuxiliaryConfig()
    epsilon: Probability = Linear(start=1.0, end=0.05, steps=10_000)  # chance of a random action, by environment step
    replay_capacity: Positive = 100_000  # transitions
    replay_storage: Storage = "device"  # or pinned, in the host's memory; mapped, in a file
    replay_directory: str | None = None  # of a mapped file; None: the system's directory of temporary files
    learning_starts: Annotated[int, Field(ge=0)] = 1_000  # environment steps before the first update
    train_period: Positive = 4  # rows (steps of each environment) between calls to learn
    updates: Positive = 1  # gradient updates a call to learn
    batch_size: Positive = 64  # sequences an update
    sequence_length: Positive = 1  # rows of a sequence, burn-in included; 1 for a feed-forward encoder
    burn_in: Annotated[int, Field(ge=0)] = 0  # first rows of a sequence, which only warm up the recurrent state
    stored_state: bool = True  # a sequence begins with the recurrent state that acting had there; false: with zeros
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
        if self.replay_directory is not None and self.replay_storage != "mapped":
            raise ValueError(
                f"agent.replay_directory={self.replay_directory}: agent.replay_storage={self.replay_storage} makes no "
                "file; use mapped, or null"
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
        head = self.value.head(self.head, encoder.out_features, spec.value_shape("dqn"), spec.padding)
        auxiliary = self.auxiliary.heads(encoder.out_features, spec)
        initialise(head, self.initialisation, generator)
        if auxiliary is not None:
            initialise(auxiliary, self.initialisation, generator)
        return Network(encoder, head, auxiliary)

    def build(
        self, network: Network[Tensor], spec: EnvSpec, num_envs: int, seeds: Seeds, device: torch.device
    ) -> "DQN":
        """The agent with an empty replay; draws its random numbers from `seeds`."""
        network, prioritised = network.to(device), self.prioritised
        replay = ReplayBuffer(
            self.replay_capacity,
            num_envs,
            spec,
            seeds.generator("replay", device),
            state=network.initial_state(num_envs) if self.stored_state else (),
            rollout_rows=self.rollout_rows,
            window=Window(self.sequence_length, self.n_step, self.discount),
            priorities=None if prioritised is None else PrioritySettings(prioritised.exponent, prioritised.floor),
            storage=self.replay_storage,
            directory=None if self.replay_directory is None else Path(self.replay_directory).expanduser(),
            groups=network.groups,
        )
        names = ("exploration", "noise", "dropout")
        return DQN(network, replay, self, spec, *(seeds.generator(name, device) for name in names))


class Drawn(NamedTuple):
    """All that is random in what updates learn from: N places in the replay, and fractions of quantiles."""

    tables: Mapping[str, Tensor]  # of the replay
    places: Places
    of_target: Maybe  # [rows, N, K'] that the target network is asked for
    fractions: Maybe  # [rows, N, K] that the online one is


class Batch(NamedTuple):
    """What one update learns from, or all of a call together: N sequences, and all of their loss that the online
    network has no part in.

    Their first rows, of number burn_in, only warm up the recurrent state; `learnt` rows are learnt, and what comes
    after them are successors.
    """

    observation: Observation  # [rows, N, *obs]
    is_first: Tensor  # [rows, N]
    state: State  # before row 0, each [N, ...]
    action: Tensor  # [learnt, N], or [learnt, N, D] of D branches
    reward: Tensor  # [learnt, N] of n_step rows, and Munchausen's part
    discount: Tensor  # [learnt, N] of the successor
    weight: Tensor  # [learnt, N] in the loss
    successor: Maybe  # [learnt, N] its row, counted from the first that is learnt; none: it is the next
    following: Tensor  # [learnt, N, A(, K)] what the target network says of the successor
    legal: Maybe  # [learnt, N, A] actions of the successor
    told: tuple[Tensor, ...]  # each [learnt, N, ...], what the auxiliary heads should tell
    fractions: Maybe  # [rows - burn_in, N, K] of the quantiles that the head is asked for


class DQN(Agent):
    """Takes the action of the highest value, but for epsilon or noise; learns values from replay.

    Of a StackedNetwork every column of environments and batches belongs to one of its networks: so there are as many
    agents side by side, each of `batch_size` and of a step of its own, and the loss is the sum of theirs.
    """

    def __init__(
        self,
        network: Network[Tensor],
        replay: ReplayBuffer,
        config: DQNConfig,
        spec: EnvSpec,
        generator: torch.Generator,
        draws: torch.Generator,
        dropout: torch.Generator | None = None,
    ) -> None:
        """generator: of actions; draws: of noisy layers and quantile fractions.

        dropout: of what the network draws while it learns, None for torch's own stream.
        """
        _check_parts(network.unstacked(0), replay, config, spec)
        self.network, self.replay, self.config, self.spec = network, replay, config, spec
        self.target = deepcopy(network).requires_grad_(False)
        for each in (self.network, self.target):
            each.eval()  # and in train mode only while it learns, see networks.mode
        self.rollout_rows = config.rollout_rows
        self.step = 0  # environment steps learnt from; of many agents their mean, rounded down
        self._remainder = 0  # steps of all, beyond that
        self._columns = network.groups * config.batch_size  # of a batch
        self._generator, self._draws = generator, draws
        self._noisy, self._noisy_target = noisy_layers(network), noisy_layers(self.target)
        # Where branches have unequal numbers of actions, some that the values have room for are never legal.
        self._padding = None if spec.padding is None else spec.padding.to(generator.device)
        self._explore = EpsilonGreedy(
            spec.value_shape("dqn")[-1],
            config.epsilon.at,
            config.train_period,
            generator,
            legal=self._padding,
            groups=network.groups,
        )
        self._policy = Recorded(self.policy, network)
        self._prepared = Recorded(self._prepare, self.target)
        optimizer = AdamConfig(epsilon=config.adam_epsilon).build(parameter_groups(network))
        self._update = GradientStep(
            self._loss, network, optimizer, config.max_gradient_norm, dropout, network.groups, others=[self.target]
        )

    def notes(self) -> list[str]:
        replay, epsilon = self.replay, self.config.epsilon.at(0)
        found = [f"replay {byte_text(replay.nbytes)} for {replay.num_rows * replay.num_envs:,} transitions"]
        if self._noisy and epsilon:
            found.append(
                f"explores by noise and by agent.epsilon, at first {epsilon:g}: with agent.epsilon=0 by noise alone"
            )
        return found

    def check_room(self) -> None:
        self.replay.check_room()

    def policy(
        self,
        network: Network[Tensor],
        observation: Observation,
        state: State,
        is_first: Tensor,
        action_mask: Tensor | None,
        chance: Sequence[Tensor],
    ) -> Step:
        """The action of the highest value, or by chance another."""
        output, state = network.step(observation, state, is_first)
        action = self._values(output, maybe(action_mask)).argmax(-1)
        return Step(self._explore.explored(action, chance, action_mask), state)

    def chance(self, num_envs: int, *, is_free: bool) -> Sequence[Tensor]:
        resample(self._noisy, self._draws)
        return self._explore.draw((num_envs, *self.spec.value_shape("dqn")[:-1]), is_free=is_free)

    def exploring(self) -> AbstractContextManager[object]:
        return noise(self._noisy, on=True) if self._noisy else super().exploring()

    def learn(self, batch: Rollout) -> Metrics:
        """Store the rollout, then update as often as the config says; no metrics before `learning_starts`."""
        config = self.config
        with SAMPLING:
            self.replay.add(batch if config.stored_state else replace(batch, state=()))
        more, self._remainder = divmod(self._remainder + int(batch.valid.count_nonzero()), self.network.groups)
        before, self.step = self.step, self.step + more
        self._explore.begin(self.step)
        if self.step < config.learning_starts or len(self.replay) == 0:
            return {}
        if config.target_rate == 1.0 and crossed(config.target_period, before, self.step):
            follow(self.target, self.network, 1.0)
        # While target, noise and priorities stand still, one draw and one pass of the target serve every update. A
        # batch of many agents is large as it is.
        one_draw_serves = config.target_rate == 1.0 and not self._noisy and config.prioritised is None
        one_draw_serves = one_draw_serves and self.network.groups == 1
        counts = [config.updates] if one_draw_serves else [1] * config.updates
        with mode(self.network, training=True), noise([*self._noisy, *self._noisy_target], on=True):
            history = [self._learn(count) for count in counts]
        if len(history) == 1:
            return history[0]
        # The first may have measured the layers too, see examine.
        told = {name: [metrics[name] for metrics in history if name in metrics] for name in history[0]}
        return {name: torch.stack(values).mean() for name, values in told.items()}

    def _learn(self, count: int) -> Metrics:
        """So many updates on one draw from the replay."""
        config, prioritised = self.config, self.config.prioritised
        importance = 1.0 if prioritised is None else prioritised.importance.at(self.step)
        with SAMPLING:
            places = self.replay.draw(count * self._columns, importance)
        drawn = self._drawn(places)
        # A lone batch is prepared as a part of its update, so that one recording does both.
        batches = [drawn] if count == 1 else self._batches(self._prepared(drawn), count)
        metrics = self._update(batches, config.learning_rate.at(self.step))
        if prioritised is not None:
            with SAMPLING:
                self.replay.prioritise(places.index, self._update.last[-1]["priority"])
        if config.target_rate < 1.0:
            follow(self.target, self.network, config.target_rate)
        return metrics

    def examine(self, wanted: bool) -> None:
        self._update.examine(wanted)

    @property
    def num_updates(self) -> int:
        return self._update.num_updates

    def _drawn(self, places: Places) -> Drawn:
        config, size, draws = self.config, len(places.index), self._draws
        rows = self.replay.sampled_rows + 1 - config.burn_in  # the last successor included
        resample(self._noisy_target, draws)
        of_target = config.value.draw(rows - self._skipped, size, target=True, generator=draws)
        rows = rows if config.double else config.sequence_length - config.burn_in
        fractions = config.value.draw(rows, size, target=False, generator=draws)
        resample(self._noisy, draws)
        return Drawn(self.replay.tables, places, of_target, fractions)

    def _batches(self, whole: Batch, count: int) -> Iterator[Batch]:
        """One for each update."""
        size = self._columns
        inputs = inputs_in_columns(whole.observation, whole.is_first, whole.state, size)
        return map(Batch, *inputs, *(in_columns(part, size, count) for part in whole[3:]))

    def _prepare(self, target: Network[Tensor], drawn: Drawn) -> Batch:
        """What lies at the places of the replay, and what the target network says of it."""
        config, sample = self.config, self.replay.read(drawn.tables, drawn.places)
        rollout, learnt = sample.rollout, slice(config.burn_in, config.sequence_length)
        state = rollout.state if config.stored_state else target.initial_state(len(drawn.places.index))
        action, reward = rollout.action[learnt], sample.reward[learnt]
        rows = len(reward)
        valid = rollout.valid[learnt].view(rows, -1, config.batch_size)
        mean = valid / valid.sum((0, 2), keepdim=True).clamp(min=1)  # of each batch
        masks = tuple(mask[config.burn_in :] for mask in maybe(rollout.action_mask))
        successor = tuple(row[learnt] - config.burn_in for row in maybe(sample.successor))

        output = self._of_target(target, rollout.observation, rollout.is_first, state, drawn.of_target)
        if config.munchausen is not None:
            reward = reward + self._bonus(config.munchausen, output[:rows], tuple(m[:rows] for m in masks), action)
        return Batch(
            rollout.observation,
            rollout.is_first,
            state,
            action,
            reward,
            sample.discount[learnt],
            mean.flatten(1) * sample.weight,
            successor,
            successors(output, successor, rows),
            tuple(successors(mask, successor, rows) for mask in masks),
            tuple(told[learnt] for told in config.auxiliary.targets(rollout)),
            drawn.fractions,
        )

    @property
    def _skipped(self) -> int:
        """Of the first row itself the target network is asked for Munchausen's part only, or for a later successor."""
        is_next = self.config.n_step == 1 or self.replay.sampled_rows == 1
        return 1 if is_next and self.config.munchausen is None else 0

    def _of_target(
        self, target: Network[Tensor], observation: Observation, is_first: Tensor, state: State, fractions: Maybe
    ) -> Tensor:
        """What the target network says of the rows that it is asked for, [rows, N, A(, K)]."""
        size, start = is_first.shape[1], self.config.burn_in + self._skipped
        # A CPU takes half the time for columns few enough that their activations fit into its cache. Elsewhere it is
        # memory that counts: four batches without gradients take about what an update does.
        part = max(_CACHED_ROWS // (len(is_first) - 1), 1) if is_first.is_cpu else 4 * self.config.batch_size
        if target.groups > 1:
            part = size  # a stack takes whole batches, of which each of its networks has a part
        inputs = zip(
            *inputs_in_columns(observation, is_first, state, part),
            in_columns(fractions, part, -(-size // part)),
            strict=True,
        )
        features = (
            (features_of(target, seen, first, state, slice(start, None)), at) for seen, first, state, at in inputs
        )
        return torch.cat([target.head(each, *at) for each, at in features], 1)

    def _bonus(self, config: MunchausenConfig, output: Tensor, legal: Maybe, action: Tensor) -> Tensor:
        """Munchausen's part of the reward, [rows, N]; of branches the mean."""
        log_pi = taken(log_policy(self._values(output, legal), config.temperature), action)
        bonus = munchausen_bonus(log_pi, config.temperature, config.scale, config.floor)
        return bonus if self.spec.branches is None else bonus.mean(-1)

    def _loss(self, network: Network[Tensor], given: Batch | Drawn, target: Network[Tensor]) -> tuple[Tensor, Metrics]:
        batch = self._prepare(target, given) if isinstance(given, Drawn) else given
        config, value, rows = self.config, self.config.value, len(batch.reward)
        end = None if config.double else config.sequence_length
        features = features_of(network, batch.observation, batch.is_first, batch.state, slice(config.burn_in, end))
        output = network.head(features, *batch.fractions)
        return_ = value.projected(self._target(batch, output.detach()))
        fractions = tuple(asked[:rows] for asked in batch.fractions)
        if self.spec.branches is not None:  # each learns the same target
            return_ = to_branches(return_, batch.action.shape)
            fractions = tuple(to_branches(asked, batch.action.shape) for asked in fractions)
        error, surprise = value.error(taken(output[:rows], batch.action), return_, fractions)
        if self.spec.branches is not None:
            error, surprise = error.mean(-1), surprise.mean(-1)
        loss, metrics = (error * batch.weight).sum(), {"q": value.mean(output.detach()), "td_error": surprise}
        if config.prioritised is not None:
            valid = batch.is_first[1:][config.burn_in : config.sequence_length].logical_not()
            metrics["priority"] = sequence_priority(surprise, valid, config.prioritised.sequence_max)
        if batch.told:
            # The successor's features tell nothing: they are there for the choice of its action alone.
            told, more = config.auxiliary.loss(network, features[:rows], batch.action, batch.told, batch.weight)
            loss, metrics = loss + told, metrics | more
        return loss, metrics

    def _target(self, batch: Batch, online: Tensor) -> Return:
        """What the return is learnt to be, [learnt, N, K]; online: what the online network says of all rows."""
        config, (atoms, probability) = self.config, self.config.value.returns(batch.following)
        # First of all, so that the entropy is in the reward's units, as Munchausen's term is.
        following = Return(signed_parabolic(atoms) if config.value_rescaling else atoms, probability)
        # Double: the successor's action is the online network's choice (van Hasselt et al. 2016, eq. 4).
        chooser = successors(online, batch.successor, len(batch.reward)) if config.double else batch.following
        q = self._values(chooser, batch.legal)
        if config.munchausen is None:
            following = following.of(q.argmax(-1))
        else:
            following = following.under(log_policy(q, config.munchausen.temperature), config.munchausen.temperature)
        if self.spec.branches is not None:
            following = following.of_branches()
        atoms = batch.reward.unsqueeze(-1) + batch.discount.unsqueeze(-1) * following.atoms
        return Return(signed_hyperbolic(atoms) if config.value_rescaling else atoms, following.probability)

    def _values(self, output: Tensor, legal: Maybe) -> Tensor:
        """Action values [..., A] of the head's output, -inf for what is no legal action."""
        return among(self.config.value.mean(output), *maybe(self._padding), *legal)

    def state_dict(self) -> StateDict:
        return {
            "network": self.network.state_dict(),
            "target": self.target.state_dict(),
            "optimizer": self._update.state_dict(),
            "replay": self.replay.state_dict(),
            "generator": self._generator.get_state(),
            "noise": self._draws.get_state(),
            "step": self.step * self.network.groups + self._remainder,
        }

    def load_state_dict(self, state: StateDict) -> None:
        expect_keys("dqn", state, {"network", "target", "optimizer", "replay", "generator", "noise", "step"})
        load_weights("network", self.network, state["network"])
        load_weights("target network", self.target, state["target"])
        self._update.load_state_dict(state["optimizer"])
        self.replay.load_state_dict(state["replay"])
        self._generator.set_state(state["generator"])
        self._draws.set_state(state["noise"])
        self.step, self._remainder = divmod(state["step"], self.network.groups)
        self._explore.begin(self.step)


def _check_parts(network: Network[Tensor], replay: ReplayBuffer, config: DQNConfig, spec: EnvSpec) -> None:
    """Raise ValueError for parts that do not go together."""
    check_causal(network)
    told, needed = network.probe(spec.observation_space), config.value.shape(spec.value_shape("dqn"))
    is_of_kind = config.value.kind != "implicit" or isinstance(network.head, ImplicitQuantileHead)
    if not isinstance(told, Tensor) or told.shape[2:] != needed or not is_of_kind:
        found = f"values of shape {list(told.shape[2:])}" if isinstance(told, Tensor) else type(told).__name__
        raise ValueError(
            f"the network gives {found}, but agent.value.kind={config.value.kind} on env.id={spec.id} needs "
            f"{list(needed)}{'' if is_of_kind else ' of an ImplicitQuantileHead'}"
        )
    if config.head.noise is not None and not noisy_layers(network):
        raise ValueError(
            f"agent.head.noise={config.head.noise}: the network has no NoisyLinear; give it one or use null"
        )
    config.auxiliary.check(network, spec)
    learnt_rows, is_recurrent = config.sequence_length - config.burn_in, bool(network.initial_state(1))
    # Burn-in is a pass of its own.
    if has_batch_norm(network) and config.batch_size * min(learnt_rows + config.double, config.burn_in or 2) == 1:
        raise ValueError(
            "agent.batch_size=1: batch norm can tell no deviation of one row; use at least 2, or another norm"
        )
    if config.burn_in and not is_recurrent:
        raise ValueError(f"agent.burn_in={config.burn_in}: only a recurrent encoder burns in; use 0")
    if not config.stored_state and not is_recurrent:
        raise ValueError("agent.stored_state=false: only a recurrent encoder has a state; use true")
    if is_recurrent and config.sequence_length < 2:
        raise ValueError("agent.sequence_length=1: a recurrent encoder learns from sequences of at least 2 rows")
    if is_recurrent and config.stored_state and learnt_rows < config.train_period:
        # Sequences begin where a rollout did: rows between the end of one and the start of the next are never seen.
        raise ValueError(
            f"agent.sequence_length - agent.burn_in = {learnt_rows} must be at least "
            f"agent.train_period={config.train_period}, so that a recurrent encoder learns from every row"
        )
    rows = config.sequence_length + config.train_period
    if replay.num_rows < rows:
        raise ValueError(
            f"agent.replay_capacity={config.replay_capacity} keeps {replay.num_rows} rows of each environment, but "
            f"agent.sequence_length + agent.train_period = {rows} are needed"
        )
