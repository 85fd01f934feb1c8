"""The last few frames as one observation."""

from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from ..spaces import Leaf, leaves
from .arrays import Arrays

Array = npt.NDArray[Any]

MOST_FRAMES = 256  # a replay counts them in a byte


class FrameStack(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Observes the last `num_frames` frames, oldest first, along axis 0; before an episode's first it stands again.

    Of images [H, W], [C, H, W] or [H, W, C] (where C is no larger than H) it makes [num_frames * C, H, W], of a vector
    [F] it makes [num_frames * F], of a number or a choice [num_frames], and so with each entry of a Dict or a Tuple.
    Text is stacked as numbers, see spaces.leaves. Every observation is new memory, and no frame is kept by reference.
    ValueError names the entry whose shape or type is not what its space says.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], num_frames: int) -> None:
        """ValueError for a space that has no leaves, or fewer than one frame, or more than 256."""
        super().__init__(env)
        if num_frames < 1:
            raise ValueError(f"env.frame_stack={num_frames}: must be at least 1")
        if num_frames > MOST_FRAMES:
            raise ValueError(f"env.frame_stack={num_frames}: must be at most {MOST_FRAMES}")
        self.num_frames = num_frames
        self._space = env.observation_space
        self._leaves = list(leaves(self._space).values())
        self._frames: deque[list[Array]] = deque(maxlen=num_frames)  # of each leaf
        self.observation_space = _space_of(self._space, iter([_stacked(leaf, num_frames) for leaf in self._leaves]))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        self._frames.extend([self._frame(observation)] * self.num_frames)
        return self._stack(), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._frames.append(self._frame(observation))
        return self._stack(), reward, terminated, truncated, info

    def _frame(self, observation: Any) -> list[Array]:
        # Copies: an environment may use its memory again.
        return [_frame(leaf, _values(leaf, leaf.find(observation))).copy() for leaf in self._leaves]

    def _stack(self) -> Any:
        return _nested(self._space, iter([np.concatenate(frames) for frames in zip(*self._frames, strict=True)]))


def frames_of(env: gymnasium.Env[Any, Any]) -> int:
    """How many frames of the environment each observation shows: those of a FrameStack, 1 if there is none.

    1 too if a wrapper around the stack makes other observations of it.
    """
    space = env.env.observation_space if isinstance(env, Arrays) else env.observation_space
    while isinstance(env, gymnasium.Wrapper):
        if isinstance(env, FrameStack):
            return env.num_frames if env.observation_space == space else 1
        if isinstance(env, gymnasium.ObservationWrapper) and not isinstance(env, Arrays):
            return 1
        env = env.env
    return 1


def _values(leaf: Leaf, value: Any) -> Array:
    """Of the type of the stacked space."""
    if isinstance(leaf.space, spaces.Text):
        return leaf.array(value)
    dtype: Any = leaf.space.dtype
    return leaf.check(value).astype(dtype, copy=False)


def _frame(leaf: Leaf, values: Array) -> Array:
    """As a part of axis 0."""
    if values.ndim == 0:
        return values[None]
    if isinstance(leaf.space, spaces.Box):
        if values.ndim == 2:
            return values[None]
        if values.ndim == 3 and values.shape[-1] <= values.shape[0]:
            return np.moveaxis(values, -1, 0)
    return values


def _stacked(leaf: Leaf, num_frames: int) -> spaces.Space[Any]:
    """The space of so many frames of a leaf."""

    def repeated(values: Any) -> Array:
        return np.concatenate([_frame(leaf, np.asarray(values))] * num_frames)

    space = leaf.space
    if isinstance(space, spaces.Box):
        return spaces.Box(repeated(space.low), repeated(space.high), dtype=space.dtype.type)
    if isinstance(space, spaces.MultiBinary):
        return spaces.MultiBinary(repeated(np.zeros(space.shape)).shape)
    if isinstance(space, spaces.Discrete):
        sizes, start = np.array(space.n), np.array(space.start)
    elif isinstance(space, spaces.MultiDiscrete):
        sizes, start = space.nvec, space.start
    else:
        assert isinstance(space, spaces.Text)
        sizes, start = np.full(leaf.shape, len(space.character_set) + 1), np.zeros(leaf.shape, np.int64)
    return spaces.MultiDiscrete(repeated(sizes), start=repeated(start))


def _space_of(space: spaces.Space[Any], parts: Iterator[spaces.Space[Any]]) -> spaces.Space[Any]:
    """Nested as `space` is, of the spaces of its leaves in order."""
    if isinstance(space, spaces.Dict):
        # An OrderedDict stays in order: gymnasium sorts the names of another.
        return spaces.Dict(OrderedDict((key, _space_of(part, parts)) for key, part in space.spaces.items()))
    if isinstance(space, spaces.Tuple):
        return spaces.Tuple([_space_of(part, parts) for part in space.spaces])
    return next(parts)


def _nested(space: spaces.Space[Any], values: Iterator[Array]) -> Any:
    """Likewise of values."""
    if isinstance(space, spaces.Dict):
        return {key: _nested(part, values) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_nested(part, values) for part in space.spaces)
    return next(values)
