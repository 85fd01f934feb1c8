from dataclasses import replace

import torch
from torch import Tensor

from graftwork.engine import Rollout


def rollout() -> Rollout:
    """T=3, B=6; each number says where it stands."""

    def numbers(*shape: int) -> Tensor:
        return torch.arange(torch.Size(shape).numel()).reshape(shape).float()

    return Rollout(
        observation=numbers(4, 6, 7),
        is_first=numbers(4, 6) % 5 == 0,
        action=numbers(3, 6).long(),
        log_prob=-numbers(3, 6),
        reward=numbers(3, 6) / 2,
        terminated=numbers(3, 6) % 4 == 0,
        truncated=numbers(3, 6) % 7 == 0,
        state=(numbers(6, 8), numbers(6, 2) + 0.5),
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


def test_what_is_said_of_rows_does_not_depend_on_the_form_of_observations() -> None:
    lone = rollout()
    tree = replace(lone, observation={"b": torch.zeros(4, 6, 2), "a": torch.zeros(4, 6)})
    assert (tree.num_rows, tree.batch_size) == (3, 6)
    assert tree.valid.equal(lone.valid)
    assert tree.done.equal(lone.done)
