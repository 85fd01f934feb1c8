from collections.abc import Callable
from copy import deepcopy
from math import cos, pi

import pytest
import torch
from torch import Tensor

from graftwork.engine.recorded import Recorded
from graftwork.networks import (
    MLP,
    ActionValueHead,
    DuelingQHead,
    ImplicitQuantileHead,
    Network,
    QHead,
    follow,
    initialise,
    noise,
    noisy_layers,
    parameter_groups,
    resample,
)

T, B, A, F, K, D, H = 3, 5, 7, 4, 6, 2, 11
LEADING = [(), (B,), (1,), (T, B), (T, 1)]
LEGAL = torch.arange(A) < torch.tensor([[A], [3]])  # the second branch has three actions


@pytest.fixture(autouse=True)
def _same_numbers_every_time():
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        yield


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


EVERY: dict[str, Callable[[], ActionValueHead]] = {
    "q": lambda: QHead(F, A),
    "q, hidden": lambda: QHead(F, A, hidden=H),
    "q, atoms": lambda: QHead(F, A, atoms=K),
    "q, branches": lambda: QHead(F, (D, A)),
    "q, branches, atoms, noisy": lambda: QHead(F, (D, A), hidden=H, atoms=K, noise=0.5),
    "dueling": lambda: DuelingQHead(F, A),
    "dueling, hidden": lambda: DuelingQHead(F, A, H),
    "dueling, atoms": lambda: DuelingQHead(F, A, H, atoms=K),
    "dueling, branches": lambda: DuelingQHead(F, (D, A)),
    "dueling, unequal branches": lambda: DuelingQHead(F, (D, A), legal=LEGAL),
    "dueling, all": lambda: DuelingQHead(F, (D, A), H, atoms=K, noise=0.5, legal=LEGAL),
    "iqn": lambda: ImplicitQuantileHead(F, QHead(F, A), num_cosines=9, num_fractions=K),
    "iqn, dueling": lambda: ImplicitQuantileHead(F, DuelingQHead(F, A, H), 9, K),
    "iqn, all": lambda: ImplicitQuantileHead(F, DuelingQHead(F, (D, A), H, noise=0.5, legal=LEGAL), 9, K),
}


@pytest.mark.parametrize("leading", LEADING)
@pytest.mark.parametrize("name", EVERY)
def test_values_have_the_shape_that_the_head_tells(name, leading):
    head = EVERY[name]()
    assert head.shape == ((D, A) if "branches" in name or "all" in name else (A,))
    assert head.atoms == (K if any(word in name for word in ("atoms", "all", "iqn")) else None)
    columns = () if head.atoms is None else (head.atoms,)
    assert head(torch.randn(*leading, F)).shape == (*leading, *head.shape, *columns)


@pytest.mark.parametrize("leading", LEADING)
def test_action_values_are_linear_in_the_features(leading):
    head, features = QHead(F, A), torch.randn(*leading, F)
    torch.testing.assert_close(head(features), features @ head.linear.weight.t() + head.linear.bias)


def test_a_branchs_values_are_its_rows_of_the_layer():
    head, features = QHead(F, (D, A), atoms=K), torch.randn(B, F)
    values = head(features)
    for row in range(D * A * K):
        d, a, k = row // (A * K), row // K % A, row % K
        torch.testing.assert_close(values[:, d, a, k], features @ head.linear.weight[row] + head.linear.bias[row])


@pytest.mark.parametrize("hidden", [None, H])
@pytest.mark.parametrize("leading", LEADING)
def test_dueling_action_values_average_to_the_state_value(leading, hidden):
    head, features = DuelingQHead(F, A, hidden), torch.randn(*leading, F)
    q, advantage = head(features), head.advantage(features)
    torch.testing.assert_close(q.mean(-1, keepdim=True), head.value(features))
    torch.testing.assert_close(q - q.mean(-1, keepdim=True), advantage - advantage.mean(-1, keepdim=True))


def test_dueling_action_values_by_hand():
    head = DuelingQHead(1, 3)
    with torch.no_grad():
        head.value.weight.fill_(2.0)
        head.value.bias.fill_(1.0)
        head.advantage.weight.copy_(torch.tensor([[1.0], [2.0], [6.0]]))
        head.advantage.bias.zero_()
    # At feature 1 the value is 3; the advantages 1, 2 and 6 have the mean 3.
    torch.testing.assert_close(head(torch.ones(1)), torch.tensor([1.0, 2.0, 6.0]))


def test_padding_of_a_shorter_branch_has_no_part_in_its_mean():
    head = DuelingQHead(1, (2, 3), legal=torch.tensor([[True, True, True], [True, True, False]]))
    with torch.no_grad():
        head.value.weight.fill_(10.0)
        head.value.bias.zero_()
        head.advantage.weight.copy_(torch.tensor([[1.0], [2.0], [6.0], [1.0], [2.0], [1e6]]))
        head.advantage.bias.zero_()
    # The means are (1 + 2 + 6) / 3 = 3 and (1 + 2) / 2 = 1.5.
    q = head(torch.ones(1))
    torch.testing.assert_close(q[0], torch.tensor([8.0, 9.0, 13.0]))
    torch.testing.assert_close(q[1, :2], torch.tensor([9.5, 10.5]))


