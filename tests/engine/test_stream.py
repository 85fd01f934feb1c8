from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from graftwork.engine.stream import Stream, draws


@pytest.fixture(autouse=True)
def global_stream() -> Iterator[None]:
    before = torch.get_rng_state()
    yield
    torch.set_rng_state(before)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(stream: Stream, count: int) -> Tensor:
    with stream:
        return nn.functional.dropout(torch.ones(count))


def test_draws_inside_are_the_generators_and_go_on_each_time() -> None:
    stream, generator = Stream(seeded(3)), seeded(3)
    with stream:
        first = torch.rand(5)
    torch.rand(100)
    with stream:
        second = torch.rand(7)
    assert torch.equal(torch.cat([first, second]), torch.rand(12, generator=generator))


def test_the_global_stream_is_put_back_after_an_error_too() -> None:
    torch.manual_seed(0)
    expected = torch.rand(4)
    torch.manual_seed(0)
    stream = Stream(seeded(3))
    drawn(stream, 9)
    with pytest.raises(RuntimeError), stream:
        torch.rand(2).view(3)
    assert torch.equal(torch.rand(4), expected)
    assert drawn(stream, 9).shape == (9,)


def test_a_restored_stream_draws_the_same() -> None:
    stream, other = Stream(seeded(3)), Stream(seeded(4))
    drawn(stream, 9)
    other.load_state_dict(stream.state_dict())
    assert torch.equal(drawn(stream, 50), drawn(other, 50))
    with pytest.raises(ValueError, match=r"^state of stream: missing \['generator'\], unexpected \['other'\]$"):
        other.load_state_dict({"other": 1})


class Draws(nn.Module):
    draws = True


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.Sequential(nn.Linear(3, 5), nn.ReLU()), False),
        (nn.Sequential(nn.Linear(3, 5), nn.Sequential(nn.Dropout(0.1))), True),
        (nn.Dropout(0.0), False),
        (nn.Dropout2d(0.1), True),
        (nn.AlphaDropout(0.1), True),
        (nn.LSTM(3, 5, 2), False),
        (nn.LSTM(3, 5, 2, dropout=0.1), True),
        (nn.MultiheadAttention(6, 2, dropout=0.1), True),
        (nn.TransformerEncoderLayer(6, 2, 4, dropout=0.0), False),
        (nn.RReLU(), True),
        (nn.Sequential(Draws()), True),
        (nn.ModuleDict({"draws": nn.ReLU(), "dropout": nn.ReLU()}), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_modules_that_draw_are_known(module: nn.Module, expected: bool) -> None:
    assert draws(module) is expected
