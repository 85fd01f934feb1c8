import pytest
import torch
from torch import nn

from graftwork.networks import LSTM, MLP, initialise
from graftwork.networks.blocks import (
    ACTIVATIONS,
    BlockConfig,
    ChannelRMSNorm,
    after_layer,
    has_batch_norm,
    has_idle_bias,
    make_norm,
)

IN, OUT = 300, 200  # 60,000 weights: the standard error of their standard deviation is 0.3 %


def linear(scheme: str, gain: float = 1.0, seed: int = 0) -> nn.Linear:
    layer = nn.Linear(IN, OUT)
    initialise(layer, scheme, torch.Generator().manual_seed(seed), gain)
    return layer


def network() -> nn.Sequential:
    """Something of everything that has weights."""
    recurrent = nn.Sequential(LSTM(MLP((3,), (7,)), 5), nn.Dropout(0.1), nn.ReLU(), nn.Linear(5, 2, bias=False))
    return nn.Sequential(recurrent, nn.Conv2d(2, 3, 4), ChannelRMSNorm(3), nn.Embedding(4, 2), nn.BatchNorm1d(2))


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


@pytest.mark.parametrize("gain", [1.0, 2.0])
def test_gaussian_is_small_whatever_the_width(gain):
    layer = linear("gaussian", gain)
    assert layer.weight.std().item() == pytest.approx(0.01 * gain, rel=0.02)
    assert layer.weight.mean().item() == pytest.approx(0.0, abs=2e-4 * gain)
    assert not layer.bias.any()


@pytest.mark.parametrize(
    ("scheme", "std"),
    [
        # Of a convolution a weight meets 20 * 3 * 5 = 300 inputs, and its input goes to 50 * 3 * 5 = 750 outputs.
        ("uniform", (1 / 300 / 3) ** 0.5),
        ("he", (2 / 300) ** 0.5),
        ("xavier", (2 / (300 + 750)) ** 0.5),
        ("gaussian", 0.01),
        ("orthogonal", 300**-0.5),  # each of 50 rows has length 1
    ],
)
def test_a_convolution_counts_its_whole_kernel(scheme, std):
    layer = nn.Conv2d(20, 50, (3, 5))
    initialise(layer, scheme, torch.Generator().manual_seed(0))
    assert layer.weight.std().item() == pytest.approx(std, rel=0.02)
    assert bool(layer.bias.any()) == (scheme == "uniform")
    if scheme == "orthogonal":
        rows = layer.weight.detach().flatten(1)
        torch.testing.assert_close(rows @ rows.t(), torch.eye(50), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("scheme", "std"), [("he", 1.0), ("uniform", 1.0), ("gaussian", 0.01)])
def test_embeddings_are_normal_and_padding_is_zero(scheme, std):
    layer = nn.Embedding(IN, OUT, padding_idx=4)
    initialise(layer, scheme, torch.Generator().manual_seed(0), gain=3.0)
    others = layer.weight.detach()[torch.arange(IN) != 4]
    assert others.std().item() == pytest.approx(std, rel=0.02)
    assert not layer.weight[4].any()


@pytest.mark.parametrize("norm", ["batch", "layer", "group", "rms"])
@pytest.mark.parametrize("spatial", [False, True])
def test_norms_start_as_the_identity_without_statistics(norm, spatial):
    module = make_norm(norm, 6, spatial=spatial)
    first = {name: value.clone() for name, value in module.state_dict().items()}
    for value in module.state_dict().values():
        value.copy_(torch.full_like(value, 3))
    initialise(module, "he", torch.Generator(), gain=5.0)
    torch.testing.assert_close(dict(module.state_dict()), first)
    assert all((value == (0 if "bias" in name else 1)).all() for name, value in module.named_parameters())


@pytest.mark.parametrize("scheme", ["uniform", "orthogonal", "he", "xavier", "gaussian"])
def test_same_generator_same_weights_whatever_the_global_stream(scheme):
    torch.manual_seed(0)
    first, second, other = network(), network(), network()
    before = torch.get_rng_state()
    for module, seed in ((first, 7), (second, 7), (other, 8)):
        initialise(module, scheme, torch.Generator().manual_seed(seed))
    assert torch.equal(torch.get_rng_state(), before)
    torch.testing.assert_close(first.state_dict(), second.state_dict(), rtol=0, atol=0)
    for name, value in other.state_dict().items():
        if value.ndim > 1:
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


