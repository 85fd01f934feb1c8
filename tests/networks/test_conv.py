import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from torch import nn
from torch.nn import functional

from graftwork.networks.conv import Conv, ConvConfig, ConvLayer

B = 5
SMALL = (ConvLayer(channels=6, kernel=3, stride=2, padding=1), ConvLayer(channels=7, kernel=2))


def kinds(module: nn.Module) -> list[type]:
    return [type(part) for part in module.modules() if not list(part.children())]


def test_by_default_it_is_the_network_of_the_nature_paper():
    """On four frames of 84x84, 32 x 4 x 8 x 8 + 32 = 8,224; 32,832; 36,928; and 7 x 7 x 64 x 512 + 512 = 1,606,144."""
    conv = ConvConfig().build(Box(0, 255, (4, 84, 84), np.uint8))
    assert sum(parameter.numel() for parameter in conv.parameters()) == 8_224 + 32_832 + 36_928 + 1_606_144
    assert conv.out_features == 512
    assert conv.blocks() == [["layers.0"], ["layers.1"], ["layers.2"], ["hidden"]]
    observation = torch.randint(256, (B, 4, 84, 84), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    weights = list(conv.parameters())
    image = observation / 255
    for weight, bias, stride in zip(weights[0:6:2], weights[1:6:2], (4, 2, 1), strict=True):
        image = functional.conv2d(image, weight, bias, stride).relu()
    assert image.shape == (B, 64, 7, 7)
    torch.testing.assert_close(conv.encode(observation), functional.linear(image.flatten(1), *weights[6:]).relu())


def test_any_stack_of_layers_and_the_flattened_maps_as_features():
    conv = ConvConfig(layers=SMALL, hidden=None).build(Box(0, 1, (3, 9, 12)))
    maps = conv.layers(torch.rand(B, 3, 9, 12))
    assert maps.shape == (B, 7, 4, 5)  # 9x12, padded and halved to 5x6, less one
    assert conv.out_features == 7 * 4 * 5
    assert conv.blocks() == [["layers.0"], ["layers.1"]]
    image = torch.rand(B, 3, 9, 12)
    torch.testing.assert_close(conv.encode(image), conv.layers(image).flatten(1))


def test_layers_may_be_written_as_plain_values():
    config = ConvConfig.model_validate({"layers": [{"channels": 6, "kernel": 3, "stride": 2, "padding": 1}]})
    assert config.layers == SMALL[:1]
    assert ConvConfig.model_validate_json(config.model_dump_json()) == config


def test_norm_and_dropout_follow_every_layer():
    before = Conv(Box(0, 1, (9, 12)), ConvConfig(layers=SMALL, hidden=4, norm="batch", dropout=0.5))
    spatial = [nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Dropout2d]
    assert kinds(before.layers) == 2 * spatial
    assert kinds(before.hidden) == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Dropout]
    after = Conv(Box(0, 1, (9, 12)), ConvConfig(layers=SMALL, norm="batch", norm_position="after", activation="elu"))
    assert kinds(after.layers) == 2 * [nn.Conv2d, nn.ELU, nn.BatchNorm2d]


@pytest.mark.parametrize(
    ("norm", "position", "has_bias"),
    [("batch", "before", False), ("batch", "after", True), ("none", "before", True), ("group", "before", True)],
)
def test_a_bias_goes_where_batch_norm_makes_it_idle(norm, position, has_bias):
    conv = ConvConfig(layers=SMALL, norm=norm, norm_position=position).build(Box(0, 1, (9, 12)))
    layers = [part for part in conv.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    assert len(layers) == 3
    assert all((layer.bias is not None) == has_bias for layer in layers)


@pytest.mark.parametrize(
    "wrong",
    [
        {"layers": []},
        {"layers": [{"channels": 0, "kernel": 3}]},
        {"layers": [{"channels": 2, "kernel": 3, "stride": 0}]},
        {"layers": [{"channels": 2, "kernel": 3, "padding": -1}]},
        {"layers": [{"kernel": 3}]},
        {"hidden": 0},
        {"channels": "middle"},
    ],
    ids=str,
)
def test_wrong_configs_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ConvConfig.model_validate(wrong)
