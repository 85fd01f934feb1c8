"""REINFORCE against Stable-Baselines3's A2C set up to be REINFORCE, from the same weights and the same random numbers.

lambda = 1 and a value network that is zero and stays so make A2C's advantage the reward to go. Its rollouts have so
many steps, ours whole episodes: an environment that truncates at the end of every rollout makes each a number of whole
episodes, of any lengths, which are ours side by side. So sums are in another order, and weights agree up to rounding.
"""

from collections.abc import Callable
from typing import Any

import gymnasium
import torch
from torch import Tensor

from ..agents.reinforce import Reinforce, ReinforceConfig
from ..engine import GradientStep, Rollout
from ..engine.gradients import Gradients
from ..envs import EnvSpec, EnvStep, GymnasiumEnvs
from ..envs.address import AnyEnv
from ..interop.extra import stable_baselines3
from ..interop.sb3_names import policy_names
from ..networks import ConvConfig, MLPConfig, Network, PolicyValue
from ..training.schedules import Constant
from ..training.seeding import Seeds
from .parity_rows import IMAGE, VECTOR, Noise, ParityRow, largest_difference, their_env

UPDATES, ROWS, MAX_EPISODE_STEPS = 100, 256, 100
ROUNDING, ROUNDING_OF_MANY = 1e-6, 1e-5  # of one update, and of 100: a weight moves by some 1e-1 meanwhile
PLAIN = ReinforceConfig(baseline="none", learning_rate=Constant(value=1e-3), adam_epsilon=1e-5)


