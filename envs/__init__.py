"""Environments: the vector-env contract, and gymnasium's environments behind it."""

from .address import EnvironmentFailure, episode_seed
from .atari_vector import AtariVectorEnvs
from .contract import EnvSpec, EnvStep, Episode, VectorEnv
from .frame_stack import FrameStack
from .gymnasium_envs import EVALUATION, FRESH, TRAINING, GymnasiumEnvs, NonFiniteEnvError
from .make import EnvConfig, env_maker
from .memory import PartialObservation
from .recall import register

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
    "NonFiniteEnvError",
    "PartialObservation",
    "VectorEnv",
    "env_maker",
    "episode_seed",
]

register()
