from collections.abc import Sequence
from copy import deepcopy
from math import sqrt

import pytest
import torch
from torch import nn

from graftwork.engine.recorded import Recorded
from graftwork.networks import (
    Encoder,
    NoisyLinear,
    follow,
    freeze,
    initialise,
    noise,
    noisy_layers,
    num_frozen_blocks,
    resample,
)

B, F, G = 5, 4, 7
# E[f(x)**2] = E|x| of a standard normal number.
SQUARE = sqrt(2 / torch.pi)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def layer(in_features: int = F, out_features: int = G, sigma: float = 0.5, seed: int = 0) -> NoisyLinear:
    made = NoisyLinear(in_features, out_features, sigma)
    initialise(made, "uniform", generator(seed))
    return made


def rows(count: int = B, width: int = F, seed: int = 3) -> torch.Tensor:
    return torch.randn(count, width, generator=generator(seed))


def by_hand(made: NoisyLinear, features: Sequence[float]) -> list[float]:
    """Fortunato et al. 2018, eq. 9 to 11, one number after the other."""
    inputs, outputs = made.input_noise.tolist(), made.output_noise.tolist()
    result = []
    for j in range(len(outputs)):
        total = made.bias[j].item() + made.bias_noise[j].item() * outputs[j]
        for i, x in enumerate(features):
            total += (made.weight[j, i].item() + made.weight_noise[j, i].item() * inputs[i] * outputs[j]) * x
        result.append(total)
    return result


def test_at_rest_it_is_a_linear_layer_of_its_means():
    made, features = layer(), rows()
    resample([made], generator())
    assert not made.is_noisy
    assert torch.equal(made(features), nn.functional.linear(features, made.weight, made.bias))


def test_before_the_first_draw_noise_is_none():
    made, features = layer(), rows()
    expected = made(features)
    with noise([made], True):
        torch.testing.assert_close(made(features), expected)
    assert not made.input_noise.any()
    assert not made.output_noise.any()


@pytest.mark.parametrize("count", [1, B, 31, 32, 40])  # below 32 rows by two products, from there on by one
def test_noise_equals_a_python_loop(count):
    made, features = layer().double(), rows(count).double()
    with torch.no_grad():  # scales that differ
        for scale in (made.weight_noise, made.bias_noise):
            scale.uniform_(0, 1, generator=generator(4))
    resample([made], generator())
    with noise([made], True):
        actual = made(features)
        assert made(features.view(count, 1, 1, F)).shape == (count, 1, 1, G)
        assert made(features[0]).shape == (G,)
    for row, x in zip(actual.tolist(), features.tolist(), strict=True):
        assert row == pytest.approx(by_hand(made, x), abs=1e-12)


def test_noise_by_hand():
    made = NoisyLinear(2, 1)
    with torch.no_grad():
        made.weight.copy_(torch.tensor([[1.0, 2.0]]))
        made.bias.fill_(3.0)
        made.weight_noise.copy_(torch.tensor([[0.1, 0.2]]))
        made.bias_noise.fill_(0.3)
        made.input_noise.copy_(torch.tensor([1.0, -2.0]))
        made.output_noise.fill_(10.0)
    made.is_noisy = True
    # Weights 1 + 0.1 * 10 = 2 and 2 - 0.2 * 20 = -2, bias 3 + 0.3 * 10 = 6: 2 * 5 - 2 * 7 + 6 = 2.
    torch.testing.assert_close(made(torch.tensor([5.0, 7.0])), torch.tensor([2.0]))


def test_factors_are_the_signed_roots_of_one_draw():
    layers = [layer(2, 3), layer(5, 1)]
    resample(layers, generator(1))
    drawn = torch.randn(2 + 3 + 5 + 1, generator=generator(1)).tolist()
    expected = [(1 if x > 0 else -1) * sqrt(abs(x)) for x in drawn]
    actual = [x for made in layers for part in (made.input_noise, made.output_noise) for x in part.tolist()]
    assert actual == pytest.approx(expected, rel=1e-6)


def test_a_resample_draws_once_from_its_generator_and_from_nothing_else():
    layers, draws, reference = [layer(2, 3), layer(5, 1)], generator(1), generator(1)
    before = torch.get_rng_state()
    resample(layers, draws)
    torch.randn(11, generator=reference)
    assert torch.equal(draws.get_state(), reference.get_state())
    resample([], draws)
    assert torch.equal(draws.get_state(), reference.get_state())
    assert torch.equal(torch.get_rng_state(), before)


def test_outputs_vary_as_the_sum_over_factors_says():
    made, features = layer(sigma=0.8), rows(1)[0]
    with torch.no_grad():
        made.weight_noise.uniform_(0, 1, generator=generator(4))
        expected_mean = made(features)
    # Given an input's factor f(e_i), independent of the output's f(e_j): the variance of output j is
    # E[f(e_j)**2] * E[(b_j + sum_i s_ji x_i f(e_i))**2] = SQUARE * (b_j**2 + SQUARE * sum_i (s_ji x_i)**2).
    squares = (made.weight_noise * features).square().sum(-1)
    expected = SQUARE * (made.bias_noise.square() + SQUARE * squares)
    draws, values = generator(2), []
    with noise([made], True), torch.no_grad():
        for _ in range(10_000):
            resample([made], draws)
            values.append(made(features))
    values = torch.stack(values)
    # The standard error of a variance from 10,000 samples is 1.4 % for a normal law, and below 3 % with these tails.
    torch.testing.assert_close(values.var(0), expected.detach(), rtol=0.1, atol=0)
    standard_error = (expected / len(values)).sqrt()
    assert ((values.mean(0) - expected_mean).abs() < 4 * standard_error).all()


