"""The stock of networks: encoders with explicit state, heads, and the two put together."""

from typing import Annotated, TypeAlias

from pydantic import Field

from .blocks import Activation, Initialisation, Norm, has_batch_norm, initialise
from .choose import AutoConfig, config_for, encoder_for
from .combined import Combined, CombinedConfig
from .conv import Conv, ConvConfig, ConvLayer
from .distributions import Bernoulli, Categorical, Gaussian, MultiCategorical, SquashedGaussian
from .encoder import Encoder, State
from .freezing import Freeze, Group, freeze, num_frozen_blocks, parameter_groups
from .gru import GRU, GRUConfig
from .heads import (
    AuxiliaryHead,
    ClassHead,
    EmbeddingHead,
    Head,
    Heads,
    RegressionHead,
    ValueHead,
)
from .impala import Impala, ImpalaConfig
from .inception import Inception, InceptionConfig, InceptionNet, InceptionWidths
from .lstm import LSTM, LSTMConfig
from .mlp import MLP, MLPConfig
from .network import Network, follow, mode
from .noisy import NoisyLinear, noise, noisy_layers, resample
from .normalised import Normalised, NormalisedConfig
from .policy_heads import (
    BernoulliHead,
    CategoricalHead,
    GaussianHead,
    MultiCategoricalHead,
    PolicyValue,
    PolicyValueHead,
    SquashedGaussianHead,
)
from .popart import NormalisedValueHead
from .q_heads import ActionValueHead, DuelingQHead, ImplicitQuantileHead, QHead
from .resnet import ResNet, ResNetConfig
from .stacked import StackedNetwork
from .tokens import EmbeddingConfig, TokenEmbedding
from .torchvision_names import load_torchvision

EncoderConfig: TypeAlias = Annotated[
    AutoConfig
    | MLPConfig
    | ConvConfig
    | ImpalaConfig
    | ResNetConfig
    | InceptionConfig
    | LSTMConfig
    | GRUConfig
    | EmbeddingConfig
    | CombinedConfig
    | NormalisedConfig,
    Field(discriminator="kind"),
]
"""Every encoder that a config can name. Add one here and the contract test, the CLI and the presets know it."""

for _config in (LSTMConfig, GRUConfig, CombinedConfig, NormalisedConfig):
    _config.model_rebuild(_types_namespace={"EncoderConfig": EncoderConfig})

__all__ = [
    "GRU",
    "LSTM",
    "MLP",
    "ActionValueHead",
    "Activation",
    "AutoConfig",
    "AuxiliaryHead",
    "Bernoulli",
    "BernoulliHead",
    "Categorical",
    "CategoricalHead",
    "ClassHead",
    "Combined",
    "CombinedConfig",
    "Conv",
    "ConvConfig",
    "ConvLayer",
    "DuelingQHead",
    "EmbeddingConfig",
    "EmbeddingHead",
    "Encoder",
    "EncoderConfig",
    "Freeze",
    "GRUConfig",
    "Gaussian",
    "GaussianHead",
    "Group",
    "Head",
    "Heads",
    "Impala",
    "ImpalaConfig",
    "ImplicitQuantileHead",
    "Inception",
    "InceptionConfig",
    "InceptionNet",
    "InceptionWidths",
    "Initialisation",
    "LSTMConfig",
    "MLPConfig",
    "MultiCategorical",
    "MultiCategoricalHead",
    "Network",
    "NoisyLinear",
    "Norm",
    "Normalised",
    "NormalisedConfig",
    "NormalisedValueHead",
    "PolicyValue",
    "PolicyValueHead",
    "QHead",
    "RegressionHead",
    "ResNet",
    "ResNetConfig",
    "SquashedGaussian",
    "SquashedGaussianHead",
    "StackedNetwork",
    "State",
    "TokenEmbedding",
    "ValueHead",
    "config_for",
    "encoder_for",
    "follow",
    "freeze",
    "has_batch_norm",
    "initialise",
    "load_torchvision",
    "mode",
    "noise",
    "noisy_layers",
    "num_frozen_blocks",
    "parameter_groups",
    "resample",
]
