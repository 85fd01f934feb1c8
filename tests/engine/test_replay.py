"""The replay against a tape whose numbers say their row and environment; every combination: test_replay_model.py."""

import dataclasses
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
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

from graftwork.engine import Priorities, PrioritySettings, ReplayBuffer, Rollout, Sample, Storage, Window, ring, storage
from graftwork.engine.arrays import TorchOps
from graftwork.engine.history import History
from graftwork.envs import EnvSpec
from graftwork.spaces import Observation, map_leaves, rows_of, tensors_of

NUM_ACTIONS = 7


def spec(space: gymnasium.Space[Any], **more: Any) -> EnvSpec:
    return EnvSpec("Tape-v0", space, NUM_ACTIONS, 0, f"Discrete({NUM_ACTIONS})", **more)


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


def parts(value: Any) -> list[Tensor]:
    """The tensors of a sample, in order."""
    if dataclasses.is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return [tensor for part in value.values() for tensor in parts(part)]
    return [value] if isinstance(value, Tensor) else []


def buffer(
    num_rows: int,
    num_envs: int,
    space: gymnasium.Space[Any] = LONE,
    *,
    length: int = 1,
    rollout_rows: int | None = None,
    seed: int = 0,
    priorities: PrioritySettings | None = None,
) -> ReplayBuffer:
    """rollout_rows: with a recurrent state of two parts."""
    state = (torch.zeros(num_envs, 2), torch.zeros(num_envs)) if rollout_rows else ()
    generator = torch.Generator().manual_seed(seed)
    capacity = num_rows * num_envs
    return ReplayBuffer(
        capacity,
        num_envs,
        spec(space),
        generator,
        state=state,
        rollout_rows=rollout_rows,
        window=Window(length),
        priorities=priorities,
    )


def copied(state: Any) -> Any:
    """A state as a checkpoint would give it back: of tensors of its own."""
    if isinstance(state, Tensor):
        return state.clone()
    if isinstance(state, History):
        first = state.first
        rows = {name: tensor.clone() for name, tensor in state.read(first, state.end).items()}
        return History(first, state.end, lambda a, b: {name: row[a - first : b - first] for name, row in rows.items()})
    if isinstance(state, dict):
        return {key: copied(value) for key, value in state.items()}
    return state