def test_all_rows_have_one_noise():
    made = layer()
    resample([made], generator())
    with noise([made], True):
        values = made(rows(1).expand(B, F))
    torch.testing.assert_close(values, values[:1].expand(B, G))


def test_noise_is_put_back_layer_by_layer_after_an_error_too():
    layers = [layer(), layer()]
    layers[1].is_noisy = True
    with noise(layers, True):
        assert [each.is_noisy for each in layers] == [True, True]
        with noise(layers, False):
            assert [each.is_noisy for each in layers] == [False, False]
        assert [each.is_noisy for each in layers] == [True, True]
    with pytest.raises(RuntimeError), noise(layers, False):
        raise RuntimeError
    assert [each.is_noisy for each in layers] == [False, True]


def test_layers_are_found_once_and_in_order():
    first, second = layer(), layer(G, F)
    assert noisy_layers(nn.Sequential(nn.Linear(F, F), first, nn.Sequential(second, first))) == [first, second]
    assert noisy_layers(nn.Linear(F, F)) == []


@pytest.mark.parametrize("scheme", ["uniform", "orthogonal", "he", "xavier", "gaussian"])
def test_means_start_as_a_linear_layer_does_and_scales_at_their_own_number(scheme):
    made, linear = NoisyLinear(16, 9, 0.4), nn.Linear(16, 9)
    resample([made], generator())
    with torch.no_grad():
        made.weight_noise.fill_(9.0)
    for module in (made, linear):
        initialise(module, scheme, generator(1), gain=2.0)
    assert torch.equal(made.weight, linear.weight)
    assert torch.equal(made.bias, linear.bias)
    # 0.4 / sqrt(16)
    assert torch.equal(made.weight_noise, torch.full((9, 16), 0.1))
    assert torch.equal(made.bias_noise, torch.full((9,), 0.1))
    assert not made.input_noise.any()
    assert not made.output_noise.any()


def test_uniform_means_lie_within_the_root_of_the_inputs():
    made = layer(400, 50)
    assert 0.99 / 20 < made.weight.abs().max() <= 1 / 20
    assert 0.9 / 20 < made.bias.abs().max() <= 1 / 20


@pytest.mark.parametrize("count", [B, 40])
def test_gradients_are_true_and_reach_the_scales_only_with_noise(count):
    made, features = layer().double(), rows(count).double().requires_grad_()
    resample([made], generator())
    parameters = list(made.parameters())
    made.is_noisy = True

    def output(*_: torch.Tensor) -> torch.Tensor:
        return made(features)

    assert torch.autograd.gradcheck(output, (features, *parameters))
    made.is_noisy = False
    gradients = torch.autograd.grad(made(features).sum(), parameters, allow_unused=True)
    assert [gradient is None for gradient in gradients] == [False, False, True, True]


def test_a_copy_has_the_noise_and_then_its_own():
    made, features = layer(), rows()
    resample([made], generator())
    made.is_noisy = True
    copy = deepcopy(made)
    assert torch.equal(copy(features), made(features))
    resample([copy], generator(5))
    assert not torch.equal(copy(features), made(features))


def test_a_follower_takes_over_noise_and_scales():
    made, target, features = layer(seed=0), layer(seed=1), rows()
    resample([made], generator())
    with torch.no_grad():
        made.weight_noise.mul_(3)
    follow(target, made, 1.0)
    with noise([made, target], True):
        assert torch.equal(target(features), made(features))


def test_noise_is_saved_with_the_weights():
    made, other, features = layer(seed=0), layer(seed=1), rows()
    resample([made], generator())
    other.load_state_dict(made.state_dict())
    assert set(made.state_dict()) == {"weight", "bias", "weight_noise", "bias_noise", "input_noise", "output_noise"}
    with noise([made, other], True):
        assert torch.equal(other(features), made(features))


class Noisy(Encoder):
    """Two noisy layers, a block each."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.out_features = layer(), layer(G, B), B

    def encode(self, observation):
        return self.second(self.first(observation).relu())

    def blocks(self):
        return [["first"], ["second"]]


def test_freezing_takes_scales_along():
    encoder = Noisy()
    freeze(encoder, num_frozen_blocks(encoder, 1, step=0, unfreeze_period=10))
    learns = {name for name, parameter in encoder.named_parameters() if parameter.requires_grad}
    assert learns == {f"second.{part}" for part in ("weight", "bias", "weight_noise", "bias_noise")}
    assert noisy_layers(encoder) == [encoder.first, encoder.second]


@pytest.mark.parametrize("count", [B, 40])
def test_one_recording_for_each_mode_follows_the_noise_bit_for_bit(count):
    made, draws = layer(), generator(2)
    modes = {on: Recorded(lambda network, features: [network(features)], made) for on in (False, True)}
    for call in range(105):
        resample([made], draws)
        features = rows(count, seed=call)
        for on, recorded in modes.items():
            with noise([made], on):
                assert torch.equal(recorded(features)[0], made(features))
    for recorded in modes.values():
        assert len(recorded._recordings) == 1
        assert all(recorded._recordings.values())


def test_a_generator_of_another_type_of_numbers_serves():
    made = layer().double()
    resample([made], generator())
    assert made.input_noise.dtype == torch.float64
    assert made.input_noise.any()
