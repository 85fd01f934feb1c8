"""The stock of networks: encoders with explicit state, heads, and the two put together."""

from typing import Annotated, TypeAlias

from pydantic import Field

from .blocks import Activation, Initialisation, initialise
from .distributions import Categorical
from .encoder import Encoder, State
from .heads import CategoricalHead, Head, PolicyValue, PolicyValueHead, QHead, ValueHead
from .mlp import MLP, MLPConfig
from .network import Network, follow, mode
from .recurrent import GRU, LSTM, GRUConfig, LSTMConfig

EncoderConfig: TypeAlias = Annotated[MLPConfig | LSTMConfig | GRUConfig, Field(discriminator="kind")]
"""Every encoder that a config can name. Add one here and the contract test, the CLI and the presets know it."""

for _config in (LSTMConfig, GRUConfig):
    _config.model_rebuild(_types_namespace={"EncoderConfig": EncoderConfig})

__all__ = [
    "GRU",
    "LSTM",
    "MLP",
    "Activation",
    "Categorical",
    "CategoricalHead",
    "Encoder",
    "EncoderConfig",
    "GRUConfig",
    "Head",
    "Initialisation",
    "LSTMConfig",
    "MLPConfig",
    "Network",
    "PolicyValue",
    "PolicyValueHead",
    "QHead",
    "State",
    "ValueHead",
    "follow",
    "initialise",
    "mode",
]
