"""One encoder and one head: what an agent learns."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Generic

import gymnasium
import torch
from torch import Tensor, nn

from ..spaces import Observation, one_line, zeros
from .encoder import Encoder, State
from .heads import Head, Heads, Output


class Network(nn.Module, Generic[Output]):
    """An encoder with a head on its features, and perhaps others that only teach the encoder.

    What the auxiliary heads tell is no part of the output: a loss asks them itself.
    """

    groups = 1  # networks that it is made of, each with columns of its own, see stacked.StackedNetwork

    def __init__(self, encoder: Encoder, head: Head[Output], auxiliary: Heads[Tensor] | None = None) -> None:
        super().__init__()
        self.encoder, self.head, self.auxiliary = encoder, head, auxiliary

    def initial_state(self, batch_size: int) -> State:
        return self.encoder.initial_state(batch_size)

    def forward(
        self, observation: Observation, state: State = (), is_first: Tensor | None = None
    ) -> tuple[Output, State]:
        """The head's output over [T, B] and the recurrent state after the last row; arguments as in Encoder.forward."""
        features, state = self.encoder(observation, state, is_first)
        return self.head(features), state

    def step(self, observation: Observation, state: State, is_first: Tensor) -> tuple[Output, State]:
        """`forward` of one row, which acting is made of: [B, *obs], state, [B] -> output over [B], state."""
        features, state = self.encoder.step(observation, state, is_first)
        return self.head(features), state

    def unstacked(self, index: int) -> "Network[Output]":
        """The network of that place among `groups`, with weights of its own; itself where it is the only one."""
        assert index == 0
        return self

    @torch.no_grad()
    def probe(self, space: gymnasium.Space[Any]) -> Output:
        """The head's output for one observation of zeros, [1, 1, ...]; ValueError if the network does not take it."""
        observation = zeros(space, 1, 1, device=next(self.parameters()).device)
        try:
            with mode(self, training=False):
                output: Output = self(observation)[0]
        except ValueError:
            raise
        except Exception as error:  # of whatever kind: an encoder of the user's own may know nothing of a dict
            reason = f"{type(error).__name__}: {error}".splitlines()[0].rstrip(": ")
            raise ValueError(f"the network takes no observation of {one_line(space)}: {reason}") from error
        return output


@contextmanager
def mode(module: nn.Module, *, training: bool) -> Iterator[None]:
    """Put `module` into train or eval mode, and back into its prior mode afterwards.

    One that does the same in both, as most small ones do, stays as it is.
    """
    before = module.training
    if before == training or not _minds_its_mode(module):
        yield
        return
    module.train(training)
    try:
        yield
    finally:
        module.train(before)


def _minds_its_mode(module: nn.Module) -> bool:
    """Whether it, or a part of it, may do something else when it trains."""
    # `modules` would take three times as long, and this is asked at each call to learn.
    parts = [part for part in module._modules.values() if part is not None]
    return _is_twofold(type(module)) or any(map(_minds_its_mode, parts))


def _is_twofold(kind: type[nn.Module]) -> bool:
    """Whether such modules may; of classes that are neither torch's nor ours nobody knows."""
    if (minds := _MINDS.get(kind)) is None:
        is_ours = kind.__module__.startswith(__name__.partition(".")[0] + ".")
        # An Encoder's own `train` is about parts that mind; whose own it is otherwise may have parts that nobody sees.
        is_plain = not issubclass(kind, _TWOFOLD) and kind.train in (nn.Module.train, Encoder.train)
        minds = _MINDS[kind] = not (kind in _PLAIN or (is_ours and is_plain))
    return minds


_PLAIN = (
    *(nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.Identity, nn.Flatten, nn.Linear, nn.Conv1d, nn.Conv2d),
    *(nn.ReLU, nn.Tanh, nn.Sigmoid, nn.ELU, nn.SiLU, nn.GELU, nn.LeakyReLU, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm),
    *(nn.Embedding, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d),
)
_TWOFOLD = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._NormBase)
_MINDS: dict[type[nn.Module], bool] = {}  # by class


@torch.no_grad()
def follow(target: nn.Module, online: nn.Module, rate: float) -> None:
    """Move the parameters of `target` that share of the way to `online`, all of it at 1; its buffers are copied."""
    for parameter, online_parameter in zip(target.parameters(), online.parameters(), strict=True):
        parameter.lerp_(online_parameter, rate)
    for buffer, online_buffer in zip(target.buffers(), online.buffers(), strict=True):
        buffer.copy_(online_buffer)
