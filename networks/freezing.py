"""What of a trained encoder stays as it is, and how fast the rest of it learns: freezing and rates by depth."""

from collections.abc import Iterable
from typing import Annotated, Literal, NamedTuple, TypeAlias

from pydantic import Field
from torch import nn

from ..configs.suggest import suggest
from .encoder import Encoder
from .network import Network

Freeze: TypeAlias = Literal["all"] | Annotated[int, Field(ge=0)] | tuple[str, ...]
"""All of an encoder, its first so many blocks from the input on, or what has one of these names."""


class Group(NamedTuple):
    """Parameters that learn at one share of the learning rate."""

    parameters: list[nn.Parameter]
    rate: float


def freeze(encoder: Encoder, what: Freeze = "all") -> None:
    """Let exactly that stay as it is, norm statistics included, and everything else learn.

    A name is that of a sub-module or parameter, or the beginning of one up to a dot: "layers.0" is weight and bias.
    Raises ValueError, before anything changes, for a name that matches nothing, and for more blocks than there are.
    """
    frozen = _frozen(encoder, what)
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_(name not in frozen)
    encoder.train(encoder.is_to_train)  # what is frozen goes to rest, what no longer is wakes up


def num_frozen_blocks(encoder: Encoder, what: Freeze, step: int, unfreeze_period: int) -> int:
    """Blocks frozen at that step if, from all of `what`, one more is set free after each period, from the head down.

    Gradual unfreezing (Howard & Ruder 2018, section 3.3). ValueError if `what` is names, which have no order.
    """
    if isinstance(what, tuple):
        raise ValueError(f"freeze={list(what)}: names are not set free one by one; give a number of blocks, or all")
    count = len(encoder.blocks()) if what == "all" else what
    return max(count - step // unfreeze_period, 0)


def parameter_groups(network: nn.Module) -> list[Group]:
    """All parameters: a Network's head at the full rate, each block of its encoder at `rate_decay` of the one after it.

    Discriminative fine-tuning (Howard & Ruder 2018, section 3.1). One group if nothing tells parameters apart.
    """
    encoder = network.encoder if isinstance(network, Network) else None
    is_whole = all(parameter.requires_grad for parameter in network.parameters())
    if encoder is None or (encoder.rate_decay == 1.0 and is_whole):
        return [Group(list(network.parameters()), 1.0)]
    blocks = encoder.blocks()
    groups = [
        Group(_parameters(encoder, _matching(encoder, names)), encoder.rate_decay ** (len(blocks) - place))
        for place, names in enumerate(blocks)
    ]
    in_blocks = {id(parameter) for group in groups for parameter in group.parameters}
    others = [parameter for parameter in network.parameters() if id(parameter) not in in_blocks]
    parts = [part for group in [*groups, Group(others, 1.0)] for part in _by_being_frozen(group)]
    return [part for part in parts if part.parameters]


def _by_being_frozen(group: Group) -> list[Group]:
    """Apart, for an optimizer leaves out a group as a whole."""
    learnt = [parameter for parameter in group.parameters if parameter.requires_grad]
    frozen = [parameter for parameter in group.parameters if not parameter.requires_grad]
    return [Group(learnt, group.rate), Group(frozen, group.rate)]


def _frozen(encoder: Encoder, what: Freeze) -> set[str]:
    """Names of parameters."""
    if what == "all":
        return {name for name, _ in encoder.named_parameters()}
    if isinstance(what, int):
        blocks = encoder.blocks()
        if not 0 <= what <= len(blocks):
            raise ValueError(f"freeze={what}: this {type(encoder).__name__} has {len(blocks)} blocks")
        return _matching(encoder, [name for block in blocks[:what] for name in block])
    return {parameter for name in what for parameter in _named(encoder, name)}


def _named(encoder: Encoder, name: str) -> set[str]:
    found = _matching(encoder, [name])
    if not found:
        known = [known for known, module in encoder.named_modules() if known and any(True for _ in module.parameters())]
        known += [known for known, _ in encoder.named_parameters()]
        hint = suggest(name, known) or f"; there are {', '.join(known[:12])}{', ...' if len(known) > 12 else ''}"
        raise ValueError(f"freeze={name}: matches no layer of this {type(encoder).__name__} that learns{hint}")
    return found


def _matching(encoder: Encoder, names: Iterable[str]) -> set[str]:
    wanted = tuple(names)
    return {
        parameter
        for parameter, _ in encoder.named_parameters()
        if any(parameter == name or parameter.startswith(f"{name}.") for name in wanted)
    }


def _parameters(encoder: Encoder, names: set[str]) -> list[nn.Parameter]:
    return [parameter for name, parameter in encoder.named_parameters() if name in names]
