"""One update of DQN against what its papers say, written with loops over plain numbers.

The agent draws from a real replay; a reference is told which rows were drawn, and reads all else off the stream that
went in. It gives the loss as a scalar with a graph, so that gradients are compared too.
"""

from copy import deepcopy
from dataclasses import dataclass, replace
from math import ceil, floor, sqrt
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from torch import Tensor

from graftwork.agents import DQN, DQNConfig
from graftwork.engine import Rollout
from graftwork.envs import EnvSpec
from graftwork.networks import LSTMConfig, MLPConfig, NoisyLinear
from graftwork.training.seeding import Seeds

T, B, A, F, N, GAMMA = 24, 5, 7, 3, 32, 0.9
SPEC = EnvSpec("Test-v0", Box(-np.inf, np.inf, (F,)), A, 0, f"Discrete({A})")
BRANCHES = (3, 2)
BRANCHED = replace(SPEC, num_actions=None, branches=BRANCHES, action_start=(0, 0), action_space="MultiDiscrete([3 2])")
FIELDS: dict[str, Any] = {
    "encoder": MLPConfig(hidden=(8,)),
    "discount": GAMMA,
    "max_gradient_norm": None,
    "replay_capacity": 1000,
    "learning_starts": 0,
    "batch_size": N,
    "train_period": T,
    "target_period": 1_000_000,
}


def build(seed: int = 0, spec: EnvSpec = SPEC, **fields: Any) -> DQN:
    """An agent whose two networks have nothing in common."""
    config, seeds = DQNConfig(**(FIELDS | fields)), Seeds(seed)
    agent = config.build(config.network(spec, seeds), spec, B, seeds, torch.device("cpu"))
    for network, each in ((agent.network, 1), (agent.target, 2)):
        generator = torch.Generator().manual_seed(each)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.normal_(0, 0.5, generator=generator)
    return agent


@dataclass
class Update:
    """What an agent learnt from, and what came of it."""

    agent: DQN
    stream: Rollout
    online: Any  # the network before the update
    target: Any
    index: list[tuple[int, int]]  # row and environment of each sample's first row
    weight: Tensor
    loss: Tensor
    gradients: dict[str, Tensor]

    def expect(self, loss: Tensor) -> None:
        """The same loss and the same gradients, which none of the parameters is without."""
        torch.testing.assert_close(self.loss, loss.detach(), rtol=1e-5, atol=1e-6)
        loss.backward()
        for name, parameter in self.online.named_parameters():
            torch.testing.assert_close(self.gradients[name], parameter.grad, rtol=1e-4, atol=1e-6, msg=name)
            assert parameter.grad.abs().max() > 1e-6, name


def update(agent: DQN, *rollouts: Rollout) -> Update:
    """One update after the last of the rollouts, which follow each other."""
    drawn: list[Any] = []
    draw = agent.replay.draw
    agent.replay.draw = lambda *arguments: drawn.append(draw(*arguments)) or drawn[-1]  # type: ignore[method-assign]
    online, target = deepcopy(agent.network).requires_grad_(), deepcopy(agent.target)
    for rollout in rollouts:
        metrics = agent.learn(rollout)
    (one,) = drawn
    # Adam's mean of gradients after its first step is a tenth of the one there was.
    gradients = {name: 10 * part["exp_avg"] for name, part in agent.state_dict()["optimizer"].items()}
    index = [divmod(place, B) for place in one.index.tolist()]
    return Update(
        agent,
        rollouts[-1],
        online,
        target,
        index,
        *(one.weight or (torch.ones(len(index)),)),
        metrics["loss"],
        gradients,
    )


def summed(stream: Rollout, row: int, env: int, n: int) -> tuple[float, float, int]:
    """Up to n rewards; the discount and the row of what they bootstrap from. Sutton & Barto 2018, eq. 7.1."""
    total = 0.0
    for k in range(n):
        total += GAMMA**k * stream.reward[row + k, env].item()
        if stream.terminated[row + k, env]:
            return total, 0.0, row + k + 1
        if stream.truncated[row + k, env] or row + k + 1 == stream.num_rows:
            break
    return total, GAMMA ** (k + 1), row + k + 1


def huber(error: Tensor) -> Tensor:
    return error**2 / 2 if error.abs() <= 1 else error.abs() - 0.5


