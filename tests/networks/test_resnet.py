import copy
from collections.abc import Iterator

import pytest
import torch
from gymnasium.spaces import Box
from torch import Tensor, nn

from graftwork.networks import QHead, initialise, load_torchvision
from graftwork.networks.resnet import Residual, ResNet, ResNetConfig

B = 5
RESNETS = {
    18: ResNetConfig(stem="imagenet", width=64, blocks=(2, 2, 2, 2)),
    34: ResNetConfig(stem="imagenet", width=64, blocks=(3, 4, 6, 3)),
    50: ResNetConfig(stem="imagenet", width=64, blocks=(3, 4, 6, 3), block="bottleneck"),
}
SMALL = ResNetConfig(stem="imagenet", width=64, blocks=(1, 1))


class Reference(nn.Module):
    """A ResNet written from He et al. 2016 with torchvision's module structure and names, none of our code in it."""

    def __init__(self, block: type["Basic"] | type["Bottleneck"], layers: tuple[int, ...], classes: int = 1000) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        planes = 64
        self.layers = len(layers)
        for number, blocks in enumerate(layers):
            stage = []
            for place in range(blocks):
                stage.append(block(planes, 64 * 2**number, 2 if number > 0 and place == 0 else 1))
                planes = block.expansion * 64 * 2**number
            setattr(self, f"layer{number + 1}", nn.Sequential(*stage))
        self.fc = nn.Linear(planes, classes)

    def features(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(torch.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        for number in range(self.layers):
            x = getattr(self, f"layer{number + 1}")(x)
        return nn.functional.adaptive_avg_pool2d(x, 1).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x))


