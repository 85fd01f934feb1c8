"""Tianshou 2: an algorithm, a collector and a trainer, without logger or test episodes.

Its first updates are not counted: Numba compiles in them, in every process anew.
"""

from typing import Any

import numpy as np

from ..clock import Clock, Metrics
from ..play import env_class, greedy_return, make_env
from ..settings import DQN as DQNSettings
from ..settings import Reinforce as ReinforceSettings


def dqn(settings: DQNSettings, clock: Clock, seed: int) -> Metrics:
    """It counts target copies in updates, and fills the replay with random actions before it begins to train."""
    clock.watch(env_class(settings.env))
    import torch

    _quiet(seed)
    from tianshou.algorithm import DQN
    from tianshou.algorithm.modelfree.dqn import DiscreteQLearningPolicy
    from tianshou.algorithm.optim import AdamOptimizerFactory
    from tianshou.data import Collector, VectorReplayBuffer
    from tianshou.env import DummyVectorEnv
    from tianshou.trainer import OffPolicyTrainerParams
    from tianshou.utils.net.common import Net

    envs = DummyVectorEnv([lambda: make_env(settings.env)] * settings.num_envs)
    envs.seed(seed)
    space, actions = envs.observation_space[0], envs.action_space[0]
    model = Net(state_shape=space.shape, action_shape=actions.n, hidden_sizes=list(settings.hidden))
    policy: Any = DiscreteQLearningPolicy(model=model, action_space=actions, observation_space=space)
    bursts = max(settings.target_period // settings.train_steps, 1)  # a copy comes at a burst's beginning at most
    algorithm: Any = DQN(
        policy=policy,
        optim=AdamOptimizerFactory(lr=settings.learning_rate, eps=settings.adam_epsilon),
        gamma=settings.discount,
        target_update_freq=bursts * settings.updates,
        is_double=False,
        huber_loss_delta=1.0 if settings.loss == "huber" else None,
    )
    buffer = VectorReplayBuffer(settings.capacity, settings.num_envs)
    collector: Any = Collector(algorithm, envs, buffer, exploration_noise=True)
    collector.reset()
    collector.collect(n_step=settings.starts, random=True)
    remaining, is_warm = settings.steps - settings.starts, False

    def begin(_: int, step: int) -> None:
        nonlocal is_warm
        if step > 0 and not is_warm:
            is_warm = True
            clock.begin(settings.starts + step)
        done = min((settings.starts + step) / settings.epsilon_steps, 1.0)
        policy.set_eps_training(1.0 + done * (settings.epsilon_end - 1.0))

    info = algorithm.run_training(
        OffPolicyTrainerParams(
            max_epochs=1,
            epoch_num_steps=remaining,
            training_collector=collector,
            collection_step_num_env_steps=settings.train_steps,
            update_step_num_gradient_steps_per_sample=settings.updates / settings.train_steps,
            batch_size=settings.batch,
            training_fn=begin,
            verbose=False,
            show_progress=False,
        )
    )
    clock.stop(settings.starts + remaining)
    metrics = clock.report((info.update_step - 1) * settings.updates)
    with torch.no_grad():
        mean = greedy_return(lambda batch: model(batch)[0].argmax(-1), settings.env)
    return {**metrics, "final_return": mean}


def reinforce(settings: ReinforceSettings, clock: Clock, seed: int) -> Metrics:
    clock.watch(env_class(settings.env))
    import torch

    _quiet(seed)
    from tianshou.algorithm import Reinforce
    from tianshou.algorithm.modelfree.reinforce import DiscreteActorPolicy
    from tianshou.algorithm.optim import AdamOptimizerFactory
    from tianshou.data import Collector, VectorReplayBuffer
    from tianshou.env import DummyVectorEnv
    from tianshou.trainer import OnPolicyTrainerParams
    from tianshou.utils.net.common import Net
    from tianshou.utils.net.discrete import DiscreteActor

    envs = DummyVectorEnv([lambda: make_env(settings.env)] * settings.num_envs)
    envs.seed(seed)
    space, actions = envs.observation_space[0], envs.action_space[0]
    net = Net(state_shape=space.shape, hidden_sizes=list(settings.hidden), activation=torch.nn.Tanh)
    actor = DiscreteActor(preprocess_net=net, action_shape=actions.n, softmax_output=False)
    policy: Any = DiscreteActorPolicy(actor=actor, action_space=actions, observation_space=space)
    algorithm: Any = Reinforce(
        policy=policy,
        optim=AdamOptimizerFactory(lr=settings.learning_rate),
        gamma=settings.discount,
        return_standardization=True,
    )
    # Room for an episode of each environment.
    buffer = VectorReplayBuffer(1_000 * settings.num_envs, settings.num_envs)
    collector: Any = Collector(algorithm, envs, buffer)
    collector.reset()
    is_warm = False

    def begin(_: int, step: int) -> None:
        nonlocal is_warm
        if step > 0 and not is_warm:
            is_warm = True
            clock.begin(step)

    info = algorithm.run_training(
        OnPolicyTrainerParams(
            max_epochs=1,
            epoch_num_steps=settings.steps,
            training_collector=collector,
            collection_step_num_env_steps=None,
            collection_step_num_episodes=settings.num_envs,
            update_step_num_repetitions=1,
            batch_size=None,
            training_fn=begin,
            verbose=False,
            show_progress=False,
        )
    )
    clock.stop(collector.collect_step)
    metrics = clock.report(info.update_step - 1)
    with torch.no_grad():
        mean = greedy_return(lambda batch: actor(batch)[0].argmax(-1), settings.env)
    return {**metrics, "final_return": mean}


def _quiet(seed: int) -> None:
    import logging
    import warnings

    import torch

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002  # the only one it draws from
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