def h(x: float) -> float:
    """Pohlen et al. 2018, proposition A.2, with epsilon = 1e-3."""
    return np.sign(x) * (sqrt(abs(x) + 1) - 1) + 1e-3 * x


def inverse(x: float) -> float:
    return np.sign(x) * (((sqrt(1 + 4e-3 * (abs(x) + 1 + 1e-3)) - 1) / 2e-3) ** 2 - 1)


def legal_actions(seed: int, *shape: int) -> Tensor:
    mask = torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    mask[..., 2] |= ~mask.any(-1)
    return mask


@pytest.mark.parametrize("masked", [False, True], ids=["free", "masked"])
@pytest.mark.parametrize("double", [False, True], ids=["single", "double"])
@pytest.mark.parametrize("rescaled", [False, True], ids=["plain", "rescaled"])
def test_n_steps_of_legal_actions_with_values_on_another_scale(experience, double, masked, rescaled):
    """Mnih et al. 2015; van Hasselt et al. 2016, eq. 4; Pohlen et al. 2018, proposition A.2."""
    n = 3
    stream = experience(T, B)
    stream = replace(stream, reward=5 * stream.reward, action_mask=legal_actions(1, T + 1, B, A) if masked else None)
    agent = build(spec=replace(SPEC, has_action_mask=masked), double=double, n_step=n, value_rescaling=rescaled)
    it = update(agent, stream)
    total, kinds = torch.zeros(()), set()
    for row, env in it.index:
        assert stream.valid[row, env]
        reward, discount, after = summed(stream, row, env, n)
        kinds.add((after - row, discount == 0, after == T))
        own, other = (net(stream.observation[after, env].view(1, 1, F))[0][0, 0] for net in (it.online, it.target))
        legal = range(A) if stream.action_mask is None else stream.action_mask[after, env].nonzero().flatten().tolist()
        best = max(legal, key=lambda a: (own if double else other)[a].item())
        value = other[best].item()
        aim = h(reward + discount * inverse(value)) if rescaled else reward + discount * value
        q = it.online(stream.observation[row, env].view(1, 1, F))[0][0, 0, stream.action[row, env]]
        total = total + huber(aim - q) / N
    it.expect(total)
    # Sums of one and two rewards ended by termination, by truncation and by the newest row, and whole ones.
    assert kinds >= {(1, True, False), (1, False, False), (2, False, False), (3, False, False), (3, True, False)}
    assert any(newest and count < n for count, _, newest in kinds)


def projected(atoms: list[float], shares: list[float], low: float, high: float, number: int) -> list[float]:
    """Bellemare et al. 2017, algorithm 1."""
    found, width = [0.0] * number, (high - low) / (number - 1)
    for atom, share in zip(atoms, shares, strict=True):
        place = (min(max(atom, low), high) - low) / width
        below, above = floor(place), ceil(place)
        if below == above:
            found[below] += share
        else:
            found[below] += share * (above - place)
            found[above] += share * (place - below)
    return found


@pytest.mark.parametrize("munchausen", [False, True], ids=["greedy", "munchausen"])
def test_categorical_values_of_n_steps(experience, munchausen):
    """C51; Munchausen's next value is a mixture of all actions' distributions (Vieillard et al. 2020, appendix B.2)."""
    n, number, low, high = 2, 11, -2.0, 3.0
    tau, alpha, least = 0.3, 0.8, -0.4
    support = torch.linspace(low, high, number)
    value = {"kind": "categorical", "num_atoms": number, "low": low, "high": high}
    more = {"munchausen": {"temperature": tau, "scale": alpha, "floor": least}, "double": False} if munchausen else {}
    stream = experience(T, B)
    it = update(build(value=value, n_step=n, **more), stream)
    total = torch.zeros(())
    for row, env in it.index:
        reward, discount, after = summed(stream, row, env, n)
        here, there = (stream.observation[at, env].view(1, 1, F) for at in (row, after))
        action = int(stream.action[row, env])
        share = it.target(there)[0][0, 0].softmax(-1)
        if munchausen:
            before = (it.target(here)[0][0, 0].softmax(-1) @ support / tau).log_softmax(-1)
            reward += alpha * min(max(tau * before[action].item(), least), 0.0)
            log_pi = (share @ support / tau).log_softmax(-1)
            atoms = [reward + discount * (support[k] - tau * log_pi[a]).item() for a in range(A) for k in range(number)]
            shares = [(log_pi[a].exp() * share[a, k]).item() for a in range(A) for k in range(number)]
        else:
            best = (it.online(there)[0][0, 0].softmax(-1) @ support).argmax()
            atoms, shares = [reward + discount * z for z in support.tolist()], share[best].tolist()
        aim = torch.tensor(projected(atoms, shares, low, high, number))
        assert aim.sum().item() == pytest.approx(1, abs=1e-5)
        total = total - (aim * it.online(here)[0][0, 0, action].log_softmax(-1)).sum() / N
    it.expect(total)


