"""What a supervised task says of its network, its losses and how they are learnt."""

from collections.abc import Mapping
from typing import Annotated, Literal, Self, TypeAlias

import torch
from gymnasium import spaces
from pydantic import Field, model_validator

from ..configs.config import Config
from ..engine import AdamConfig, OptimizerConfig
from ..networks import AutoConfig, Encoder, EncoderConfig, Initialisation, NormalisedConfig, initialise
from ..training.schedules import Constant, Rate
from ..training.seeding import Seeds
from .dataset import Dataset
from .ensemble import Ensemble
from .network import TaskNetwork, make_heads
from .schema import HeadSchema, Schema
from .sources import DataConfig

LossName: TypeAlias = Literal["cross_entropy", "hinge", "binary", "squared", "huber"]
Weight = Annotated[float, Field(ge=0)]
Positive = Annotated[int, Field(gt=0)]


class HeadConfig(Config):
    data: DataConfig | None = None  # None: the run's
    target: str | None = None  # of the data; None: the one of the head's name, or else the data's main one
    given: str | None = None  # a target of classes: predictions are told apart by it, such as by the action taken
    loss: LossName | None = None  # None: cross-entropy for classes, squared for numbers
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0  # of cross_entropy
    weight: Weight = 1.0
    batch_size: Positive | None = None  # None: the task's


class PenaltyConfig(Config):
    """What is added to the loss. L1 and L2 are of weight matrices and kernels, not of biases and norms."""

    l1: Weight = 0.0  # times the sum of absolute weights
    l2: Weight = 0.0  # times half the sum of squared weights
    sparsity: Weight = 0.0  # times the KL divergence of how active the features are on average, each as |tanh|
    sparsity_target: Annotated[float, Field(gt=0, lt=1)] = 0.05  # mean activity that it asks for


class SupervisedConfig(Config):
    kind: Literal["supervised"] = "supervised"
    encoder: EncoderConfig = AutoConfig()
    heads: dict[str, HeadConfig] = Field(default_factory=dict)  # by name; none: one, for the data's main target
    weighting: Literal["fixed", "uncertainty"] = "fixed"  # of the heads' losses: by `weight`, or learnt
    normalise: Literal["none", "entry", "shared"] = "entry"  # inputs to mean 0, deviation 1: each entry, or all as one
    initialisation: Initialisation = "he"
    batch_size: Positive = 64  # samples an update
    optimizer: OptimizerConfig = AdamConfig()
    learning_rate: Rate = Constant(value=1e-3)  # a schedule's steps are epochs
    max_gradient_norm: Annotated[float, Field(gt=0)] | None = None
    penalty: PenaltyConfig = PenaltyConfig()
    members: Positive = 1  # of an ensemble, each with weights of its own, trained at once on the same batches

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        if self.members > 1 and self.max_gradient_norm is not None:
            raise ValueError(
                f"task.max_gradient_norm={self.max_gradient_norm}: one norm over all of task.members={self.members} "
                "would tie them to each other; leave it out"
            )
        for name, head in self.heads.items():
            # Not merely idle: the optimum of exp(-s) w L + s / 2 has the same pull on the trunk for every w > 0.
            if self.weighting == "uncertainty" and head.weight != 1:
                raise ValueError(
                    f"task.heads.{name}.weight={head.weight}: weights are learnt with task.weighting=uncertainty; "
                    "leave it at 1"
                )
        return self

    @property
    def full_encoder(self) -> EncoderConfig:
        """The encoder with what takes the units off its inputs."""
        is_bare = self.normalise == "none" or isinstance(self.encoder, NormalisedConfig)
        return self.encoder if is_bare else NormalisedConfig(inner=self.encoder, shared=self.normalise == "shared")

    def network(
        self, schema: Schema, seeds: Seeds, encoder: Encoder | None = None, data: Mapping[str, Dataset] | None = None
    ) -> TaskNetwork | Ensemble:
        """A network with weights drawn from `seeds`; `encoder`, as it is, in place of the config's.

        data: each head's training part, which units of inputs and outputs are taken from; None leaves them at 1.
        ValueError, in one line, for inputs that the encoder cannot take.
        """
        if self.members == 1:
            return self._member(schema, seeds.generator("network"), encoder, data)
        if encoder is not None:
            raise ValueError(f"task.members={self.members}: an ensemble's encoders start apart; give it none")
        generators = [seeds.generator(f"network {i}") for i in range(self.members)]
        return Ensemble([self._member(schema, generator, None, data) for generator in generators])

    def _member(
        self,
        schema: Schema,
        generator: torch.Generator,
        encoder: Encoder | None,
        data: Mapping[str, Dataset] | None,
    ) -> TaskNetwork:
        is_own, space = encoder is None, schema.inputs.space()
        if encoder is None:
            config = self.full_encoder if isinstance(space, spaces.Box) else self.encoder  # tokens have no units
            encoder = config.build(space)
            initialise(encoder, self.initialisation, generator)
        heads = make_heads(encoder.out_features, schema)
        initialise(heads, self.initialisation, generator)
        network = TaskNetwork(encoder, heads, schema, learns_weights=self.weighting == "uncertainty")
        if not is_own:
            network.probe(space)
        if data is not None:
            network.fit(data, inputs=is_own)  # an encoder from elsewhere keeps the units that it was trained in
        return network


def loss_of(config: HeadConfig, schema: HeadSchema) -> LossName:
    """The head's loss; ValueError if it does not go with what the head tells."""
    allowed = ("squared", "huber") if schema.is_regression else ("cross_entropy", "hinge", "binary")
    loss: LossName = config.loss or ("squared" if schema.is_regression else "cross_entropy")
    if loss not in allowed:
        kind = "numbers" if schema.is_regression else "classes"
        raise ValueError(f"loss={loss}: the target {schema.target} has {kind}; allowed: {', '.join(allowed)}")
    if loss == "binary" and len(schema.classes) != 2:
        raise ValueError(f"loss=binary: the target {schema.target} has {len(schema.classes)} classes, not 2")
    if config.label_smoothing and loss != "cross_entropy":
        raise ValueError(f"label_smoothing={config.label_smoothing}: is of loss=cross_entropy, this head's is {loss}")
    return loss
