"""Uniform replay on one device: rows in a ring, transitions and sequences drawn by index."""

import os
from dataclasses import dataclass
from typing import Any

import gymnasium
import torch
from torch import Tensor

from ..networks.encoder import State
from ..spaces import Observation, map_leaves, tensors_of, zeros
from .rollout import Rollout
from .stateful import StateDict, expect_keys


@dataclass(frozen=True)
class Sample:
    """What was drawn, with the weight of each column and where it came from."""

    rollout: Rollout
    weight: Tensor  # [N] importance weights; ones when drawn uniformly
    index: Tensor  # [N] int64, row * B + environment of the first row


class ReplayBuffer:
    """Keeps the newest `num_rows` rows of B environments; takes `nbytes` of memory, all at once, when first used.

    `add` takes rollouts that follow each other without a gap: the first observation of one is the last of the one
    before. Of the newest row only the observation is there until the next `add`; it is a successor but never drawn.
    """

    def __init__(
        self,
        capacity: int,
        num_envs: int,
        space: gymnasium.Space[Any],
        generator: torch.Generator,
        *,
        state: State = (),
        rollout_rows: int | None = None,
    ) -> None:
        """capacity: transitions over all environments; space: what one environment observes.

        state: the encoder's initial state of B environments; rollout_rows: of every rollout to come,
        needed only where there is a state. Everything lives on the generator's device.
        ValueError if the machine has not got the memory.
        """
        assert rollout_rows or not state
        self.num_rows, self.num_envs = max(capacity // num_envs, 1), num_envs
        self._ring = self.num_rows + 1  # one more for the newest row's observation
        self._stride = rollout_rows if state and rollout_rows else 1  # rows between two that a sequence can begin at
        self._initial_state = state
        self._space, self._generator = space, generator
        self._oldest = self._size = 0
        self._total = 0  # rows ever added
        self._allocate(torch.device("meta"))
        rings = [ring for rows in self._stored.values() for ring in tensors_of(rows).values()]
        self.nbytes = sum(tensor.nbytes for tensor in (*rings, *self._states, self._transitions, self._drawable))
        if generator.device.type == "cpu" and self.nbytes > _memory():
            raise ValueError(
                f"agent.replay_capacity={capacity} needs {self.nbytes / 1e9:.1f} GB of memory, "
                f"this machine has {_memory() / 1e9:.1f} GB"
            )

    def __len__(self) -> int:
        """Transitions that can be drawn."""
        return self._size

    def add(self, rollout: Rollout) -> None:
        """Store a rollout in place of the oldest rows. ValueError if it is longer than the buffer."""
        time, start = rollout.num_rows, self._total % self._ring
        if time > self.num_rows:
            raise ValueError(f"agent.replay_capacity: a rollout of {time} rows does not fit into {self.num_rows} rows")
        if self._states and time != self._stride:
            raise ValueError(f"replay: rollouts with a state must all have {self._stride} rows, got {time}")
        self._use()
        valid = rollout.valid
        # The row after the newest is written over too: its observation becomes the newest successor.
        counts = torch.stack((_read(self._drawable, start, time + 1).sum(), valid.sum()))
        num_expired, num_fresh = counts.tolist()  # the one synchronisation of an `add`
        for name, rows in self._stored.items():
            map_leaves(lambda ring, fresh: _write(ring, start, fresh), rows, getattr(rollout, name))
        _write(self._drawable, start, torch.cat((valid, torch.zeros_like(valid[:1]))))
        size = len(self._transitions)
        fresh = torch.nonzero_static(valid.flatten(), size=num_fresh).squeeze(1) + start * self.num_envs
        _write(self._transitions, (self._oldest + self._size) % size, fresh % size)
        self._oldest = (self._oldest + num_expired) % size
        self._size += num_fresh - num_expired
        for i, states in enumerate(self._states):
            states[(self._total // self._stride) % len(states)] = rollout.state[i]
        self._total += time

    def sample(self, batch_size: int, length: int = 1) -> Sample:
        """Uniform draws with replacement, as a rollout of `length` rows and `batch_size` columns.

        One row: uniform over transitions. Several: uniform over sequences, which may span episodes (mask with `valid`,
        reset with `is_first`); where the encoder has a state they begin where a rollout did, with the state it had.
        """
        if length == 1 and not self._states:
            draw = self._draw(self._size, batch_size)
            index = self._transitions[(draw + self._oldest) % len(self._transitions)]
            state: State = ()
        else:
            row = self._first_row + self._draw(self.num_sequences(length), batch_size) * self._stride
            env = torch.randint(self.num_envs, (batch_size,), generator=self._generator, device=row.device)
            state = tuple(states[(row // self._stride) % len(states), env] for states in self._states)
            index = (row % self._ring) * self.num_envs + env
        steps = torch.arange(length + 1, device=index.device).unsqueeze(1) * self.num_envs
        rows = ((index + steps) % len(self._transitions)).flatten()  # [(length + 1) * N]
        inner = rows[: length * batch_size]

        def gather(ring: Tensor, rows: Tensor) -> Tensor:
            stored = ring.flatten(0, 1)
            return stored.index_select(0, rows).view(-1, batch_size, *stored.shape[1:])

        rollout = Rollout(
            observation=map_leaves(lambda ring: gather(ring, rows), self._observation),
            is_first=gather(self._rows["is_first"], rows),
            action=gather(self._rows["action"], inner),
            log_prob=None,
            reward=gather(self._rows["reward"], inner),
            terminated=gather(self._rows["terminated"], inner),
            truncated=gather(self._rows["truncated"], inner),
            state=state,
        )
        return Sample(rollout, rollout.reward.new_ones(batch_size), index)

    def num_sequences(self, length: int) -> int:
        """Sequences of `length` rows that can be drawn, for each environment."""
        return max((self._total - length - self._first_row) // self._stride + 1, 0)

    def state_dict(self) -> StateDict:
        self._use()
        used = min(self._total + 1, self._ring)
        return {
            "rows": {name: map_leaves(lambda ring: ring[:used], rows) for name, rows in self._stored.items()},
            "states": list(self._states),
            "transitions": _read(self._transitions, self._oldest, self._size),
            "counters": {"total": self._total, "num_rows": self.num_rows, "num_envs": self.num_envs},
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: StateDict) -> None:
        """ValueError, before anything changes, if what it holds has another capacity, shape or type."""
        expect_keys("replay", state, {"rows", "states", "transitions", "counters", "generator"})
        expect_keys("replay rows", state["rows"], set(self._stored))
        expect_keys("replay counters", state["counters"], {"total", "num_rows", "num_envs"})
        old, own = (state["counters"]["num_rows"], state["counters"]["num_envs"]), (self.num_rows, self.num_envs)
        if old != own:
            raise ValueError(
                f"agent.replay_capacity: the checkpoint's replay keeps {old[0]} rows of {old[1]} environments, "
                f"this one {own[0]} of {own[1]}; leave the capacity and env.num_envs as they were"
            )
        for name, rows in self._stored.items():
            saved, ours = _forms(state["rows"][name]), _forms(rows)
            for leaf in {**saved, **ours}:
                if saved.get(leaf) != ours.get(leaf):
                    what = f"{name} {leaf!r}" if leaf else name
                    raise ValueError(
                        f"replay: the checkpoint's {what} has another shape or type than this environment's"
                    )
        if [states.shape for states in state["states"]] != [states.shape for states in self._states]:
            raise ValueError("replay: the checkpoint's recurrent states have other shapes than this encoder's")
        self._use()
        for name, rows in self._stored.items():
            map_leaves(lambda ring, saved: _write(ring, 0, saved), rows, state["rows"][name])
        for target, states in zip(self._states, state["states"], strict=True):
            target.copy_(states)
        transitions = state["transitions"].to(self._transitions.device)
        self._oldest, self._size, self._total = 0, len(transitions), state["counters"]["total"]
        self._transitions[: self._size] = transitions
        self._drawable.fill_(False).view(-1)[transitions] = True
        self._generator.set_state(state["generator"])

    @property
    def _stored(self) -> dict[str, Observation]:
        """All that a rollout brings for each row, by the name it has there."""
        return {"observation": self._observation, **self._rows}

    @property
    def _first_row(self) -> int:
        """The oldest row that a sequence can begin at, counted from the first row ever added."""
        oldest = max(self._total - self.num_rows, 0)
        return -(-oldest // self._stride) * self._stride

    def _draw(self, bound: int, size: int) -> Tensor:
        if bound == 0:
            raise ValueError("replay: nothing to draw from yet")
        return torch.randint(bound, (size,), generator=self._generator, device=self._generator.device)

    def _use(self) -> None:
        """Take the memory, if this is the first use."""
        if self._drawable.is_meta:
            self._allocate(self._generator.device)

    def _allocate(self, device: torch.device) -> None:
        shape = (self._ring, self.num_envs)
        self._observation = zeros(self._space, *shape, device=device)
        self._rows = {
            "is_first": torch.zeros(shape, dtype=torch.bool, device=device),
            "action": torch.zeros(shape, dtype=torch.int64, device=device),
            "reward": torch.zeros(shape, device=device),
            "terminated": torch.zeros(shape, dtype=torch.bool, device=device),
            "truncated": torch.zeros(shape, dtype=torch.bool, device=device),
        }
        self._drawable = torch.zeros(shape, dtype=torch.bool, device=device)
        # Flat indices of the transitions that can be drawn, oldest first from `_oldest`, itself a ring.
        self._transitions = torch.zeros(self._ring * self.num_envs, dtype=torch.int64, device=device)
        # The state before each rollout that is still whole, [rollouts, B, ...].
        num_states = self.num_rows // self._stride
        self._states = tuple(part.new_zeros(num_states, *part.shape, device=device) for part in self._initial_state)


def _read(ring: Tensor, start: int, length: int) -> Tensor:
    """The rows of a ring from `start` on, past its end to its beginning."""
    fit = len(ring) - start
    return ring[start : start + length] if length <= fit else torch.cat((ring[start:], ring[: length - fit]))


def _write(ring: Tensor, start: int, rows: Tensor) -> Tensor:
    """The ring, with the rows written from `start` on, past its end to its beginning."""
    fit = len(ring) - start
    if len(rows) <= fit:
        ring[start : start + len(rows)] = rows
    else:
        ring[start:], ring[: len(rows) - fit] = rows[:fit], rows[fit:]
    return ring


def _forms(rows: Observation) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Shape of a row and type, by leaf."""
    return {name: (leaf.shape[1:], leaf.dtype) for name, leaf in tensors_of(rows).items()}


def _memory() -> int:
    """Bytes of memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