def quantile_loss(quantiles: Tensor, fractions: list[float], atoms: list[float], kappa: float) -> Tensor:
    """sum_i mean_j |fraction_i - 1{u < 0}| huber(u) / kappa, u = atom_j - quantile_i. Dabney et al. 2018a, eq. 10."""
    total = torch.zeros(())
    for quantile, fraction in zip(quantiles, fractions, strict=True):
        for atom in atoms:
            u = atom - quantile
            size = u**2 / 2 if u.abs() <= kappa else kappa * (u.abs() - kappa / 2)
            total = total + abs(fraction - float(u < 0)) * size / kappa / len(atoms)
    return total


def test_quantile_values(experience):
    """QR-DQN."""
    number, kappa = 4, 0.5
    stream = experience(T, B)
    it = update(build(value={"kind": "quantile", "num_quantiles": number, "kappa": kappa}), stream)
    total = torch.zeros(())
    for row, env in it.index:
        reward, discount, after = summed(stream, row, env, 1)
        there = stream.observation[after, env].view(1, 1, F)
        best = it.online(there)[0][0, 0].mean(-1).argmax()
        atoms = [reward + discount * z for z in it.target(there)[0][0, 0, best].tolist()]
        own = it.online(stream.observation[row, env].view(1, 1, F))[0][0, 0, stream.action[row, env]]
        total = total + quantile_loss(own, [(i + 0.5) / number for i in range(number)], atoms, kappa) / N
    it.expect(total)


def test_implicit_values(experience):
    """IQN, at the fractions that the two heads were asked for; Dabney et al. 2018b, eq. 3 and 4."""
    stream, asked = experience(T, B), {}
    value = {"kind": "implicit", "num_fractions": 3, "num_target_fractions": 5, "num_cosines": 6, "kappa": 1.0}
    agent = build(value=value)

    def remember(name: str, fractions: Tensor) -> None:
        asked[name] = fractions

    for name, network in (("online", agent.network), ("target", agent.target)):
        network.head.register_forward_pre_hook(lambda _, inputs, name=name: remember(name, inputs[1]))
    it = update(agent, stream)
    assert asked["online"].shape == (2, N, 3)
    assert asked["target"].shape == (1, N, 5)
    for each in (it.online.head, it.target.head):
        each._forward_pre_hooks.clear()

    def quantiles(network: Any, row: int, env: int, fractions: Tensor) -> Tensor:
        """[A, K]."""
        features = network.encoder(stream.observation[row, env].view(1, 1, F))[0][0, 0]
        columns = []
        for fraction in fractions.tolist():
            cosines = torch.tensor([np.cos(np.pi * i * fraction) for i in range(6)], dtype=torch.float32)
            columns.append(network.head.inner(features * torch.relu(network.head.linear(cosines))))
        return torch.stack(columns, -1)

    total = torch.zeros(())
    for n, (row, env) in enumerate(it.index):
        reward, discount, after = summed(stream, row, env, 1)
        best = quantiles(it.online, after, env, asked["online"][1, n]).mean(-1).argmax()
        atoms = [reward + discount * z for z in quantiles(it.target, after, env, asked["target"][0, n])[best].tolist()]
        fractions = asked["online"][0, n]
        own = quantiles(it.online, row, env, fractions)[stream.action[row, env]]
        total = total + quantile_loss(own, fractions.tolist(), atoms, 1.0) / N
    it.expect(total)


