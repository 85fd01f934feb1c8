"""What Stable-Baselines3's models are given: declared for its A2C, and for its DQN read off the config of ours."""

from typing import Annotated, Literal, NoReturn, TypeAlias

from pydantic import Field, model_validator

from ..agents import DQNConfig
from ..configs import Value
from ..configs.config import Config
from ..configs.yaml_text import one_line
from ..envs import EnvConfig
from ..networks import ConvConfig, MLPConfig
from ..networks.blocks import Activation
from ..runs import RunConfig
from ..runs.config import GraftConfig
from ..training.schedules import Constant, Linear, Rate

Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]

UNCLIPPED = 1e9  # a norm of gradients that none exceeds: SB3 always clips


class DQNArguments(Config):
    """Of SB3's DQN, by its own names but for those of its policy."""

    kind: Literal["dqn"] = "dqn"
    policy: Literal["MlpPolicy", "CnnPolicy"]
    net_arch: tuple[Positive, ...]  # hidden layers; of CnnPolicy those after its Nature CNN
    activation: Activation
    adam_epsilon: float
    num_envs: Positive
    learning_rate: Rate  # by environment step
    buffer_size: Positive
    learning_starts: int
    batch_size: Positive
    tau: float
    gamma: float
    train_freq: Positive  # steps of each environment
    gradient_steps: Positive
    n_steps: Positive
    target_update_interval: Positive
    exploration_initial_eps: float
    exploration_final_eps: float
    exploration_fraction: float
    max_grad_norm: float


class A2CBaseline(Config):
    """SB3's A2C. RMSprop has its own alpha of 0.99."""

    kind: Literal["a2c"] = "a2c"
    title: str
    num_envs: Positive
    n_steps: Positive  # of each environment, between updates
    learning_rate: Annotated[float, Field(gt=0)]
    linear_decay: bool = False  # of the learning rate, to 0 at the end
    discount: Share
    gae_lambda: Share
    value_coefficient: NonNegative
    entropy_coefficient: NonNegative
    max_gradient_norm: Annotated[float, Field(gt=0)]
    rms_prop: bool  # else Adam
    epsilon: Annotated[float, Field(gt=0)]  # of the optimizer
    hidden_policy: tuple[Positive, ...]
    hidden_value: tuple[Positive, ...]  # a network of its own
    activation: Activation
    normalise_observation: bool = False  # SB3's VecNormalize, as is the next
    normalise_reward: bool = False
    zero_value: bool = False  # the value is 0 and stays so: the advantage is the return, as in REINFORCE

    @model_validator(mode="after")
    def _zero_stays(self) -> "A2CBaseline":
        if self.zero_value and self.value_coefficient:
            raise ValueError(f"value_coefficient={self.value_coefficient}: zero_value=true needs 0, else it is learnt")
        return self


Arguments: TypeAlias = Annotated[DQNArguments | A2CBaseline, Field(discriminator="kind")]


def dqn_arguments(config: RunConfig, steps: int) -> DQNArguments:
    """The same DQN as SB3 has it, over so many environment steps in all.

    ValueError that names the first field which SB3's DQN has no counterpart of.
    """
    agent = config.agent
    if not isinstance(agent, DQNConfig):
        raise ValueError(f"agent.kind={agent.kind}: only dqn has a counterpart of the same settings in SB3")
    check_env(config.env)
    if config.graft != GraftConfig():
        raise ValueError("graft: SB3's models begin with weights of their own")
    _check_plain(agent)
    epsilon = agent.epsilon
    if not isinstance(epsilon, Constant | Linear):
        _refuse("agent.epsilon.kind", epsilon.kind, "constant or linear")
    first, last = (epsilon.at(0), epsilon.at(steps) if isinstance(epsilon, Constant) else epsilon.end)
    policy, net_arch, activation = _policy(agent)
    num_envs = config.env.num_envs
    return DQNArguments(
        policy=policy,
        net_arch=net_arch,
        activation=activation,
        adam_epsilon=agent.adam_epsilon,
        num_envs=num_envs,
        learning_rate=agent.learning_rate,
        buffer_size=agent.replay_capacity,
        learning_starts=agent.learning_starts,
        batch_size=agent.batch_size,
        tau=agent.target_rate,
        gamma=agent.discount,
        train_freq=agent.train_period,
        gradient_steps=agent.updates,
        n_steps=agent.n_step,
        target_update_interval=_target_interval(agent, num_envs),
        exploration_initial_eps=first,
        exploration_final_eps=last,
        exploration_fraction=epsilon.steps / steps if isinstance(epsilon, Linear) else 1.0,
        max_grad_norm=UNCLIPPED if agent.max_gradient_norm is None else agent.max_gradient_norm,
    )