def memory(kept: ReplayBuffer) -> int:
    """Bytes of everything that a buffer holds, but the few numbers that its draws are counted with."""
    found: dict[int, int] = {}
    seen: set[int] = set()

    def visit(value: object) -> None:
        if id(value) in seen:
            return
        seen.add(id(value))
        if isinstance(value, Tensor) and not value.is_meta:
            found[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        parts: list[object] = []
        if isinstance(value, dict):
            parts = list(value.values())
        elif isinstance(value, list | tuple):
            parts = list(value)
        elif isinstance(value, np.ndarray):
            parts = [value.base]  # of a tensor's numpy(), that tensor
        elif type(value).__module__.startswith("graftwork.engine"):
            parts = list(vars(value).values())
        for part in parts:
            visit(part)

    for name, value in vars(kept).items():
        if name != "_steps":
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
                assert sample.index.equal(row * num_envs + env)

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
        for length in (1, 3):
            for priorities in (None, PrioritySettings()):
                kept = buffer(5, 2, length=length, priorities=priorities)
                for _ in range(2):  # before it has any memory, and with
                    assert (len(kept), kept.num_sequences()) == (0, 0)
                    with pytest.raises(ValueError, match=r"^replay: nothing to draw from yet$"):
                        kept.sample(4)
                    kept.state_dict()


class TestSequences:
    @settings(max_examples=400)
    @given(histories(), num_envs, st.integers(2, 5), seeds, FORMS)
    def test_without_a_state_they_begin_at_any_row(
        self, history: tuple[int, list[int]], num_envs: int, length: int, seed: int, space: gymnasium.Space[Any]
    ) -> None:
        capacity, lengths = history
        capacity = max(capacity, length)
        kept = buffer(capacity, num_envs, space, length=length)
        tape, total = Tape(sum(lengths), num_envs, seed, space), 0
        for rows in lengths:
            kept.add(tape.rollout(total, rows))
            total += rows
        starts = range(max(total - capacity, 0), total - length + 1)
        assert kept.num_sequences() == len(starts)
        if starts:
            drawn = tape.check(kept.sample(30 * len(starts) * num_envs), length)
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
        capacity, total = rollout_rows + length + extra, rollout_rows * num_rollouts
        kept = buffer(capacity, num_envs, space, length=length, rollout_rows=rollout_rows)
        tape = Tape(total, num_envs, seed, space)
        for start in range(0, total, rollout_rows):
            kept.add(tape.rollout(start, rollout_rows, state=True))
        starts = [row for row in range(0, total, rollout_rows) if row >= total - capacity and row + length <= total]
        assert kept.num_sequences() == len(starts)
        if starts:
            sample = kept.sample(30 * len(starts) * num_envs)
            assert tape.check(sample, length, state=True) == {(row, env) for row in starts for env in range(num_envs)}

    def test_draws_are_uniform(self) -> None:
        tape, kept = Tape(42, 3, seed=4), buffer(29, 3, length=7, rollout_rows=3)
        for start in range(0, 42, 3):
            kept.add(tape.rollout(start, 3, state=True))
        observation = origins(kept.sample(4800)).tolist()
        counts = torch.tensor([observation.count([row, env]) for row in range(15, 36, 3) for env in range(3)])
        # Chi-square of 21 cells, 20 degrees of freedom: 45.31 is exceeded once in 1,000 times.
        assert counts.sum() == 4800
        assert ((counts - 4800 / 21) ** 2 / (4800 / 21)).sum() < 45.31


class TestState:
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
        image = buffer(5, 2, box(2, dtype=np.uint8), rollout_rows=2)
        with pytest.raises(ValueError, match=r"^replay: the checkpoint's observation has another shape or type"):
            image.load_state_dict(state)
        other = ReplayBuffer(
            10, 2, spec(LONE), torch.Generator(), state=(torch.zeros(2, 3), torch.zeros(2)), rollout_rows=2
        )
        with pytest.raises(ValueError, match=r"^replay: the checkpoint's state.0 has another shape or type"):
            other.load_state_dict(state)
        with pytest.raises(ValueError, match=r"^replay: rollout_rows is 2 in the checkpoint, here None$"):
            buffer(5, 2).load_state_dict(state)
        with pytest.raises(ValueError, match=r"^replay: rollout_rows is 2 in the checkpoint, here 3$"):
            buffer(5, 2, rollout_rows=3).load_state_dict(state)

    def test_another_way_to_draw_is_refused_where_priorities_are_of_something_else(self) -> None:
        uniform, settings = buffer(5, 2), PrioritySettings()
        buffer(5, 2, length=3).load_state_dict(uniform.state_dict())  # the rows are the same
        with pytest.raises(ValueError, match=r"^replay: prioritised_rows is None in the checkpoint, here 1$"):
            buffer(5, 2, priorities=settings).load_state_dict(uniform.state_dict())
        by_three = buffer(5, 2, length=3, priorities=settings).state_dict()
        with pytest.raises(ValueError, match=r"^replay: prioritised_rows is 3 in the checkpoint, here 2$"):
            buffer(5, 2, length=2, priorities=settings).load_state_dict(by_three)
        with pytest.raises(ValueError, match=r"^replay: frame_stack is 1 in the checkpoint, here 2$"):
            ReplayBuffer(10, 2, spec(LONE, frame_stack=2), torch.Generator()).load_state_dict(uniform.state_dict())

    def test_another_leaf_is_refused_by_name_and_a_lone_tensor_is_no_tree(self) -> None:
        text = "^replay: the checkpoint's {} has another shape or type than this environment's$"
        others = {
            "observation.deep.1": Dict({"where": box(2), "deep": Tuple([box(3, 1, dtype=np.uint8), box(1)])}),
            "observation.deep.0": Dict({"where": box(2), "deep": Tuple([box(3, 1), Discrete(1000)])}),
            "observation.where": Dict({"there": box(2), "deep": Tuple([box(3, 1, dtype=np.uint8), Discrete(1000)])}),
        }
        for name, space in others.items():
            kept = buffer(5, 2, space)
            with pytest.raises(ValueError, match=text.format(re.escape(name))):
                kept.load_state_dict(buffer(5, 2, TREE).state_dict())
            assert memory(kept) == 0
        with pytest.raises(ValueError, match=text.format("observation")):
            buffer(5, 2, TREE).load_state_dict(buffer(5, 2).state_dict())
        with pytest.raises(ValueError, match=text.format("observation.deep.0")):
            buffer(5, 2).load_state_dict(buffer(5, 2, TREE).state_dict())

    def test_rows_are_handed_out_as_what_grows_at_one_end(self) -> None:
        tape, kept = Tape(20, 2, seed=3), buffer(6, 2)
        digests = kept.state_dict()["rows"].digests
        for start, first in ((0, 0), (5, 4), (10, 9), (15, 14)):  # of 6 rows, and the newest as a successor
            kept.add(tape.rollout(start, 5))
            rows = kept.state_dict()["rows"]
            assert (rows.first, rows.end) == (max(first, 0), start + 5)
            for name, found in rows.read(rows.first, rows.end).items():
                assert found.eq(getattr(tape, name)[rows.first : rows.end]).all()
            assert rows.read(rows.end, rows.end)["action"].shape == (0, 2)
            assert rows.digests is digests
        loaded = buffer(6, 2)
        state = copied(kept.state_dict())
        state["rows"].digests[(9, 12)] = "of another"
        loaded.load_state_dict(state)
        state["rows"].digests.clear()
        assert loaded.state_dict()["rows"].digests == {(9, 12): "of another"}

    def test_rows_are_loaded_in_parts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        tape, kept, loaded = Tape(20, 2, seed=3), buffer(6, 2), buffer(6, 2)
        kept.add(tape.rollout(0, 5))
        kept.add(tape.rollout(5, 5))
        state = copied(kept.state_dict())
        monkeypatch.setattr(ring, "_PART", 2 * 2 * (8 + 1 + 1 + 4 + 2) + 3)  # two rows of two environments
        asked: list[int] = []
        rows = state["rows"]
        state["rows"] = History(
            rows.first, rows.end, lambda start, stop: asked.append(stop - start) or rows.read(start, stop)
        )
        loaded.load_state_dict(state)
        assert max(asked) == 2
        assert loaded.sample(40).index.equal(kept.sample(40).index)

    def test_keys_are_checked(self) -> None:
        for part in (None, "counters"):
            state = buffer(5, 2).state_dict()
            (state if part is None else state[part])["extra"] = 3
            with pytest.raises(ValueError, match=r"unexpected \['extra'\]"):
                buffer(5, 2).load_state_dict(state)


class TestSpeed:
    """What would make a GPU wait for the CPU: a value read, or a result whose size depends on values."""

    @pytest.fixture
    def reads(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
        """The names of such calls, where everything goes the way that it takes on a GPU."""
        found: list[str] = []
        monkeypatch.setattr("graftwork.engine.arrays.NumPyOps", TorchOps)

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
    @pytest.mark.parametrize(
        ("length", "rollout_rows"), [(1, None), (3, None), (3, 3)], ids=["transitions", "sequences", "with a state"]
    )
    def test_adding_transitions_waits_once_and_nothing_else_waits(
        self, length: int, rollout_rows: int | None, space: gymnasium.Space[Any], reads: list[str]
    ) -> None:
        tape, kept = Tape(18, 3, 0, space), buffer(7, 3, space, length=length, rollout_rows=rollout_rows)
        for start in range(0, 18, 3):
            rollout = tape.rollout(start, 3, state=rollout_rows is not None)
            reads.clear()
            kept.add(rollout)
            assert reads == (["numpy", "tolist"] if length == 1 else ["numpy"])  # NumPy looks at a CPU's actions only
        reads.clear()
        kept.sample(20)
        assert reads == []

    @pytest.mark.parametrize("length", [1, 3])
    def test_sums_of_several_rewards_do_not_wait(self, length: int, reads: list[str]) -> None:
        window = Window(length, n_step=3)
        kept = ReplayBuffer(27, 3, spec(LONE), torch.Generator(), window=window)
        kept.add(Tape(9, 3, 0).rollout(0, 9))
        reads.clear()
        kept.sample(20)
        assert reads == []

    @pytest.mark.parametrize("space", [LONE, TREE], ids=["lone", "tree"])
    @pytest.mark.parametrize("window", [Window(), Window(n_step=3), Window(2, 3), Window(4)], ids=str)
    def test_a_sample_is_what_reading_the_tables_gives(self, window: Window, space: gymnasium.Space[Any]) -> None:
        """The one by NumPy, the other by torch, as DQN records it: equal in bits and in strides."""
        generator = torch.Generator().manual_seed(2)
        kept = ReplayBuffer(27, 3, spec(space), generator, window=window)
        for start in range(0, 12, 4):
            kept.add(Tape(12, 3, 0, space).rollout(start, 4))
        state = generator.get_state()
        sample = kept.sample(20)
        generator.set_state(state)
        for one, other in zip(parts(sample), parts(kept.read(kept.tables, kept.draw(20))), strict=True):
            assert (one.dtype, one.stride()) == (other.dtype, other.stride())
            assert one.equal(other)


class TestInput:
    """What cannot be stored is refused with a line, and leaves the buffer as it was."""

    @pytest.mark.parametrize("dtype", [torch.float64, torch.int32, torch.bool, torch.float16, torch.bfloat16])
    def test_a_reward_of_any_type_is_stored(self, dtype: torch.dtype) -> None:
        kept = buffer(7, 2)
        rollout = Tape(7, 2, seed=0).rollout(0, 7)
        reward = torch.arange(14).view(7, 2).to(dtype)
        kept.add(dataclasses.replace(rollout, reward=reward))
        assert kept.state_dict()["rows"].read(0, 7)["reward"].equal(reward.float())

    def test_a_reward_with_a_gradient_is_stored_without_it(self) -> None:
        kept = buffer(7, 2)
        rollout = Tape(7, 2, seed=0).rollout(0, 7)
        kept.add(dataclasses.replace(rollout, reward=rollout.reward.requires_grad_()))
        found = kept.state_dict()["rows"].read(0, 7)["reward"]
        assert not found.requires_grad
        assert found.equal(rollout.reward.detach())

    def refused(self, kept: ReplayBuffer, rollout: Rollout, text: str) -> None:
        before = copied(kept.state_dict())
        with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
            kept.add(rollout)
        after = copied(kept.state_dict())
        assert before["counters"] == after["counters"]
        rows = [state["rows"].read(state["rows"].first, state["rows"].end) for state in (before, after)]
        assert all(rows[0][name].equal(tensor) for name, tensor in rows[1].items())

    def test_a_rollout_longer_than_the_buffer(self) -> None:
        kept = buffer(4, 2)
        text = "agent.replay_capacity: a rollout of 5 rows does not fit into 4 rows"
        self.refused(kept, Tape(5, 2, seed=0).rollout(0, 5), text)

    def test_a_rollout_of_another_length_than_its_states_are_apart(self) -> None:
        tape, kept = Tape(7, 2, seed=0), buffer(6, 2, rollout_rows=3)
        kept.add(tape.rollout(0, 3, state=True))
        self.refused(kept, tape.rollout(3, 4, state=True), "replay: rollouts with a state must all have 3 rows, got 4")

    @pytest.mark.parametrize(
        ("change", "text"),
        [
            (lambda x: x.repeat(1, 1, 2), "replay: observation has shape (4,), was (2,)"),
            (lambda x: x.double(), "replay: observation is of type torch.float64, was torch.float32"),
            (lambda x: {"a": x}, "replay: observation has the entries ['a'], was ['']"),
        ],
    )
    def test_an_observation_that_changes(self, change: Any, text: str) -> None:
        tape, kept = Tape(7, 2, seed=0), buffer(6, 2)
        kept.add(tape.rollout(0, 3))
        rollout = tape.rollout(3, 4)
        self.refused(kept, dataclasses.replace(rollout, observation=change(rollout.observation)), text)

    def test_a_leaf_that_changes_is_named(self) -> None:
        tape, kept = Tape(7, 2, 0, TREE), buffer(6, 2, TREE)
        rollout = tape.rollout(0, 4)
        assert isinstance(rollout.observation, dict)
        rollout.observation["deep.0"] = rollout.observation["deep.0"][..., 0]
        self.refused(kept, rollout, "replay: observation 'deep.0' has shape (3,), was (3, 1)")

    def test_another_number_of_environments(self) -> None:
        self.refused(buffer(6, 2), Tape(4, 3, 0).rollout(0, 4), "replay: a rollout of 3 environments, was 2")

    def test_masks_where_there_are_none_and_none_where_there_are(self) -> None:
        rollout, text = Tape(4, 2, 0).rollout(0, 4), "replay: env.id=Tape-v0 has action masks, a rollout has none"
        self.refused(ReplayBuffer(12, 2, spec(LONE, has_action_mask=True), torch.Generator()), rollout, text)
        masked = dataclasses.replace(rollout, action_mask=torch.ones(5, 2, NUM_ACTIONS, dtype=torch.bool))
        self.refused(buffer(6, 2), masked, "replay: env.id=Tape-v0 has no action masks")

    def test_observations_that_are_not_stacked_as_the_environment_says(self) -> None:
        kept = ReplayBuffer(12, 2, spec(LONE, frame_stack=2), torch.Generator())
        with pytest.raises(
            ValueError, match=r"^replay: env.id=Tape-v0: each observation must be 2 frames along axis 0"
        ):
            kept.add(Tape(4, 2, 0).rollout(0, 4))
        assert len(kept) == 0
        with pytest.raises(ValueError, match=r"^replay: observation has shape \(2,\), which is not 3 frames"):
            ReplayBuffer(12, 2, spec(LONE, frame_stack=3), torch.Generator())

    def test_a_buffer_smaller_than_a_sequence_and_a_rollout(self) -> None:
        text = "keeps 6 rows of each environment, but a sequence of 4 rows and a rollout of 3 need 7"
        state = (torch.zeros(2),)
        for capacity, window in ((13, Window(4)), (13, Window(2, n_step=3)), (14, Window(4))):
            if capacity == 13:
                with pytest.raises(ValueError, match=text):
                    ReplayBuffer(capacity, 2, spec(LONE), torch.Generator(), state=state, rollout_rows=3, window=window)
            else:
                ReplayBuffer(capacity, 2, spec(LONE), torch.Generator(), state=state, rollout_rows=3, window=window)

    @pytest.mark.parametrize("bad", [torch.nan, torch.inf, -1.0])
    def test_a_priority_that_is_none(self, bad: float) -> None:
        kept = buffer(6, 2, priorities=PrioritySettings())
        kept.add(Tape(4, 2, 0).rollout(0, 4))
        before = copied(kept.state_dict()["priorities"])
        with pytest.raises(ValueError, match=r"^replay: a priority is") as caught:
            kept.prioritise(kept.sample(2).index, torch.tensor([1.0, bad]))
        assert "\n" not in str(caught.value)
        assert before["slots"].equal(kept.state_dict()["priorities"]["slots"])

    def test_priorities_where_draws_are_uniform(self) -> None:
        kept = buffer(6, 2)
        kept.add(Tape(4, 2, 0).rollout(0, 4))
        with pytest.raises(ValueError, match=r"^replay: it draws uniformly and has no priorities to set$"):
            kept.prioritise(kept.sample(2).index, torch.ones(2))

    def test_an_action_space_that_is_not_made_of_choices(self) -> None:
        with pytest.raises(ValueError, match=r"needs a Discrete or MultiDiscrete action space, but env.id=X has Box"):
            ReplayBuffer(4, 2, EnvSpec("X", LONE, None, 0, "Box(2)"), torch.Generator())


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
        kept = ReplayBuffer(35, 3, spec(space), torch.Generator(), state=state, rollout_rows=rollout_rows)
        assert memory(kept) == 0  # nothing before it is used
        kept.state_dict()
        assert memory(kept) == kept.nbytes
        # 12 rows of 3: the observation, the action's byte, reward of 4, three flags. Two numbers of 8 bytes for each of
        # 33 transitions, or the state before each of the 11 rows' rollouts, 32 numbers for an environment.
        more = 33 * 16 if rollout_rows is None else 11 // rollout_rows * 3 * 32 * 4
        assert kept.nbytes == 36 * (num_bytes + 1 + 4 + 3) + more

    @pytest.mark.parametrize("length", [1, 2])
    @pytest.mark.parametrize("place", ["device", "pinned", "mapped"])
    def test_nbytes_counts_frames_masks_and_priorities_wherever_they_are(
        self, length: int, place: Storage, tmp_path: Path
    ) -> None:
        branches = EnvSpec("", box(8, 3), None, (0, 0), "", (300, 2), True, 4)
        kept = ReplayBuffer(
            35,
            3,
            branches,
            torch.Generator(),
            window=Window(length),
            priorities=PrioritySettings(),
            storage=place,
            directory=tmp_path,
        )
        kept.state_dict()
        # 11 rows, the newest and 3 of older frames, of 3: a frame [2, 3], masks [2, 300], two actions of two bytes,
        # reward, three flags and an age; and the priorities of 33.
        priorities = Priorities(33, PrioritySettings(), "meta").nbytes
        assert kept.nbytes == memory(kept) == 45 * (24 + 600 + 4 + 4 + 3 + 1) + priorities
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("priorities", [None, PrioritySettings()])
    def test_a_million_atari_frames_take_at_most_7_1_gb(
        self, priorities: PrioritySettings | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(storage, "host_memory", lambda: 8 * 10**9)
        atari = EnvSpec("", box(4, 84, 84, dtype=np.uint8), 18, 0, "Discrete(18)", frame_stack=4)
        for window in (Window(), Window(n_step=3), Window(length=80)):
            kept = ReplayBuffer(1_000_000, 1, atari, torch.Generator(), window=window, priorities=priorities)
            assert 7.056e9 < kept.nbytes <= 7.1e9
            assert memory(kept) <= 1000

    def test_no_rollout_takes_more(self) -> None:
        tape, kept = Tape(30, 3, seed=0), buffer(7, 3, rollout_rows=3)
        for start in range(0, 30, 3):
            kept.add(tape.rollout(start, 3, state=True))
            assert memory(kept) == kept.nbytes

    def test_more_than_the_machine_has_is_refused_before_it_is_taken(self, monkeypatch: pytest.MonkeyPatch) -> None:
        needed = buffer(1000, 2).nbytes
        assert needed == 1001 * 2 * 16 + 2000 * 16
        monkeypatch.setattr(storage, "host_memory", lambda: needed - 1)
        text = "agent.replay_capacity=2000 needs 0.06 MB of memory, this machine has 0.06 MB"
        kept = buffer(1000, 2)  # what only acts needs no room
        for use in (kept.check_room, kept.state_dict):
            with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
                use()
        monkeypatch.setattr(storage, "host_memory", lambda: needed)
        kept.check_room()

    def test_what_is_mapped_asks_the_disk_and_the_rest_the_memory(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        def build() -> ReplayBuffer:
            return ReplayBuffer(1000, 1, spec(box(5)), torch.Generator(), storage="mapped", directory=tmp_path)

        assert build().nbytes == 1001 * 20 + (1001 * 8 + 16000)
        monkeypatch.setattr(storage, "host_memory", lambda: 1001 * 8 + 16000)
        monkeypatch.setattr(storage.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, 1001 * 20))
        build().check_room()
        monkeypatch.setattr(storage.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, 1001 * 20 - 1))
        text = f"agent.replay_capacity=1000 needs 0.02 MB in {tmp_path}, its disk has 0.02 MB free"
        with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
            build().check_room()

    def test_a_directory_that_is_not_there_is_named(self, tmp_path: Path) -> None:
        kept = ReplayBuffer(
            9, 1, spec(LONE), torch.Generator(), storage="mapped", directory=tmp_path / "none" / "at all"
        )
        line = r"^replay: no file of [0-9.]+ MB can be mapped in .*none/at all: "
        with pytest.raises(ValueError, match=line) as caught:
            kept.state_dict()
        assert "\n" not in str(caught.value)

    def test_a_limit_of_the_control_group_counts_as_what_there_is(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        limits = [tmp_path / name for name in ("max", "none", "limit")]
        limits[0].write_text("max\n")
        limits[2].write_text("12345\n")
        monkeypatch.setattr(storage, "_LIMITS", limits[:2])
        assert storage.host_memory() > 10**8
        monkeypatch.setattr(storage, "_LIMITS", limits)
        assert storage.host_memory() == 12345

    def test_capacity_is_shared_by_the_environments(self) -> None:
        kept = ReplayBuffer(35, 3, spec(LONE), torch.Generator())
        assert (kept.num_rows, kept.num_envs) == (11, 3)