@pytest.mark.parametrize("double", [False, True], ids=["single", "double"])
@pytest.mark.parametrize("rescaled", [False, True], ids=["plain", "rescaled"])
def test_munchausen(experience, double, rescaled):
    """Vieillard et al. 2020, eq. 1; with `double` the next policy, and it alone, is the online network's.

    Of values on another scale the bonus and the entropy are in units of the reward all the same.
    """
    tau, alpha, least = 0.5, 0.7, -0.6
    stream = experience(T, B)
    munchausen = {"temperature": tau, "scale": alpha, "floor": least}
    it = update(build(munchausen=munchausen, double=double, value_rescaling=rescaled), stream)
    total, clipped = torch.zeros(()), set()
    for row, env in it.index:
        reward, discount, after = summed(stream, row, env, 1)
        here, there = (stream.observation[at, env].view(1, 1, F) for at in (row, after))
        action = int(stream.action[row, env])
        bonus = tau * (it.target(here)[0][0, 0] / tau).log_softmax(-1)[action].item()
        clipped.add(bonus < least)
        q = it.target(there)[0][0, 0]
        pi = ((it.online(there)[0][0, 0] if double else q) / tau).softmax(-1)
        values = [inverse(value) for value in q.tolist()] if rescaled else q.tolist()
        soft = sum(pi[a].item() * (values[a] - tau * pi[a].log().item()) for a in range(A))
        aim = reward + alpha * max(bonus, least) + discount * soft
        aim = h(aim) if rescaled else aim
        total = total + huber(aim - it.online(here)[0][0, 0, action]) / N
    it.expect(total)
    assert clipped == {False, True}


def test_priorities_weigh_what_they_drew_and_are_the_errors_afterwards(experience, part):
    """Schaul et al. 2016, eq. 1 and section 3.4; weights relative to the rarest of the batch."""
    alpha, beta, least = 0.7, 0.4, 1e-3
    prioritised = {"exponent": alpha, "importance": beta, "floor": least}
    stream = experience(2 * T, B)
    first, second = part(stream, 0, T), part(stream, T, T)
    steps = int(first.valid.sum())
    agent = build(prioritised=prioritised, learning_starts=steps + 1)
    agent.learn(first)
    rows = [(t, b) for t in range(T) for b in range(B) if first.valid[t, b]]
    priority = torch.rand(len(rows), generator=torch.Generator().manual_seed(3)) * 3
    agent.replay.prioritise(torch.tensor([t * B + b for t, b in rows]), priority)
    it = update(agent, second)
    assert it.agent.step == int(stream.valid.sum())

    # New ones have the highest share that any had so far.
    share = {at: (p + least) ** alpha for at, p in zip(rows, priority.tolist(), strict=True)}
    highest = max(1.0, *share.values())
    share |= {(t, b): highest for t in range(T, 2 * T) for b in range(B) if stream.valid[t, b]}
    weights = [min(share[other] for other in it.index) ** beta / share[at] ** beta for at in it.index]
    assert min(weights) < 0.8
    torch.testing.assert_close(it.weight, torch.tensor(weights), rtol=1e-4, atol=0)

    total, errors = torch.zeros(()), {}
    for weight, (row, env) in zip(weights, it.index, strict=True):
        reward, discount, after = summed(stream, row, env, 1)
        here, there = (stream.observation[at, env].view(1, 1, F) for at in (row, after))
        aim = reward + discount * it.target(there)[0][0, 0, it.online(there)[0][0, 0].argmax()].item()
        error = aim - it.online(here)[0][0, 0, stream.action[row, env]]
        errors[row, env] = error.abs().item()
        total = total + weight * huber(error) / N
    it.expect(total)
    share |= {at: (error + least) ** alpha for at, error in errors.items()}
    slots = agent.replay.state_dict()["priorities"]["slots"]
    found = [slots[t * B + b].item() for t, b in share]
    torch.testing.assert_close(
        torch.tensor(found) / sum(found), torch.tensor(list(share.values())) / sum(share.values()), rtol=1e-4, atol=0
    )


