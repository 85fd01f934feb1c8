"""DQN against Stable-Baselines3's, from the same weights and the same random numbers.

What differs between the two and decides bits is replaced here, so that all that is left is compared: who draws what and
when (theirs: one global NumPy stream, first the coin, then the action; a batch at a time), and Adam's rounding (torch's
own in place of its fused kernel). Networks, losses, targets, replay, target copies and schedules are the agent's.
"""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from ..agents.dqn import DQN, Batch, DQNConfig
from ..engine import GradientStep, ReplayBuffer, Rollout, Window
from ..engine.gradients import Gradients
from ..engine.places import Transitions
from ..envs import EnvConfig, EnvSpec, EnvStep, GymnasiumEnvs
from ..envs.address import AnyEnv
from ..interop.sb3_names import dqn_names
from ..networks import ConvConfig, MLPConfig, Network
from ..runs import RunConfig
from ..training.schedules import Constant, Linear
from ..training.seeding import Seeds
from .arguments import dqn_arguments
from .baseline import dqn_model
from .parity_rows import IMAGE, VECTOR, Noise, ParityRow, largest_difference, their_env

CAPACITY, MAX_EPISODE_STEPS = 10_000, 200  # so that the replay wraps around, and episodes are truncated
# On a CPU our images lie in memory with channels last, theirs with channels first, and convolutions round accordingly.
# Adam's first step divides each gradient by its own size and epsilon: 1e-5 keeps that of a gradient of 1e-9 small.
ROUNDING, ROUNDING_EPSILON = 1e-6, 1e-5


def learning(seed: int, steps: int) -> list[ParityRow]:
    """Both learn CartPole-v1, 200 steps an episode at most, at rl-baselines3-zoo's settings and a smaller replay."""

    def make() -> AnyEnv:
        return gymnasium.make("CartPole-v1", max_episode_steps=MAX_EPISODE_STEPS)

    config = DQNConfig(
        encoder=MLPConfig(hidden=(256, 256)),
        learning_rate=Constant(value=2.3e-3),
        epsilon=Linear(start=1.0, end=0.04, steps=max(int(0.16 * steps), 1)),
        replay_capacity=2 * CAPACITY,  # fillers between episodes take up rows too
        learning_starts=1_000,
        train_period=256,
        updates=128,
        batch_size=64,
        target_period=10,
        double=False,
    )
    theirs = their_dqn(config, their_env(make(), seed), seed, steps, CAPACITY)
    envs = GymnasiumEnvs(make, 1, seed)
    ours = our_dqn(config, envs.spec, theirs, seed, CAPACITY)
    theirs.learn(steps)
    truncations = play(ours, envs, seed, steps)
    names = dqn_names(ours.network)
    difference = largest_difference(ours.network.state_dict(), theirs.policy.state_dict(), names)
    updates = theirs._n_updates
    return [
        ParityRow("dqn, learning", "CartPole-v1", seed, ours.step, updates, truncations, "weights", difference, 0.0)
    ]


def update_of_mlp(seed: int, steps: int) -> list[ParityRow]:
    config = DQNConfig(encoder=MLPConfig(hidden=(64, 64)))
    return one_update("dqn, one update, mlp", config, lambda: Noise(VECTOR), seed, 0.0)


def update_of_cnn(seed: int, steps: int) -> list[ParityRow]:
    config = DQNConfig(encoder=ConvConfig(), adam_epsilon=ROUNDING_EPSILON)
    return one_update("dqn, one update, Nature CNN", config, lambda: Noise(IMAGE), seed, ROUNDING)


