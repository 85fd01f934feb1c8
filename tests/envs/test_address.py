from collections.abc import Callable
from itertools import product
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor

from graftwork.envs import EVALUATION, FRESH, TRAINING, GymnasiumEnvs, episode_seed
from graftwork.envs.contract import EnvStep

Make = Callable[[], gymnasium.Env[Any, Any]]
Open = Callable[..., GymnasiumEnvs]
Actions = Callable[..., list[Tensor]]
Plain = Callable[[EnvStep], tuple[list[Any], ...]]
Op = Tensor | None  # actions to step with; None resets


def perform(envs: GymnasiumEnvs, op: Op) -> EnvStep:
    return envs.reset() if op is None else envs.step(op)


class TestSeeds:
    def test_distinct_addresses_have_distinct_seeds(self) -> None:
        addresses = list(product((0, 1), (TRAINING, EVALUATION, FRESH), range(4), range(100)))
        assert len({episode_seed(*address) for address in addresses}) == len(addresses) == 2400

    def test_a_seed_is_an_int_of_63_bits(self) -> None:
        seeds = [episode_seed(0, 0, 0, episode) for episode in range(200)]
        assert all(type(seed) is int and 0 <= seed < 2**63 for seed in seeds)
        assert max(seeds) > 2**62

    def test_seeds_0_and_1_share_no_episode_of_any_env_or_stream(self, walk: Make, open_envs: Open) -> None:
        seen = []
        for seed, stream in product((0, 1), (TRAINING, EVALUATION, FRESH)):
            envs = open_envs(walk, seed=seed, stream=stream)
            seen += [tuple(row) for _ in range(4) for row in envs.reset().observation.tolist()]
        assert len(set(seen)) == len(seen) == 2 * 3 * 3 * 4

    def test_an_episode_begun_again_alone_is_identical(
        self, walk: Make, open_envs: Open, random_actions: Actions
    ) -> None:
        actions = random_actions(80)
        envs = open_envs(walk, seed=7, stream=EVALUATION)
        rows = [envs.reset(), *(envs.step(action) for action in actions)]
        num_episodes = 0
        for i in range(3):
            episode, env = -1, walk()
            for t, row in enumerate(rows):
                if row.is_first[i]:
                    episode += 1
                    observation, _ = env.reset(seed=episode_seed(7, EVALUATION, i, episode))
                else:
                    observation, reward, terminated, truncated, _ = env.step(np.int64(actions[t - 1][i]))
                    assert row.reward[i] == np.float32(reward)
                    assert (bool(row.terminated[i]), bool(row.truncated[i])) == (terminated, truncated)
                assert row.observation[i].tolist() == observation.tolist()
            num_episodes += episode
        assert num_episodes > 10

    def test_reset_begins_the_episode_asked_for(self, walk: Make, open_envs: Open, plain: Plain) -> None:
        envs = open_envs(walk)
        begun = [plain(envs.reset()) for _ in range(4)]
        assert plain(envs.reset(2)) == begun[2]
        assert plain(envs.reset()) == begun[3]


class TestRestoring:
    @pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
    @pytest.mark.parametrize("autoreset", [True, False], ids=["autoreset", "resting"])
    def test_at_every_cut_it_continues_identically(
        self,
        any_walk: Make,
        open_envs: Open,
        random_actions: Actions,
        plain: Plain,
        autoreset: bool,
        asynchronous: bool,
    ) -> None:
        ops: list[Op] = [None, *random_actions(80)]
        if not autoreset:
            for t in (9, 23, 37, 45, 60, 74):
                ops[t] = None
        envs = open_envs(any_walk, autoreset=autoreset)
        rows, finished, states = [], [], []
        for op in ops:
            rows.append(plain(perform(envs, op)))
            finished.append(envs.finished())
            states.append(envs.state_dict())
        # What makes the cuts hard: resets that are pending, and environments at rest beside others that play.
        ended = [state["ended"] for state in states]
        assert any(any(now) and not all(now) for now in ended)
        assert autoreset or any(all(now) for now in ended)
        assert any(any(terminated) for *_, terminated, _, _ in rows)
        assert any(any(truncated) for *_, truncated, _ in rows)

        other = open_envs(any_walk, autoreset=autoreset, asynchronous=asynchronous)
        for cut, state in enumerate(states):
            other.load_state_dict(state)
            for t in range(cut + 1, min(cut + 26, len(ops))):  # two episodes and more
                assert plain(perform(other, ops[t])) == rows[t], f"cut {cut}, row {t}"
                assert other.finished() == finished[t]

    def test_a_restored_state_is_the_state(self, any_walk: Make, open_envs: Open, random_actions: Actions) -> None:
        envs, other = open_envs(any_walk), open_envs(any_walk)
        envs.reset()
        for action in random_actions(30):
            envs.step(action)
        state = envs.state_dict()
        other.load_state_dict(state)
        restored = other.state_dict()
        assert state.keys() == restored.keys()
        for key in ("episode", "ended", "statistics"):
            assert state[key] == restored[key]
        torch.testing.assert_close(state["observation"], restored["observation"], rtol=0, atol=0)
        for ours, theirs in zip(state["actions"], restored["actions"], strict=True):
            assert ours.equal(theirs)

    def test_before_the_first_reset_it_continues_with_the_first_episode(
        self, walk: Make, open_envs: Open, plain: Plain
    ) -> None:
        envs, other = open_envs(walk), open_envs(walk)
        other.load_state_dict(envs.state_dict())
        assert plain(other.reset()) == plain(envs.reset())

    def test_another_number_of_environments_is_refused(self, walk: Make, open_envs: Open) -> None:
        state = open_envs(walk, 3).state_dict()
        with pytest.raises(ValueError, match=r"^env\.num_envs=2: the checkpoint holds 3 environments$"):
            open_envs(walk, 2).load_state_dict(state)

    def test_actions_given_at_rest_are_not_replayed(self, walk: Make, open_envs: Open, random_actions: Actions) -> None:
        envs = open_envs(walk, autoreset=False)
        envs.reset()
        for action in random_actions(40):
            envs.step(action)
        lengths = [episode.length for episode in envs.finished()]
        assert sorted(len(actions) for actions in envs.state_dict()["actions"]) == sorted(lengths)

    @pytest.mark.parametrize(
        ("num_steps", "lengths"), [(3, [4, 4, 4]), (6, [4, 4])], ids=["leads elsewhere", "ends earlier"]
    )
    def test_an_environment_that_its_seed_does_not_determine_is_warned_of_once(
        self, moody: Make, open_envs: Open, num_steps: int, lengths: list[int]
    ) -> None:
        envs, other = open_envs(moody), open_envs(moody)  # with episodes of 9 and of 4 steps
        actions = torch.zeros(3, dtype=torch.int64)
        envs.reset()
        for _ in range(num_steps):
            envs.step(actions)
        with pytest.warns(UserWarning, match="^Moody: .*not determined by its seed") as caught:
            other.load_state_dict(envs.state_dict())
        assert len(caught) == 1
        for _ in range(11):
            other.step(actions)
        assert [episode.length for episode in other.finished()] == [length for length in lengths for _ in range(3)]
