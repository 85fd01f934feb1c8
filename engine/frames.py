"""Frame stacks by index: each row keeps its newest frame alone, and a stack is put together when it is drawn.

Of k frames along axis 0, oldest first; places before an episode's first frame hold that first frame.
"""

import torch
from torch import Tensor


def newest_frame(stacks: Tensor, k: int) -> Tensor:
    """[T, B, k * C, ...] -> [T, B, C, ...], a view."""
    return stacks[:, :, stacks.shape[2] // k * (k - 1) :]


def frame_ages(is_first: Tensor, before: Tensor | None, k: int) -> Tensor:
    """Rows since the episode's first, but at most k - 1: [T, B] bool -> [T, B] uint8.

    before: [B], that of row 0, where an episode goes on there; None for 0.
    """
    row = torch.arange(len(is_first), device=is_first.device).unsqueeze(1)
    start = torch.where(is_first, row, -k)
    start[0] = 0 if before is None else torch.where(is_first[0], 0, -before.long())
    return (row - start.cummax(0).values).clamp_(max=k - 1).to(torch.uint8)


def frames_back(age: Tensor, k: int) -> Tensor:
    """How many rows back each frame of a stack lies, oldest first: [...] -> [..., k] int64."""
    place = torch.arange(k - 1, -1, -1, device=age.device)
    return torch.minimum(place, age.unsqueeze(-1))


def stacks_of(frames: Tensor, age: Tensor, k: int) -> Tensor:
    """Stacks of R rows that follow each other, from their frames and the k - 1 before: [R + k - 1, N, C, ...], [R, N].

    -> [R, N, k * C, ...]
    """
    rows, columns = age.shape
    row = torch.arange(k - 1, k - 1 + rows, device=age.device).view(-1, 1, 1)
    column = torch.arange(columns, device=age.device).view(1, -1, 1)
    index = (row - frames_back(age, k)) * columns + column
    found = frames.flatten(0, 1).index_select(0, index.flatten())
    return found.view(*index.shape, *frames.shape[2:]).flatten(2, 3)
