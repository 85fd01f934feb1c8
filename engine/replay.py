"""Uniform replay on one device: rows in a ring, transitions and sequences drawn by index."""

import os
from dataclasses import dataclass

import torch
from torch import Tensor

from .rollout import Rollout, State
from .stateful import StateDict, expect_keys


@dataclass(frozen=True)
class Sample:
    """What was drawn, with the weight of each column and where it came from."""

    rollout: Rollout
    weight: Tensor  # [N] importance weights; ones when drawn uniformly
    index: Tensor  # [N] int64, row * B + environment of the first row


class ReplayBuffer:
    """Keeps the newest `num_rows` rows of B environments; takes `nbytes` of memory, all at once, when first used.

    `add` takes rollouts that follow each other without a gap: the first observation of one is the last of the one before.
    Of the newest row only the observation is there until the next `add`; it is a successor but never drawn itself.
    """

    def __init__(
        self,
        capacity: int,
        num_envs: int,
        observation_shape: tuple[int, ...],
        observation_dtype: torch.dtype,
        generator: torch.Generator,
        *,
        state: State = (),
    ) -> None:
        """capacity: transitions over all environments; state: the encoder's initial state of B environments.

        Everything lives on the generator's device. ValueError if the machine has not got the memory.
        """
        self.num_rows, self.num_envs = max(capacity // num_envs, 1), num_envs
        self._ring = self.num_rows + 1  # one more for the newest row's observation
        self._generator = generator
        self.nbytes = self.bytes_needed(capacity, num_envs, observation_shape, observation_dtype)
        if generator.device.type == "cpu" and self.nbytes > _memory():
            raise ValueError(
                f"agent.replay_capacity={capacity} needs {self.nbytes / 1e9:.1f} GB of memory, "
                f"this machine has {_memory() / 1e9:.1f} GB"
            )
        self._observation_shape, self._observation_dtype = observation_shape, observation_dtype
        self._rows: dict[str, Tensor] = {}  # name -> [ring * B, ...]
        self._oldest = self._size = 0
        self._total = 0  # rows ever added
        self._stride = 0  # rows of each added rollout, where states are kept
        self._states = state
        self._slots: State = ()  # [slots, B, ...], the state before each added rollout

    @staticmethod
    def bytes_needed(
        capacity: int, num_envs: int, observation_shape: tuple[int, ...], observation_dtype: torch.dtype
    ) -> int:
        """Memory that a buffer of this size will take, recurrent states aside."""
        observation = torch.empty(observation_shape, dtype=observation_dtype, device="meta").nbytes
        action, index, reward, flags = 8, 8, 4, 4
        return (max(capacity // num_envs, 1) + 1) * num_envs * (observation + action + index + reward + flags)

    def __len__(self) -> int:
        """Transitions that can be drawn."""
        return self._size

    def add(self, rollout: Rollout) -> None:
        """Store a rollout in place of the oldest rows. ValueError if it is longer than the buffer."""
        if not self._rows:
            self._allocate()
        time, start = rollout.num_rows, self._total % self._ring
        if time > self.num_rows:
            raise ValueError(f"agent.replay_capacity: a rollout of {time} rows does not fit into {self.num_rows} rows")
        rows = (torch.arange(time + 1, device=self._transitions.device) + start) % self._ring
        flat = (rows.unsqueeze(1) * self.num_envs + torch.arange(self.num_envs, device=rows.device)).flatten()
        body = flat[: time * self.num_envs]

        # The row after the newest is written over too: its observation becomes the newest successor.
        expired = self._drawable[flat].sum()
        for name, target in self._rows.items():
            value: Tensor = getattr(rollout, name)
            target[flat if value.shape[0] == time + 1 else body] = value.flatten(0, 1)
        valid = rollout.valid.flatten()
        self._drawable[flat] = False
        self._drawable[body] = valid
        fresh = body[valid]
        num_expired = int(expired)  # the one synchronisation of an `add`
        self._oldest, self._size = self._oldest + num_expired, self._size - num_expired
        slots = (torch.arange(len(fresh), device=fresh.device) + self._oldest + self._size) % len(self._transitions)
        self._transitions[slots] = fresh
        self._size += len(fresh)
        self._oldest %= len(self._transitions)
        self._add_state(rollout)
        self._total += time

    def sample(self, batch_size: int, length: int = 1) -> Sample:
        """Uniform draws with replacement, as a rollout of `length` rows and `batch_size` columns.

        One row: uniform over transitions. Several: uniform over sequences, which may span episodes (mask with `valid`,
        reset with `is_first`); where the encoder has a state they begin where a rollout did, with the state it had.
        """
        if length == 1 and not self._slots:
            draw = self._draw(self._size, batch_size)
            index = self._transitions[(draw + self._oldest) % len(self._transitions)]
            state: State = ()
        else:
            row = self._draw_rows(batch_size, length)
            env = torch.randint(self.num_envs, (batch_size,), generator=self._generator, device=row.device)
            state = tuple(part[(row // self._stride) % len(part), env] for part in self._slots)
            index = (row % self._ring) * self.num_envs + env
        steps = torch.arange(length + 1, device=index.device).unsqueeze(1) * self.num_envs
        rows = (index + steps) % (self._ring * self.num_envs)  # [length + 1, N]

        def gather(name: str, num_rows: int) -> Tensor:
            stored = self._rows[name]
            flat = rows[:num_rows].flatten()
            return stored.index_select(0, flat).view(num_rows, batch_size, *stored.shape[1:])

        rollout = Rollout(
            observation=gather("observation", length + 1),
            is_first=gather("is_first", length + 1),
            action=gather("action", length),
            log_prob=None,
            reward=gather("reward", length),
            terminated=gather("terminated", length),
            truncated=gather("truncated", length),
            state=state,
        )
        return Sample(rollout, rollout.reward.new_ones(batch_size), index)

    def num_sequences(self, length: int) -> int:
        """Sequences of `length` rows that can be drawn, for each environment."""
        stride, oldest = max(self._stride, 1), max(self._total - self.num_rows, 0)
        first = -(-oldest // stride) * stride
        return max((self._total - length - first) // stride + 1, 0)

    def state_dict(self) -> StateDict:
        if not self._rows:
            self._allocate()
        used = min(self._total + 1, self._ring) * self.num_envs
        return {
            "rows": {name: rows[:used] for name, rows in self._rows.items()},
            "transitions": self._transitions[(torch.arange(self._size) + self._oldest) % len(self._transitions)],
            "counters": {"total": self._total, "stride": self._stride},
            "slots": list(self._slots),
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: StateDict) -> None:
        expect_keys("replay", state, {"rows", "transitions", "counters", "slots", "generator"})
        self._allocate()
        expect_keys("replay rows", state["rows"], set(self._rows))
        for name, target in self._rows.items():
            stored: Tensor = state["rows"][name]
            if stored.shape[1:] != target.shape[1:] or len(stored) > len(target):
                raise ValueError(f"replay: the checkpoint's {name} has another shape or capacity; keep both as they were")
            target[: len(stored)] = stored
        transitions = state["transitions"].to(self._transitions.device)
        self._oldest, self._size = 0, len(transitions)
        self._transitions[: self._size] = transitions
        self._drawable[transitions] = True
        self._total, self._stride = state["counters"]["total"], state["counters"]["stride"]
        self._slots = tuple(part.to(self._transitions.device) for part in state["slots"])
        self._generator.set_state(state["generator"])

    def _allocate(self) -> None:
        device, size = self._generator.device, self._ring * self.num_envs
        self._rows = {
            "observation": torch.zeros(size, *self._observation_shape, dtype=self._observation_dtype, device=device),
            "is_first": torch.zeros(size, dtype=torch.bool, device=device),
            "action": torch.zeros(size, dtype=torch.int64, device=device),
            "reward": torch.zeros(size, device=device),
            "terminated": torch.zeros(size, dtype=torch.bool, device=device),
            "truncated": torch.zeros(size, dtype=torch.bool, device=device),
        }
        # Flat indices of the transitions that can be drawn, oldest first from `_oldest`, itself a ring.
        self._transitions = torch.zeros(size, dtype=torch.int64, device=device)
        self._drawable = torch.zeros(size, dtype=torch.bool, device=device)

    def _draw(self, bound: int, size: int) -> Tensor:
        if bound == 0:
            raise ValueError("replay: nothing to draw from yet")
        return torch.randint(bound, (size,), generator=self._generator, device=self._generator.device)

    def _draw_rows(self, batch_size: int, length: int) -> Tensor:
        """First rows of sequences, counted from the first row ever added."""
        stride, oldest = max(self._stride, 1), max(self._total - self.num_rows, 0)
        first = -(-oldest // stride) * stride
        return first + self._draw(self.num_sequences(length), batch_size) * stride

    def _add_state(self, rollout: Rollout) -> None:
        if not self._states:
            return
        if not self._slots:
            self._stride = rollout.num_rows
            slots = self.num_rows // self._stride + 1
            self._slots = tuple(part.new_zeros(slots, *part.shape) for part in self._states)
        if rollout.num_rows != self._stride:
            raise ValueError(f"replay: rollouts with a state must all have {self._stride} rows, got {rollout.num_rows}")
        for slots_, part in zip(self._slots, rollout.state, strict=True):
            slots_[(self._total // self._stride) % len(slots_)] = part


def _memory() -> int:
    """Bytes of memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
