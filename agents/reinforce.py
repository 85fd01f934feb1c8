"""REINFORCE (Williams 1992) on whole episodes, with reward-to-go and a choice of baseline."""

from dataclasses import dataclass
from typing import Annotated, Literal

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
    Rollout,
    StateDict,
    Step,
    expect_keys,
    load_weights,
)
from ..engine.agent import check_causal
from ..envs import EnvSpec
from ..losses import entropy, masked_mean, policy_gradient, reward_to_go, squared
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
from ..spaces import Observation
from ..training.schedules import Constant, Rate
from ..training.seeding import Seeds


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


@dataclass(frozen=True)
class Batch:
    rollout: Rollout  # one whole episode a column
    entropy_coefficient: Tensor  # scalar


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
        self._policy = Recorded(_policy, network)
        optimizer = AdamConfig(epsilon=config.adam_epsilon).build(parameter_groups(network))
        self._update = GradientStep(self._loss, network, optimizer, config.max_gradient_norm, dropout)

    @torch.no_grad()
    def act(
        self,
        observation: Observation,
        state: State,
        is_first: Tensor,
        *,
        explore: bool,
        action_mask: Tensor | None = None,
    ) -> Step:
        log_probs, *after = self._policy(observation, state, is_first)
        policy = _among(Categorical(log_probs), action_mask)
        action = policy.sample(self._generator) if explore else policy.mode()
        return Step(action, tuple(after), policy.log_prob(action) if explore else None)

    def learn(self, batch: Rollout) -> Metrics:
        self.step += int(batch.valid.sum())
        coefficient = batch.reward.new_tensor(self.config.entropy_coefficient.at(self.step))
        if self._normalised is not None:
            self._adapt(self._normalised, batch)
        with mode(self.network, training=True):
            return self._update([Batch(batch, coefficient)], self.config.learning_rate.at(self.step))

    def examine(self, wanted: bool) -> None:
        self._update.examine(wanted)

    @property
    def num_updates(self) -> int:
        return self._update.num_updates

    def _loss(self, network: Network[PolicyValue], batch: Batch) -> tuple[Tensor, Metrics]:
        rollout, valid = batch.rollout, batch.rollout.valid
        # Every column begins an episode in row 0 and what follows its end is masked: no reset inside.
        output, _ = network(rollout.observation, rollout.state, None)
        legal = None if rollout.action_mask is None else rollout.action_mask[:-1]
        policy = _among(Categorical(output.policy.log_probs[:-1]), legal)

        return_ = self._returns(rollout, output.value)
        value = None if output.value is None else output.value[:-1]
        unit = 1.0 if self._normalised is None else self._normalised.deviation
        if value is not None:
            advantage = (return_ - value.detach()) / unit
        elif self.config.baseline == "standardised":
            mean = masked_mean(return_, valid)
            advantage = (return_ - mean) / (masked_mean((return_ - mean) ** 2, valid).sqrt() + 1e-8)
        else:
            advantage = return_

        # Deviation from Williams 1992: no factor discount^t, which would all but ignore the late part of an episode,
        # and a mean over steps where the textbook sums over each episode.
        policy_loss = masked_mean(policy_gradient(policy.log_prob(rollout.action), advantage), valid)
        policy_entropy = masked_mean(entropy(policy.log_probs), valid)
        loss = policy_loss - batch.entropy_coefficient * policy_entropy
        metrics = {"policy_loss": policy_loss.detach(), "entropy": policy_entropy.detach()}
        if value is not None:
            value_loss = masked_mean(squared((return_ - value) / unit), valid)
            loss = loss + self.config.value_coefficient * value_loss
            metrics["value_loss"] = value_loss.detach()
        return loss, metrics

    def _returns(self, rollout: Rollout, value: Tensor | None) -> Tensor:
        """Reward to go [T, B]. value: of all rows [T+1, B], if there is one."""
        discount = self.config.discount * rollout.terminated.logical_not()
        # A truncated episode goes on in value: its last row bootstraps, if there is a value to bootstrap from.
        return reward_to_go(rollout.reward, discount, rollout.done, None if value is None else value[1:].detach())

    @torch.no_grad()
    def _adapt(self, head: NormalisedValueHead, rollout: Rollout) -> None:
        """Take the returns that are about to be learnt into the value's units."""
        return_ = self._returns(rollout, self.network(rollout.observation, rollout.state, None)[0].value)
        mean = masked_mean(return_, rollout.valid)
        head.adapt(mean, masked_mean((return_ - mean) ** 2, rollout.valid))

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


def _among(policy: Categorical, legal: Tensor | None) -> Categorical:
    return policy if legal is None else policy.among(legal)


def _policy(
    network: Network[PolicyValue], observation: Observation, state: State, is_first: Tensor
) -> tuple[Tensor, ...]:
    """Log-probabilities of all actions [B, A], and the state after the observation."""
    output, state = network.step(observation, state, is_first)
    return (output.policy.log_probs, *state)
