"""Replay: rollouts in; transitions or sequences out, uniformly or by priority, with n-step rewards."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..envs.contract import EnvSpec
from ..networks.encoder import State
from .arrays import Array, NumPyOps, TorchOps
from .grouped_places import GroupedTransitions
from .history import Digests, History
from .places import Sequences, Starts, Transitions
from .priorities import PrioritySettings
from .ring import Ring, expect_rows, parts_of
from .rollout import Rollout
from .rows import Rows
from .slots import Slots
from .stateful import StateDict, expect_keys
from .storage import Memory, Storage, check_room
from .window import Sample, Window


@dataclass(frozen=True)
class Places:
    """What was drawn, before it is read."""

    index: Tensor  # [N] int64, row * B + environment of the first row, counted from the first row ever added
    weight: tuple[Tensor, ...]  # [N] importance weights; none where all are one
    total: tuple[Tensor, ...]  # [] int64, rows ever added, where a sum must not look further


class ReplayBuffer:
    """Keeps the newest `num_rows` rows of B environments; takes `nbytes` of memory, all at once, when first used.

    `add` takes rollouts that follow each other without a gap: the first observation of one is the last of the one
    before. Of the newest row only the observation is there until the next `add`; it is a successor but never drawn.
    """

    def __init__(
        self,
        capacity: int,
        num_envs: int,
        spec: EnvSpec,
        generator: torch.Generator,
        *,
        state: State = (),
        rollout_rows: int | None = None,
        window: Window | None = None,
        priorities: PrioritySettings | None = None,
        storage: Storage = "device",
        directory: Path | None = None,
        groups: int = 1,
    ) -> None:
        """capacity: transitions over all environments, or those of each group.

        groups: of as many environments, one after another, from each of which as much is drawn; of single rows,
        uniformly.

        state: the encoder's initial state of B environments; rollout_rows: of every rollout to come,
        needed only where there is a state; directory: of mapped files. What is drawn lies on the generator's device.
        ValueError if a sequence does not fit.
        """
        assert rollout_rows or not state
        window = Window() if window is None else window
        self.num_rows, self.num_envs, self.window = max(capacity * groups // num_envs, 1), num_envs, window
        self._generator = generator
        self._is_lone = window.length == 1 and not state  # one transition, and not a sequence
        assert groups == 1 or (self._is_lone and priorities is None)
        if not self._is_lone and self.num_rows < (needed := window.num_rows + (rollout_rows or 0)):
            raise ValueError(
                f"agent.replay_capacity={capacity} keeps {self.num_rows} rows of each environment, but a sequence of "
                f"{window.num_rows} rows and a rollout of {rollout_rows or 0} need {needed}"
            )
        if window.n_step > self.num_rows:
            raise ValueError(
                f"agent.n_step={window.n_step} must be at most the {self.num_rows} rows of each environment that "
                f"agent.replay_capacity={capacity} keeps"
            )
        near, far = Memory("device", generator.device), Memory(storage, generator.device, directory)
        # One more for the newest row's observation, and the older frames of the oldest row's.
        self._rows = Rows(spec, num_envs, self.num_rows + spec.frame_stack, near, far)
        self._stride = rollout_rows if state and rollout_rows else 1  # rows between two that a sequence can begin at
        num_starts = self.num_rows // self._stride
        # The state before each rollout that is still whole.
        self._states = [Ring(far, part.dtype, num_starts, num_envs, *part.shape[1:]) for part in state]
        self._slots = slots = None if priorities is None else Slots(num_starts * num_envs, priorities, generator.device)
        self._starts: Starts
        if groups > 1:
            self._starts = GroupedTransitions(self.num_rows, self._rows.rings["is_first"], near, groups)
        elif self._is_lone:
            self._starts = Transitions(self.num_rows, self._rows.rings["is_first"], near, slots)
        else:
            self._starts = Sequences(window.num_rows, self.num_rows, num_envs, self._stride, slots)
        self._rings = {**self._rows.all_rings, **self._state_rings}
        self.tables: dict[str, Tensor] = {}  # of all rings, once there is anything
        # What `sample` reads, the same memory. Stacks are put together of tensors.
        self._ops = self._rows.rings["is_first"].ops if spec.frame_stack == 1 else TorchOps()
        self._entries: Mapping[str, Array] = {}
        rings = self._rings.values()
        self.nbytes = sum(ring.nbytes for ring in rings) + self._starts.nbytes
        self._needs = [(near, self._starts.nbytes), *((ring.memory, ring.nbytes) for ring in rings)]
        self._capacity = capacity
        self._steps = torch.arange(window.num_rows + 1, device=generator.device).unsqueeze(1) * num_envs
        self._is_allocated = False
        self._digests: tuple[Digests, Digests] = {}, {}  # of rows and states, see History

    def __len__(self) -> int:
        """Transitions that can be drawn, of the group that has fewest; sequences, where those are drawn."""
        return len(self._starts)

    def num_sequences(self) -> int:
        """Rows that a sample can begin at, of each environment; among single rows, fillers too."""
        return self._starts.num_starts

    def add(self, rollout: Rollout) -> None:
        """Store a rollout in place of the oldest rows.

        ValueError, before anything changes, if it is longer than the buffer, or of another form than what is stored.
        """
        time, start = rollout.num_rows, self._starts.total
        if time > self.num_rows:
            raise ValueError(f"agent.replay_capacity: a rollout of {time} rows does not fit into {self.num_rows} rows")
        if self._states and time != self._stride:
            raise ValueError(f"replay: rollouts with a state must all have {self._stride} rows, got {time}")
        self._rows.check(rollout)
        self._allocate()
        if start == 0:
            self._rows.check_stacks(rollout)
        self._starts.add(rollout.is_first)
        self._rows.write(start, rollout)
        for ring, part in zip(self._states, rollout.state, strict=bool(self._states)):
            ring.write(start // self._stride, part.unsqueeze(0))

    def sample(self, batch_size: int, beta: float = 1.0) -> Sample:
        """Draws with replacement, uniformly or by priority; beta: exponent of the importance weights.

        Of groups as much is drawn from each, one group's columns after the other's.
        One row and no recurrent state: transitions. Otherwise sequences, which may span episodes (mask with `valid`,
        reset with `is_first`); where the encoder has a state they begin where a rollout did, with the state it had.
        ValueError if there is nothing yet.
        """
        return self._read(self._entries, self.draw(batch_size, beta), self._ops)

    def draw(self, batch_size: int, beta: float = 1.0) -> Places:
        """What `sample` draws, for `read`."""
        if not len(self):
            raise ValueError("replay: nothing to draw from yet")
        index, weight = self._starts.draw(batch_size, beta, self._generator)
        looks_ahead = self._is_lone and self.window.n_step > 1
        total = (torch.tensor(self._starts.total, device=index.device),) if looks_ahead else ()
        return Places(index, () if weight is None else (weight,), total)

    @property
    def sampled_rows(self) -> int:
        """R of a sample's rollout."""
        return 1 if self._is_lone else self.window.num_rows

    def read(self, tables: Mapping[str, Tensor], places: Places) -> Sample:
        """What lies there: a function of tensors alone, to be recorded within what is made of a sample.

        tables: the buffer's own.
        """
        return self._read(tables, places, TorchOps())

    def _read(self, tables: Mapping[str, Array], places: Places, ops: NumPyOps | TorchOps) -> Sample:
        """tables: tensors, or arrays where `ops` are NumPy's."""
        index, size = places.index, self._rows.size
        weight = places.weight[0] if places.weight else torch.ones(len(index), device=index.device)
        at = (ops.array(index) + ops.array(self._steps)) % size  # [R + 1, N]
        if self.window.n_step == 1:
            rollout = self._rollout(tables, at, index)
            discount = self.window.one_step(rollout.reward, rollout.terminated)
            return Sample(rollout, rollout.reward, discount, None, weight, index)
        if self._is_lone:
            inner = at[:-1]
            reward, discount, count = self.window.sums(
                self._take(tables, "reward", inner),
                self._take(tables, "terminated", inner),
                self._take(tables, "truncated", inner),
                self._take(tables, "is_first", at),
                places.total[0] - index // self.num_envs,
            )
            # A row and its successor, however far apart, as if they were neighbours.
            pair = torch.cat((index.unsqueeze(0), index + count * self.num_envs)).remainder(size)
            return Sample(self._rollout(tables, pair, index), reward, discount, None, weight, index)
        rollout = self._rollout(tables, at, index)
        reward, discount, count = self.window.sums(
            rollout.reward, rollout.terminated, rollout.truncated, rollout.is_first
        )
        successor = count + torch.arange(len(count), device=count.device).unsqueeze(1)
        return Sample(rollout, reward, discount, successor, weight, index)

    def prioritise(self, index: Tensor, priority: Tensor) -> None:
        """Set the priority [N] of what was drawn, by its `index` [N]; passes over what has gone since.

        ValueError, before anything changes, if one is negative, NaN, infinite or too large; or if draws are uniform.
        """
        self._starts.update(index, priority)

    def _rollout(self, tables: Mapping[str, Array], at: Tensor, index: Tensor) -> Rollout:
        """The rows at places [R + 1, N] of the rings, of which the last is only a successor."""
        inner, is_consecutive = at[:-1], self.window.n_step == 1 or not self._is_lone
        return Rollout(
            observation=self._rows.observation(tables, at, is_consecutive),
            is_first=self._take(tables, "is_first", at),
            action=self._take(tables, "action", inner).long(),
            log_prob=None,
            reward=self._take(tables, "reward", inner),
            terminated=self._take(tables, "terminated", inner),
            truncated=self._take(tables, "truncated", inner),
            state=self._state(tables, index) if self._states else (),
            action_mask=self._take(tables, "action_mask", at) if "action_mask" in tables else None,
        )

    def _state(self, tables: Mapping[str, Array], index: Tensor) -> State:
        """Recurrent state before rows [N]."""
        number = index // (self._stride * self.num_envs) * self.num_envs + index % self.num_envs
        place = number % (self.num_rows // self._stride * self.num_envs)
        return tuple(self._take(tables, name, place) for name in self._state_rings)

    def _take(self, tables: Mapping[str, Array], name: str, at: Array) -> Tensor:
        return self._rings[name].take(tables[name], at)

    def state_dict(self) -> StateDict:
        self._allocate()
        total, states = self._starts.total, self._starts.total // self._stride
        first = max(total + 1 - self._rows.length, 0)
        first_state = max(states - self.num_rows // self._stride, 0)
        return {
            "rows": History(first, total, self._rows.read, self._digests[0]),
            "newest": self._rows.newest(total) if total else {},
            "states": None if not self._states else History(first_state, states, self._read_states, self._digests[1]),
            "priorities": None if self._slots is None else self._slots.priorities.state_dict(),
            "counters": {"total": total, **self._form},
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: StateDict) -> None:
        """ValueError, before anything changes, if what it holds has another capacity, shape or type."""
        expect_keys("replay", state, {"rows", "newest", "states", "priorities", "counters", "generator"})
        counters, form = state["counters"], self._form
        expect_keys("replay counters", counters, {"total", *form})
        old, own = (counters["num_rows"], counters["num_envs"]), (self.num_rows, self.num_envs)
        if old != own:
            raise ValueError(
                f"agent.replay_capacity: the checkpoint's replay keeps {old[0]} rows of {old[1]} environments, "
                f"this one {own[0]} of {own[1]}; leave the capacity and env.num_envs as they were"
            )
        for name, value in form.items():
            if counters[name] != value:
                raise ValueError(f"replay: {name} is {counters[name]} in the checkpoint, here {value}")
        rows, states = state["rows"], state["states"]
        expect_rows(self._rows.rings, rows)
        if (states is None) != (not self._states):
            raise ValueError("replay: the checkpoint's recurrent states have other shapes than this encoder's")
        if states is not None:
            expect_rows(self._state_rings, states)
        self._allocate()
        if self._slots is not None:
            self._slots.priorities.load_state_dict(state["priorities"])
        for start, part in parts_of(rows):
            self._rows.write_back(start, part, goes_on=start > rows.first)
        if counters["total"]:
            newest = {name: row.unsqueeze(0) for name, row in state["newest"].items()}
            self._rows.write_back(counters["total"], newest, goes_on=True)
        if states is not None:
            for start, part in parts_of(states):
                for name, ring in self._state_rings.items():
                    ring.write(start, part[name])
        self._starts.load(counters["total"])
        self._digests = dict(rows.digests), {} if states is None else dict(states.digests)
        self._generator.set_state(state["generator"])

    @property
    def _form(self) -> dict[str, int | None]:
        """What has to be as it was for a checkpoint to go on from."""
        by_priority = self._slots is not None
        return {
            "num_rows": self.num_rows,
            "num_envs": self.num_envs,
            "frame_stack": self._rows.num_frames,
            "rollout_rows": self._stride if self._states else None,
            "prioritised_rows": (1 if self._is_lone else self.window.num_rows) if by_priority else None,
        }

    @property
    def _state_rings(self) -> dict[str, Ring]:
        return {f"state.{place}": ring for place, ring in enumerate(self._states)}

    def _read_states(self, start: int, stop: int) -> dict[str, Tensor]:
        return {name: ring.read(start, stop) for name, ring in self._state_rings.items()}

    def check_room(self) -> None:
        """ValueError if there is no room for `nbytes`; else the first use would say so."""
        if not self._is_allocated:
            check_room(self._capacity, self._needs)

    def _allocate(self) -> None:
        """Take the memory, if this is the first use."""
        if not self._is_allocated:
            self.check_room()
            for ring in self._rings.values():
                ring.allocate()
            self._starts.allocate()
            self.tables = {name: ring.table for name, ring in self._rings.items()}
            is_numpy = isinstance(self._ops, NumPyOps)
            self._entries = {name: ring.entries for name, ring in self._rings.items()} if is_numpy else self.tables
            self._is_allocated = True