def one_update(check: str, config: DQNConfig, make: Callable[[], AnyEnv], seed: int, allowed: float) -> list[ParityRow]:
    """Loss, gradients and one whole update, its gradient clipped, from the same batch; allowed: differences."""
    config = config.model_copy(update={"replay_capacity": 1_000, "double": False, "batch_size": 32})
    envs, rows = GymnasiumEnvs(make, 1, seed), 200
    clipped = config.model_copy(update={"max_gradient_norm": 0.1})
    theirs, theirs_clipped = (their_dqn(each, make(), seed, rows, config.replay_capacity) for each in (config, clipped))
    ours = our_dqn(clipped, envs.spec, theirs, seed, config.replay_capacity)
    rollout = noise_rollout(envs, rows)
    ours.replay.add(rollout)
    ours.seen = int(rollout.valid.sum())
    for each in (theirs, theirs_clipped):
        fill(each.replay_buffer, rollout)
        each._logger = _silent()
        np.random.seed(seed)  # noqa: NPY002
        each.train(1, config.batch_size)
    names = dqn_names(ours.network)
    batch = ours.batch()
    loss, gradients = ours.gradients(batch)
    their_gradients = {name: p.grad for name, p in theirs.policy.named_parameters() if p.grad is not None}
    ours.update(batch)
    weights = ours.network.state_dict(), theirs_clipped.policy.state_dict()
    found = [
        ("loss", abs(loss - theirs.logger.name_to_value["train/loss"])),
        ("gradients", largest_difference(gradients, their_gradients, names)),
        ("weights, gradient clipped", largest_difference(*weights, names)),
    ]
    truncations = int(rollout.truncated.sum())
    return [ParityRow(check, "noise", seed, ours.seen, 1, truncations, *each, allowed) for each in found]


