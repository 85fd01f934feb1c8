import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from graftwork.engine.diagnostics import GradientCheck, gradient_check, measure


def squares(network: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    return ((network(batch[0]) - batch[1]) ** 2).mean(), {}


def random_batch(width: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(7, width, generator=generator), torch.randn(7, 2, generator=generator)


def built(*layers: nn.Module) -> nn.Sequential:
    network = nn.Sequential(*layers)
    generator = torch.Generator().manual_seed(1)
    for parameter in network.parameters():
        nn.init.normal_(parameter, generator=generator)
    return network


def check(network: nn.Module, batch: Any, loss: Any = squares) -> GradientCheck:
    return gradient_check(loss, network, batch, generator=torch.Generator().manual_seed(3))


class Cell(nn.Module):
    """With a sub-module, a parameter of its own, and a tuple to give."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.gain = nn.Linear(3, 4), nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        return self.gain * self.inner(x), ()


class TestMeasure:
    def test_numbers_by_hand(self) -> None:
        network = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1, bias=False))
        with torch.no_grad():
            network[0].weight.copy_(torch.tensor([[1.0], [-2.0]]))
            network[0].bias.zero_()
            network[2].weight.copy_(torch.tensor([[3.0, 1.0]]))
        # x = 1: hidden 1, -2 -> 1, 0 -> 3; x = -2: hidden -2, 4 -> 0, 4 -> 4; the loss is the sum, 7
        batch = (torch.tensor([[1.0], [-2.0]]),)
        metrics = measure(
            lambda network, batch: (network(batch[0]).sum(), {}), network, ["0.weight", "2.weight"], batch
        )
        expected = {
            "activation_mean/0": 0.25,
            "activation_std/0": math.sqrt(25 / 4 - 1 / 16),
            "activation_zeros/0": 0.0,
            "activation_mean/1": 1.25,
            "activation_std/1": math.sqrt(17 / 4 - 25 / 16),
            "activation_zeros/1": 0.5,
            "activation_mean/2": 3.5,
            "activation_std/2": 0.5,
            "activation_zeros/2": 0.0,
            # d/dw1 = 3 * 1, d/dw2 = 1 * -2; d/dv = the sum of the activations, (1, 4)
            "gradient_norm/0.weight": math.sqrt(13),
            "gradient_norm/2.weight": math.sqrt(17),
        }
        assert {name: value.item() for name, value in metrics.items()} == pytest.approx(expected)
        assert all(value.shape == () for value in metrics.values())

    def test_a_module_that_is_called_twice_is_measured_over_both(self) -> None:
        network = nn.ModuleDict({"a": nn.Identity(), "b": nn.Linear(1, 1)})

        def twice(network: Any, batch: tuple[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
            return (network["a"](batch[0]) + network["a"](batch[0][:1] + 4.0) + network["b"](batch[0])).sum(), {}

        metrics = measure(twice, network, ["b.bias"], (torch.tensor([[1.0], [0.0]]),))
        # 1, 0 and 5
        assert metrics["activation_mean/a"] == 2.0
        assert metrics["activation_zeros/a"].item() == pytest.approx(1 / 3)

    def test_recurrent_layers_are_measured_by_their_output(self) -> None:
        network = nn.ModuleDict({"ours": Cell(), "torchs": nn.LSTM(4, 6)})

        def through(network: Any, batch: tuple[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
            features, _ = network["ours"](batch[0])
            return network["torchs"](features)[0].sum(), {}

        names = measure(through, network, ["ours.gain"], (torch.randn(3, 5, 3),)).keys()
        assert {f"activation_mean/{name}" for name in ("ours", "ours.inner", "torchs")} < names

    def test_a_layer_that_stands_alone_has_its_classes_name(self) -> None:
        metrics = measure(squares, nn.Linear(3, 2), ["bias"], random_batch())
        activations = {f"activation_{what}/Linear" for what in ("mean", "std", "zeros")}
        assert metrics.keys() == activations | {"gradient_norm/bias"}

    def test_changes_nothing(self) -> None:
        network = built(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 2))
        before = {name: value.clone() for name, value in network.state_dict().items()}
        stream = torch.get_rng_state()
        metrics = measure(squares, network, ["0.weight"], random_batch())
        assert metrics["activation_zeros/2"] > 0
        assert torch.equal(stream, torch.get_rng_state())
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
        assert not any(module._forward_hooks for module in network.modules())
        assert all(parameter.grad is None for parameter in network.parameters())


class Doubled(torch.autograd.Function):
    """x * x, whose backward says that the slope is x instead of 2 x for every entry but the first."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        slope = x.clone()
        slope[..., :1] *= 2
        return gradients[0] * slope


class Wrong(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return Doubled.apply(x)  # type: ignore[no-untyped-call,no-any-return]


class Named(NamedTuple):
    inputs: dict[str, Tensor]
    others: list[Tensor]


@dataclass(frozen=True)
class Held:
    named: Named
    row: Tensor
    name: str


class TestGradientCheck:
    @pytest.mark.parametrize(
        "layers",
        [
            (nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)),
            (nn.Linear(3, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(0.4), nn.Linear(5, 2)),
            (nn.Linear(3, 5), nn.BatchNorm1d(5).eval(), nn.GELU(), nn.Linear(5, 2)),
            (nn.Unflatten(1, (1, 3)), nn.Conv1d(1, 4, 2), nn.ELU(), nn.Flatten(), nn.Linear(8, 2)),
        ],
        ids=["mlp", "noisy", "eval", "conv"],
    )
    def test_right_gradients_agree(self, layers: tuple[nn.Module, ...]) -> None:
        network = built(*layers)
        before = {name: value.clone() for name, value in network.state_dict().items()}
        stream = torch.get_rng_state()
        result = check(network, random_batch())
        assert result.max_relative_error < 1e-5
        assert result.num_checked == sum(min(p.numel(), 20) for p in network.parameters())
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
        assert torch.equal(stream, torch.get_rng_state())
        assert torch.get_default_dtype() == torch.float32

    def test_a_wrong_backward_is_caught_and_placed(self) -> None:
        network = built(nn.Linear(3, 4, bias=False), Wrong(), nn.Linear(4, 2))
        result = check(network, random_batch())
        assert result.max_relative_error == pytest.approx(0.5, abs=1e-4)
        assert result.parameter == "0.weight"
        assert result.entry[0] > 0  # the first unit's slope is right
        assert result.by_autograd == pytest.approx(result.by_difference / 2, rel=1e-4)
        right = built(nn.Linear(3, 1, bias=False), Wrong(), nn.Linear(1, 2))
        assert check(right, random_batch()).max_relative_error < 1e-5

    def test_a_loss_may_give_a_scalar_alone(self) -> None:
        result = check(built(nn.Linear(3, 2)), random_batch(), lambda network, batch: network(batch[0]).sin().sum())
        assert result.max_relative_error < 1e-6

    def test_only_what_is_trained_is_checked(self) -> None:
        network = built(nn.Linear(3, 4), nn.Linear(4, 2))
        network[0].requires_grad_(False)
        assert check(network, random_batch()).num_checked == 8 + 2
        with pytest.raises(ValueError, match=r"^nothing to check: every parameter is frozen \(requires_grad=False\)$"):
            check(network.requires_grad_(False), random_batch())

    def test_what_has_no_part_in_the_loss_has_no_slope(self) -> None:
        result = check(built(nn.Linear(3, 2), nn.Linear(2, 2)), random_batch(), lambda n, b: squares(n[0], b))
        assert result.max_relative_error < 1e-5

    def test_a_detached_path_is_caught(self) -> None:
        network = built(nn.Linear(3, 4), nn.Linear(4, 2))

        def detached(network: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
            hidden = network[0](batch[0])
            return (network[1](hidden.detach()) - batch[1]).square().mean()

        result = check(network, random_batch(), detached)
        assert result.max_relative_error == 1.0
        assert result.parameter.startswith("0.")
        assert result.by_autograd == 0.0

    def test_not_a_number_is_an_infinite_error(self) -> None:
        result = check(built(nn.Linear(3, 2)), random_batch(), lambda network, batch: network(batch[0]).sqrt().sum())
        assert result.max_relative_error == math.inf

    def test_batches_of_any_make_become_float64(self) -> None:
        def through(network: nn.Module, batch: Held) -> Tensor:
            given = [batch.named.inputs["x"], *batch.named.others]
            assert all(tensor.dtype == torch.float64 for tensor in given)
            assert batch.row.dtype == torch.int64
            rows = network(torch.stack(given).sum(0))[batch.row]
            return (rows * torch.ones(2)).square().sum()

        inputs, _ = random_batch()
        batch = Held(Named({"x": inputs}, [inputs, 2 * inputs]), torch.tensor([0, 4]), "some")
        assert check(built(nn.Linear(3, 2)), batch, through).max_relative_error < 1e-5

    def test_numbers_that_a_network_turns_into_floats_itself_become_float64_too(self) -> None:
        def through(network: nn.Module, batch: tuple[Tensor]) -> Tensor:
            one, other, third = batch[0].float() / 255, batch[0].to(torch.float32), torch.zeros(3)
            return network(one + other.sin() + third).tanh().sum()

        batch = (torch.arange(12, dtype=torch.uint8).view(4, 3),)
        assert check(built(nn.Linear(3, 2)), batch, through).max_relative_error < 1e-5
        assert torch.ones(1).float().dtype == torch.float32