class TestNoise:
    """Fortunato et al. 2018, section 3: a noisy layer is mu + sigma * epsilon, with an epsilon for each network."""

    def noisy(self, **fields: Any) -> DQN:
        return build(head={"noise": 0.5, "hidden": 6}, epsilon=0.0, **fields)

    def layers(self, network: Any) -> list[NoisyLinear]:
        return [layer for layer in network.modules() if isinstance(layer, NoisyLinear)]

    def factors(self, network: Any) -> list[Tensor]:
        return [factor.clone() for layer in self.layers(network) for factor in (layer.input_noise, layer.output_noise)]

    def test_an_update(self, experience: Any) -> None:
        stream, agent = experience(T, B), self.noisy()
        it = update(agent, stream)
        factors = {"online": self.factors(agent.network), "target": self.factors(agent.target)}
        assert len(factors["online"]) == 4
        assert all((a - b).abs().max() > 0.1 for a, b in zip(*factors.values(), strict=True))

        def q(network: Any, which: str, row: int, env: int) -> Tensor:
            x = network.encoder(stream.observation[row, env].view(1, 1, F))[0][0, 0]
            for place, layer in enumerate(self.layers(network)):
                inner, outer = factors[which][2 * place : 2 * place + 2]
                x = torch.relu(x) if place else x
                weight = layer.weight + layer.weight_noise * torch.outer(outer, inner)
                x = weight @ x + layer.bias + layer.bias_noise * outer
            return x

        total = torch.zeros(())
        for row, env in it.index:
            reward, discount, after = summed(stream, row, env, 1)
            best = q(it.online, "online", after, env).argmax()
            aim = reward + discount * q(it.target, "target", after, env)[best].item()
            total = total + huber(aim - q(it.online, "online", row, env)[stream.action[row, env]]) / N
        it.expect(total)

    def test_each_update_and_each_network_has_a_draw_of_its_own(self, experience: Any) -> None:
        agent, seen = self.noisy(updates=3), []
        for network in (agent.network, agent.target):
            network.head.register_forward_pre_hook(
                lambda module, _: seen.append(
                    torch.cat([*self.factors(module), torch.tensor([float(module.training)])])
                )
            )
        agent.learn(experience(T, B))
        assert len(seen) == 6
        assert len({tuple(factors.tolist()) for factors in seen}) == 6
        assert not any(layer.is_noisy for layer in (*self.layers(agent.network), *self.layers(agent.target)))

    def test_each_acting_step_has_a_draw_of_its_own_and_greedy_play_none(self, experience: Any) -> None:
        agent = self.noisy()
        observation, is_first = torch.randn(64, F, generator=torch.Generator().manual_seed(4)), torch.ones(64) > 0
        taken, drawn = [], set()
        for _ in range(5):
            taken.append(agent.act(observation, (), is_first, explore=True).action)
            drawn.add(tuple(torch.cat(self.factors(agent.network)).tolist()))
        assert len(drawn) == 5
        assert len({tuple(action.tolist()) for action in taken}) == 5
        # All rows of a step have one draw: the layers as they now are, with the noise on.
        for layer in self.layers(agent.network):
            layer.is_noisy = True
        assert agent.network(observation.unsqueeze(0))[0][0].argmax(-1).equal(taken[-1])
        for layer in self.layers(agent.network):
            layer.is_noisy = False
        before = agent.state_dict()
        means = agent.network(observation.unsqueeze(0))[0][0].argmax(-1)
        for _ in range(3):
            assert agent.act(observation, (), is_first, explore=False).action.equal(means)
            assert torch.from_numpy(agent.predict(observation)).equal(means)
        assert agent.state_dict()["noise"].equal(before["noise"])
        assert not means.equal(taken[-1])


