import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from gymnasium.spaces import Box
from torch import Tensor, nn

from graftwork.engine import recorded as module
from graftwork.engine.gradients import Gradients, Metrics
from graftwork.engine.recorded import Recorded
from graftwork.networks import GRUConfig, LSTMConfig, MLPConfig

Result = list[Tensor]


class Batch(NamedTuple):
    inputs: Tensor  # [N, 3]
    state: tuple[Tensor, ...]
    target: Tensor  # [N, 2]


def batches(count: int, size: int = 7) -> list[Batch]:
    generator = torch.Generator().manual_seed(2)
    return [
        Batch(
            torch.randn(size, 3, generator=generator),
            (torch.randn(size, 2, generator=generator),),
            torch.randn(size, 2, generator=generator),
        )
        for _ in range(count)
    ]


def loss(network: nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
    error = network(batch.inputs) + batch.state[0] - batch.target
    return (error**2).mean(), {"error": error.detach().abs()}


def built(*layers: nn.Module) -> nn.Module:
    network = nn.Sequential(nn.Linear(3, 5), *layers, nn.Linear(5, 2))
    generator = torch.Generator().manual_seed(1)
    for parameter in network.parameters():
        nn.init.normal_(parameter, generator=generator)
    return network


def results(gradients: Gradients[Any, Any], network: nn.Module, count: int, size: int = 7) -> Iterator[Result]:
    """Of one step of plain descent a batch; everything that came of it."""
    torch.manual_seed(0)
    for value, metrics, each, _ in map(gradients, batches(count, size)):
        with torch.no_grad():
            for parameter, gradient in zip(network.parameters(), each, strict=True):
                parameter -= 0.01 * gradient
        yield [value, *metrics.values(), *each, *(tensor.clone() for tensor in network.state_dict().values())]


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_EAGER_FIRST", 3)


def of(network: nn.Module, function: Any = loss) -> Gradients[Any, Any]:
    return Gradients(function, network, dict(network.named_parameters()))


def is_recorded(gradients: Gradients[Any, Any]) -> bool:
    return any(recording is not None for recording in gradients._flat._recordings.values())


def assert_like_eager(network: nn.Module, monkeypatch: pytest.MonkeyPatch, function: Any = loss) -> Gradients[Any, Any]:
    """20 updates come to the same bits with and without a recording; buffers and torch's stream included."""
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    gradients = of(network, function)
    ours = list(results(gradients, network, 20))
    drawn = torch.get_rng_state()
    network.load_state_dict(state)
    monkeypatch.setattr(module, "_EAGER_FIRST", math.inf)
    theirs = list(results(of(network, function), network, 20))
    assert torch.equal(drawn, torch.get_rng_state())
    for mine, other in zip(ours, theirs, strict=True):
        assert len(mine) == len(other)
        assert all(map(torch.equal, mine, other))
    return gradients


@pytest.mark.parametrize(
    "layers",
    [
        (nn.ReLU(),),
        (nn.Tanh(), nn.Linear(5, 5), nn.Sigmoid()),
        (nn.ReLU(), nn.Linear(5, 5), nn.ReLU(), nn.LayerNorm(5), nn.GELU()),
        (nn.BatchNorm1d(5), nn.ReLU()),
        (nn.ReLU(), nn.BatchNorm1d(5, momentum=0.3), nn.Linear(5, 5), nn.BatchNorm1d(5, affine=False)),
        (nn.Dropout(0.5),),
        (nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 5), nn.RMSNorm(5), nn.Dropout(0.2)),
        (nn.GroupNorm(5, 5), nn.AlphaDropout(0.2)),
        (nn.BatchNorm1d(5, momentum=0.1).eval().requires_grad_(True), nn.Dropout(0.5).eval()),
    ],
    ids=["relu", "tanh-sigmoid", "layer-norm", "batch-norm", "batch-norms", "dropout", "both", "group-norm", "eval"],
)
def test_a_recording_comes_to_the_same_bits(layers: tuple[nn.Module, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_recorded(assert_like_eager(built(*layers), monkeypatch))


def test_norm_statistics_that_depend_on_their_own_count_stay_eager(monkeypatch: pytest.MonkeyPatch) -> None:
    gradients = assert_like_eager(built(nn.BatchNorm1d(5, momentum=None)), monkeypatch)
    assert list(gradients._flat._recordings.values()) == [None]


def test_what_changes_buffers_otherwise_the_second_time_stays_eager() -> None:
    calls = []

    def counts(network: nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
        calls.append(1)
        network.get_buffer("1.running_mean").add_(len(calls))
        return loss(network, batch)

    gradients = of(built(nn.BatchNorm1d(5)), counts)
    list(map(gradients, batches(10)))
    assert list(gradients._flat._recordings.values()) == [None]


def test_what_draws_another_count_the_second_time_stays_eager() -> None:
    calls = []

    def counts(network: nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
        calls.append(1)
        torch.rand(len(calls))
        return loss(network, batch)

    gradients = of(built(nn.ReLU()), counts)
    list(map(gradients, batches(10)))
    assert list(gradients._flat._recordings.values()) == [None]


def test_a_recording_draws_and_counts_as_it_is_made_no_more_than_once(monkeypatch: pytest.MonkeyPatch) -> None:
    network = built(nn.BatchNorm1d(5), nn.Dropout(0.5))
    gradients = of(network)
    for count, batch in enumerate(batches(10), 1):
        gradients(batch)
        assert network.get_buffer("1.num_batches_tracked") == count
    assert is_recorded(gradients)


@pytest.mark.parametrize("config", [MLPConfig(hidden=(5, 4)), LSTMConfig(hidden_size=5), GRUConfig(hidden_size=5)])
def test_encoders_of_ours_are_recorded(config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    network = config.build(Box(-1.0, 1.0, (3,)))
    is_first = torch.zeros(1, 7, dtype=torch.bool)

    def features(network: nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
        value, _ = network(batch.inputs.unsqueeze(0), (), is_first)
        return value.mean(), {}

    assert is_recorded(assert_like_eager(network, monkeypatch, features))


def test_parameters_are_read_when_it_runs_frozen_ones_too(monkeypatch: pytest.MonkeyPatch) -> None:
    network = built(nn.ReLU())
    frozen = network.get_submodule("2").requires_grad_(False)
    learnt = {name: p for name, p in network.named_parameters() if p.requires_grad}
    gradients = Gradients(loss, network, learnt)
    list(map(gradients, batches(5)))
    assert is_recorded(gradients)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.5)
    value, _, each, _ = gradients(batches(1)[0])
    expected, _ = loss(network, batches(1)[0])
    assert torch.equal(value, expected)
    assert all(map(torch.equal, each, torch.autograd.grad(expected, list(learnt.values()))))
    assert all(parameter.grad is None for parameter in frozen.parameters())


def test_shapes_and_modes_have_recordings_of_their_own() -> None:
    network = built(nn.Dropout(0.5))
    gradients = of(network)
    for training in (True, False):
        network.train(training)
        for size in (7, 4):
            list(map(gradients, batches(5, size)))
    assert len(gradients._flat._recordings) == 4
    assert all(gradients._flat._recordings.values())
    network.train(False)
    value, *_ = gradients(batches(1, 4)[0])
    assert torch.equal(value, loss(network, batches(1, 4)[0])[0])


def test_no_more_than_a_few_shapes_are_recorded() -> None:
    gradients = of(built(nn.ReLU()))
    for size in range(2, 14):
        list(map(gradients, batches(5, size)))
    assert len(gradients._flat._recordings) == module._MOST_FORMS


class Fickle(nn.Linear):
    """Of a class that nobody knows."""


@pytest.mark.parametrize("layer", [Fickle(5, 5), nn.Sequential(Fickle(5, 5))])
def test_networks_with_modules_of_others_stay_eager(layer: nn.Module) -> None:
    gradients = of(built(layer))
    assert len(list(map(gradients, batches(10)))) == 10
    assert not gradients._flat._recordings


def test_hooks_are_called_before_and_after_a_recording() -> None:
    network, called = built(nn.ReLU()), []
    gradients = of(network)
    list(map(gradients, batches(10)))
    assert is_recorded(gradients)
    handle = network.get_submodule("1").register_forward_hook(lambda *_: called.append(1))
    list(map(gradients, batches(4)))
    handle.remove()
    list(map(gradients, batches(4)))
    assert len(called) == 4


def test_what_cannot_be_recorded_stays_eager() -> None:
    def reads(network: nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
        value, metrics = loss(network, batch)
        return (value if value.item() > 0 else -value), metrics

    gradients = of(built(nn.ReLU()), reads)
    assert len(list(map(gradients, batches(10)))) == 10
    assert list(gradients._flat._recordings.values()) == [None]


def test_a_loss_that_comes_out_different_the_second_time_stays_eager() -> None:
    calls = []

    def counts(network: nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
        calls.append(1)
        value, metrics = loss(network, batch)
        return value * len(calls), metrics

    gradients = of(built(nn.ReLU()), counts)
    list(map(gradients, batches(10)))
    assert list(gradients._flat._recordings.values()) == [None]


def mixed(network: nn.Module, batch: Any) -> tuple[Tensor, Metrics]:
    return network(batch[0].transpose(0, -1).reshape(-1, 3).float()).sum() + len(batch), {}


@pytest.mark.parametrize(
    "other",
    [
        (torch.ones(3, 4).t(),),
        (torch.ones(4, 3, dtype=torch.uint8),),
        (torch.ones(4, 3), ()),
        (torch.ones(4, 3), {}),
    ],
    ids=["strides", "dtype", "nesting", "dict"],
)
def test_inputs_of_another_form_are_another_recording(other: Any) -> None:
    network = built(nn.ReLU())
    gradients = of(network, mixed)
    for _ in range(6):
        gradients((torch.ones(4, 3),))
    value, *_ = gradients(other)
    assert torch.equal(value, mixed(network, other)[0])


@pytest.mark.parametrize("change", ["module", "parameter", "buffer"])
def test_what_is_exchanged_in_the_network_is_seen(change: str) -> None:
    network = built(nn.BatchNorm1d(5)).eval()
    recorded = module.Recorded(lambda network, inputs: [network(inputs)], network)
    inputs = torch.ones(4, 3)
    for _ in range(6):
        recorded(inputs)
    assert all(recorded._recordings.values())
    if change == "module":
        network[2] = nn.Linear(5, 2)
    elif change == "parameter":
        network[2].weight = nn.Parameter(torch.ones(2, 5))
    else:
        network[1].running_mean = torch.full((5,), 3.0)
    for _ in range(6):
        assert torch.equal(recorded(inputs)[0], network(inputs))
    assert all(recorded._recordings.values())


def test_what_depends_on_numbers_stays_eager() -> None:
    def selects(network: nn.Module, batch: Any) -> tuple[Tensor, Metrics]:
        return network(batch[0])[batch[1]].mean(), {}

    gradients = of(built(nn.ReLU()), selects)
    mask = torch.tensor([True, False, False, False])
    for _ in range(6):
        gradients((torch.ones(4, 3), mask))
    assert list(gradients._flat._recordings.values()) == [None]


def test_rows_picked_by_number_are_recorded() -> None:
    def picks(network: nn.Module, batch: Any) -> tuple[Tensor, Metrics]:
        return network(batch[0])[batch[1]].mean(), {}

    network = built(nn.ReLU())
    gradients = of(network, picks)
    inputs = torch.randn(4, 3)
    for row in (0, 1, 2, 3, 1, 2, 0):
        batch = (inputs, torch.tensor([row, 3]))
        assert torch.equal(gradients(batch)[0], picks(network, batch)[0])
    assert is_recorded(gradients)


def test_dicts_are_recorded_by_their_keys() -> None:
    def of_both(network: nn.Module, batch: Any) -> tuple[Tensor, Metrics]:
        return (network(batch[0]["a"]) - network(batch[0]["b"])).sum(), {}

    network = built(nn.Tanh())
    gradients = of(network, of_both)
    one, other = torch.ones(4, 3), torch.full((4, 3), 2.0)
    for _ in range(6):
        expected = gradients(({"a": one, "b": other},))[0]
    assert is_recorded(gradients)
    for _ in range(6):
        assert torch.equal(gradients(({"b": other, "a": one},))[0], expected)
        assert torch.equal(gradients(({"a": other, "b": one},))[0], -expected)
    assert len(gradients._flat._recordings) == 2


def test_a_parameter_without_part_in_the_loss_is_named() -> None:
    gradients = of(built(nn.ReLU()), lambda network, batch: (network[0](batch.inputs).sum(), {}))
    with pytest.raises(ValueError, match=r"^2\.weight has no part in the loss"):
        gradients(batches(1)[0])


class Sum(nn.Module):
    """x * (a + b) + c: autograd gives one gradient for a and b, and an expanded one for c."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Parameter(torch.zeros(3)) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return (x * (self.a + self.b)).sum() + self.c.sum()


def test_gradients_share_no_memory_and_are_laid_out_like_their_parameters() -> None:
    network = Sum()
    gradients = of(network, lambda network, batch: (network(batch[0]), {}))
    x = torch.tensor([1.0, 2.0, 3.0])
    for _ in range(6):
        each = gradients((x,))[2]
        assert len({gradient.data_ptr() for gradient in each}) == 3
        assert [gradient.stride() for gradient in each] == [(1,)] * 3
        assert [gradient.tolist() for gradient in each] == [[1, 2, 3], [1, 2, 3], [1, 1, 1]]


@pytest.mark.parametrize("batch", [(torch.ones(7, 3), 2.0), [torch.ones(7, 3), "text"], (torch.ones(7, 3), {3})])
def test_batches_of_anything_but_trees_stay_eager(batch: Any) -> None:
    def of_first(network: nn.Module, batch: Any) -> tuple[Tensor, Metrics]:
        return network(batch[0]).sum(), {}

    gradients = of(built(nn.ReLU()), of_first)
    assert len(list(map(gradients, [batch] * 10))) == 10
    assert not gradients._flat._recordings


@dataclass(frozen=True)
class Leafy:
    here: Tensor
    absent: Tensor | None
    inner: dict[str, Tensor]


def test_trees_go_in_and_come_out_as_they_are() -> None:
    calls = []

    def turned(network: nn.Module, tree: Leafy, pair: list[Tensor]) -> tuple[Leafy, tuple[Batch, None]]:
        calls.append(1)
        inner = {name: leaf * 2 for name, leaf in tree.inner.items()}
        return Leafy(network(tree.here), None, inner), (Batch(pair[1], (pair[0],), tree.here - 1), None)

    network = built(nn.ReLU())
    function = Recorded(turned, network)
    for number in range(9):
        here = torch.full((4, 3), float(number))
        pair = [here + 1, here + 2]
        found, (batch, nothing) = function(Leafy(here, None, {"a": here, "b": here * 3}), pair)
        assert nothing is None
        assert found.absent is None
        assert torch.equal(found.here, network(here))
        assert found.inner["a"].unique().tolist() == [2.0 * number]
        assert found.inner["b"].unique().tolist() == [6.0 * number]
        assert isinstance(batch, Batch)
        assert batch.inputs.unique().tolist() == [number + 2.0]
        assert batch.state[0].unique().tolist() == [number + 1.0]
    assert len(calls) < 9


def test_what_is_absent_is_part_of_the_form() -> None:
    function = Recorded(lambda _, tree: tree.here if tree.absent is None else tree.absent, built(nn.ReLU()))
    here, other = torch.ones(3), torch.zeros(3)
    for _ in range(6):
        assert torch.equal(function(Leafy(here, None, {})), here)
        assert torch.equal(function(Leafy(here, other, {})), other)
