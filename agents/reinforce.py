"""REINFORCE (Williams 1992) on whole episodes, with reward-to-go and a choice of baseline."""

from collections.abc import Iterator, Sequence
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
    Microbatches,
    Recorded,
    Rollout,
    StateDict,
    Step,
    expect_keys,
    load_weights,
    transitions,
)
from ..engine.agent import check_causal
from ..envs import EnvSpec
from ..losses import entropy, masked_mean, masked_sum, policy_gradient, reward_to_go, squared
from ..networks import (
    Categorical,
    CategoricalHead,
    Encoder,
    EncoderConfig,
    Initialisation,
    MLPConfig,
    Network,
    NormalisedValueHead,
    PolicyValue,
    PolicyValueHead,
    State,
    ValueHead,
    initialise,
    mode,
    parameter_groups,
)
from ..spaces import Observation, map_leaves, rows_of
from ..training.schedules import Constant, Rate
from ..training.seeding import Seeds
from .sequences import Maybe, maybe


class ReinforceConfig(Config):
    kind: Literal["reinforce"] = "reinforce"
    encoder: EncoderConfig = MLPConfig(hidden=(64, 64), activation="tanh")
    initialisation: Initialisation = "orthogonal"  # of the encoder
    discount: Annotated[float, Field(ge=0, le=1)] = 0.99
    learning_rate: Rate = Constant(value=1e-3)
    adam_epsilon: Annotated[float, Field(gt=0)] = 1e-8
    max_gradient_norm: Annotated[float, Field(gt=0)] | None = 0.5
    baseline: Literal["none", "standardised", "learned"] = "learned"  # what is taken from the return
    value_coefficient: Annotated[float, Field(ge=0)] = 0.5  # weight of the learned baseline's squared error
    normalise_value: bool = False  # the baseline, its error and the advantage are in deviations of the returns (PopArt)
    entropy_coefficient: Rate = Constant(value=0.0)

    @model_validator(mode="after")
    def _check(self) -> "ReinforceConfig":
        if self.normalise_value and self.baseline != "learned":
            raise ValueError(f"agent.normalise_value=true: agent.baseline={self.baseline} has no value; use learned")
        return self

    @property
    def rollout_rows(self) -> int | None:
        """None: a rollout is one whole episode of each environment."""
        return None

    def network(self, spec: EnvSpec, seeds: Seeds, encoder: Encoder | None = None) -> Network[PolicyValue]:
        """A network with weights drawn from `seeds`; `encoder`, as it is, in place of the config's."""
        generator = seeds.generator("network")
        if encoder is None:
            encoder = self.encoder.build(spec.observation_space)
            gain = 2**0.5 if self.initialisation == "orthogonal" else 1.0  # the other laws have it in them
            initialise(encoder, self.initialisation, generator, gain)
        policy = CategoricalHead(encoder.out_features, spec.discrete("reinforce"))
        initialise(policy, "orthogonal", generator, gain=0.01)  # starts near uniform (Andrychowicz et al. 2021, 3.2)
        value = None
        if self.baseline == "learned":
            value = (NormalisedValueHead if self.normalise_value else ValueHead)(encoder.out_features)
            initialise(value, "orthogonal", generator)
        return Network(encoder, PolicyValueHead(policy, value))

    def build(
        self, network: Network[PolicyValue], spec: EnvSpec, num_envs: int, seeds: Seeds, device: torch.device
    ) -> "Reinforce":
        """The agent; draws its random numbers from `seeds`."""
        exploration, dropout = (seeds.generator(name, device) for name in ("exploration", "dropout"))
        return Reinforce(network.to(device), self, spec, exploration, dropout)


