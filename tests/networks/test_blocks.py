import pytest
import torch
from torch import nn

from graftwork.networks import LSTM, MLP, initialise

IN, OUT = 300, 200  # 60,000 weights: the standard error of their standard deviation is 0.3 %


def linear(scheme: str, gain: float = 1.0, seed: int = 0) -> nn.Linear:
    layer = nn.Linear(IN, OUT)
    initialise(layer, scheme, torch.Generator().manual_seed(seed), gain)
    return layer


def network() -> nn.Sequential:
    return nn.Sequential(LSTM(MLP((3,), (7,)), 5), nn.Dropout(0.1), nn.ReLU(), nn.Linear(5, 2, bias=False))


@pytest.mark.parametrize("gain", [1.0, 0.5])
def test_uniform_is_within_the_root_of_fan_in_and_flat(gain):
    layer, bound = linear("uniform", gain), IN**-0.5
    weight = layer.weight.detach()
    assert 0.999 * gain * bound < weight.abs().max() <= gain * bound
    assert weight.std().item() == pytest.approx(gain * bound / 3**0.5, rel=0.02)
    quarters = torch.histc(weight, 4, -gain * bound, gain * bound) / weight.numel()
    torch.testing.assert_close(quarters, torch.full((4,), 0.25), rtol=0, atol=0.01)
    assert 0.95 * bound < layer.bias.abs().max() <= bound  # the gain is of the weights


@pytest.mark.parametrize("gain", [1.0, 2**0.5])
def test_orthogonal_rows_have_length_gain(gain):
    layer = linear("orthogonal", gain)
    torch.testing.assert_close(layer.weight @ layer.weight.t(), gain**2 * torch.eye(OUT), rtol=0, atol=1e-5)
    assert not layer.bias.any()


@pytest.mark.parametrize("gain", [1.0, 0.5])
def test_he_is_normal_with_variance_two_over_fan_in(gain):
    layer = linear("he", gain)
    weight = layer.weight.detach() / (gain * (2 / IN) ** 0.5)
    assert weight.std().item() == pytest.approx(1.0, rel=0.02)
    assert weight.mean().item() == pytest.approx(0.0, abs=0.02)
    assert (weight.abs() < 1).float().mean().item() == pytest.approx(0.6827, abs=0.01)
    assert not layer.bias.any()


@pytest.mark.parametrize("gain", [1.0, 0.5])
def test_xavier_is_uniform_with_variance_two_over_both_fans(gain):
    layer, bound = linear("xavier", gain), (6 / (IN + OUT)) ** 0.5
    weight = layer.weight.detach()
    assert 0.999 * gain * bound < weight.abs().max() <= gain * bound
    assert weight.std().item() == pytest.approx(gain * bound / 3**0.5, rel=0.02)
    assert not layer.bias.any()


@pytest.mark.parametrize("scheme", ["uniform", "orthogonal", "he", "xavier"])
def test_same_generator_same_weights_whatever_the_global_stream(scheme):
    torch.manual_seed(0)
    first, second, other = network(), network(), network()
    before = torch.get_rng_state()
    for module, seed in ((first, 7), (second, 7), (other, 8)):
        initialise(module, scheme, torch.Generator().manual_seed(seed))
    assert torch.equal(torch.get_rng_state(), before)
    torch.testing.assert_close(first.state_dict(), second.state_dict(), rtol=0, atol=0)
    for name, value in other.state_dict().items():
        if "bias" not in name:
            assert not torch.equal(value, first.state_dict()[name]), name


def test_modules_draw_one_after_the_other_in_the_order_of_named_parameters():
    both = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 7))
    initialise(both, "uniform", torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(1)
    for name, parameter in both.named_parameters():
        bound = (3 if name.startswith("0") else 5) ** -0.5
        expected = torch.empty_like(parameter).uniform_(-bound, bound, generator=generator)
        assert torch.equal(parameter, expected), name


def test_a_module_that_initialises_itself_is_left_to_and_its_inner_one_is_not():
    lstm = LSTM(MLP((3,), (40,)), 5)
    initialise(lstm, "uniform", torch.Generator().manual_seed(1))
    assert lstm.bias_ih_l0[5:10].tolist() == [2.0] * 5
    (inner,) = (layer for layer in lstm.inner.layers if isinstance(layer, nn.Linear))
    assert 0.9 * 3**-0.5 < inner.weight.abs().max() <= 3**-0.5


def test_parameters_are_drawn_in_place_and_still_learn():
    layer = nn.Linear(3, 5)
    weight = layer.weight
    initialise(layer, "orthogonal", torch.Generator())
    assert layer.weight is weight
    assert weight.is_leaf
    assert weight.requires_grad


@pytest.mark.parametrize("module", [nn.BatchNorm1d(3), nn.LSTM(3, 5), nn.Conv2d(3, 5, 1)])
def test_an_unknown_module_with_parameters_is_refused_by_name(module):
    with pytest.raises(TypeError, match=f"no initialisation is known for {type(module).__name__}"):
        initialise(nn.Sequential(nn.ReLU(), module), "uniform", torch.Generator())