@pytest.mark.parametrize("module", [nn.BatchNorm3d(3), nn.LSTM(3, 5), nn.Conv1d(3, 5, 1), nn.PReLU()])
def test_an_unknown_module_with_parameters_is_refused_by_name(module):
    with pytest.raises(TypeError, match=f"no initialisation is known for {type(module).__name__}"):
        initialise(nn.Sequential(nn.ReLU(), module), "uniform", torch.Generator())


N, C, H, W = 5, 12, 3, 4


def image(seed: int = 0) -> torch.Tensor:
    return 2 + 3 * torch.randn(N, C, H, W, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("norm", "spatial", "over", "shape"),
    [
        # What is averaged over, of the input seen as `shape`.
        ("batch", False, (0,), (N, C)),
        ("batch", True, (0, 2, 3), (N, C, H, W)),
        ("layer", False, (1,), (N, C)),
        ("layer", True, (1, 2, 3), (N, C, H, W)),
        ("group", False, (2,), (N, 4, 3)),
        ("group", True, (2, 3, 4), (N, 4, 3, H, W)),
    ],
)
def test_a_norm_takes_mean_and_variance_over_its_own_dimensions(norm, spatial, over, shape):
    inputs = image() if spatial else image()[:, :, 0, 0]
    outputs = make_norm(norm, C, spatial=spatial, groups=4)(inputs).detach().view(shape)
    assert outputs.shape == shape
    torch.testing.assert_close(outputs.mean(over), torch.zeros_like(outputs.mean(over)), rtol=0, atol=1e-5)
    variance = outputs.var(over, correction=0)
    torch.testing.assert_close(variance, torch.ones_like(variance), rtol=0, atol=1e-3)


@pytest.mark.parametrize("spatial", [False, True])
def test_rms_norm_scales_the_channels_and_leaves_their_mean(spatial):
    inputs = image() if spatial else image()[:, :, 0, 0]
    outputs = make_norm("rms", C, spatial=spatial)(inputs)
    torch.testing.assert_close(outputs, inputs / inputs.square().mean(1, keepdim=True).sqrt())


@pytest.mark.parametrize(("groups", "width", "expected"), [(8, 16, 8), (8, 12, 6), (8, 7, 1), (8, 8, 4), (3, 16, 2)])
def test_a_group_norm_has_as_many_groups_as_divide_the_width_into_two_or_more(groups, width, expected):
    assert make_norm("group", width, spatial=True, groups=groups).num_groups == expected


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_norm_stands_on_its_side_of_the_activation_and_dropout_last(activation):
    for spatial, batch_norm, dropout in ((False, nn.BatchNorm1d, nn.Dropout), (True, nn.BatchNorm2d, nn.Dropout2d)):
        for position in ("before", "after"):
            config = BlockConfig(activation=activation, norm="batch", norm_position=position, dropout=0.3)
            middle = [batch_norm, ACTIVATIONS[activation]]
            expected = [*(middle if position == "before" else reversed(middle)), dropout]
            assert [type(module) for module in after_layer(config, C, spatial=spatial)] == expected
        plain = after_layer(BlockConfig(activation=activation), C, spatial=spatial)
        assert [type(module) for module in plain] == [ACTIVATIONS[activation]]


def test_spatial_dropout_takes_whole_channels():
    dropout = after_layer(BlockConfig(dropout=0.4), C, spatial=True)[-1]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        is_kept = dropout(torch.ones(100, C, H, W)).flatten(2) > 0
    assert (is_kept.all(-1) | ~is_kept.any(-1)).all()
    assert is_kept[..., 0].float().mean().item() == pytest.approx(0.6, abs=0.05)  # 4 standard errors are 0.057


@pytest.mark.parametrize(
    ("norm", "position", "expected"),
    [("batch", "before", True), ("batch", "after", False), ("layer", "before", False), ("none", "before", False)],
)
def test_a_bias_is_idle_right_before_batch_norm_only(norm, position, expected):
    assert has_idle_bias(BlockConfig(norm=norm, norm_position=position)) == expected


def test_batch_norm_that_is_frozen_needs_no_batch():
    module = nn.Sequential(nn.Linear(3, 5), nn.Sequential(nn.BatchNorm1d(5), nn.ReLU()))
    assert has_batch_norm(module)
    assert not has_batch_norm(module[0])
    assert not has_batch_norm(module.requires_grad_(False))