@pytest.mark.parametrize("legal", [None, LEGAL])
@pytest.mark.parametrize("shape", [(A,), (D, A)])
@pytest.mark.parametrize("atoms", [None, K])
def test_dueling_values_equal_a_python_loop(atoms, shape, legal):
    if legal is not None and len(shape) == 1:
        legal = legal[1]
    head, features = DuelingQHead(F, shape, H, atoms=atoms, legal=legal).double(), torch.randn(B, F).double()
    q, value, advantage = head(features), head.value(features), head.advantage(features)
    branches, columns = (shape[0] if len(shape) == 2 else 1), atoms or 1
    rows = legal.reshape(branches, A).tolist() if legal is not None else [[True] * A] * branches
    assert value.shape == (B, columns)  # one for all branches
    for b in range(B):
        for d in range(branches):
            actions = [a for a in range(A) if rows[d][a]]
            for k in range(columns):
                of_action = [advantage[b, (d * A + a) * columns + k].item() for a in range(A)]
                mean = sum(of_action[a] for a in actions) / len(actions)
                for a in actions:
                    expected = value[b, k].item() + of_action[a] - mean
                    assert q[b].reshape(branches, A, columns)[d, a, k].item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("shape", [(A,), (D, A)])
def test_quantiles_equal_a_python_loop(shape):
    head = ImplicitQuantileHead(F, QHead(F, shape), num_cosines=9).double()
    features, fractions = torch.randn(T, B, F).double(), torch.rand(T, B, K).double()
    quantiles = head(features, fractions)
    assert quantiles.shape == (T, B, *shape, K)
    weight, bias = head.linear.weight.tolist(), head.linear.bias.tolist()
    for t in range(T):
        for b in range(B):
            for k in range(K):
                tau, own = fractions[t, b, k].item(), []
                for f in range(F):
                    total = bias[f] + sum(weight[f][i] * cos(pi * i * tau) for i in range(9))
                    own.append(features[t, b, f].item() * max(total, 0.0))
                torch.testing.assert_close(quantiles[t, b, ..., k], head.inner(torch.tensor(own).double()))


def test_without_fractions_it_takes_the_middles_of_equal_parts():
    head, features = ImplicitQuantileHead(F, QHead(F, A), num_fractions=4), torch.randn(T, B, F)
    fractions = torch.tensor([0.125, 0.375, 0.625, 0.875]).expand(T, B, 4)
    torch.testing.assert_close(head(features), head(features, fractions))
    assert torch.equal(head(features), head(features))


def test_as_many_fractions_as_asked_for():
    head = ImplicitQuantileHead(F, QHead(F, A), num_fractions=4)
    assert head(torch.randn(B, F), torch.rand(B, 1)).shape == (B, A, 1)


@pytest.mark.parametrize("shape", [(K,), (1, K), (B, 1, K)])
def test_fractions_that_would_broadcast_are_refused(shape):
    head = ImplicitQuantileHead(F, QHead(F, A))
    with pytest.raises(ValueError, match=rf"^fractions must have shape \[{B}\] and one axis more, got \["):
        head(torch.randn(B, F), torch.rand(shape))


def test_an_inner_head_with_atoms_is_refused():
    with pytest.raises(ValueError, match=r"^the inner head must have no atoms, got 6: "):
        ImplicitQuantileHead(F, QHead(F, A, atoms=K))