def check_env(env: EnvConfig) -> None:
    """ValueError for what SB3's vector environments do not do."""
    if env.backend != "gymnasium":
        _refuse("env.backend", env.backend, "gymnasium")
    if env.asynchronous:
        _refuse("env.asynchronous", env.asynchronous, "false")


# What DQN is in SB3, by our fields; each is all that can be compared.
_PLAIN: dict[str, Value] = {
    **{"initialisation": "uniform", "double": False, "munchausen": None, "value_rescaling": False, "prioritised": None},
    **{"head.dueling": False, "head.hidden": None, "head.noise": None, "value.kind": "scalar", "value.loss": "huber"},
    **{"auxiliary.reward": 0.0, "auxiliary.next_observation": 0.0, "sequence_length": 1, "burn_in": 0},
}


def _check_plain(agent: DQNConfig) -> None:
    tree = agent.model_dump(mode="json")
    for path, allowed in _PLAIN.items():
        value: Value = tree
        for key in path.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        if value != allowed:
            _refuse(f"agent.{path}", value, one_line(allowed))


def _policy(agent: DQNConfig) -> tuple[Literal["MlpPolicy", "CnnPolicy"], tuple[int, ...], Activation]:
    """Policy, net_arch and activation of SB3's."""
    encoder = agent.encoder
    if not isinstance(encoder, MLPConfig | ConvConfig):
        _refuse("agent.encoder.kind", encoder.kind, "mlp, or conv as in the Nature DQN")
    for name, allowed in (("norm", "none"), ("dropout", 0.0)):
        if getattr(encoder, name) != allowed:
            _refuse(f"agent.encoder.{name}", getattr(encoder, name), str(allowed))
    if isinstance(encoder, MLPConfig):
        if encoder.scale is not None:
            _refuse("agent.encoder.scale", list(encoder.scale), "null")
        return "MlpPolicy", encoder.hidden, encoder.activation
    nature = ConvConfig()
    for name in ("layers", "hidden", "activation", "channels"):
        if getattr(encoder, name) != getattr(nature, name):
            value = encoder.model_dump(mode="json")[name]
            _refuse(f"agent.encoder.{name}", value, one_line(nature.model_dump(mode="json")[name]))
    return "CnnPolicy", (), encoder.activation


def _target_interval(agent: DQNConfig, num_envs: int) -> int:
    """Environment steps between two moves of the target.

    Ours moves a soft target at each update, SB3 by environment steps: as often, but before a burst of updates.
    """
    if agent.target_rate == 1.0:
        return agent.target_period
    if agent.train_period % agent.updates:
        raise ValueError(
            f"agent.updates={agent.updates}: SB3 moves a soft target, agent.target_rate={agent.target_rate:g}, by "
            f"whole environment steps; allowed: what divides agent.train_period={agent.train_period}"
        )
    return agent.train_period // agent.updates * num_envs


def _refuse(field: str, value: Value, allowed: str) -> NoReturn:
    raise ValueError(f"{field}={one_line(value)}: SB3 has no counterpart to compare it with; allowed: {allowed}")
