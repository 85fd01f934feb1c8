import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from torch import nn
from torch.nn import functional

from graftwork.networks.impala import Impala, ImpalaConfig

B = 5
PIXELS = Box(0, 255, (64, 64, 3), np.uint8)


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def kinds(module: nn.Module) -> list[type]:
    return [type(part) for part in module.modules() if not list(part.children())]


def test_parameters_are_those_of_figure_3():
    """On 64x64x3: a stage is a convolution and four of as many channels as it makes, and 64 halves to 8 in three."""
    stages = [3 * 16 * 9 + 16 + 4 * (16 * 16 * 9 + 16), *([16 * 32 * 9 + 32 + 4 * (32 * 32 * 9 + 32)])]
    stages.append(32 * 32 * 9 + 32 + 4 * (32 * 32 * 9 + 32))
    linear = 8 * 8 * 32 * 256 + 256
    assert num_parameters(ImpalaConfig().build(PIXELS)) == sum(stages) + linear == 622_144


def test_forward_is_that_of_the_paper():
    impala = ImpalaConfig().build(Box(0, 255, (36, 33, 3), np.uint8))
    observation = torch.randint(256, (B, 36, 33, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    weights = iter(list(impala.parameters()))

    def convolution(image: torch.Tensor) -> torch.Tensor:
        return functional.conv2d(image, next(weights), next(weights), padding=1)

    image = observation.permute(0, 3, 1, 2) / 255
    for _ in range(3):
        image = functional.max_pool2d(convolution(image), 3, 2, 1)
        for _ in range(2):
            image = image + convolution(convolution(image.relu()).relu())
    assert image.shape == (B, 32, 5, 5)
    expected = functional.linear(image.relu().flatten(1), next(weights), next(weights)).relu()
    torch.testing.assert_close(impala.encode(observation), expected)
    assert impala.out_features == 256
    assert impala.blocks() == [["stages.0"], ["stages.1"], ["stages.2"], ["hidden"]]


@pytest.mark.parametrize(("width", "channels"), [(2.0, [32, 64, 64]), (0.4, [6, 13, 13]), (0.01, [1, 1, 1])])
def test_width_multiplies_all_channels(width, channels):
    impala = ImpalaConfig(width=width, hidden=None).build(PIXELS)
    convolutions = [part for part in impala.modules() if isinstance(part, nn.Conv2d)]
    assert [convolution.out_channels for convolution in convolutions[::5]] == channels
    assert impala.out_features == channels[-1] * 8 * 8
    assert len(impala.blocks()) == 3


def test_stages_and_their_residual_blocks_can_be_chosen():
    impala = ImpalaConfig(stages=(4, 6), residual_blocks=3, hidden=7).build(PIXELS)
    assert kinds(impala.stages).count(nn.Conv2d) == 2 * (1 + 2 * 3)
    assert impala.encode(torch.zeros(B, 64, 64, 3)).shape == (B, 7)


def test_norms_are_in_the_residual_blocks_alone_and_dropout_between_convolutions():
    before = Impala(PIXELS, ImpalaConfig(norm="batch", dropout=0.5))
    inner = [nn.BatchNorm2d, nn.ReLU, nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Dropout2d, nn.Conv2d]
    assert kinds(before.stages[0]) == [nn.Conv2d, nn.MaxPool2d, *inner, *inner]
    assert kinds(before.hidden) == [nn.Linear, nn.ReLU, nn.Dropout]
    after = Impala(PIXELS, ImpalaConfig(norm="batch", norm_position="after", activation="silu"))
    inner = [nn.SiLU, nn.BatchNorm2d, nn.Conv2d, nn.SiLU, nn.BatchNorm2d, nn.Conv2d]
    assert kinds(after.stages[0]) == [nn.Conv2d, nn.MaxPool2d, *inner, *inner]


def test_only_the_first_convolution_of_a_residual_block_has_its_bias_made_idle():
    impala = Impala(PIXELS, ImpalaConfig(norm="batch"))
    biases = [part.bias is not None for part in impala.stages[0].modules() if isinstance(part, nn.Conv2d)]
    assert biases == [True, False, True, False, True]


@pytest.mark.parametrize("wrong", [{"stages": []}, {"stages": [0]}, {"residual_blocks": 0}, {"width": 0}], ids=str)
def test_wrong_configs_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ImpalaConfig.model_validate(wrong)
