"""The replay against a plain list that keeps every transition by its address."""

import re
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, Tuple
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from graftwork.engine import ReplayBuffer, Rollout, Sample, StateDict, replay
from graftwork.spaces import Observation, map_leaves, rows_of, tensors_of


def box(*shape: int, dtype: type[Any] = np.float32) -> Box:
    return Box(0, 255, shape, dtype)


LONE: gymnasium.Space[Any] = box(2)
TREE: gymnasium.Space[Any] = Dict({"where": box(2), "deep": Tuple([box(3, 1, dtype=np.uint8), Discrete(1000)])})
FORMS = st.sampled_from([LONE, TREE])


class Tape:
    """What B environments did from the beginning; each number says its row and environment."""

    def __init__(self, num_rows: int, num_envs: int, seed: int, space: gymnasium.Space[Any] = LONE) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.num_rows, self.num_envs = num_rows, num_envs
        self.row, self.env = torch.meshgrid(torch.arange(num_rows + 1), torch.arange(num_envs), indexing="ij")
        done = torch.rand(num_rows, num_envs, generator=generator) < torch.rand((), generator=generator)
        self.is_first = torch.zeros(num_rows + 1, num_envs, dtype=torch.bool)
        self.is_first[0] = True
        for t in range(num_rows):  # the row after an end is a filler, and cannot end
            self.is_first[t + 1] = done[t - 1] if t else False
            done[t] &= ~self.is_first[t + 1]
        odd = (self.row[:-1] + self.env[:-1]) % 2 == 1
        self.terminated, self.truncated = done & odd, done & ~odd
        where = torch.stack((self.row, self.env), -1).float()
        number = 5 * self.row + self.env
        image = torch.stack((number, 2 * number, 3 * number), -1).remainder(256).to(torch.uint8).unsqueeze(-1)
        tree = {"deep.0": image, "deep.1": number, "where": where}
        self.observation: Observation = where if space is LONE else tree
        self.action = (3 * self.row[:-1] + self.env[:-1]) % 7
        self.reward = self.row[:-1] + self.env[:-1] / 4

    def state(self, row: Tensor, env: Tensor) -> tuple[Tensor, ...]:
        """Recurrent state before a row, of two parts of different shapes."""
        value = row * 10.0 + env
        return value.unsqueeze(-1).repeat(1, 2), value / 4

    def rollout(self, start: int, num_rows: int, *, state: bool = False) -> Rollout:
        rows, inner = slice(start, start + num_rows + 1), slice(start, start + num_rows)
        return Rollout(
            observation=rows_of(self.observation, rows),
            is_first=self.is_first[rows],
            action=self.action[inner],
            log_prob=None,
            reward=self.reward[inner],
            terminated=self.terminated[inner],
            truncated=self.truncated[inner],
            state=self.state(self.row[start], self.env[start]) if state else (),
        )

    def transitions(self, rows: range) -> list[tuple[int, int]]:
        """Row and environment of each valid transition, in order."""
        return [(t, i) for t in rows for i in range(self.num_envs) if not self.is_first[t + 1, i]]

    def check(self, sample: Sample, length: int, *, state: bool = False) -> set[tuple[int, int]]:
        """Every field of a sample against the tape; (row, environment) of the first rows."""
        rollout = sample.rollout
        first, env = origins(sample).unbind(-1)
        rows = first + torch.arange(length + 1).unsqueeze(1)  # contiguous in time, successors included
        expected = map_leaves(lambda leaf: leaf[rows, env], self.observation)
        torch.testing.assert_close(rollout.observation, expected, rtol=0, atol=0)
        assert rollout.is_first.equal(self.is_first[rows, env])
        for name in ("action", "reward", "terminated", "truncated"):
            assert getattr(rollout, name).equal(getattr(self, name)[rows[:-1], env])
        assert rollout.log_prob is None
        assert len(rollout.state) == (2 if state else 0)
        for ours, theirs in zip(rollout.state, self.state(first, env) if state else (), strict=True):
            assert ours.equal(theirs)
        assert sample.weight.tolist() == [1.0] * len(first)
        return set(zip(first.tolist(), env.tolist(), strict=True))


