"""MinAtar's Breakout."""

from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from gymnasium.spaces import Box
from pydantic import Field
from torch import Tensor

from .draws import chance
from .game import Game


class Breakout(Game):
    """Breakout on 10x10 cells (Young & Tian 2019), as the package minatar has it; actions are no-op, left and right.

    State, [B, 10] int64: the bricks, a bit for each cell of rows 1 to 3; column, row and direction (1 or -1 along each)
    of the ball; column and row where it was; whether it met a brick at the last step; column of the paddle; the action.
    Observation: [4, 10, 10] bool, planes of paddle, ball, trail and bricks. Difficulty does not ramp in this game.
    An episode's first step, where it is sticky, repeats a no-op.
    """

    sticky_action_prob: Annotated[float, Field(ge=0, le=1)] = (
        0.1  # of repeating the move before; Young & Tian, section 2
    )

    env_id: ClassVar[str] = "graftwork/MinAtarBreakout-v1"
    num_actions: ClassVar[int] = 3
    right: ClassVar[int] = 2  # number of that action
    max_episode_steps: ClassVar[int | None] = None
    num_initial_draws: ClassVar[int] = 1

    @property
    def observation_space(self) -> Box:
        bits: Any = np.bool_  # gymnasium's annotations know only numbers
        return Box(0, 1, (4, _SIZE, _SIZE), bits)

    @property
    def has_chance(self) -> bool:
        return self.sticky_action_prob > 0

    def initial(self, bits: Tensor) -> Tensor:
        # The ball begins at the left, going right, or the other way round; always downwards.
        starts_right = (bits[..., 0] < 0).long()
        column, one, zero = starts_right * _LAST, torch.ones_like(starts_right), torch.zeros_like(starts_right)
        row = one * 3
        parts = (one * _WALL, column, row, 1 - 2 * starts_right, one, column, row, zero, one * 4, zero)
        return torch.stack(parts, -1)

    def step(self, state: Tensor, action: Tensor, bits: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        bricks, x, y, dx, dy, _, _, struck, paddle, last_action = state.unbind(-1)
        if bits is not None:
            action = torch.where(chance(bits, self.sticky_action_prob), last_action, action)
        paddle = torch.add(paddle + (action == self.right), action == _LEFT, alpha=-1).clamp(0, _LAST)
        beyond_x, beyond_y = x + dx, y + dy
        new_x, new_y = beyond_x.clamp(0, _LAST), beyond_y.clamp(min=0)
        at_side, at_top = new_x != beyond_x, new_y != beyond_y
        # Bits of the rows below the bricks are 0, all of them told by the last.
        cell = (new_y * _SIZE + new_x).clamp(max=63)
        meets = bricks >> cell & 1
        # The ball flies through what it meets at the step after a hit.
        hit = meets & (struck ^ 1)
        at_bottom = new_y == _LAST
        bricks = torch.where(at_bottom & (bricks == 0), _WALL, bricks ^ (hit << cell))
        is_above = x == paddle
        returned = at_bottom & (is_above | (new_x == paddle))
        # By the paddle's edge, which the ball only comes to now, it goes back where it came from.
        at_edge = returned > is_above
        bounces = returned | (hit == 1)
        dx = torch.where(at_side ^ at_edge, -dx, dx)
        dy = torch.where(at_top | bounces, -dy, dy)
        new_y = torch.where(bounces, y, new_y)
        state = torch.stack((bricks, new_x, new_y, dx, dy, x, y, meets, paddle, action), -1)
        return state, hit.float(), at_bottom > returned

    def observe(self, state: Tensor) -> Tensor:
        bricks, x, y, _, _, last_x, last_y, _, paddle, _ = state.unbind(-1)
        places = (paddle + 90, torch.add(x, y, alpha=_SIZE) + 100, torch.add(last_x, last_y, alpha=_SIZE) + 200)
        lead = state.shape[:-1]
        planes = state.new_zeros((*lead, 310), dtype=torch.bool).scatter(-1, torch.stack(places, -1), True)
        wall = (bricks.unsqueeze(-1) >> torch.arange(10, 40, device=state.device) & 1).bool()
        below = state.new_zeros((*lead, 60), dtype=torch.bool)
        return torch.cat((planes, wall, below), -1).view(*lead, 4, _SIZE, _SIZE)


class FullBreakout(Breakout):
    """The same with MinAtar's six actions (no-op, left, up, right, down, fire), of which four do nothing."""

    env_id: ClassVar[str] = "graftwork/MinAtarBreakout-v0"
    num_actions: ClassVar[int] = 6
    right: ClassVar[int] = 3


_SIZE = 10
_LAST = _SIZE - 1
_WALL = (1 << 40) - (1 << 10)  # every cell of rows 1 to 3, counted along the rows
_LEFT = 1