@pytest.mark.parametrize(
    ("legal", "message"),
    [
        (LEGAL[0], r"legal must be bool of shape \[2, 7\], got torch.bool of \[7\]"),
        (LEGAL.float(), r"legal must be bool of shape \[2, 7\], got torch.float32 of \[2, 7\]"),
        (LEGAL & torch.tensor([[True], [False]]), "legal must leave each branch an action"),
    ],
)
def test_a_wrong_mask_of_actions_is_refused(legal, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        DuelingQHead(F, (D, A), legal=legal)


def test_parameters_keep_their_names():
    assert set(QHead(F, A).state_dict()) == {"linear.weight", "linear.bias"}
    parts = ("weight", "bias")
    assert set(DuelingQHead(F, A).state_dict()) == {f"{s}.{p}" for s in ("value", "advantage") for p in parts}
    shapes = {name: tuple(weight.shape) for name, weight in DuelingQHead(F, A, H).named_parameters() if weight.ndim > 1}
    assert shapes == {
        "value.0.weight": (H, F),
        "value.2.weight": (1, H),
        "advantage.0.weight": (H, F),
        "advantage.2.weight": (A, H),
    }
    assert set(ImplicitQuantileHead(F, QHead(F, A)).state_dict()) == {
        f"{layer}.{p}" for layer in ("linear", "inner.linear") for p in parts
    }


@pytest.mark.parametrize(("name", "count"), [("q", 0), ("q, branches, atoms, noisy", 2), ("dueling, all", 4)])
def test_all_layers_of_a_noisy_head_are_noisy(name, count):
    head = EVERY[name]()
    assert len(noisy_layers(head)) == count
    assert {layer.noise for layer in noisy_layers(head)} <= {0.5}
    assert not count or not any(type(module) is torch.nn.Linear for module in head.modules())


def test_the_mask_of_actions_goes_where_the_head_goes():
    head = DuelingQHead(F, (D, A), legal=LEGAL)
    assert deepcopy(head).double()(torch.randn(B, F).double()).dtype == torch.float64
    other = DuelingQHead(F, (D, A), legal=torch.ones(D, A, dtype=torch.bool))
    other.load_state_dict(head.state_dict())
    assert torch.equal(other.action_mask, LEGAL)
    assert head.action_mask is not LEGAL  # what was given is not held on to


def noisily(head: ActionValueHead) -> ActionValueHead:
    """With its noise on, if it has any."""
    layers = noisy_layers(head)
    resample(layers, generator())
    for layer in layers:
        layer.is_noisy = True
    return head


@pytest.mark.parametrize("scheme", ["uniform", "orthogonal"])
@pytest.mark.parametrize("name", EVERY)
def test_every_head_is_initialised_from_the_generator_alone(name, scheme):
    one, other = EVERY[name](), noisily(EVERY[name]())
    for head in (one, other):
        initialise(head, scheme, generator(1))
    assert all(map(torch.equal, one.state_dict().values(), other.state_dict().values()))


@pytest.mark.parametrize("name", EVERY)
def test_finite_gradients_reach_each_parameter_of_every_head(name):
    head = noisily(EVERY[name]())
    values = head(torch.randn(T, B, F))
    gradients = torch.autograd.grad((values * torch.randn(values.shape)).sum(), list(head.parameters()))
    for (parameter, _), gradient in zip(head.named_parameters(), gradients, strict=True):
        assert gradient.isfinite().all(), parameter
        assert gradient.ne(0).any(), parameter


@pytest.mark.parametrize("name", EVERY)
def test_every_heads_rows_are_independent(name):
    head, features = noisily(EVERY[name]().double()), torch.randn(T, B, F).double()
    rows = torch.stack([head(features[t, b]) for t in range(T) for b in range(B)])
    torch.testing.assert_close(head(features).flatten(0, 1), rows)


@pytest.mark.parametrize("name", EVERY)
def test_strided_features_are_read_rightly(name):
    head, features = noisily(EVERY[name]()), torch.randn(T, B, F).transpose(0, 1)
    torch.testing.assert_close(head(features), head(features.contiguous()))


@pytest.mark.parametrize("name", EVERY)
def test_copies_followers_and_loaded_heads_come_to_the_same_bits(name):
    head, features = EVERY[name](), torch.randn(B, F)
    resample(noisy_layers(head), generator())
    follower, loaded = EVERY[name](), EVERY[name]()
    follow(follower, head, 1.0)
    loaded.load_state_dict(head.state_dict())
    for on in (False, True):
        values = []
        for each in (head, deepcopy(head), follower, loaded):
            with noise(noisy_layers(each), on):
                values.append(each(features))
        assert all(torch.equal(value, values[0]) for value in values)


@pytest.mark.parametrize("name", EVERY)
def test_parameters_of_every_head_learn_at_one_rate(name):
    network = Network(MLP((F,), (F,)), EVERY[name]())
    (group,) = parameter_groups(network)
    assert len(group.parameters) == len(list(network.parameters()))


@pytest.mark.parametrize("name", EVERY)
def test_recorded_heads_come_to_the_same_bits_as_their_noise_changes(name):
    network = Network(MLP((F,), (F,)), noisily(EVERY[name]()))
    draws = generator(2)

    def gradients(network: Network[Tensor], features: Tensor) -> tuple[Tensor, ...]:
        values = network(features)[0]
        return (values.detach(), *torch.autograd.grad(values.square().sum(), list(network.parameters())))

    recorded = Recorded(gradients, network)
    for call in range(110):
        resample(noisy_layers(network), draws)
        features = torch.randn(T, B, F)
        actual = recorded(features)
        if call > 98:
            assert all(map(torch.equal, actual, gradients(network, features)))
    assert all(recorded._recordings.values())
    assert recorded._recordings


def test_given_fractions_are_recorded():
    network = Network(MLP((F,), (F,)), ImplicitQuantileHead(F, QHead(F, A)))

    def values(network: Network[Tensor], inputs: Tensor, fractions: Tensor) -> list[Tensor]:
        return [network.head(network.encoder(inputs)[0], fractions)]

    recorded = Recorded(values, network)
    for _ in range(105):
        inputs, fractions = torch.randn(T, B, F), torch.rand(T, B, K)
        assert torch.equal(recorded(inputs, fractions)[0], values(network, inputs, fractions)[0])
    assert all(recorded._recordings.values())