class TheirPlaces:
    """Transitions as they draw them: by NumPy, a batch at a time, from a ring of so many transitions."""

    def __init__(self, transitions: Transitions, capacity: int, batch_size: int, random: np.random.RandomState) -> None:
        self._transitions, self._capacity, self._batch_size, self._random = transitions, capacity, batch_size, random
        self.seen = 0  # transitions so far

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transitions, name)

    def __len__(self) -> int:
        return len(self._transitions)

    def draw(self, batch_size: int, beta: float, generator: torch.Generator) -> tuple[Tensor, None]:
        held = min(self.seen, self._capacity)
        drawn = []
        for _ in range(batch_size // self._batch_size):
            drawn.append(self._random.randint(0, held, size=self._batch_size))
            self._random.randint(0, 1, size=self._batch_size)  # of which environment
        # Their ring's places, as numbers from the oldest that it holds.
        number = (np.concatenate(drawn) - (self.seen if self.seen > held else 0)) % held
        return self._transitions.at(torch.from_numpy(number + len(self) - held)), None


class TheirDQN(DQN):
    """Our agent, drawing as theirs does."""

    def __init__(self, network: Network[Tensor], config: DQNConfig, spec: EnvSpec, capacity: int, seed: int) -> None:
        generator = torch.Generator()
        replay = ReplayBuffer(config.replay_capacity, 1, spec, generator, window=Window(1, 1, config.discount))
        super().__init__(network, replay, config, spec, generator, generator)
        assert isinstance(replay._starts, Transitions)
        self._random = np.random.RandomState(seed)
        self._places = TheirPlaces(replay._starts, capacity, config.batch_size, self._random)
        replay._starts = self._places
        optimizer = torch.optim.Adam(network.parameters(), eps=config.adam_epsilon)
        self._update = GradientStep(self._loss, network, optimizer, config.max_gradient_norm, others=[self.target])
        self._actions = gymnasium.spaces.Discrete(spec.discrete("dqn"), seed=seed)

    @property
    def seen(self) -> int:
        """Transitions so far."""
        return self._places.seen

    @seen.setter
    def seen(self, count: int) -> None:
        self._places.seen = count

    def choose(self, row: EnvStep) -> Tensor:
        """Their action for a row that is no filler, [1]: one coin, and only once learning has started."""
        if self.seen < self.config.learning_starts or self._random.rand() < self.config.epsilon.at(self.seen):
            return torch.tensor([int(self._actions.sample())])
        return self.act(row.observation, (), row.is_first, explore=False).action

    def batch(self) -> Batch:
        return self._prepare(self.target, self._drawn(self.replay.draw(self.config.batch_size)))

    def gradients(self, batch: Batch) -> tuple[float, dict[str, Tensor]]:
        """Loss, and gradients by name; nothing is updated."""
        names = [name for name, _ in self.network.named_parameters()]
        loss, _, gradients, _ = Gradients(self._loss, self.network, names, others=[self.target])(batch)
        return loss.item(), dict(zip(names, gradients, strict=True))

    def update(self, batch: Batch) -> None:
        self._update([batch], self.config.learning_rate.at(0))


def play(agent: TheirDQN, envs: GymnasiumEnvs, seed: int, steps: int) -> int:
    """Learn as they do from so many steps, and every rollout of as many transitions; returns the truncated episodes."""
    row, truncations = envs.reset(), 0
    while agent.seen < steps:
        rows, actions = [row], []
        until = agent.seen + agent.config.train_period
        while agent.seen < until:
            is_filler = bool(row.terminated | row.truncated)
            action = row.terminated.long() if is_filler else agent.choose(row)
            row = envs.step(action)
            rows.append(row)
            actions.append(action)
            agent.seen += not is_filler
            truncations += int(row.truncated)
        agent.learn(rollout_of(rows, actions))
    return truncations


def rollout_of(rows: list[EnvStep], actions: list[Tensor]) -> Rollout:
    """T+1 rows and the T actions between them."""
    return Rollout(
        observation=torch.stack([row.observation for row in rows if isinstance(row.observation, Tensor)]),
        is_first=torch.stack([row.is_first for row in rows]),
        action=torch.stack(actions),
        log_prob=None,
        reward=torch.stack([row.reward for row in rows[1:]]),
        terminated=torch.stack([row.terminated for row in rows[1:]]),
        truncated=torch.stack([row.truncated for row in rows[1:]]),
        state=(),
    )


def noise_rollout(envs: GymnasiumEnvs, num_rows: int) -> Rollout:
    """Rows of random actions."""
    generator = torch.Generator().manual_seed(0)
    rows, actions = [envs.reset()], []
    for _ in range(num_rows):
        actions.append(torch.randint(envs.spec.num_actions or 1, (1,), generator=generator))
        rows.append(envs.step(actions[-1]))
    return rollout_of(rows, actions)


def our_dqn(config: DQNConfig, spec: EnvSpec, theirs: Any, seed: int, capacity: int) -> TheirDQN:
    """With a copy of their weights."""
    network = config.network(spec, Seeds(seed))
    weights = theirs.policy.state_dict()
    network.load_state_dict({own: weights[other] for own, other in dqn_names(network).items()})
    return TheirDQN(network, config, spec, capacity, seed)


def their_dqn(config: DQNConfig, env: AnyEnv, seed: int, steps: int, capacity: int) -> Any:
    """Stable-Baselines3's with the same settings; its weights are its own."""
    run = RunConfig(env=EnvConfig(id="CartPole-v1"), agent=config, steps=steps)
    arguments = dqn_arguments(run, steps).model_copy(update={"buffer_size": capacity})
    return dqn_model(arguments, env, steps, seed, torch.device("cpu"))


def fill(buffer: Any, rollout: Rollout) -> None:
    """Add a rollout's transitions, of one environment, to their replay."""
    assert isinstance(rollout.observation, Tensor)
    observation = rollout.observation.numpy()
    for t in rollout.valid[:, 0].nonzero().flatten().tolist():
        is_cut = bool(rollout.truncated[t, 0])
        done = np.array([is_cut or bool(rollout.terminated[t, 0])])
        infos = [{"TimeLimit.truncated": is_cut}]
        reward, action = rollout.reward[t].numpy(), rollout.action[t].numpy()
        buffer.add(observation[t], observation[t + 1], action, reward, done, infos)


def _silent() -> Any:
    from stable_baselines3.common.logger import Logger

    return Logger(None, [])