class Microbatch(NamedTuple):
    """Some transitions of a batch of whole episodes."""

    observation: Observation  # [T, N, *obs]
    state: State  # before row 0, each [N, ...]
    action: Tensor  # [T, N]
    return_: Tensor  # [T, N]; standardised, if that is the baseline
    legal: Maybe  # [T, N, A] actions
    counts: Tensor  # [T, N] bool; what does not is no transition of the batch, or one that another part has
    share: Tensor  # [] of one transition in the batch: 1 / their number
    entropy_coefficient: Tensor  # []


class Reinforce(Agent):
    """Policy gradient on the return of each whole episode; one update a rollout."""

    def __init__(
        self,
        network: Network[PolicyValue],
        config: ReinforceConfig,
        spec: EnvSpec,
        generator: torch.Generator,
        dropout: torch.Generator | None = None,
    ) -> None:
        """generator: of actions; dropout: of what the network draws while it learns, None for torch's own stream."""
        check_causal(network)
        num_actions = spec.discrete("reinforce")
        output = network.probe(spec.observation_space)
        if not isinstance(output, PolicyValue):
            raise ValueError(
                f"the network gives {type(output).__name__}, but agent.kind=reinforce needs a PolicyValueHead"
            )
        num_choices = output.policy.log_probs.shape[-1]
        if num_choices != num_actions:
            raise ValueError(f"the network has {num_choices} actions, but env.id={spec.id} has {num_actions}")
        if (output.value is not None) != (config.baseline == "learned"):
            has = "no" if output.value is None else "a"
            raise ValueError(f"agent.baseline={config.baseline}: the network has {has} value head")
        value = network.head.value if isinstance(network.head, PolicyValueHead) else None
        self._normalised = value if isinstance(value, NormalisedValueHead) else None
        if (self._normalised is not None) != config.normalise_value:
            raise ValueError(
                f"agent.normalise_value={str(config.normalise_value).lower()}: the network's value head is "
                f"{type(value).__name__}, but that of true alone is a NormalisedValueHead"
            )
        self.network, self.config, self.spec = network.eval(), config, spec
        self.rollout_rows = config.rollout_rows
        self.step = 0  # environment steps learnt from
        self._generator = generator
        self._policy = Recorded(self.policy, network)
        optimizer = AdamConfig(epsilon=config.adam_epsilon).build(parameter_groups(network))
        self._update = GradientStep(self._loss, network, optimizer, config.max_gradient_norm, dropout)

    def policy(
        self,
        network: Network[PolicyValue],
        observation: Observation,
        state: State,
        is_first: Tensor,
        action_mask: Tensor | None,
        chance: Sequence[Tensor],
    ) -> Step:
        """An action of the policy and its log-probability; without chance the likeliest."""
        output, state = network.step(observation, state, is_first)
        policy = _among(output.policy, *maybe(action_mask))
        if not chance:
            return Step(policy.mode(), state)
        action = policy.sampled(*chance)
        return Step(action, state, policy.log_prob(action))

    def chance(self, num_envs: int, *, is_free: bool) -> Sequence[Tensor]:
        return (Categorical.chance((num_envs, self.spec.discrete("reinforce")), self._generator),)

    def learn(self, batch: Rollout) -> Metrics:
        self.step += int(batch.valid.sum())
        microbatches = self._microbatches(batch, self._returns(batch))
        with mode(self.network, training=True):
            return self._update([microbatches], self.config.learning_rate.at(self.step))

    def examine(self, wanted: bool) -> None:
        self._update.examine(wanted)

    @property
    def num_updates(self) -> int:
        return self._update.num_updates

    @torch.no_grad()
    def _returns(self, rollout: Rollout) -> Tensor:
        """What there is to learn from: reward to go [T, B], in the units of the baseline."""
        valid = rollout.valid
        discount = self.config.discount * rollout.terminated.logical_not()
        return_ = reward_to_go(rollout.reward, discount, rollout.done, self._next_value(rollout))
        if self.config.baseline == "standardised" or self._normalised is not None:
            mean = masked_mean(return_, valid)
            variance = masked_mean((return_ - mean) ** 2, valid)
            if self._normalised is None:
                return (return_ - mean) / (variance.sqrt() + 1e-8)
            self._normalised.adapt(mean, variance)  # no value changes, nor what goes on in it
        return return_

    def _next_value(self, rollout: Rollout) -> Tensor | None:
        """Of the observation after each row [T, B], right where an episode is truncated: there it goes on in value."""
        if self.config.baseline != "learned" or not rollout.truncated.any():
            return None
        if rollout.state:
            value = self.network(rollout.observation, rollout.state, None)[0].value
            return None if value is None else value[1:]
        column, last = torch.arange(rollout.batch_size, device=rollout.reward.device), rollout.valid.sum(0)
        observation = map_leaves(lambda leaf: leaf[last, column].unsqueeze(0), rollout.observation)
        value = self.network(observation)[0].value
        return None if value is None else value.expand_as(rollout.reward)

    def _microbatches(self, rollout: Rollout, return_: Tensor) -> Microbatches[Microbatch]:
        """Whole episodes for a recurrent network, else transitions by themselves."""
        legal = maybe(rollout.action_mask)
        share, coefficient = (
            return_.new_tensor(each)
            for each in (1 / int(rollout.valid.sum()), self.config.entropy_coefficient.at(self.step))
        )

        def begin() -> Iterator[Microbatch]:
            if rollout.state:
                observation, masks = rows_of(rollout.observation, slice(-1)), tuple(mask[:-1] for mask in legal)
                rows = observation, rollout.state, rollout.action, return_, masks, rollout.valid
                yield Microbatch(*rows, share, coefficient)
                return
            for chosen in transitions(rollout.valid):
                observation, masks = map_leaves(chosen.of, rollout.observation), tuple(map(chosen.of, legal))
                rows = observation, (), chosen.of(rollout.action), chosen.of(return_), masks, chosen.counts
                yield Microbatch(*rows, share, coefficient)

        return Microbatches(begin)

    def _loss(self, network: Network[PolicyValue], batch: Microbatch) -> tuple[Tensor, Metrics]:
        """The microbatch's share of the batch's."""
        # Every column begins an episode in row 0 and what follows its end is masked: no reset inside.
        output, _ = network(batch.observation, batch.state, None)
        policy, value = _among(output.policy, *batch.legal), output.value
        unit = 1.0 if self._normalised is None else self._normalised.deviation
        advantage = batch.return_ if value is None else (batch.return_ - value.detach()) / unit

        # Deviation from Williams 1992: no factor discount^t, which would all but ignore the late part of an episode,
        # and a mean over steps where the textbook sums over each episode.
        each_policy_loss = policy_gradient(policy.log_prob(batch.action), advantage)
        policy_loss = masked_sum(each_policy_loss, batch.counts) * batch.share
        policy_entropy = masked_sum(entropy(policy.log_probs), batch.counts) * batch.share
        loss = policy_loss - batch.entropy_coefficient * policy_entropy
        metrics = {"policy_loss": policy_loss.detach(), "entropy": policy_entropy.detach()}
        if value is not None:
            value_loss = masked_sum(squared((batch.return_ - value) / unit), batch.counts) * batch.share
            loss = loss + self.config.value_coefficient * value_loss
            metrics["value_loss"] = value_loss.detach()
        return loss, metrics

    def state_dict(self) -> StateDict:
        return {
            "network": self.network.state_dict(),
            "optimizer": self._update.state_dict(),
            "generator": self._generator.get_state(),
            "step": self.step,
        }

    def load_state_dict(self, state: StateDict) -> None:
        expect_keys("reinforce", state, {"network", "optimizer", "generator", "step"})
        load_weights("network", self.network, state["network"])
        self._update.load_state_dict(state["optimizer"])
        self._generator.set_state(state["generator"])
        self.step = state["step"]


def _among(policy: Categorical, *legal: Tensor) -> Categorical:
    return policy.among(*legal) if legal else policy
