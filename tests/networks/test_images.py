import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call, stack_module_state, vmap

from graftwork.networks import initialise
from graftwork.networks.conv import ConvConfig, ConvLayer
from graftwork.networks.images import ImageConfig, Images, Window
from graftwork.networks.impala import ImpalaConfig
from graftwork.networks.inception import InceptionConfig
from graftwork.networks.resnet import ResNetConfig

T, B = 3, 5
DEFAULTS = [ConvConfig(), ImpalaConfig(), ResNetConfig(), InceptionConfig()]
WITH_PARTS = [
    type(config)(norm=norm, norm_position=position, norm_groups=2, dropout=dropout)
    for config in DEFAULTS
    for norm, position, dropout in (
        ("none", "before", 0.0),
        ("batch", "before", 0.5),
        ("batch", "after", 0.0),
        ("layer", "after", 0.5),
        ("group", "before", 0.0),
        ("rms", "before", 0.5),
    )
]
ALONE = ImageConfig(kind="test")


def name(config) -> str:
    return f"{config.kind}-{config.norm}-{config.norm_position}-{config.dropout}"


def floats(*shape: int) -> Box:
    return Box(-np.inf, np.inf, shape, np.float32)


def normal(*size: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """But for rounding of sums as large as the largest feature."""
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


def built(config, *shape: int):
    encoder = config.build(floats(*shape))
    initialise(encoder, "he", torch.Generator().manual_seed(0))
    return encoder.eval()


def test_bytes_are_divided_by_255_and_floats_taken_as_they_are():
    images = Images(Box(0, 255, (2, 3), np.uint8), ALONE)
    observation = torch.tensor([[[0, 51, 255], [1, 2, 3]]], dtype=torch.uint8)
    expected = torch.tensor([[[[0, 0.2, 1], [1 / 255, 2 / 255, 3 / 255]]]])
    torch.testing.assert_close(images(observation), expected, rtol=0, atol=0)
    for dtype in (torch.float32, torch.float64):
        taken = images(observation.to(dtype))
        assert taken.dtype == torch.float32
        assert taken.flatten().tolist() == [0, 51, 255, 1, 2, 3]


def test_bools_are_0_and_1_and_not_divided():
    images = Images(Box(0, 1, (2, 3, 1), np.bool_), ALONE)
    taken = images(torch.tensor([[[[True], [False], [True]], [[False], [False], [True]]]]))
    assert taken.dtype == torch.float32
    assert taken.tolist() == [[[[1, 0, 1], [0, 0, 1]]]]


@pytest.mark.parametrize("config", DEFAULTS, ids=name)
def test_an_image_of_bools_has_the_features_of_its_floats(config):
    image = torch.rand(B, 36, 40, 3, generator=torch.Generator().manual_seed(0)) < 0.5
    encoder = config.build(Box(0, 1, (36, 40, 3), np.bool_)).eval()
    expected = encoder.encode(image.float())
    torch.testing.assert_close(encoder.encode(image), expected, rtol=0, atol=0)
    exported = torch.export.export(encoder, (image.unsqueeze(0).expand(T, -1, -1, -1, -1).contiguous(),)).module()
    close(exported((~image).unsqueeze(0).expand(T, -1, -1, -1, -1).contiguous())[0][0], encoder.encode(~image))


@pytest.mark.parametrize(
    ("shape", "channels", "expected", "letters"),
    [
        ((7, 9), "auto", (1, 7, 9), "nhw->nhw"),
        ((7, 9), "first", (1, 7, 9), "nhw->nhw"),
        ((3, 7, 9), "auto", (3, 7, 9), "nchw->nchw"),
        ((7, 9, 3), "auto", (3, 7, 9), "nhwc->nchw"),
        ((3, 9, 7), "last", (7, 3, 9), "nhwc->nchw"),
        ((7, 9, 3), "first", (7, 9, 3), "nchw->nchw"),
        ((5, 9, 5), "auto", (5, 5, 9), "nhwc->nchw"),  # the last on ties
        ((4, 2, 5), "auto", (4, 2, 5), "nchw->nchw"),  # the middle one is no candidate
    ],
)
def test_the_space_says_where_the_channels_are(shape, channels, expected, letters):
    images = Images(floats(*shape), ImageConfig(kind="test", channels=channels))
    assert (images.channels, images.height, images.width) == expected
    observation = normal(B, *shape)
    torch.testing.assert_close(
        images(observation).reshape(B, *expected), torch.einsum(letters, observation).view(B, *expected)
    )


@pytest.mark.parametrize("config", DEFAULTS, ids=name)
@pytest.mark.parametrize(
    "space",
    [Discrete(5), Dict({"image": floats(3, 36, 36)}), floats(36), floats(2, 3, 36, 36), floats(), floats(0, 36, 36)],
    ids=str,
)
def test_what_is_no_image_is_refused_in_one_line(config, space):
    with pytest.raises(
        ValueError, match=rf"^encoder\.kind={config.kind} can't take (Discrete|Dict|Box)\(.*\[height, w"
    ) as info:
        config.build(space)
    assert "\n" not in str(info.value)


def test_an_image_smaller_than_the_receptive_field_is_refused_by_layer_and_sizes():
    with pytest.raises(ValueError, match=r"^encoder\.kind=conv") as info:
        ConvConfig().build(Box(0, 255, (40, 16, 3), np.uint8))
    assert str(info.value) == (
        "encoder.kind=conv can't take Box(0, 255, (40, 16, 3), uint8), 3 channels of 40x16 pixels by "
        "encoder.channels=auto: layers[1], kernel 4, would make 3x0 out of 9x3; it takes images of at least 36x36"
    )
    with pytest.raises(
        ValueError, match=r"encoder\.kind=inception .*: stem, kernel 7, would make 0x0 out of 5x5; .* 7x7$"
    ):
        InceptionConfig(stem=ConvLayer(channels=2, kernel=7)).build(floats(5, 5))


windows = st.builds(
    lambda kernel, stride, padding: Window("a layer", kernel, stride, padding),
    *(st.integers(1, 6), st.integers(1, 4), st.integers(0, 3)),
)


@given(st.lists(windows, min_size=1, max_size=4), st.integers(1, 40), st.integers(1, 40))
def test_sizes_are_those_of_torch_and_the_least_size_is_the_least(stack, height, width):
    def through(height: int, width: int) -> torch.Size:
        image = torch.empty(1, 1, height, width, device="meta")
        for window in stack:
            image = nn.Conv2d(1, 1, window.kernel, window.stride, window.padding, device="meta")(image)
        return image.shape[2:]

    images = Images(floats(height, width), ALONE)
    try:
        assert images.through(stack) == tuple(through(height, width))
    except ValueError as error:
        with pytest.raises(RuntimeError, match=r"Kernel size can't be greater|Output size is too small"):
            through(height, width)
        least = int(str(error).rpartition("x")[2])
        assert Images(floats(least, least), ALONE).through(stack) == tuple(through(least, least))
        with pytest.raises(ValueError, match="at least"):
            Images(floats(least - 1, least - 1), ALONE).through(stack)


@pytest.mark.parametrize("config", DEFAULTS, ids=name)
def test_the_same_image_has_the_same_features_in_any_layout_and_type(config):
    first, last = built(config, 3, 36, 40), built(config, 36, 40, 3)
    image = torch.randint(256, (B, 3, 36, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = first.encode(image)
    assert expected.shape == (B, first.out_features)
    close(last.encode(image.permute(0, 2, 3, 1)), expected)
    torch.testing.assert_close(first.encode(image.float() / 255), expected)


@pytest.mark.parametrize("config", DEFAULTS, ids=name)
def test_features_are_counted_without_computing_them(config):
    with torch.device("meta"):
        encoder = config.build(floats(3, 999, 1201))
        assert encoder.encode(torch.empty(2, 3, 999, 1201)).shape == (2, encoder.out_features)


@pytest.mark.parametrize("config", [ImpalaConfig(), ResNetConfig(), ResNetConfig(stem="imagenet")], ids=name)
def test_padded_networks_take_a_single_pixel(config):
    assert built(config, 1, 1).encode(normal(B, 1, 1)).shape == (B, config.build(floats(1, 1)).out_features)


@pytest.mark.parametrize("config", WITH_PARTS, ids=name)
def test_sequences_equal_steps_and_rows_are_independent_in_eval(config):
    encoder, observation = built(config, 3, 36, 36), normal(T, B, 3, 36, 36)
    features, state = encoder(observation)
    assert features.shape == (T, B, encoder.out_features)
    assert state == ()
    for t in range(T):
        step, _ = encoder.step(observation[t], (), torch.zeros(B, dtype=torch.bool))
        close(step, features[t])
    close(encoder(observation[:, 2:3])[0], features[:, 2:3])


@pytest.mark.parametrize("config", WITH_PARTS, ids=name)
def test_gradients_reach_every_parameter_while_learning_and_none_is_idle(config):
    # A weight for each feature: after a norm, a plain sum would be the same whatever the weights.
    encoder = built(config, 3, 36, 36).train()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        loss = (encoder(normal(T, B, 3, 36, 36))[0] * normal(T, B, encoder.out_features, seed=2)).sum()
    gradients = torch.autograd.grad(loss, list(encoder.parameters()))
    largest = max(float(gradient.abs().max()) for gradient in gradients)
    for (parameter, _), gradient in zip(encoder.named_parameters(), gradients, strict=True):
        assert gradient.isfinite().all(), parameter
        assert gradient.abs().max() > 1e-5 * largest, parameter


@pytest.mark.parametrize("config", WITH_PARTS, ids=name)
def test_every_parameter_is_in_one_block_from_the_input_on(config):
    encoder = config.build(floats(3, 36, 36))
    parts = [prefix for block in encoder.blocks() for prefix in block]
    found = [[part for part in parts if f"{name}.".startswith(f"{part}.")] for name, _ in encoder.named_parameters()]
    assert all(len(of) == 1 for of in found)
    assert list(dict.fromkeys(of[0] for of in found)) == parts


@pytest.mark.parametrize("config", WITH_PARTS, ids=name)
def test_weights_can_be_loaded_and_lent(config):
    encoder, other, observation = (
        built(config, 3, 36, 36),
        config.build(floats(3, 36, 36)).eval(),
        normal(T, B, 3, 36, 36),
    )
    expected = encoder(observation)[0]
    lent = functional_call(other, encoder.state_dict(), (observation,))[0]
    torch.testing.assert_close(lent, expected, rtol=0, atol=0)
    assert not torch.equal(other(observation)[0], expected)
    other.load_state_dict(encoder.state_dict())
    torch.testing.assert_close(other(observation)[0], expected, rtol=0, atol=0)


@pytest.mark.parametrize("config", [*DEFAULTS, ResNetConfig(block="bottleneck", stem="imagenet")], ids=name)
def test_export_of_bytes(config):
    encoder = config.build(Box(0, 255, (36, 36, 3), np.uint8)).eval()
    some, other = (
        torch.randint(256, (T, B, 36, 36, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
        for seed in (0, 1)
    )
    exported = torch.export.export(encoder, (some,)).module()
    close(exported(other)[0], encoder(other)[0])


@pytest.mark.parametrize("config", WITH_PARTS, ids=name)
@pytest.mark.parametrize("shape", [(3, 36, 36), (36, 36, 3)], ids=str)
def test_members_of_an_ensemble_are_what_they_are_alone(config, shape):
    members = [config.build(floats(*shape)).eval() for _ in range(2)]
    observation = normal(2, T, B, *shape)
    together = vmap(lambda *state: functional_call(members[0], state[:2], state[2])[0])
    for features, member, own in zip(
        together(*stack_module_state(members), observation), members, observation, strict=True
    ):
        close(features, member(own)[0])
