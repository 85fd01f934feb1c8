"""What encoders are made of: activations and initialisation."""

from typing import Literal, Protocol, TypeAlias, runtime_checkable

import torch
from torch import nn

Activation: TypeAlias = Literal["relu", "tanh", "elu", "gelu", "silu"]
ACTIVATIONS: dict[Activation, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}

Initialisation: TypeAlias = Literal["uniform", "orthogonal", "he", "xavier"]

# Jozefowicz et al. 2015, section 3.2: a forget gate that starts open. At torch's default of 0 recalling the first of
# ten symbols stays at chance; at 2 it is learnt.
FORGET_GATE_BIAS = 2.0


@runtime_checkable
class InitialisesItself(Protocol):
    """A module that decides how the weights it holds itself, not those of its sub-modules, start."""

    def initialise_own_weights(self, generator: torch.Generator) -> None: ...


@torch.no_grad()
def initialise(module: nn.Module, scheme: Initialisation, generator: torch.Generator, gain: float = 1.0) -> None:
    """Draw all weights of `module` anew from `generator`, in the order of `named_parameters`; biases follow the scheme.

    uniform: U(-1/sqrt(fan_in), 1/sqrt(fan_in)) for weight and bias, torch's default for linear layers, as in SB3's DQN.
    orthogonal (Saxe et al. 2014), he (He et al. 2015), xavier (Glorot & Bengio 2010): weights of that law, biases 0.
    `gain` scales the weights: sqrt(2) for hidden ReLU layers, 0.01 for a policy head that should start near uniform.
    An InitialisesItself decides for itself. Raises TypeError for any other module with weights.
    """
    if isinstance(module, InitialisesItself):
        module.initialise_own_weights(generator)
    elif isinstance(module, nn.Linear):
        bound = module.in_features**-0.5
        if scheme == "uniform":
            module.weight.uniform_(-bound * gain, bound * gain, generator=generator)
        elif scheme == "orthogonal":
            nn.init.orthogonal_(module.weight, gain, generator=generator)
        elif scheme == "he":
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator).mul_(gain)
        else:
            nn.init.xavier_uniform_(module.weight, gain, generator=generator)
        if module.bias is not None and scheme == "uniform":
            module.bias.uniform_(-bound, bound, generator=generator)
        elif module.bias is not None:
            module.bias.zero_()
    elif any(True for _ in module.parameters(recurse=False)):
        raise TypeError(f"no initialisation is known for {type(module).__name__}")
    for child in module.children():
        initialise(child, scheme, generator, gain)
