from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from graftwork.engine import GradientStep, Microbatches, recorded, transitions
from graftwork.engine import microbatches as module
from graftwork.engine.gradients import Metrics

T, B = 5, 7


def valid_rows() -> Tensor:
    """17 of 35."""
    valid = torch.zeros(T, B, dtype=torch.bool)
    for column, length in enumerate([1, 5, 2, 3, 1, 4, 1]):
        valid[:length, column] = True
    return valid


@pytest.mark.parametrize("size", [4, 17, 20, 50])
def test_each_transition_counts_once_in_microbatches_of_one_size(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ON_CPU", size)
    place = torch.arange((T + 1) * B).view(T + 1, B)  # of every row, the last one, which acts no more, included
    found = list(transitions(valid_rows()))
    assert len(found) == -(-17 // size)
    for each in found:
        assert each.of(place).shape == each.counts.shape == (1, size)
        assert each.of(place.unsqueeze(-1).expand(T + 1, B, 3)).shape == (1, size, 3)
    counted = torch.cat([each.of(place)[each.counts] for each in found])
    assert counted.tolist() == place[:T][valid_rows()].tolist()
    # What fills up is transitions too: a batch norm sees nothing else.
    assert set(torch.cat([each.of(place).flatten() for each in found]).tolist()) == set(counted.tolist())


class Rows(NamedTuple):
    inputs: Tensor  # [N, 3]
    share: Tensor  # [] of one row


def loss(network: nn.Module, rows: Rows) -> tuple[Tensor, Metrics]:
    error = network(rows.inputs).square().sum() * rows.share
    return error, {"error": error.detach()}


def step() -> tuple[nn.Module, GradientStep[Any, Any]]:
    network = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
    generator = torch.Generator().manual_seed(1)
    for parameter in network.parameters():
        nn.init.normal_(parameter, generator=generator)
    return network, GradientStep(loss, network, torch.optim.Adam(network.parameters(), fused=True), max_norm=0.5)


def batch(seed: int) -> Rows:
    return Rows(torch.randn(12, 3, generator=torch.Generator().manual_seed(seed)), torch.tensor(1 / 12))


def in_microbatches(rows: Rows) -> Microbatches[Rows]:
    return Microbatches(lambda: (Rows(part, rows.share) for part in rows.inputs.split(4)))


def test_an_update_in_microbatches_is_that_of_the_batch() -> None:
    (whole, update), (other, update_in_microbatches) = step(), step()
    for seed in range(5):
        expected = update([batch(seed)], 0.01)
        found = update_in_microbatches([in_microbatches(batch(seed))], 0.01)
        assert found.keys() == expected.keys() == {"loss", "error", "gradient_norm"}
        torch.testing.assert_close(found, expected)
    torch.testing.assert_close(other.state_dict(), whole.state_dict())
    assert update_in_microbatches.num_updates == 5


def test_microbatches_recorded_come_to_the_bits_of_eager_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    def weights(eager_first: float) -> tuple[dict[str, Tensor], list[Any]]:
        monkeypatch.setattr(recorded, "_EAGER_FIRST", eager_first)
        network, update = step()
        for seed in range(20):
            update([in_microbatches(batch(seed))], 0.01)
        return network.state_dict(), list(update._gradients._flat._recordings.values())

    (ours, recordings), (theirs, nothing) = weights(5), weights(10**9)
    assert len(recordings) == 1
    assert recordings[0] is not None
    assert nothing == []
    assert all(map(torch.equal, ours.values(), theirs.values()))


def test_layers_are_measured_over_all_microbatches() -> None:
    _, update = step()
    update.examine()
    measured = update([in_microbatches(batch(3))], 0.01)
    _, update = step()
    update.examine()
    expected = update([batch(3)], 0.01)
    assert "activation_mean/1" in expected
    torch.testing.assert_close(measured, expected)


def test_a_part_that_is_not_finite_changes_nothing() -> None:
    network, update = step()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    rows = batch(0)
    rows.inputs[5, 1] = torch.inf
    with pytest.raises(ValueError, match="the last finite weights are kept"):
        update([in_microbatches(rows)], 0.01)
    assert all(map(torch.equal, network.state_dict().values(), before.values()))


def test_microbatches_begin_anew_each_time() -> None:
    batches = Microbatches(partial(iter, [1, 2]))
    assert list(batches) == list(batches) == [1, 2]