def downsample(inplanes: int, planes: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and inplanes == planes:
        return None
    return nn.Sequential(nn.Conv2d(inplanes, planes, 1, stride, bias=False), nn.BatchNorm2d(planes))


class Basic(nn.Module):
    expansion = 1

    def __init__(self, inplanes: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = downsample(inplanes, planes, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(out + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, inplanes: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, 4 * planes, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * planes)
        self.downsample = downsample(inplanes, 4 * planes, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = torch.relu(self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))
        out = self.bn3(self.conv3(out))
        return torch.relu(out + (x if self.downsample is None else self.downsample(x)))


def reference(block: type[Basic] | type[Bottleneck], layers: tuple[int, ...]) -> Reference:
    """Random weights, random running statistics, eval."""
    generator = torch.Generator().manual_seed(0)
    model = Reference(block, layers, classes=7).eval()
    for part in model.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, generator=generator)
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.2, 0.6, generator=generator)
            nn.init.normal_(part.bias, 0, 0.3, generator=generator)
            part.running_mean.normal_(0, 0.3, generator=generator)
            part.running_var.uniform_(0.5, 2, generator=generator)
            part.num_batches_tracked.fill_(11)
    return model


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def residuals(encoder: ResNet) -> Iterator[Residual]:
    return (part for part in encoder.modules() if isinstance(part, Residual))


def kinds(module: nn.Module) -> list[type]:
    return [type(part) for part in module.modules() if not list(part.children())]


@pytest.mark.parametrize(("depth", "expected"), [(18, 11_689_512), (34, 21_797_672), (50, 25_557_032)])
def test_parameters_are_those_of_torchvision_with_a_thousand_classes(depth, expected):
    with torch.device("meta"):
        encoder = RESNETS[depth].build(Box(0, 1, (3, 224, 224)))
        assert num_parameters(encoder) + num_parameters(nn.Linear(encoder.out_features, 1000)) == expected
    assert len(encoder.blocks()) == 1 + sum(RESNETS[depth].blocks)


def test_by_default_it_is_small_and_for_small_images():
    """Stem 144 + 32, stages 4,672, 14,528 and 57,728; with a head of ten classes 78k."""
    encoder = ResNetConfig().build(Box(0, 1, (8, 8)))
    assert num_parameters(encoder) == 144 + 32 + 4_672 + 14_528 + 57_728 == 77_104
    assert encoder.out_features == 64
    image = torch.rand(B, 1, 8, 8)
    assert encoder.stem(image).shape == (B, 16, 8, 8)
    assert encoder.stages(encoder.stem(image)).shape == (B, 64, 2, 2)
    assert encoder.blocks() == [["stem"], ["stages.0.0"], ["stages.1.0"], ["stages.2.0"]]


@pytest.mark.parametrize(
    ("block", "layers", "config"),
    [
        (Basic, (2, 2, 2, 2), RESNETS[18]),
        (Bottleneck, (1, 2, 1), ResNetConfig(stem="imagenet", width=64, blocks=(1, 2, 1), block="bottleneck")),
        (Basic, (1, 1), SMALL.model_copy(update={"dropout": 0.5})),
    ],
    ids=["resnet18", "bottlenecks", "dropout"],
)
def test_with_torchvisions_weights_it_has_torchvisions_features(block, layers, config):
    """Agreement to 1e-5 with `Reference` above, not with torchvision itself.

    torchvision has no wheel for the CPU-only torch that this project is tested with. The reference is plain torch with
    torchvision's structure and names and random weights and running statistics.
    """
    model, encoder = reference(block, layers), config.build(Box(0, 1, (3, 64, 64))).eval()
    head = load_torchvision(encoder, model.state_dict())
    image = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    expected = model.features(image)
    assert 0.1 < expected.std() < 10
    torch.testing.assert_close(encoder.encode(image), expected, rtol=1e-5, atol=1e-5)
    assert head.keys() == {"weight", "bias"}
    linear = QHead(encoder.out_features, 7)
    linear.linear.load_state_dict(head)
    torch.testing.assert_close(linear(encoder.encode(image)), model(image), rtol=1e-5, atol=1e-5)
    assert encoder.state_dict()["stem.1.num_batches_tracked"] == 11


def test_weights_without_a_head_or_batch_counts_are_taken():
    state = reference(Basic, (1, 1)).state_dict()
    few = {name: value for name, value in state.items() if not name.startswith("fc.") and "num_batches" not in name}
    assert load_torchvision(SMALL.build(Box(0, 1, (3, 64, 64))), few) == {}


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"layer2.0.bn1.running_var": None}, "the torchvision state has no layer2.0.bn1.running_var, for stages.1.0.b"),
        ({"conv1.weight": torch.zeros(64, 1, 7, 7)}, r"has conv1.weight of shape \[64, 1, 7, 7\], .* \[64, 3, 7, 7\]"),
        ({"layer1.1.conv1.weight": torch.zeros(1)}, r"has layer1.1.conv1.weight, for which this encoder has no place"),
    ],
    ids=["missing", "misshapen", "left-over"],
)
def test_weights_that_do_not_fit_are_refused_in_one_line_and_nothing_is_copied(change, line):
    encoder = SMALL.build(Box(0, 1, (3, 64, 64)))
    before = copy.deepcopy(encoder.state_dict())
    state = reference(Basic, (1, 1)).state_dict() | change
    with pytest.raises(ValueError, match=line) as info:
        load_torchvision(encoder, {name: value for name, value in state.items() if value is not None})
    assert "\n" not in str(info.value)
    torch.testing.assert_close(encoder.state_dict(), before, rtol=0, atol=0)


def test_names_with_a_prefix_are_shown():
    state = {f"module.{name}": value for name, value in reference(Basic, (1, 1)).state_dict().items()}
    with pytest.raises(ValueError, match=r"has no conv1\.weight, for stem\.0\.weight .* with module\.conv1\.weight$"):
        load_torchvision(SMALL.build(Box(0, 1, (3, 64, 64))), state)


@pytest.mark.parametrize(
    "other", [{"norm": "group"}, {"norm": "rms"}, {"norm": "none"}, {"norm_position": "after"}], ids=str
)
def test_only_batch_norm_before_activations_has_torchvisions_weights(other):
    encoder = SMALL.model_copy(update=other).build(Box(0, 1, (3, 64, 64)))
    with pytest.raises(ValueError, match="norm=batch"):
        load_torchvision(encoder, reference(Basic, (1, 1)).state_dict())