def origins(sample: Sample) -> Tensor:
    """Row and environment of each column's first row, by what it observed. [N, 2]"""
    named = tensors_of(sample.rollout.observation)
    return named["where" if "where" in named else ""][0].long()


def buffer(
    num_rows: int,
    num_envs: int,
    space: gymnasium.Space[Any] = LONE,
    *,
    rollout_rows: int | None = None,
    seed: int = 0,
) -> ReplayBuffer:
    """rollout_rows: with a recurrent state of two parts."""
    state = (torch.zeros(num_envs, 2), torch.zeros(num_envs)) if rollout_rows else ()
    generator = torch.Generator().manual_seed(seed)
    capacity = num_rows * num_envs
    return ReplayBuffer(capacity, num_envs, space, generator, state=state, rollout_rows=rollout_rows)


def copied(state: Any) -> Any:
    """A state as a checkpoint would give it back: of tensors of its own."""
    if isinstance(state, Tensor):
        return state.clone()
    if isinstance(state, dict):
        return {key: copied(value) for key, value in state.items()}
    return [copied(value) for value in state] if isinstance(state, list) else state


def storage(kept: ReplayBuffer) -> int:
    """Bytes of everything that a buffer holds."""
    found: dict[int, int] = {}

    def visit(value: object) -> None:
        if isinstance(value, Tensor) and not value.is_meta:
            found[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        for part in value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else ():
            visit(part)

    for name, value in vars(kept).items():
        if name != "_initial_state":  # the caller's
            visit(value)
    return sum(found.values())


num_envs = st.integers(1, 3)
num_rows = st.integers(1, 9)
seeds = st.integers(0, 2**20)


@st.composite
def histories(draw: st.DrawFn) -> tuple[int, list[int]]:
    """Rows that a buffer keeps, and of each rollout that it is given."""
    capacity = draw(num_rows)
    return capacity, draw(st.lists(st.integers(1, capacity), min_size=1, max_size=8))


class TestTransitions:
    @settings(max_examples=600)
    @given(histories(), num_envs, seeds, FORMS)
    def test_exactly_the_valid_transitions_of_the_newest_rows_are_drawn(
        self, history: tuple[int, list[int]], num_envs: int, seed: int, space: gymnasium.Space[Any]
    ) -> None:
        capacity, lengths = history
        tape, kept, total = Tape(sum(lengths), num_envs, seed, space), buffer(capacity, num_envs, space), 0
        for length in lengths:
            kept.add(tape.rollout(total, length))
            total += length
            # A row is gone once it is written over, and no sooner; the newest is a successor alone.
            there = tape.transitions(range(max(total - capacity, 0), total))
            assert len(kept) == len(there)
            if there:
                # 30 draws for each: one of at most 27 is missed once in 10^11 times.
                sample = kept.sample(30 * len(there))
                assert tape.check(sample, 1) == set(there)
                row, env = origins(sample).unbind(-1)
                assert sample.index.equal(row % (capacity + 1) * num_envs + env)

    def test_draws_are_uniform(self) -> None:
        tape, kept = Tape(23, 3, seed=4), buffer(12, 3)
        for start, length in ((0, 5), (5, 11), (16, 7)):
            kept.add(tape.rollout(start, length))
        there = tape.transitions(range(11, 23))
        observation = origins(kept.sample(200 * len(there))).tolist()
        counts = torch.tensor([observation.count([row, env]) for row, env in there])
        # Chi-square of 25 cells, 24 degrees of freedom: 51.18 is exceeded once in 1,000 times.
        assert len(there) == 25
        assert ((counts - 200) ** 2 / 200).sum() < 51.18

    def test_nothing_can_be_drawn_from_nothing(self) -> None:
        kept = buffer(5, 2)
        assert (len(kept), kept.num_sequences(1), kept.num_sequences(3)) == (0, 0, 0)
        for length in (1, 3):
            with pytest.raises(ValueError, match=r"^replay: nothing to draw from yet$"):
                kept.sample(4, length)


class TestSequences:
    @settings(max_examples=400)
    @given(histories(), num_envs, st.integers(2, 5), seeds, FORMS)
    def test_without_a_state_they_begin_at_any_row(
        self, history: tuple[int, list[int]], num_envs: int, length: int, seed: int, space: gymnasium.Space[Any]
    ) -> None:
        capacity, lengths = history
        tape, kept, total = Tape(sum(lengths), num_envs, seed, space), buffer(capacity, num_envs, space), 0
        for rows in lengths:
            kept.add(tape.rollout(total, rows))
            total += rows
        starts = range(max(total - capacity, 0), total - length + 1)
        assert kept.num_sequences(length) == len(starts)
        if starts:
            drawn = tape.check(kept.sample(30 * len(starts) * num_envs, length), length)
            assert drawn == {(row, env) for row in starts for env in range(num_envs)}

    @settings(max_examples=500)
    @given(st.integers(1, 4), st.integers(0, 7), st.integers(1, 14), num_envs, st.integers(1, 7), seeds, FORMS)
    def test_with_a_state_they_begin_where_a_rollout_did(
        self,
        rollout_rows: int,
        extra: int,
        num_rollouts: int,
        num_envs: int,
        length: int,
        seed: int,
        space: gymnasium.Space[Any],
    ) -> None:
        capacity, total = rollout_rows + extra, rollout_rows * num_rollouts
        tape, kept = Tape(total, num_envs, seed, space), buffer(capacity, num_envs, space, rollout_rows=rollout_rows)
        for start in range(0, total, rollout_rows):
            kept.add(tape.rollout(start, rollout_rows, state=True))
        starts = [row for row in range(0, total, rollout_rows) if row >= total - capacity and row + length <= total]
        assert kept.num_sequences(length) == len(starts)
        if starts:
            sample = kept.sample(30 * len(starts) * num_envs, length)
            assert tape.check(sample, length, state=True) == {(row, env) for row in starts for env in range(num_envs)}

    def test_draws_are_uniform(self) -> None:
        tape, kept = Tape(42, 3, seed=4), buffer(29, 3, rollout_rows=3)
        for start in range(0, 42, 3):
            kept.add(tape.rollout(start, 3, state=True))
        observation = origins(kept.sample(4800, 7)).tolist()
        counts = torch.tensor([observation.count([row, env]) for row in range(15, 36, 3) for env in range(3)])
        # Chi-square of 21 cells, 20 degrees of freedom: 45.31 is exceeded once in 1,000 times.
        assert counts.sum() == 4800
        assert ((counts - 4800 / 21) ** 2 / (4800 / 21)).sum() < 45.31


class TestState:
    @settings(max_examples=120)
    @given(st.integers(1, 8), st.integers(1, 3), st.integers(0, 9), num_envs, st.booleans(), seeds, FORMS)
    def test_a_restored_buffer_draws_and_forgets_as_before(
        self,
        capacity: int,
        rollout_rows: int,
        num_rollouts: int,
        num_envs: int,
        is_recurrent: bool,
        seed: int,
        space: gymnasium.Space[Any],
    ) -> None:
        rollout_rows = min(rollout_rows, capacity)
        every = rollout_rows if is_recurrent else None
        tape = Tape(rollout_rows * (num_rollouts + 4), num_envs, seed, space)
        one, fresh, used = (buffer(capacity, num_envs, space, rollout_rows=every, seed=k) for k in range(3))
        used.add(Tape(rollout_rows, num_envs, seed + 1, space).rollout(0, rollout_rows, state=is_recurrent))
        starts = iter(range(0, tape.num_rows, rollout_rows))
        for _ in range(num_rollouts):
            one.add(tape.rollout(next(starts), rollout_rows, state=is_recurrent))
            if len(one):
                one.sample(3)
        state: StateDict = copied(one.state_dict())
        fresh.load_state_dict(copied(state))
        used.load_state_dict(state)
        for start in starts:
            for length in (1, 2):
                if not (len(one) and one.num_sequences(length)):
                    continue
                samples = [each.sample(11, length) for each in (one, fresh, used)]
                for sample in samples:
                    tape.check(sample, length, state=is_recurrent)
                    assert sample.index.equal(samples[0].index)
                    assert origins(sample).equal(origins(samples[0]))
            for each in (one, fresh, used):
                each.add(tape.rollout(start, rollout_rows, state=is_recurrent))
            assert len(one) == len(fresh) == len(used)

    @pytest.mark.parametrize(("num_rows", "num_envs", "held"), [(6, 2, "5 rows of 2"), (2, 5, "5 rows of 2")])
    def test_another_capacity_or_number_of_environments_is_refused(
        self, num_rows: int, num_envs: int, held: str
    ) -> None:
        other = buffer(num_rows, num_envs)
        text = f"replay keeps {held} environments, this one {num_rows} of {num_envs};"
        with pytest.raises(ValueError, match=f"^agent.replay_capacity: the checkpoint's {text}") as caught:
            other.load_state_dict(buffer(5, 2).state_dict())
        assert "\n" not in str(caught.value)
        assert len(other) == 0

    def test_another_observation_or_state_is_refused(self) -> None:
        state = buffer(5, 2, rollout_rows=2).state_dict()
        image = buffer(5, 2, box(2, dtype=np.uint8))
        with pytest.raises(ValueError, match=r"^replay: the checkpoint's observation has another shape or type"):
            image.load_state_dict(state)
        with pytest.raises(ValueError, match=r"^replay: the checkpoint's recurrent states have other shapes"):
            buffer(5, 2).load_state_dict(state)
        with pytest.raises(ValueError, match=r"^replay: the checkpoint's recurrent states have other shapes"):
            buffer(5, 2, rollout_rows=5).load_state_dict(state)

    def test_another_leaf_is_refused_by_name_and_a_lone_tensor_is_no_tree(self) -> None:
        text = "^replay: the checkpoint's observation '{}' has another shape or type than this environment's$"
        others = {
            "deep.1": Dict({"where": box(2), "deep": Tuple([box(3, 1, dtype=np.uint8), box(1)])}),
            "deep.0": Dict({"where": box(2), "deep": Tuple([box(3, 1), Discrete(1000)])}),
            "where": Dict({"there": box(2), "deep": Tuple([box(3, 1, dtype=np.uint8), Discrete(1000)])}),
        }
        for name, space in others.items():
            kept = buffer(5, 2, space)
            with pytest.raises(ValueError, match=text.format(re.escape(name))):
                kept.load_state_dict(buffer(5, 2, TREE).state_dict())
            assert storage(kept) == 0
        with pytest.raises(ValueError, match=r"^replay: the checkpoint's observation has another shape or type"):
            buffer(5, 2, TREE).load_state_dict(buffer(5, 2).state_dict())
        with pytest.raises(ValueError, match=text.format("deep.0")):
            buffer(5, 2).load_state_dict(buffer(5, 2, TREE).state_dict())

    def test_a_lone_tensor_is_saved_by_its_own_name_and_leaves_below_it(self) -> None:
        assert isinstance(buffer(5, 2).state_dict()["rows"]["observation"], Tensor)
        assert list(buffer(5, 2, TREE).state_dict()["rows"]["observation"]) == ["deep.0", "deep.1", "where"]

    def test_keys_are_checked(self) -> None:
        for part in (None, "rows", "counters"):
            state = buffer(5, 2).state_dict()
            (state if part is None else state[part])["extra"] = 3
            with pytest.raises(ValueError, match=r"unexpected \['extra'\]"):
                buffer(5, 2).load_state_dict(state)


class TestSpeed:
    """What would make a GPU wait for the CPU: a value read, or a result whose size depends on values."""

    @pytest.fixture
    def reads(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
        """The names of such calls."""
        found: list[str] = []

        class Watch(TorchDispatchMode):
            def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                by_mask = func.__name__ in ("index.Tensor", "index_put_.default") and any(
                    part is not None and part.dtype == torch.bool for part in args[1]
                )
                if by_mask or func.__name__ in ("_local_scalar_dense.default", "nonzero.default"):
                    found.append(func.__name__)
                return func(*args, **(kwargs or {}))

        for name in ("tolist", "cpu", "numpy"):
            original = getattr(Tensor, name)
            monkeypatch.setattr(Tensor, name, lambda x, name=name, f=original: found.append(name) or f(x))
        with Watch():
            yield found

    @pytest.mark.parametrize("space", [LONE, TREE], ids=["lone", "tree"])
    @pytest.mark.parametrize("rollout_rows", [None, 3], ids=["transitions", "with a state"])
    def test_adding_waits_once_and_drawing_never(
        self, rollout_rows: int | None, space: gymnasium.Space[Any], reads: list[str]
    ) -> None:
        tape, kept = Tape(18, 3, 0, space), buffer(7, 3, space, rollout_rows=rollout_rows)
        for start in range(0, 18, 3):
            rollout = tape.rollout(start, 3, state=rollout_rows is not None)
            reads.clear()
            kept.add(rollout)
            assert reads == ["tolist"]
        reads.clear()
        for length in (1, 3):
            kept.sample(20, length)
        assert reads == []


class TestMemory:
    @pytest.mark.parametrize("rollout_rows", [None, 1, 4], ids=str)
    @pytest.mark.parametrize(
        ("space", "num_bytes"),  # of an observation
        [(box(7, 2), 56), (box(7, 2, dtype=np.uint8), 14), (TREE, 3 + 8 + 8)],
        ids=["float32", "uint8", "tree"],
    )
    def test_nbytes_is_what_is_allocated(
        self, rollout_rows: int | None, space: gymnasium.Space[Any], num_bytes: int
    ) -> None:
        state = (torch.zeros(3, 2, 8), torch.zeros(3, 16)) if rollout_rows else ()
        kept = ReplayBuffer(35, 3, space, torch.Generator(), state=state, rollout_rows=rollout_rows)
        assert storage(kept) == 0  # nothing before it is used
        kept.state_dict()
        assert storage(kept) == kept.nbytes
        # 12 rows of 3: the observation, action and index of 8 bytes, reward of 4, four flags; the state before each
        # of the 11 rows' rollouts, 32 numbers for an environment.
        states = 0 if rollout_rows is None else 11 // rollout_rows * 3 * 32 * 4
        assert kept.nbytes == 36 * (num_bytes + 8 + 8 + 4 + 4) + states

    def test_no_rollout_takes_more(self) -> None:
        tape, kept = Tape(30, 3, seed=0), buffer(7, 3, rollout_rows=3)
        for start in range(0, 30, 3):
            kept.add(tape.rollout(start, 3, state=True))
            assert storage(kept) == kept.nbytes

    def test_more_than_the_machine_has_is_refused_before_it_is_taken(self, monkeypatch: pytest.MonkeyPatch) -> None:
        needed = buffer(1000, 2).nbytes
        assert needed == 1001 * 2 * 32
        monkeypatch.setattr(replay, "_memory", lambda: needed - 1)
        text = "agent.replay_capacity=2000 needs 0.0 GB of memory, this machine has 0.0 GB"
        with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
            buffer(1000, 2)
        monkeypatch.setattr(replay, "_memory", lambda: needed)
        buffer(1000, 2)

    def test_a_rollout_longer_than_the_buffer_is_refused(self) -> None:
        kept = buffer(4, 2)
        text = "agent.replay_capacity: a rollout of 5 rows does not fit into 4 rows"
        with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
            kept.add(Tape(5, 2, seed=0).rollout(0, 5))
        assert (len(kept), storage(kept)) == (0, 0)

    def test_a_rollout_of_another_length_than_its_states_are_apart_is_refused(self) -> None:
        tape, kept = Tape(7, 2, seed=0), buffer(6, 2, rollout_rows=3)
        kept.add(tape.rollout(0, 3, state=True))
        before = copied(kept.state_dict())
        with pytest.raises(ValueError, match=r"^replay: rollouts with a state must all have 3 rows, got 4$"):
            kept.add(tape.rollout(3, 4, state=True))
        after = kept.state_dict()
        assert before["rows"]["observation"].equal(after["rows"]["observation"])
        assert before["counters"] == after["counters"]

    def test_capacity_is_shared_by_the_environments(self) -> None:
        kept = ReplayBuffer(35, 3, LONE, torch.Generator())
        assert (kept.num_rows, kept.num_envs) == (11, 3)
