"""DQN in JAX: environments, replay, acting and update in one jitted scan, as fast JAX implementations have it.

The scan goes over rows of all environments. A chunk of them is a call of a compiled function that takes over its carry.
"""

import math
import os
import warnings
from functools import partial
from typing import Any, NamedTuple

from ..clock import Clock, Metrics
from ..settings import DQN as DQNSettings

GAMES = {"graftwork/CartPole-v1": "CartPole-v1", "graftwork/MinAtarBreakout-v1": "Breakout-MinAtar"}


class Transitions(NamedTuple):
    observation: Any  # [N, *obs], as is what followed
    action: Any  # [N], and so are the others
    reward: Any
    done: Any
    following: Any


class Carry(NamedTuple):
    params: Any
    target: Any
    optimizer: Any
    envs: Any
    observation: Any  # [B, *obs]
    replay: Transitions  # N is the capacity
    row: Any  # of all environments so far
    key: Any


def dqn(settings: DQNSettings, clock: Clock, seed: int) -> Metrics:
    if settings.device == "cpu":
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
        # Its pools of threads are as large as the cores that it sees.
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    import gymnax
    import jax
    import optax
    from jax import numpy as jnp

    warnings.simplefilter("ignore")  # its Breakout writes numbers into booleans
    env, env_params = gymnax.make(GAMES[settings.env])
    num_envs, num_actions = settings.num_envs, env.action_space(env_params).n
    capacity = max(settings.capacity // num_envs, 1) * num_envs
    optimizer = optax.adam(settings.learning_rate, eps=settings.adam_epsilon)
    if settings.max_norm is not None:
        optimizer = optax.chain(optax.clip_by_global_norm(settings.max_norm), optimizer)
    step_envs = jax.vmap(env.step, (0, 0, 0, None))
    error = optax.huber_loss if settings.loss == "huber" else lambda q, goal: (q - goal) ** 2

    def q_values(params: Any, observation: Any) -> Any:
        features = observation.astype(jnp.float32)
        if settings.convolution is not None:
            dimensions = ("NHWC", "HWIO", "NHWC")
            kernel, bias = params["conv"]
            features = jax.lax.conv_general_dilated(features, kernel, (1, 1), "VALID", dimension_numbers=dimensions)
            features = jax.nn.relu(features + bias)
        features = features.reshape(len(features), -1)
        *hidden, last = params["dense"]
        for weight, bias in hidden:
            features = jax.nn.relu(features @ weight + bias)
        return features @ last[0] + last[1]

    def update(carry: Carry, key: Any) -> tuple[Any, Any]:
        filled = jnp.minimum((carry.row + 1) * num_envs, capacity)
        index = jax.random.randint(key, (settings.batch,), 0, filled)
        batch = Transitions(*(column[index] for column in carry.replay))
        best = q_values(carry.target, batch.following).max(-1)
        goal = batch.reward + settings.discount * (1 - batch.done) * best

        def loss(params: Any) -> Any:
            q = jnp.take_along_axis(q_values(params, batch.observation), batch.action[:, None], 1)[:, 0]
            return error(q, goal).mean()

        change, state = optimizer.update(jax.grad(loss)(carry.params), carry.optimizer, carry.params)
        return optax.apply_updates(carry.params, change), state

    def learn(carry: Carry, key: Any) -> tuple[Any, Any]:
        for each in jax.random.split(key, settings.updates):
            params, state = update(carry, each)
            carry = carry._replace(params=params, optimizer=state)
        return carry.params, carry.optimizer

    def row(carry: Carry, _: None) -> tuple[Carry, None]:
        key, explore, choose, play, draw = jax.random.split(carry.key, 5)
        steps = carry.row * num_envs
        done_share = jnp.minimum(steps / settings.epsilon_steps, 1.0)
        epsilon = 1.0 + done_share * (settings.epsilon_end - 1.0)
        greedy = q_values(carry.params, carry.observation).argmax(-1)
        random = jax.random.randint(choose, (num_envs,), 0, num_actions)
        action = jnp.where(jax.random.uniform(explore, (num_envs,)) < epsilon, random, greedy)
        keys = jax.random.split(play, num_envs)
        following, envs, reward, done, _info = step_envs(keys, carry.envs, action, env_params)
        added = Transitions(carry.observation, action, reward, done, following)
        at = (carry.row % (capacity // num_envs)) * num_envs
        replay = jax.tree.map(
            lambda column, new: jax.lax.dynamic_update_slice_in_dim(column, new.astype(column.dtype), at, 0),
            carry.replay,
            added,
        )
        carry = carry._replace(envs=envs, observation=following, replay=replay, key=key)
        is_due = (carry.row % settings.train_rows == 0) & (steps >= settings.starts)
        params, state = jax.lax.cond(is_due, learn, lambda c, _: (c.params, c.optimizer), carry, draw)
        copies = steps // settings.target_period != (steps + num_envs) // settings.target_period
        target = jax.lax.cond(copies, lambda new, _: new, lambda _, old: old, params, carry.target)
        return carry._replace(params=params, optimizer=state, target=target, row=carry.row + 1), None

    def initial(key: Any) -> Carry:
        weights, begin, key = jax.random.split(key, 3)
        observation, envs = jax.vmap(env.reset, (0, None))(jax.random.split(begin, num_envs), env_params)
        shape = observation.shape[1:]
        params = initial_params(weights, shape)
        kind = jnp.bool_ if settings.convolution is not None else jnp.float32
        seen = jnp.zeros((capacity, *shape), kind)
        number = jnp.zeros(capacity, jnp.float32)
        action = jnp.zeros(capacity, jnp.int32)
        replay = Transitions(seen, action, number, jnp.zeros_like(number), jnp.zeros_like(seen))
        target = jax.tree.map(jnp.copy, params)  # donated apart
        return Carry(params, target, optimizer.init(params), envs, observation, replay, jnp.int32(0), key)

    def initial_params(key: Any, shape: tuple[int, ...]) -> dict[str, Any]:
        def uniform(key: Any, *size: int) -> Any:
            bound = math.sqrt(1 / math.prod(size[:-1]))
            return jax.random.uniform(key, size, minval=-bound, maxval=bound)

        params: dict[str, Any] = {}
        width = math.prod(shape)
        first, *keys = jax.random.split(key, 2 + len(settings.hidden))
        if settings.convolution is not None:
            height, across, channels = shape
            params["conv"] = (uniform(first, 3, 3, channels, settings.convolution), jnp.zeros(settings.convolution))
            width = (height - 2) * (across - 2) * settings.convolution
        sizes = (width, *settings.hidden, num_actions)
        pairs = zip(keys, sizes, sizes[1:], strict=False)
        return {**params, "dense": [(uniform(each, a, b), jnp.zeros(b)) for each, a, b in pairs]}

    carry = jax.jit(initial)(jax.random.key(seed))
    rows, starting = -(-settings.steps // num_envs), -(-settings.starts // num_envs)
    length = max(min(1_000, rows // 8), 1)
    scan = jax.jit(partial(jax.lax.scan, row, xs=None, length=length), donate_argnums=0).lower(carry).compile()
    jax.block_until_ready(carry)
    clock.step_seen()
    done, begun = 0, None
    while done < rows:
        if begun is None and done >= starting:
            jax.block_until_ready(carry)
            begun = done
            clock.begin(done * num_envs)
        carry, _ = scan(carry)
        done += length
    jax.block_until_ready(carry)
    clock.stop(done * num_envs)
    assert begun is not None
    metrics = clock.report((done - begun) // settings.train_rows * settings.updates)
    return {**metrics, "final_return": float(_greedy_return(env, env_params, q_values, carry.params))}


def _greedy_return(env: Any, env_params: Any, q_values: Any, params: Any) -> Any:
    """Mean of the first episodes of 16 environments, of at most 1,000 steps."""
    import jax
    from jax import numpy as jnp

    keys = jax.random.split(jax.random.key(1_000_000), 16)
    observation, envs = jax.vmap(env.reset, (0, None))(keys, env_params)

    def row(carry: Any, key: Any) -> tuple[Any, None]:
        observation, envs, alive, total = carry
        action = q_values(params, observation).argmax(-1)
        step = jax.vmap(env.step, (0, 0, 0, None))
        observation, envs, reward, done, _ = step(jax.random.split(key, 16), envs, action, env_params)
        return (observation, envs, alive & ~done, total + reward * alive), None

    begin = (observation, envs, jnp.ones(16, bool), jnp.zeros(16))
    keys = jax.random.split(jax.random.key(1), 1_000)
    return jax.jit(lambda carry: jax.lax.scan(row, carry, keys)[0][3].mean())(begin)