@pytest.mark.parametrize(
    ("block", "identities", "features"),
    [("basic", [True, True, False, True], 12), ("bottleneck", [False, True, False, True], 48)],
)
def test_shortcuts_are_projections_only_where_shapes_differ(block, identities, features):
    encoder = ResNetConfig(block=block, blocks=(2, 2), width=6).build(Box(0, 1, (3, 9, 7)))
    assert [isinstance(residual.shortcut, nn.Identity) for residual in residuals(encoder)] == identities
    assert encoder.out_features == features
    assert encoder.stages(encoder.stem(torch.zeros(B, 3, 9, 7))).shape == (B, features, 5, 4)


def test_the_residual_is_a_sum_and_then_the_activation():
    residual = next(residuals(ResNetConfig(norm="none", width=6).build(Box(0, 1, (3, 9, 7)))))
    image = torch.randn(B, 6, 9, 7, generator=torch.Generator().manual_seed(0))
    first, second = (part for part in residual.branch if isinstance(part, nn.Conv2d))
    torch.testing.assert_close(residual(image), (image + second(first(image).relu())).relu())


@pytest.mark.parametrize("norm", ["batch", "layer", "group", "rms"])
@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_blocks_can_start_as_their_shortcuts_and_initialise_keeps_it(norm, block):
    config = ResNetConfig(norm=norm, block=block, blocks=(1, 1), zero_init_residual=True)
    encoder = config.build(Box(0, 1, (3, 9, 7)))
    for again in (False, True):
        if again:
            for residual in residuals(encoder):
                for parameter in residual.parameters():
                    nn.init.constant_(parameter, 3.0)
            initialise(encoder, "he", torch.Generator().manual_seed(0))
        for residual in residuals(copy.deepcopy(encoder).eval()):
            image = torch.randn(B, next(residual.parameters()).shape[1], 9, 7)
            torch.testing.assert_close(residual(image), residual.shortcut(image).relu(), rtol=0, atol=0)
            # Only the last norm: without the others nothing would ever be learnt.
            assert sum(not parameter.any() for name, parameter in residual.named_parameters() if "weight" in name) == 1


def test_blocks_do_not_start_as_their_shortcuts_unless_asked():
    encoder = ResNetConfig().build(Box(0, 1, (3, 9, 7)))
    initialise(encoder, "he", torch.Generator().manual_seed(0))
    assert all(parameter.any() for name, parameter in encoder.named_parameters() if "weight" in name)


def test_zero_init_residual_without_a_norm_is_refused():
    with pytest.raises(
        ValueError, match="zero_init_residual is about the scale of each block's last norm, but norm is"
    ):
        ResNetConfig(norm="none", zero_init_residual=True)


def test_dropout_is_between_the_convolutions_of_a_block_and_before_the_head():
    encoder = ResNetConfig(dropout=0.5, blocks=(2,)).build(Box(0, 1, (3, 9, 7)))
    assert kinds(encoder.stem) == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
    first = next(residuals(encoder))
    assert kinds(first.branch) == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Dropout2d, nn.Conv2d, nn.BatchNorm2d]
    encoder.eval()
    encoder.dropout.train()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        features = encoder.encode(torch.rand(B, 3, 9, 7))
    assert 0.3 < (features == 0).float().mean() < 0.8


@pytest.mark.parametrize(
    ("norm", "position", "with_bias"),
    [("batch", "before", 0), ("batch", "after", 3), ("none", "before", 6), ("rms", "before", 6)],
)
def test_convolutions_have_no_bias_where_batch_norm_comes_next(norm, position, with_bias):
    """Six: the stem, two in each of two blocks, and a projection. Norms before a sum stay in any position."""
    encoder = ResNetConfig(norm=norm, norm_position=position, blocks=(1, 1)).build(Box(0, 1, (3, 9, 7)))
    biases = [part.bias is not None for part in encoder.modules() if isinstance(part, nn.Conv2d)]
    assert len(biases) == 6
    assert sum(biases) == with_bias


@pytest.mark.parametrize(
    "wrong", [{"blocks": []}, {"blocks": [0]}, {"block": "wide"}, {"stem": "large"}, {"width": 0}], ids=str
)
def test_wrong_configs_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ResNetConfig.model_validate(wrong)
