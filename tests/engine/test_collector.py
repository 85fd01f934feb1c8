"""Collected from three scripted environments, whose observations are (environment, episode, step)."""

from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from itertools import pairwise
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from graftwork.engine import Collector, Rollout, Step
from graftwork.engine import collector as collector_module
from graftwork.envs import GymnasiumEnvs
from graftwork.envs.contract import EnvStep, Episode
from graftwork.spaces import Observation

Envs = Callable[..., GymnasiumEnvs]
Length = Callable[[int, int], int]


def assert_same(one: Rollout, other: Rollout) -> None:
    for field in fields(Rollout):
        torch.testing.assert_close(getattr(one, field.name), getattr(other, field.name), rtol=0, atol=0)


def transitions(rollout: Rollout, env: int) -> list[tuple[int, int]]:
    """(episode, step) of the valid rows of an environment, each checked to be what it should."""
    found = []
    for t in rollout.valid[:, env].nonzero().flatten().tolist():
        (i, episode, step), successor = rollout.observation[t, env].tolist(), rollout.observation[t + 1, env].tolist()
        assert (i, successor) == (env, [env, episode, step + 1])
        assert rollout.action[t, env] == (env + 2 * episode + 3 * step) % 5
        assert rollout.reward[t, env] == 100 * env + 10 * episode + step + 1
        assert bool(rollout.is_first[t, env]) == (step == 0)
        found.append((int(episode), int(step)))
    return found


def expected(length: Length, env: int, episodes: Iterable[int]) -> list[tuple[int, int]]:
    return [(episode, step) for episode in episodes for step in range(length(env, episode))]


