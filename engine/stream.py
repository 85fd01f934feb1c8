"""A generator in the place of torch's global stream, for modules that draw from no other."""

from types import TracebackType

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from .stateful import StateDict, expect_keys


class Stream:
    """Inside `with`, torch's global stream on the generator's device is the generator's; outside, it is untouched.

    So dropout, which takes no generator, goes on where a checkpoint left it. Not for nesting in itself.
    """

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator
        self._outside: Tensor | None = None  # the global stream, while it is ours

    def __enter__(self) -> None:
        assert self._outside is None
        self._outside = _get(self._generator.device)
        _set(self._generator.device, self._generator.get_state())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._outside is not None
        self._generator.set_state(_get(self._generator.device))
        _set(self._generator.device, self._outside)
        self._outside = None

    def state_dict(self) -> StateDict:
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, state: StateDict) -> None:
        expect_keys("stream", state, {"generator"})
        self._generator.set_state(state["generator"])


def draws(network: nn.Module) -> bool:
    """Whether any module of it draws random numbers when it trains: torch's that do, and those with `draws = True`."""
    return any(map(_draws, network.modules()))


def _draws(module: nn.Module) -> bool:
    says = getattr(module, "draws", False)
    if isinstance(says, bool) and says:
        return True
    # Recurrent and attention modules have a probability called `dropout`.
    share = module.p if isinstance(module, _DropoutNd) else getattr(module, "dropout", 0.0)
    if isinstance(share, int | float) and share > 0:
        return True
    return isinstance(module, nn.RReLU | nn.FractionalMaxPool2d | nn.FractionalMaxPool3d)


def _get(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _set(device: torch.device, state: Tensor) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)
