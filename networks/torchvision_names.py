"""torchvision's weights for our ResNet."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from .resnet import Residual, ResNet


@torch.no_grad()
def load_torchvision(encoder: ResNet, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy the weights and statistics of torchvision's resnet18, 34, 50, 101 or 152; what is left is the head's.

    state: the `state_dict` of that model. -> its `fc.weight` and `fc.bias`, if there, as `weight` and `bias`.
    The encoder is built with stem=imagenet, width=64, and blocks=[2, 2, 2, 2] (18), [3, 4, 6, 3] (34; with
    block=bottleneck 50), [3, 4, 23, 3] (101), [3, 8, 36, 3] (152). Those models were trained on images [3, H, W] in
    [0, 1] from which (0.485, 0.456, 0.406) was subtracted and that were divided by (0.229, 0.224, 0.225).
    Raises ValueError for a name that either side lacks, or a shape that differs; then nothing was copied.
    """
    if any(isinstance(module, nn.Conv2d) and module.bias is not None for module in encoder.modules()):
        raise ValueError("load_torchvision fits encoders with norm=batch and norm_position=before only; build it so")
    theirs = dict(_names(encoder))
    pairs: list[tuple[Tensor, Tensor]] = []
    left = dict(state)
    for name, ours in encoder.state_dict().items():
        module, _, entry = name.rpartition(".")
        their_name = f"{theirs[module]}.{entry}"
        if their_name not in left:
            if entry == "num_batches_tracked":  # unknown to torch before 0.4.1, and read by no batch norm of ours
                continue
            first = next(iter(state), "nothing")
            raise ValueError(
                f"the torchvision state has no {their_name}, for {name} of this encoder; it begins with {first}"
            )
        weight = left.pop(their_name)
        if weight.shape != ours.shape:
            raise ValueError(
                f"the torchvision state has {their_name} of shape {list(weight.shape)}, but {name} of this encoder is "
                f"{list(ours.shape)}; see what load_torchvision says of stem, width and blocks"
            )
        pairs.append((ours, weight))
    head = {name.removeprefix("fc."): left.pop(name) for name in list(left) if name.startswith("fc.")}
    if left:
        raise ValueError(f"the torchvision state has {next(iter(left))}, for which this encoder has no place")
    for ours, weight in pairs:
        ours.copy_(weight)
    return head


def _names(encoder: ResNet) -> Iterator[tuple[str, str]]:
    """Our name of each module with weights, and torchvision's."""
    yield from _numbered("stem", encoder.stem, "")
    for stage, blocks in enumerate(encoder.stages):
        assert isinstance(blocks, nn.Sequential)
        for place, block in enumerate(blocks):
            assert isinstance(block, Residual)
            ours, theirs = f"stages.{stage}.{place}", f"layer{stage + 1}.{place}."
            yield from _numbered(f"{ours}.branch", block.branch, theirs)
            for name in ("0", "1"):
                yield f"{ours}.shortcut.{name}", f"{theirs}downsample.{name}"


def _numbered(ours: str, layers: nn.Sequential, theirs: str) -> Iterator[tuple[str, str]]:
    """Convolutions and batch norms in their order: conv1, bn1, conv2, ..."""
    for kind, name in ((nn.Conv2d, "conv"), (nn.BatchNorm2d, "bn")):
        of_kind = (place for place, layer in layers.named_children() if isinstance(layer, kind))
        for number, place in enumerate(of_kind, start=1):
            yield f"{ours}.{place}", f"{theirs}{name}{number}"
