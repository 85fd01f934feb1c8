import pytest
import torch
from gymnasium.spaces import Box
from torch import nn
from torch.nn import functional

from graftwork.networks.blocks import BlockConfig
from graftwork.networks.conv import ConvLayer
from graftwork.networks.inception import Inception, InceptionConfig, InceptionWidths

B = 5
WIDTHS = InceptionWidths(one=2, before_three=3, three=4, before_five=5, five=6, pool=7)


def kinds(module: nn.Module) -> list[type]:
    return [type(part) for part in module.modules() if not list(part.children())]


def test_the_module_alone_is_that_of_figure_2b():
    module = Inception(8, WIDTHS)
    weights = dict(module.named_parameters())
    image = torch.randn(B, 8, 9, 10, generator=torch.Generator().manual_seed(0))

    def convolution(name: str, image: torch.Tensor) -> torch.Tensor:
        weight = weights[f"{name}.weight"]
        return functional.conv2d(image, weight, weights[f"{name}.bias"], padding=weight.shape[-1] // 2).relu()

    expected = torch.cat(
        [
            convolution("one.0", image),
            convolution("three.1.0", convolution("three.0.0", image)),
            convolution("five.1.0", convolution("five.0.0", image)),
            convolution("pool.1.0", functional.max_pool2d(image, 3, 1, 1)),
        ],
        dim=1,
    )
    torch.testing.assert_close(module(image), expected)
    assert expected.shape == (B, 2 + 4 + 6 + 7, 9, 10)
    assert module.out_channels == 19
    assert [weights[f"{name}.weight"].shape[-1] for name in ("one.0", "three.1.0", "five.1.0")] == [1, 3, 5]


def test_parameters_of_the_first_module_of_googlenet():
    """Table 1, 3a, on 192 channels; the paper's 159K leave out some of them."""
    widths = InceptionWidths(one=64, before_three=96, three=128, before_five=16, five=32, pool=32)
    ones = 192 * (64 + 96 + 16 + 32) + 64 + 96 + 16 + 32
    expected = ones + 96 * 128 * 9 + 128 + 16 * 32 * 25 + 32
    module = Inception(192, widths)
    assert sum(parameter.numel() for parameter in module.parameters()) == expected == 163_696
    assert module.out_channels == 256


def test_the_network_is_a_stem_and_modules_averaged_over_pixels():
    config = InceptionConfig(stem=ConvLayer(channels=8, kernel=5, stride=2), modules=3, widths=WIDTHS)
    net = config.build(Box(0, 1, (3, 15, 11)))
    image = torch.rand(B, 3, 15, 11, generator=torch.Generator().manual_seed(0))
    maps = net.inceptions(net.stem(image))
    assert maps.shape == (B, 19, 6, 4)
    torch.testing.assert_close(net.encode(image), maps.sum((2, 3)) / 24)
    assert net.out_features == 19
    assert net.blocks() == [["stem"], ["inceptions.0"], ["inceptions.1"], ["inceptions.2"]]


def test_norm_and_dropout_follow_every_convolution_and_biases_go():
    module = Inception(8, WIDTHS, BlockConfig(norm="batch", dropout=0.5, activation="tanh"))
    layer = [nn.Conv2d, nn.BatchNorm2d, nn.Tanh, nn.Dropout2d]
    assert kinds(module) == [*(5 * layer), nn.MaxPool2d, *layer]
    assert all(part.bias is None for part in module.modules() if isinstance(part, nn.Conv2d))


@pytest.mark.parametrize("wrong", [{"modules": 0}, {"widths": {"five": 0}}, {"stem": {"channels": 3}}], ids=str)
def test_wrong_configs_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        InceptionConfig.model_validate(wrong)
