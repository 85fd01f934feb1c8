from dataclasses import fields

import pytest
import torch
from torch import Tensor

from graftwork.engine import Rollout


def rollout(*, log_prob: bool = True, state: bool = True) -> Rollout:
    """T=3, B=6; each number says where it stands."""

    def numbers(*shape: int) -> Tensor:
        return torch.arange(torch.Size(shape).numel()).reshape(shape).float()

    return Rollout(
        observation=numbers(4, 6, 7),
        is_first=numbers(4, 6) % 5 == 0,
        action=numbers(3, 6).long(),
        log_prob=-numbers(3, 6) if log_prob else None,
        reward=numbers(3, 6) / 2,
        terminated=numbers(3, 6) % 4 == 0,
        truncated=numbers(3, 6) % 7 == 0,
        state=(numbers(6, 8), numbers(6, 2) + 0.5) if state else (),
    )


def test_a_row_is_valid_unless_its_successor_begins_an_episode() -> None:
    is_first = torch.tensor([[True, True], [False, True], [True, False], [False, False]])
    nothing = torch.zeros(3, 2)
    made = Rollout(torch.zeros(4, 2, 1), is_first, nothing.long(), None, nothing, nothing > 0, nothing > 0, ())
    assert made.valid.tolist() == [[True, False], [False, True], [True, True]]


def test_done_is_terminated_or_truncated() -> None:
    made = rollout()
    flat = [i for i, done in enumerate(made.done.flatten().tolist()) if done]
    assert flat == [0, 4, 7, 8, 12, 14, 16]


def test_sizes() -> None:
    made = rollout()
    assert (made.num_rows, made.batch_size) == (3, 6)


@pytest.mark.parametrize("log_prob", [True, False])
@pytest.mark.parametrize("state", [True, False])
@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_split_parts_put_together_are_the_whole(size: int, state: bool, log_prob: bool) -> None:
    whole = rollout(log_prob=log_prob, state=state)
    parts = whole.split(size)
    assert [part.batch_size for part in parts] == [size] * (6 // size)
    for field in fields(Rollout):
        value = getattr(whole, field.name)
        pieces = [getattr(part, field.name) for part in parts]
        if field.name == "state":
            assert [len(piece) for piece in pieces] == [len(value)] * len(parts)
            for i, one in enumerate(value):
                assert torch.cat([piece[i] for piece in pieces]).equal(one)
        elif value is None:
            assert pieces == [None] * len(parts)
        else:
            assert torch.cat(pieces, 1).equal(value)


def test_split_into_columns_keeps_rows_together() -> None:
    part = rollout().split(2)[1]  # columns 2 and 3
    assert part.action.tolist() == [[2, 3], [8, 9], [14, 15]]
    assert part.state[1].tolist() == [[4.5, 5.5], [6.5, 7.5]]