@pytest.mark.parametrize("dueling", [False, True], ids=["single-stream", "dueling"])
@pytest.mark.parametrize("rescaled", [False, True], ids=["plain", "rescaled"])
def test_branches(experience, dueling, rescaled):
    """Tavakoli et al. 2018: one target for all, the mean over branches of their next values (eq. 6); eq. 1 of dueling.

    Deviation from eq. 7: Huber's loss for the square, as without branches.
    """
    stream = experience(T, B)
    generator = torch.Generator().manual_seed(5)
    action = torch.stack([torch.randint(count, (T, B), generator=generator) for count in BRANCHES], -1)
    stream = replace(stream, action=action)
    agent = build(spec=BRANCHED, head={"dueling": dueling}, value_rescaling=rescaled)
    streams = (
        (lambda head: (head.value, head.advantage)) if dueling else (lambda head: (None, head.linear))
    )  # a value, advantages [2 * 3] of which the last is none
    with torch.no_grad():
        for network in (agent.network, agent.target):
            streams(network.head)[1].bias[5] = 1e3  # were it an action, it would be the best
    it = update(agent, stream)

    def q(network: Any, row: int, env: int) -> list[Tensor]:
        features = network.encoder(stream.observation[row, env].view(1, 1, F))[0][0, 0]
        value, advantage = streams(network.head)
        parts = [advantage(features)[:3], advantage(features)[3:5]]
        if value is None:
            return parts
        return [value(features) + part - part.mean() for part in parts]

    total = torch.zeros(())
    for row, env in it.index:
        reward, discount, after = summed(stream, row, env, 1)
        own, other = q(it.online, after, env), q(it.target, after, env)
        values = [other[d][own[d].argmax()].item() for d in range(2)]
        aim = h(reward + discount * sum(map(inverse, values)) / 2) if rescaled else reward + discount * sum(values) / 2
        here = q(it.online, row, env)
        total = total + sum(huber(aim - here[d][stream.action[row, env, d]]) for d in range(2)) / 2 / N
    it.expect(total)


@pytest.mark.parametrize("prioritised", [False, True], ids=["uniform", "prioritised"])
@pytest.mark.parametrize("stored", [True, False], ids=["stored", "zero"])
def test_sequences_of_a_memory(experience, part, stored, prioritised):
    """R2D2 (Kapturowski et al. 2019): n-step sums, each network burnt in by itself from the state at the first row."""
    n, rows, burn_in, length, size, count = 2, 4, 2, 6, 8, 7
    stream = experience(count * rows, B, ends=0.15)
    agent = build(
        encoder=LSTMConfig(hidden_size=5, inner=MLPConfig(hidden=(4,))),
        **{"n_step": n, "sequence_length": length, "burn_in": burn_in, "stored_state": stored, "train_period": rows},
        **{"batch_size": size, "learning_starts": int(stream.valid.sum())},  # so after the last rollout
        prioritised={"exponent": 1.0, "floor": 1e-3, "sequence_max": 0.9} if prioritised else None,
    )
    generator = torch.Generator().manual_seed(6)
    states = [tuple(torch.randn(B, 1, 5, generator=generator).tanh() for _ in range(2)) for _ in range(count)]
    for k in range(count - 1):
        agent.learn(replace(part(stream, k * rows, rows), state=states[k]))
    it = update(agent, replace(part(stream, (count - 1) * rows, rows), state=states[-1]))

    def values(network: Any, row: int, env: int) -> list[Tensor]:
        """[A] of each row of a sequence and of those that its sums look ahead to."""
        zeros = tuple(torch.zeros(1, 1, 5) for _ in range(2))
        state = tuple(part[env : env + 1] for part in states[row // rows]) if stored else zeros
        found = []
        for t in range(row, row + length + n):
            state = zeros if stream.is_first[t, env] else state
            features, state = network.encoder(stream.observation[t, env].view(1, 1, F), state)
            found.append(network.head(features)[0, 0])
            if t < row + burn_in:
                state = tuple(part.detach() for part in state)
        return found

    losses, errors = [], {}
    for n_, (row, env) in enumerate(it.index):
        assert not stored or row % rows == 0
        own, other = values(it.online, row, env), values(it.target, row, env)
        errors[row, env] = []
        for t in range(row + burn_in, row + length):
            if not stream.valid[t, env]:
                continue
            reward, discount, after = summed(stream, t, env, n)
            aim = reward + discount * other[after - row][own[after - row].argmax()].item()
            error = aim - own[t - row][stream.action[t, env]]
            losses.append(it.weight[n_] * huber(error))
            errors[row, env].append(error.abs().item())
    it.expect(sum(losses) / len(losses))
    assert stored or any(row % rows for row, _ in it.index)
    assert len(losses) < size * (length - burn_in)  # a filler was passed over
    if prioritised:
        slots = agent.replay.state_dict()["priorities"]["slots"]
        found = {at: slots[at[0] // (rows if stored else 1) * B + at[1]].item() * 2.0**-22 for at in errors}
        for at, each in errors.items():
            assert found[at] == pytest.approx(0.9 * max(each) + 0.1 * sum(each) / len(each) + 1e-3, rel=1e-4)
