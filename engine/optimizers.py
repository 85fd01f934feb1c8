"""Optimizers as data: what GradientStep updates with, by name."""

from collections.abc import Sequence
from typing import Annotated, Literal, TypeAlias

import torch
from pydantic import Field, model_validator
from torch import nn

from ..configs.config import Config
from ..networks.freezing import Group
from .adam import Adam

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Decay = Annotated[float, Field(ge=0, lt=1)]  # share of a running mean, or of a momentum, that is kept at each update


class SGDConfig(Config):
    """Plain descent, or with momentum, Nesterov's if so (Sutskever et al. 2013); weight decay is an L2 penalty."""

    kind: Literal["sgd"] = "sgd"
    momentum: Decay = 0.0
    nesterov: bool = False
    weight_decay: NonNegative = 0.0

    @model_validator(mode="after")
    def _check(self) -> "SGDConfig":
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov=true: needs a momentum above 0, such as 0.9")
        return self

    def build(self, groups: Sequence[Group]) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            _tree(groups),
            momentum=self.momentum,
            nesterov=self.nesterov,
            weight_decay=self.weight_decay,
            fused=True,
        )


class AdagradConfig(Config):
    """Duchi et al. 2011: rates fall with the root of the sum of squared gradients."""

    kind: Literal["adagrad"] = "adagrad"
    epsilon: Positive = 1e-10

    def build(self, groups: Sequence[Group]) -> torch.optim.Optimizer:
        optimizer = torch.optim.Adagrad(_tree(groups), eps=self.epsilon, fused=True)
        optimizer.state.clear()  # `begin` gives those who are trained theirs
        return optimizer


class RMSpropConfig(Config):
    """Tieleman & Hinton 2012. torch has no fused kernel for it: every update reads whether the gradient is finite."""

    kind: Literal["rmsprop"] = "rmsprop"
    alpha: Decay = 0.99
    epsilon: Positive = 1e-8
    momentum: Decay = 0.0

    def build(self, groups: Sequence[Group]) -> torch.optim.Optimizer:
        return torch.optim.RMSprop(
            _tree(groups), alpha=self.alpha, eps=self.epsilon, momentum=self.momentum, foreach=True
        )


class AdamConfig(Config):
    """Kingma & Ba 2015, algorithm 1."""

    kind: Literal["adam"] = "adam"
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    epsilon: Positive = 1e-8

    def build(self, groups: Sequence[Group]) -> torch.optim.Optimizer:
        return Adam(_tree(groups), self.epsilon, self.betas)


class AdamWConfig(Config):
    """Loshchilov & Hutter 2019, algorithm 2: weights decay by `weight_decay` times the learning rate an update."""

    kind: Literal["adamw"] = "adamw"
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    epsilon: Positive = 1e-8
    weight_decay: NonNegative = 0.01

    def build(self, groups: Sequence[Group]) -> torch.optim.Optimizer:
        return Adam(_tree(groups), self.epsilon, self.betas, self.weight_decay)


OptimizerConfig: TypeAlias = Annotated[
    SGDConfig | AdagradConfig | RMSpropConfig | AdamConfig | AdamWConfig, Field(discriminator="kind")
]
"""Every optimizer that a config can name. The learning rate is no part of it: GradientStep is given it at each call."""


def begin(optimizer: torch.optim.Optimizer) -> None:
    """Give every parameter that is trained the state it begins with, where torch would do so too late.

    torch's fused SGD leaves a momentum undefined if its very first update is skipped, and cannot take parameters with
    and without one together, as after some were unfrozen. Adagrad makes its state when it is built, and not for
    parameters that a loaded state lacks.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if not parameter.requires_grad or optimizer.state.get(parameter):
                continue
            if isinstance(optimizer, torch.optim.SGD) and group["momentum"]:
                # As torch's, which begins with the first gradient: that is what it comes to without dampening.
                optimizer.state[parameter] = {"momentum_buffer": torch.zeros_like(parameter)}
            elif isinstance(optimizer, torch.optim.Adagrad):
                total = torch.full_like(parameter, group["initial_accumulator_value"])
                optimizer.state[parameter] = {"step": parameter.new_zeros((), dtype=torch.float32), "sum": total}


def _tree(groups: Sequence[Group]) -> list[dict[str, list[nn.Parameter] | float]]:
    # torch keeps what it does not know; GradientStep multiplies the learning rate by it.
    return [{"params": list(group.parameters), "rate": group.rate} for group in groups]
