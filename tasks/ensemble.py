"""Several networks of one form trained at once, their weights stacked and their passes one by vmap."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import TypeVar

from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from ..engine import draws
from ..networks import Encoder
from .network import TaskNetwork

Result = TypeVar("Result")


class Ensemble(nn.Module):
    """M networks with weights of their own: parameters and buffers are those of one, stacked [M, ...].

    Deep ensembles (Lakshminarayanan et al. 2017): members differ by where they start, and their disagreement tells how
    little the data say. Each learns as it would alone, but for the rounding of sums.
    """

    def __init__(self, members: Sequence[TaskNetwork]) -> None:
        super().__init__()
        self.num_members = len(members)
        stacked, buffers = stack_module_state(list(members))
        # The form alone, without weights of its own; in a list, so that it is no part of the state.
        self._form = [deepcopy(members[0]).to("meta")]
        self._form[0].is_mapped = True
        for name, tensor in stacked.items():
            self.register_parameter(_flat(name), nn.Parameter(tensor.detach()))
        for name, tensor in buffers.items():
            self.register_buffer(_flat(name), tensor)
        self._names = {name: _flat(name) for name in (*stacked, *buffers)}
        assert len(set(self._names.values())) == len(self._names)
        self.schema = members[0].schema
        self.draws = draws(members[0])  # which the engine cannot see in the form

    @property
    def encoder(self) -> Encoder:
        """The first member's."""
        return self.member(0).encoder

    def train(self, mode: bool = True) -> "Ensemble":
        super().train(mode)
        self._form[0].train(mode)
        return self

    def member(self, index: int) -> TaskNetwork:
        """A copy of one, by itself."""
        state = self.state_dict()
        alone = deepcopy(self._form[0]).to_empty(device=next(self.parameters()).device)
        alone.load_state_dict({name: state[flat][index] for name, flat in self._names.items()})
        alone.is_mapped = False
        return alone.eval()

    def map(self, function: Callable[[TaskNetwork], Result]) -> Result:
        """`function` of each member at once, its tensors stacked [M, ...]; each draws its own dropout."""
        held = {f"network.{name}": getattr(self, flat) for name, flat in self._names.items()}

        def of_one(state: dict[str, Tensor]) -> Result:
            result: Result = functional_call(_Call(self._form[0], function), state, ())
            return result

        mapped: Result = vmap(of_one, randomness="different")(held)
        return mapped


class _Call(nn.Module):
    """A function of a network as a module, so that it can be called with other weights."""

    def __init__(self, network: TaskNetwork, function: Callable[[TaskNetwork], Result]) -> None:
        super().__init__()
        self.network, self._function = network, function

    def forward(self) -> object:
        return self._function(self.network)


def _flat(name: str) -> str:
    # A parameter's own name may hold no dot.
    return name.replace(".", "__")