class CutPeriodically(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Truncates at every `period`-th step, whatever episode it falls into."""

    def __init__(self, env: AnyEnv, period: int) -> None:
        super().__init__(env)
        self._period, self._step = period, 0

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._step += 1
        is_cut = self._step % self._period == 0 and not terminated
        return observation, float(reward), terminated, truncated or is_cut, info


def learning(seed: int, steps: int) -> list[ParityRow]:
    """Both learn CartPole-v1, 100 steps an episode at most, for 100 updates of 256 steps; `steps` is DQN's."""

    def make() -> AnyEnv:
        return CutPeriodically(gymnasium.make("CartPole-v1", max_episode_steps=MAX_EPISODE_STEPS), ROWS)

    theirs = their_a2c(PLAIN, their_env(make(), seed), seed, ROWS)
    envs = GymnasiumEnvs(make, 1, seed)
    ours = our_reinforce(PLAIN, envs.spec, theirs)
    theirs.learn(UPDATES * ROWS)
    row, truncations = envs.reset(), 0
    for _ in range(UPDATES):
        rollout, row = whole_episodes(ours, envs, row, ROWS)
        truncations += int(rollout.truncated.sum())
        ours.learn(rollout)
    names = policy_names(ours.network)
    difference = largest_difference(ours.network.state_dict(), theirs.policy.state_dict(), names)
    check, env = "reinforce, learning", "CartPole-v1"
    return [ParityRow(check, env, seed, ours.step, UPDATES, truncations, "weights", difference, ROUNDING_OF_MANY)]


def update_of_mlp(seed: int, steps: int) -> list[ParityRow]:
    return one_update("reinforce, one update, mlp", PLAIN, lambda: Noise(VECTOR), seed)


def update_of_cnn(seed: int, steps: int) -> list[ParityRow]:
    config = PLAIN.model_copy(update={"encoder": ConvConfig()})
    return one_update("reinforce, one update, Nature CNN", config, lambda: Noise(IMAGE), seed)


def one_update(check: str, config: ReinforceConfig, make: Callable[[], AnyEnv], seed: int) -> list[ParityRow]:
    """Loss, gradients and one whole update, its gradient clipped, from the same steps."""
    rows = 64
    clipped = config.model_copy(update={"max_gradient_norm": 0.1})
    free = config.model_copy(update={"max_gradient_norm": 1e9})
    found: dict[str, float] = {}
    for each in (free, clipped):
        theirs = their_a2c(each, their_env(CutPeriodically(make(), rows), seed), seed, rows)
        envs = GymnasiumEnvs(lambda: CutPeriodically(make(), rows), 1, seed)
        ours = our_reinforce(each, envs.spec, theirs)
        theirs.learn(rows)
        rollout, _ = whole_episodes(ours, envs, envs.reset(), rows)
        names = policy_names(ours.network)
        if each is free:
            loss, gradients = ours.gradients(rollout)
            their_gradients = {name: p.grad for name, p in theirs.policy.named_parameters() if p.grad is not None}
            found["loss"] = abs(loss - theirs.logger.name_to_value["train/policy_loss"])
            found["gradients"] = largest_difference(gradients, their_gradients, names)
        else:
            ours.learn(rollout)
            weights = theirs.policy.state_dict()
            found["weights, gradient clipped"] = largest_difference(ours.network.state_dict(), weights, names)
    truncations = int(rollout.truncated.sum())
    return [
        ParityRow(check, "noise", seed, rows, 1, truncations, what, difference, ROUNDING)
        for what, difference in found.items()
    ]


class TheirReinforce(Reinforce):
    """Our agent, drawing as theirs does, and with torch's own Adam, which rounds otherwise than its fused kernel."""

    def __init__(self, network: Network[PolicyValue], config: ReinforceConfig, spec: EnvSpec) -> None:
        generator = torch.Generator()
        generator.set_state(torch.get_rng_state())  # what theirs goes on from
        super().__init__(network, config, spec, generator)
        optimizer = torch.optim.Adam(network.parameters(), eps=config.adam_epsilon)
        self._update = GradientStep(self._loss, network, optimizer, config.max_gradient_norm)

    def gradients(self, rollout: Rollout) -> tuple[float, dict[str, Tensor]]:
        """Loss, and gradients by name; nothing is updated."""
        names = [name for name, _ in self.network.named_parameters()]
        microbatches = self._microbatches(rollout, self._returns(rollout))
        loss, _, gradients, _ = Gradients(self._loss, self.network, names)(microbatches)
        return loss.item(), dict(zip(names, gradients, strict=True))


def whole_episodes(agent: Reinforce, envs: GymnasiumEnvs, row: EnvStep, num_steps: int) -> tuple[Rollout, EnvStep]:
    """So many steps of one environment, which must be whole episodes, a column each; and the row after them.

    row: the first of an episode.
    """
    episodes: list[tuple[list[EnvStep], list[Tensor]]] = []
    rows, actions = [row], []
    for _ in range(num_steps):
        action = agent.act(row.observation, (), row.is_first, explore=True).action
        row = envs.step(action)
        rows.append(row)
        actions.append(action)
        if bool(row.terminated | row.truncated):
            episodes.append((rows, actions))
            row = envs.step(action)  # a filler: the action does nothing
            rows, actions = [row], []
    assert not actions
    return side_by_side(episodes), row


def side_by_side(episodes: list[tuple[list[EnvStep], list[Tensor]]]) -> Rollout:
    """Episodes [T_b + 1 rows, T_b actions] as columns of one rollout, rows after an episode's end not valid."""
    length, count = max(len(actions) for _, actions in episodes), len(episodes)
    first = episodes[0][0][0].observation
    assert isinstance(first, Tensor)
    observation = first.new_zeros((length + 1, count, *first.shape[1:]))
    is_first = torch.ones((length + 1, count), dtype=torch.bool)
    action = torch.zeros((length, count), dtype=torch.int64)
    reward = torch.zeros((length, count))
    terminated, truncated = (torch.zeros((length, count), dtype=torch.bool) for _ in range(2))
    for b, (rows, actions) in enumerate(episodes):
        end = len(actions)
        observation[: end + 1, b] = torch.cat([row.observation for row in rows if isinstance(row.observation, Tensor)])
        is_first[1 : end + 1, b] = False
        action[:end, b] = torch.cat(actions)
        reward[:end, b] = torch.cat([row.reward for row in rows[1:]])
        terminated[end - 1, b], truncated[end - 1, b] = rows[-1].terminated[0], rows[-1].truncated[0]
    return Rollout(
        observation=observation,
        is_first=is_first,
        action=action,
        log_prob=None,
        reward=reward,
        terminated=terminated,
        truncated=truncated,
        state=(),
    )


def our_reinforce(config: ReinforceConfig, spec: EnvSpec, theirs: Any) -> TheirReinforce:
    """With a copy of their weights."""
    network = config.network(spec, Seeds(0))
    weights = theirs.policy.state_dict()
    network.load_state_dict({own: weights[other] for own, other in policy_names(network).items()})
    return TheirReinforce(network, config, spec)


def their_a2c(config: ReinforceConfig, env: AnyEnv, seed: int, num_steps: int) -> Any:
    """Stable-Baselines3's A2C as REINFORCE with the same settings; its weights are its own."""
    is_mlp = isinstance(config.encoder, MLPConfig)
    hidden = list(config.encoder.hidden) if isinstance(config.encoder, MLPConfig) else []
    theirs = stable_baselines3().A2C(
        "MlpPolicy" if is_mlp else "CnnPolicy",
        env,
        learning_rate=config.learning_rate.at(0),
        n_steps=num_steps,
        gamma=config.discount,
        gae_lambda=1.0,
        ent_coef=0.0,
        vf_coef=0.0,
        max_grad_norm=config.max_gradient_norm,
        use_rms_prop=False,
        normalize_advantage=False,
        policy_kwargs={"net_arch": {"pi": hidden, "vf": []}},
        seed=seed,
        device="cpu",
    )
    with torch.no_grad():
        for parameter in theirs.policy.value_net.parameters():
            parameter.zero_()
    return theirs