class TestRows:
    def test_rollouts_follow_each_other_without_a_gap(self, scripted_envs: Envs, reader: type[Any]) -> None:
        collector = Collector(scripted_envs(), reader(log_prob=True), 5)
        rollouts = [collector.next() for _ in range(8)]
        whole = Collector(scripted_envs(), reader(log_prob=True), 40).next()
        for before, after in pairwise(rollouts):
            assert before.observation[-1].equal(after.observation[0])
            assert before.is_first[-1].equal(after.is_first[0])
        for name in ("action", "log_prob", "reward", "terminated", "truncated", "valid"):
            assert torch.cat([getattr(rollout, name) for rollout in rollouts]).equal(getattr(whole, name))

    def test_every_transition_is_there_once_and_in_order(
        self, scripted_envs: Envs, reader: type[Any], length: Length
    ) -> None:
        collector = Collector(scripted_envs(), reader(), 7)
        rollouts = [collector.next() for _ in range(20)]
        for env in range(3):
            found = [address for rollout in rollouts for address in transitions(rollout, env)]
            assert len(found) > 100
            assert found == expected(length, env, range(200))[: len(found)]

    def test_ends_are_where_the_script_has_them(self, scripted_envs: Envs, reader: type[Any], length: Length) -> None:
        rollout = Collector(scripted_envs(), reader(), 140).next()
        assert rollout.terminated.any()
        assert rollout.truncated.any()
        for env in range(3):
            for t in range(140):
                _, episode, step = (int(value) for value in rollout.observation[t + 1, env])
                ends = step == length(env, episode)
                odd = (env + episode) % 2 == 1
                assert bool(rollout.terminated[t, env]) == (ends and not odd)
                assert bool(rollout.truncated[t, env]) == (ends and odd)
                if ends and t < 139:  # a filler follows
                    assert not rollout.valid[t + 1, env]
                    assert rollout.reward[t + 1, env] == 0
                    assert rollout.is_first[t + 2, env]

    def test_fillers_are_not_counted(self, scripted_envs: Envs, reader: type[Any]) -> None:
        collector = Collector(scripted_envs(), reader(), 10)
        counted = 0
        for _ in range(6):
            rollout = collector.next()
            counted += len([address for env in range(3) for address in transitions(rollout, env)])
            assert collector.num_steps == counted
        assert counted < 180

    def test_state_is_that_before_row_0(self, scripted_envs: Envs, reader: type[Any]) -> None:
        collector = Collector(scripted_envs(), reader(recurrent=True), 5)
        assert collector.next().state[0].tolist() == [[0.0]] * 3
        for _ in range(10):
            rollout = collector.next()
            # The reader's state counts the rows acted on in the episode: as many as steps before the first row; if that
            # row begins an episode, the state is still that of the last one's end.
            steps = rollout.observation[0, :, 2]
            inside = rollout.is_first[0].logical_not()
            assert rollout.state[0][inside, 0].tolist() == steps[inside].tolist()
            assert (rollout.state[0][~inside, 0] > 1).all()

    def test_log_prob_is_there_if_the_agent_gives_it(self, scripted_envs: Envs, reader: type[Any]) -> None:
        assert Collector(scripted_envs(), reader(), 5).next().log_prob is None
        rollout = Collector(scripted_envs(), reader(log_prob=True), 5).next()
        assert rollout.log_prob is not None
        torch.testing.assert_close(rollout.log_prob, -rollout.action / 10)

    def test_each_row_is_acted_on_with_the_mask_that_the_rollout_keeps_of_it(
        self, scripted_envs: Envs, reader: type[Any]
    ) -> None:
        class Masking(GymnasiumEnvs):
            """Allows what the reader takes, and one action more where the step is even."""

            def reset(self, episode: int | None = None) -> EnvStep:
                return self.masked(super().reset(episode))

            def step(self, action: Tensor) -> EnvStep:
                return self.masked(super().step(action))

            def masked(self, row: EnvStep) -> EnvStep:
                return row._replace(action_mask=row.observation[:, 2:] % 2 + torch.arange(2) > 0)

        class Remembering(reader):  # type: ignore[misc, valid-type]
            seen: ClassVar[list[Tensor]] = []

            def act(self, *row: Any, action_mask: Tensor | None = None, **how: Any) -> Step:
                assert action_mask is not None
                self.seen.append(action_mask)
                return super().act(*row, **how)

        def collector() -> Collector:
            envs = scripted_envs()
            envs.__class__ = Masking
            return Collector(envs, Remembering(), 5)

        one, other = collector(), collector()
        rollouts = [one.next() for _ in range(3)]
        masks = torch.cat([rollout.action_mask[:-1] for rollout in rollouts])
        assert torch.stack(Remembering.seen).equal(masks)
        assert masks.any(-1).all()
        assert not masks.all()
        assert rollouts[0].action_mask[-1].equal(rollouts[1].action_mask[0])
        other.load_state_dict(one.state_dict())
        assert_same(other.next(), one.next())

    def test_finished_episodes_are_handed_out_once(
        self, scripted_envs: Envs, reader: type[Any], length: Length
    ) -> None:
        collector = Collector(scripted_envs(1), reader(), 8)
        episodes = []
        for _ in range(5):
            collector.next()
            episodes += collector.finished()
        # With a filler between two, 8 episodes end within 40 rows: after 1, 7, 10, 17, 21, 29, 34 and 36.
        lengths = [length(0, episode) for episode in range(8)]
        assert lengths == [1, 5, 2, 6, 3, 7, 4, 1]
        # Steps 1 to n of episode e pay 10 * e + step.
        assert episodes == [Episode(10.0 * e * n + n * (n + 1) / 2, n) for e, n in enumerate(lengths)]


@pytest.mark.parametrize("num_rows", [6, None], ids=["rows", "whole episodes"])
def test_a_dict_is_collected_as_an_array_is(
    scripted_envs: Envs, reader: type[Any], address: Callable[[Observation], Tensor], num_rows: int | None
) -> None:
    one, other = (
        Collector(scripted_envs(autoreset=num_rows is not None, in_dict=in_dict), reader(), num_rows)
        for in_dict in (False, True)
    )
    for _ in range(9):
        plain, rollout = one.next(), other.next()
        assert isinstance(rollout.observation, dict)
        shapes = {name: leaf.shape for name, leaf in rollout.observation.items()}
        assert shapes == {"step": (rollout.num_rows + 1, 3), "where": (rollout.num_rows + 1, 3, 2)}
        assert_same(plain, replace(rollout, observation=address(rollout.observation)))


