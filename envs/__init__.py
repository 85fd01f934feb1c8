"""Environments: the vector-env contract, and behind it gymnasium's environments and native ones."""

from .address import EnvironmentFailure, episode_seed
from .atari_vector import AtariVectorEnvs
from .contract import EnvSpec, EnvStep, Episode, VectorEnv
from .frame_stack import FrameStack
from .gymnasium_envs import EVALUATION, FRESH, TRAINING, GymnasiumEnvs
from .make import EnvConfig, env_maker, native_envs
from .memory import PartialObservation
from .native import NativeEnvs
from .native import register as register_native
from .recall import register
from .rows import NonFiniteEnvError

__all__ = [
    "EVALUATION",
    "FRESH",
    "TRAINING",
    "AtariVectorEnvs",
    "EnvConfig",
    "EnvSpec",
    "EnvStep",
    "EnvironmentFailure",
    "Episode",
    "FrameStack",
    "GymnasiumEnvs",
    "NativeEnvs",
    "NonFiniteEnvError",
    "PartialObservation",
    "VectorEnv",
    "env_maker",
    "episode_seed",
    "native_envs",
]

register()
register_native()
