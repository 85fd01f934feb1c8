"""What rollouts brought, row by row: a ring for each leaf of the observation and for each other field."""

from collections.abc import Mapping

import torch
from torch import Tensor

from ..envs.contract import EnvSpec
from ..spaces import Observation, leaves, observation_of, tensors_of
from .arrays import Array
from .frames import frame_ages, frames_back, newest_frame, stacks_of
from .ring import Ring
from .rollout import Rollout
from .storage import Memory


class Rows:
    """The newest `length` rows; of stacked frames the newest frame of each row.

    Observations and masks lie in `far` memory, the few bytes of each row that say what it is `near`, on the device.
    """

    def __init__(self, spec: EnvSpec, num_envs: int, length: int, near: Memory, far: Memory) -> None:
        """ValueError if the action space is not made of choices, or an observation not of `frame_stack` frames."""
        self._spec, self._num_envs = spec, num_envs
        self.length, self.size = length, length * num_envs  # rows; places
        self._is_far, self._device = far.is_far, near.device
        self._leaves, self.num_frames = leaves(spec.observation_space), spec.frame_stack
        choices = spec.choices("dqn")
        self._num_actions = max(choices)
        branches = () if spec.branches is None else (len(choices),)

        def ring(memory: Memory, dtype: torch.dtype, *shape: int) -> Ring:
            return Ring(memory, dtype, length, num_envs, *shape)

        self.rings: dict[str, Ring] = {}
        self._observed: dict[str, Ring] = {}  # those of observations, by leaf
        for name, leaf in self._leaves.items():
            shape = leaf.shape
            if self.num_frames > 1:
                if not shape or shape[0] % self.num_frames:
                    raise ValueError(
                        f"replay: {leaf} has shape {shape}, which is not {self.num_frames} frames along axis 0"
                    )
                shape = (shape[0] // self.num_frames, *shape[1:])
            self._observed[name] = self.rings[_of(name)] = ring(far, leaf.dtype, *shape)
        # Of each row that an observation has, the newest included.
        if spec.has_action_mask:
            self.rings["action_mask"] = ring(far, torch.bool, *branches, max(choices))
        self.rings["is_first"] = ring(near, torch.bool)
        self._newest = tuple(self.rings)
        self.rings["action"] = ring(near, _smallest(max(choices)), *branches)
        self.rings["reward"] = ring(near, torch.float32)
        self.rings["terminated"] = ring(near, torch.bool)
        self.rings["truncated"] = ring(near, torch.bool)
        self._others = tuple(name for name in self.rings if not name.startswith("observation"))
        self._ages = ring(near, torch.uint8) if self.num_frames > 1 else None
        self._form: object = None  # of a rollout that was found to fit

    def newest(self, row: int) -> dict[str, Tensor]:
        """What there is of the newest row, [B, ...] each."""
        return {name: self.rings[name].read(row, row + 1)[0] for name in self._newest}

    @property
    def all_rings(self) -> dict[str, Ring]:
        """Those too whose rows follow from the others'."""
        return self.rings if self._ages is None else {**self.rings, "ages": self._ages}

    def check(self, rollout: Rollout) -> None:
        """ValueError, which names the field, for a rollout of another form than the rows kept here."""
        observed = tensors_of(rollout.observation)
        parts = [*observed.values(), rollout.action_mask, *[getattr(rollout, name) for name in self._others]]
        form = *observed, *[part if part is None else (part.shape, part.dtype) for part in parts]
        if form != self._form:
            self._check_form(rollout)
            self._form = form
        self._check_actions(rollout.action)

    def _check_form(self, rollout: Rollout) -> None:
        if rollout.batch_size != self._num_envs:
            raise ValueError(f"replay: a rollout of {rollout.batch_size} environments, was {self._num_envs}")
        observed = tensors_of(rollout.observation)
        if observed.keys() != self._leaves.keys():
            raise ValueError(f"replay: observation has the entries {sorted(observed)}, was {sorted(self._leaves)}")
        for name, leaf in self._leaves.items():
            found = observed[name]
            if found.shape[2:] != leaf.shape:
                raise ValueError(f"replay: {leaf} has shape {tuple(found.shape[2:])}, was {leaf.shape}")
            if found.dtype != leaf.dtype:
                raise ValueError(f"replay: {leaf} is of type {found.dtype}, was {leaf.dtype}")
        if (rollout.action_mask is not None) != self._spec.has_action_mask:
            text = "has action masks, a rollout has none" if self._spec.has_action_mask else "has no action masks"
            raise ValueError(f"replay: env.id={self._spec.id} {text}")
        for name in self._others:
            found, rows = getattr(rollout, name), rollout.num_rows + (name in _WITH_NEWEST)
            if tuple(found.shape) != (expected := (rows, self._num_envs, *self.rings[name].shape[1:])):
                raise ValueError(f"replay: {name} has shape {tuple(found.shape)}, must have {expected}")
            if name not in ("action", "reward") and found.dtype != torch.bool:
                raise ValueError(f"replay: {name} is of type {found.dtype}, must be bool")
        if rollout.action.is_floating_point():
            raise ValueError(f"replay: action is of type {rollout.action.dtype}, must be an integer")

    def _check_actions(self, action: Tensor) -> None:
        if not action.is_cpu:  # its device would have to be waited for
            return
        numbers = action.numpy().reshape(-1)
        if numbers.size:
            # In a third of the time of min() and max().
            least, most = numbers[numbers.argmin()], numbers[numbers.argmax()]
            if not 0 <= least <= most < self._num_actions:
                raise ValueError(f"replay: actions from {least} to {most}, must be 0 to {self._num_actions - 1}")

    def write(self, start: int, rollout: Rollout) -> None:
        """Rows from number `start` on. Of the newest only observation, mask and `is_first` are there."""
        k = self.num_frames
        for name, leaf in tensors_of(rollout.observation).items():
            self._observed[name].write(start, leaf if k == 1 else newest_frame(leaf, k))
        for name in self._others:
            self.rings[name].write(start, getattr(rollout, name))
        if self._ages is not None:
            before = self._ages.read(start, start + 1)[0] if start else None
            self._ages.write(start, frame_ages(rollout.is_first, before, k))

    def read(self, start: int, stop: int) -> dict[str, Tensor]:
        """Rows [start, stop), as `write_back` takes them."""
        return {name: ring.read(start, stop) for name, ring in self.rings.items()}

    def write_back(self, start: int, rows: dict[str, Tensor], goes_on: bool) -> None:
        """goes_on: the row before `start` is here already."""
        for name, found in rows.items():
            self.rings[name].write(start, found)
        if self._ages is not None and len(rows["is_first"]):
            before = (self._ages.read(start - 1, start)[0] + 1).clamp(max=self.num_frames - 1) if goes_on else None
            self._ages.write(start, frame_ages(rows["is_first"].to(self._device), before, self.num_frames))

    def observation(self, tables: Mapping[str, Array], index: Array, is_consecutive: bool) -> Observation:
        """Observations at places of the rings, [R, N] -> [R, N, *obs]. is_consecutive: each row is the next in time.

        tables: of all rings, see Ring.take; of stacked frames they and `index` are tensors.
        """
        k, found = self.num_frames, {}
        if self._ages is None:
            for name, ring in self._observed.items():
                found[name] = ring.take(tables[_of(name)], index)
            observation: Observation = observation_of(found)
            return observation
        age = self._ages.take(tables["ages"], index)
        if is_consecutive and self._is_far:
            # Stacks that follow each other share frames: each goes over to the device once.
            earlier = index[:1] - torch.arange(k - 1, 0, -1, device=index.device).unsqueeze(1) * self._num_envs
            at = torch.cat((earlier, index)).remainder(self.size)
            for name, ring in self._observed.items():
                found[name] = stacks_of(ring.take(tables[_of(name)], at), age, k)
        else:
            at = (index.unsqueeze(-1) - frames_back(age, k) * self._num_envs).remainder(self.size)
            for name, ring in self._observed.items():
                found[name] = ring.take(tables[_of(name)], at).flatten(2, 3)
        observation = observation_of(found)
        return observation

    def check_stacks(self, rollout: Rollout) -> None:
        """ValueError unless the observations of a first rollout can be put together again from their frames."""
        if self._ages is None:
            return
        self.write(0, rollout)
        index = torch.arange((rollout.num_rows + 1) * self._num_envs, device=self._device).view(-1, self._num_envs)
        tables = {name: ring.table for name, ring in self.all_rings.items()}
        found, observed = self.observation(tables, index, True), tensors_of(rollout.observation)
        if not all(leaf.equal(observed[name]) for name, leaf in tensors_of(found).items()):
            raise ValueError(
                f"replay: env.id={self._spec.id}: each observation must be {self.num_frames} frames along axis 0, "
                "oldest first, with an episode's first frame in place of those before it; its observations are not"
            )


_WITH_NEWEST = ("is_first", "action_mask")  # of the newest row too, as observations


def _of(leaf: str) -> str:
    """Name of an observation's leaf among all that a row has."""
    return f"observation.{leaf}" if leaf else "observation"


def _smallest(bound: int) -> torch.dtype:
    """The smallest type that holds the numbers below `bound`."""
    if bound <= 256:
        return torch.uint8
    return next(dtype for dtype in (torch.int16, torch.int32, torch.int64) if bound - 1 <= torch.iinfo(dtype).max)