class TestWholeEpisodes:
    def test_a_rollout_is_one_whole_episode_of_each_environment(
        self, scripted_envs: Envs, reader: type[Any], length: Length
    ) -> None:
        collector = Collector(scripted_envs(autoreset=False), reader(), None)
        for episode in range(30):
            rollout = collector.next()
            lengths = [length(env, episode) for env in range(3)]
            assert rollout.num_rows == max(lengths)
            for env in range(3):
                assert transitions(rollout, env) == expected(length, env, [episode])
                # The episode, and then nothing.
                assert rollout.valid[:, env].tolist() == [t < lengths[env] for t in range(rollout.num_rows)]
                assert rollout.done[:, env].tolist() == [t == lengths[env] - 1 for t in range(rollout.num_rows)]

    def test_short_episodes_are_not_over_sampled(self, scripted_envs: Envs, reader: type[Any], length: Length) -> None:
        collector = Collector(scripted_envs(autoreset=False), reader(), None)
        for _ in range(28):
            collector.next()
        found = sorted(episode.length for episode in collector.finished())
        # 28 = 4 * 7 episodes of each environment have every length from 1 to 7 four times.
        assert found == sorted(4 * 3 * list(range(1, 8)))
        assert collector.num_steps == sum(found) == 336

    @pytest.mark.parametrize("recurrent", [False, True])
    def test_acting_for_fewer_once_half_of_them_rest_changes_no_transition(
        self, scripted_envs: Envs, reader: type[Any], length: Length, recurrent: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(collector_module, "_FEWEST", 1)
        agent = reader(recurrent=recurrent, log_prob=True)
        act, numbers = agent.act, set()

        def counted(observation: Any, state: Any, is_first: Tensor, **options: Any) -> Any:
            numbers.add(len(is_first))
            assert [len(part) for part in state] == [len(is_first)] * recurrent
            return act(observation, state, is_first, **options)

        agent.act = counted
        collector = Collector(scripted_envs(autoreset=False), agent, None)
        for episode in range(15):
            rollout = collector.next()
            for env in range(3):
                assert transitions(rollout, env) == expected(length, env, [episode])
            assert rollout.log_prob is not None
            assert torch.equal(rollout.log_prob[rollout.valid], -rollout.action[rollout.valid] / 10)
        assert numbers == {1, 3}

    def test_state_is_the_initial_state(self, scripted_envs: Envs, reader: type[Any]) -> None:
        collector = Collector(scripted_envs(autoreset=False), reader(recurrent=True), None)
        for _ in range(3):
            rollout = collector.next()
            assert rollout.state[0].tolist() == [[0.0]] * 3
            assert rollout.is_first[0].all()


class TestState:
    @pytest.mark.parametrize("in_dict", [False, True], ids=["box", "dict"])
    @pytest.mark.parametrize("num_rows", [4, None], ids=["rows", "whole episodes"])
    def test_at_every_cut_it_continues_identically(
        self, scripted_envs: Envs, reader: type[Any], num_rows: int | None, in_dict: bool
    ) -> None:
        def collector() -> Collector:
            envs = scripted_envs(autoreset=num_rows is not None, in_dict=in_dict)
            return Collector(envs, reader(recurrent=True, log_prob=True), num_rows)

        one = collector()
        states, rollouts, steps, finished = [one.state_dict()], [], [], []
        for _ in range(12):
            rollouts.append(one.next())
            steps.append(one.num_steps)
            finished.append(one.finished())
            states.append(one.state_dict())
        mid_episode = [cut for cut, rollout in enumerate(rollouts) if not rollout.done[-1].any()]
        assert mid_episode or num_rows is None

        used = collector()  # which can be put back to any state but the first, when it had not begun
        used.next()
        for cut, state in enumerate(states):
            for other in (collector(), used) if cut else (collector(),):
                other.load_state_dict(state)
                for k in range(cut, 12):
                    assert_same(other.next(), rollouts[k])
                    assert (other.num_steps, other.finished()) == (steps[k], finished[k])

    def test_keys_are_checked(self, scripted_envs: Envs, reader: type[Any]) -> None:
        collector = Collector(scripted_envs(), reader(), 4)
        collector.next()
        state = collector.state_dict()
        del state["row"]
        with pytest.raises(ValueError, match=r"collector: missing \['row'\]"):
            collector.load_state_dict(state)


def test_a_rollout_holds_no_view_of_anything_that_changes(scripted_envs: Envs, reader: type[Any]) -> None:
    collector = Collector(scripted_envs(), reader(recurrent=True, log_prob=True), 5)
    rollout = collector.next()
    before: dict[str, Tensor] = {
        name: getattr(rollout, name).clone() for name in ("observation", "is_first", "action", "reward", "terminated")
    }
    collector.next()
    for name, value in before.items():
        assert getattr(rollout, name).equal(value)
