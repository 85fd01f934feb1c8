"""What encoders are made of: activations, norms, dropout, and how weights start."""

from typing import Annotated, Literal, Protocol, TypeAlias, runtime_checkable

import torch
from pydantic import Field
from torch import nn

from ..configs.config import Config
from .noisy import NoisyLinear

Activation: TypeAlias = Literal["relu", "tanh", "elu", "gelu", "silu"]
ACTIVATIONS: dict[Activation, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}

Norm: TypeAlias = Literal["none", "batch", "layer", "group", "rms"]
Initialisation: TypeAlias = Literal["uniform", "orthogonal", "he", "xavier", "gaussian"]
Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]

# Jozefowicz et al. 2015, section 3.2: a forget gate that starts open. At torch's default of 0 recalling the first of
# ten symbols stays at chance; at 2 it is learnt.
FORGET_GATE_BIAS = 2.0

GAUSSIAN_STD = 0.01  # of the initialisation "gaussian", as in Krizhevsky et al. 2012, section 5


class BlockConfig(Config):
    """What follows each layer of an encoder."""

    activation: Activation = "relu"
    norm: Norm = "none"
    norm_position: Literal["before", "after"] = "before"  # the activation
    norm_groups: Positive = 8  # of norm=group; the greatest number up to it into which the width falls
    dropout: Share = 0.0  # of each layer's outputs, while learning


def after_layer(config: BlockConfig, width: int, *, spatial: bool) -> list[nn.Module]:
    """Norm, activation and dropout behind a layer of `width` units, or channels of an image [N, width, H, W]."""
    modules: list[nn.Module] = [ACTIVATIONS[config.activation]()]
    if config.norm != "none":
        norm = make_norm(config.norm, width, spatial=spatial, groups=config.norm_groups)
        modules.insert(0 if config.norm_position == "before" else 1, norm)
    if config.dropout:
        # Whole channels: neighbouring pixels are alike, and dropping single ones drops nothing (Tompson et al. 2015).
        modules.append(nn.Dropout2d(config.dropout) if spatial else nn.Dropout(config.dropout))
    return modules


def has_idle_bias(config: BlockConfig) -> bool:
    """A bias right before batch norm is taken away again with the mean."""
    return config.norm == "batch" and config.norm_position == "before"


def make_norm(norm: Norm, width: int, *, spatial: bool, groups: int = 8) -> nn.Module:
    """Ioffe & Szegedy 2015 (batch), Ba et al. 2016 (layer), Wu & He 2018 (group), Zhang & Sennrich 2019 (rms).

    Takes [N, width], or [N, width, H, W] if spatial.
    """
    if norm == "batch":
        return (nn.BatchNorm2d if spatial else nn.BatchNorm1d)(width)
    if norm == "group":
        # At least two units a group: one alone would always come out as 0.
        return nn.GroupNorm(max(g for g in range(1, max(min(groups, width // 2), 1) + 1) if width % g == 0), width)
    if norm == "layer":
        # On an image over channels and pixels at once, as in Ba et al. 2016: a group norm of one group.
        return nn.GroupNorm(1, width) if spatial else nn.LayerNorm(width)
    if norm == "rms":
        return ChannelRMSNorm(width) if spatial else nn.RMSNorm(width, eps=1e-5)
    return nn.Identity()


def has_batch_norm(module: nn.Module) -> bool:
    """Whether anything in it learns from the statistics of a batch, which one sample has not got."""
    norms = [norm for norm in module.modules() if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d)]
    return any(parameter.requires_grad for norm in norms for parameter in norm.parameters())


class ChannelRMSNorm(nn.Module):
    """RMS norm over the channels of each pixel: [N, C, H, W] -> [N, C, H, W]."""

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(num_channels, eps=1e-5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        scaled: torch.Tensor = self.norm(image.movedim(1, -1))
        return scaled.movedim(-1, 1)


@runtime_checkable
class InitialisesItself(Protocol):
    """A module that decides how the weights it holds itself, not those of its sub-modules, start."""

    def initialise_own_weights(self, generator: torch.Generator) -> None: ...


_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


@torch.no_grad()
def initialise(module: nn.Module, scheme: Initialisation, generator: torch.Generator, gain: float = 1.0) -> None:
    """Draw all weights of `module` anew from `generator`, in the order of `named_parameters`; biases follow the scheme.

    uniform: U(-1/sqrt(fan_in), 1/sqrt(fan_in)) for weight and bias, torch's default for linear layers, as in SB3's DQN.
    orthogonal (Saxe et al. 2014), he (He et al. 2015), xavier (Glorot & Bengio 2010): weights of that law, biases 0.
    gaussian: N(0, 0.01^2), biases 0. Embeddings are N(0, 1), but with gaussian; norms start as the identity.
    `gain` scales the weights: sqrt(2) for hidden ReLU layers, 0.01 for a policy head that should start near uniform.
    Of a NoisyLinear the means follow the scheme, and the scales of its noise start where they did, whatever it is.
    An InitialisesItself decides for itself. Raises TypeError for any other module with weights.
    """
    if isinstance(module, InitialisesItself):
        module.initialise_own_weights(generator)
    elif isinstance(module, nn.Linear | nn.Conv2d | NoisyLinear):
        fan_in = module.weight[0].numel()
        bound = fan_in**-0.5
        if scheme == "uniform":
            module.weight.uniform_(-bound * gain, bound * gain, generator=generator)
        elif scheme == "orthogonal":
            nn.init.orthogonal_(module.weight, gain, generator=generator)
        elif scheme == "he":
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator).mul_(gain)
        elif scheme == "xavier":
            nn.init.xavier_uniform_(module.weight, gain, generator=generator)
        else:
            module.weight.normal_(0, GAUSSIAN_STD * gain, generator=generator)
        if module.bias is not None and scheme == "uniform":
            module.bias.uniform_(-bound, bound, generator=generator)
        elif module.bias is not None:
            module.bias.zero_()
        if isinstance(module, NoisyLinear):
            module.reset_noise()
    elif isinstance(module, nn.Embedding):
        module.weight.normal_(0, GAUSSIAN_STD if scheme == "gaussian" else 1.0, generator=generator)
        if module.padding_idx is not None:
            module.weight[module.padding_idx].zero_()
    elif isinstance(module, _NORMS):
        module.reset_parameters()
    elif any(True for _ in module.parameters(recurse=False)):
        raise TypeError(f"no initialisation is known for {type(module).__name__}")
    for child in module.children():
        initialise(child, scheme, generator, gain)
