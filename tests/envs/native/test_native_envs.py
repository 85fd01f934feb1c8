"""The contract of vector environments: native ones keep it as GymnasiumEnvs does, which is put to the same tests."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from graftwork.envs import EVALUATION, EnvConfig, EnvStep, GymnasiumEnvs, VectorEnv, env_maker, native_envs
from graftwork.envs.contract import Episode
from graftwork.envs.native import GAMES

B = 3
CARTPOLE, BREAKOUT = "graftwork/CartPole-v1", "graftwork/MinAtarBreakout-v1"

Open = Callable[..., VectorEnv]


def native(env_id: str, num_envs: int = B, seed: int = 0, *, limit: int | None = 7, **options: Any) -> Any:
    config = EnvConfig(id=env_id, max_episode_steps=limit)
    return native_envs(config, num_envs, seed, **options)


def by_gymnasium(env_id: str, num_envs: int = B, seed: int = 0, *, limit: int | None = 7, **options: Any) -> Any:
    return GymnasiumEnvs(env_maker(EnvConfig(id="CartPole-v1", max_episode_steps=limit)), num_envs, seed, **options)


@pytest.fixture(params=["gymnasium", *GAMES])
def open_(request: pytest.FixtureRequest) -> Open:
    """Makes environments whose episodes end after 7 steps, or before."""
    make, env_id = (native, request.param) if request.param in GAMES else (by_gymnasium, "")
    return lambda *arguments, **options: make(env_id, *arguments, **options)


@pytest.fixture(params=GAMES)
def open_native(request: pytest.FixtureRequest) -> Open:
    return lambda *arguments, **options: native(request.param, *arguments, **options)


def random_actions(envs: VectorEnv, num_rows: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    assert envs.spec.num_actions is not None
    return list(torch.randint(envs.spec.num_actions, (num_rows, envs.num_envs), generator=generator))


def played(envs: VectorEnv, num_rows: int) -> list[EnvStep]:
    return [envs.reset(), *(envs.step(action) for action in random_actions(envs, num_rows))]


def same(row: EnvStep, other: EnvStep, env: int | None = None) -> bool:
    """Bit for bit; of one environment, if given."""
    pairs = zip(row[:5], other[:5], strict=True)
    return all(torch.equal(one, two) if env is None else torch.equal(one[env], two[env]) for one, two in pairs)  # type: ignore[arg-type, index]


class TestRows:
    def test_an_end_is_followed_by_the_first_row_of_the_next_episode(self, open_: Open) -> None:
        rows, alone, ends = played(open_(), 60), [open_() for _ in range(60)], 0
        episode = [0] * B
        for before, row in pairwise(rows):
            assert row.is_first.tolist() == (before.terminated | before.truncated).tolist()
            for i in row.is_first.nonzero()[:, 0].tolist():
                episode[i], ends = episode[i] + 1, ends + 1
                assert (row.reward[i], row.terminated[i], row.truncated[i]) == (0, False, False)
                assert torch.equal(row.observation[i], alone[ends].reset(episode[i]).observation[i])  # type: ignore[index]
        assert ends > 10

    def test_the_row_of_an_end_is_its_final_observation(self, open_: Open) -> None:
        """That of environments which rest there instead."""
        rows, resting = played(open_(), 7), played(open_(autoreset=False), 7)
        ended = torch.zeros(B, dtype=torch.bool)
        for row, other in zip(rows, resting, strict=True):
            for i in (~ended).nonzero()[:, 0].tolist():
                assert same(row, other, i)
            ended |= row.terminated | row.truncated
        assert ended.all()

    def test_at_rest_the_final_observation_stays_until_a_reset(self, open_: Open) -> None:
        envs = open_(autoreset=False)
        rows = played(envs, 12)
        final: dict[int, Tensor] = {}
        for row in rows:
            for i in range(B):
                assert bool(row.is_first[i]) == (i in final or row is rows[0])
                if i in final:
                    assert (row.reward[i], row.terminated[i], row.truncated[i]) == (0, False, False)
                    assert torch.equal(row.observation[i], final[i])  # type: ignore[index]
                elif row.terminated[i] or row.truncated[i]:
                    final[i] = row.observation[i]  # type: ignore[index]
        assert len(final) == B
        assert len(envs.finished()) == B
        assert same(envs.reset(), open_(autoreset=False).reset(1))

    def test_types_are_those_of_the_contract(self, open_: Open) -> None:
        envs = open_()
        shape = envs.spec.observation_space.shape
        for row in played(envs, 9):
            assert isinstance(row.observation, Tensor)
            assert row.observation.shape == (B, *(shape or ()))
            assert row.observation.is_contiguous()
            assert (row.reward.dtype, row.reward.shape) == (torch.float32, (B,))
            for flag in (row.terminated, row.truncated, row.is_first):
                assert (flag.dtype, flag.shape) == (torch.bool, (B,))
            assert row.action_mask is None

    def test_earlier_rows_do_not_change(self, open_: Open) -> None:
        envs = open_()
        rows = [envs.reset()]
        then = [EnvStep(*(part.clone() for part in rows[0][:5]))]  # type: ignore[union-attr]
        for action in random_actions(envs, 20):
            rows.append(envs.step(action))
            then.append(EnvStep(*(part.clone() for part in rows[-1][:5])))  # type: ignore[union-attr]
        envs.reset()
        assert all(map(same, rows, then))


class TestEpisodes:
    def test_those_that_finished_are_what_the_rows_say(self, open_: Open) -> None:
        envs, running = open_(), [(0.0, 0)] * B
        expected = []
        for row in played(envs, 60)[1:]:
            for i in range(B):
                return_, length = running[i]
                running[i] = (0.0, 0) if row.is_first[i] else (return_ + row.reward[i].item(), length + 1)
                if row.terminated[i] or row.truncated[i]:
                    expected.append(Episode(*running[i]))
        assert envs.finished() == expected
        assert len(expected) > 10
        assert envs.finished() == []

    def test_a_reset_forgets_those_that_run(self, open_: Open) -> None:
        envs = open_(limit=4)
        envs.reset()
        actions = random_actions(envs, 9)
        for action in actions[:3]:
            assert not envs.step(action).truncated.any()
        envs.reset()
        for action in actions[3:7]:
            row = envs.step(action)
        assert row.truncated.all()
        assert [episode.length for episode in envs.finished()] == [4] * B

    def test_one_can_be_begun_alone(self, open_: Open) -> None:
        envs, alone, other, elsewhere = open_(), open_(), open_(seed=1), open_(stream=EVALUATION)
        for _ in range(5):
            envs.reset()
        rows = [envs.reset(), *(envs.step(action) for action in random_actions(envs, 5))]
        again = [alone.reset(5), *(alone.step(action) for action in random_actions(envs, 5))]
        assert all(map(same, rows, again))
        for differing in (other, elsewhere):
            assert any(not same(one, two) for one, two in zip(rows, [differing.reset(5)] * 6, strict=True))

    def test_all_follow_from_their_address_whatever_came_before(self, open_: Open) -> None:
        envs, alone = open_(), open_()
        played(envs, 33)
        assert same(envs.reset(2), alone.reset(2))

    def test_the_number_of_environments_does_not_matter(self, open_native: Open) -> None:
        few, many = open_native(), open_native(1031)
        actions = random_actions(many, 40)
        rows, others = [few.reset()], [many.reset()]
        for action in actions:
            rows.append(few.step(action[:B]))
            others.append(many.step(action))
        for row, other in zip(rows, others, strict=True):
            assert same(row, EnvStep(*(part[:B] for part in other[:5])))  # type: ignore[index]

    @pytest.mark.parametrize(("limit", "length"), [(5, 5), (None, 200)])
    def test_a_limit_truncates(self, limit: int | None, length: int) -> None:
        envs = native("graftwork/MountainCar-v0", limit=limit)
        envs.reset()
        truncated = [envs.step(torch.tensor([0, 1, 2])).truncated.tolist() for _ in range(length)]
        assert truncated == [[False] * B] * (length - 1) + [[True] * B]

    def test_a_game_without_a_limit_is_never_truncated(self) -> None:
        assert not any(row.truncated.any() for row in played(native(BREAKOUT, limit=None), 50))

    def test_the_last_step_may_terminate_and_truncate(self) -> None:
        """As in gymnasium, where the limit counts steps whatever they come to."""
        envs = native(CARTPOLE, limit=None)
        row = envs.reset()
        steps = 0
        while not row.terminated[0]:
            row, steps = envs.step(torch.zeros(B, dtype=torch.int64)), steps + 1
        again = native(CARTPOLE, limit=steps)
        again.reset()
        for _ in range(steps):
            row = again.step(torch.zeros(B, dtype=torch.int64))
        assert row.terminated[0]
        assert row.truncated[0]

    def test_many_that_nobody_asks_for_are_kept(self) -> None:
        envs = native(CARTPOLE, limit=2)
        played(envs, 1_000)
        assert len(envs.finished()) == B * 333


class TestState:
    def test_restored_at_any_row_it_goes_on_exactly(self, open_: Open) -> None:
        envs = open_()
        actions = random_actions(envs, 24)
        rows, states = [envs.reset()], [envs.state_dict()]
        for action in actions:
            rows.append(envs.step(action))
            states.append(envs.state_dict())
        finished = envs.finished()
        for cut, state in enumerate(states):
            again = open_()
            again.load_state_dict(state)
            for action, row in zip(actions[cut:], rows[cut + 1 :], strict=True):
                assert same(again.step(action), row)
            late = again.finished()
            assert late == finished[len(finished) - len(late) :]

    def test_restored_at_rest_it_rests(self, open_: Open) -> None:
        envs, again = open_(autoreset=False), open_(autoreset=False)
        rows = played(envs, 9)
        again.load_state_dict(envs.state_dict())
        assert same(again.step(random_actions(envs, 1)[0]), rows[-1])
        assert again.finished() == []
        assert same(again.reset(), envs.reset())

    def test_of_nothing_begun_it_begins_with_episode_zero(self, open_: Open) -> None:
        envs, again = open_(), open_()
        again.load_state_dict(envs.state_dict())
        assert same(again.reset(), envs.reset(0))

    def test_of_another_number_is_refused(self, open_: Open) -> None:
        with pytest.raises(ValueError, match=r"^env\.num_envs=2: the checkpoint holds 3 environments$"):
            open_(2).load_state_dict(open_().state_dict())

    def test_with_an_entry_missing_is_refused(self, open_native: Open) -> None:
        state = open_native().state_dict()
        del state["length"]
        with pytest.raises(ValueError, match=r"^state of environments: missing \['length'\]"):
            open_native().load_state_dict(state)


def test_an_observation_shows_the_entries_asked_for() -> None:
    whole, part = (native_envs(EnvConfig(id=CARTPOLE, observe=observe), B, 0) for observe in (None, (0, 2)))
    for row, shown in zip(played(whole, 30), played(part, 30), strict=True):
        assert torch.equal(shown.observation, row.observation[:, [0, 2]])  # type: ignore[arg-type, index, call-overload]
        assert torch.equal(shown.reward, row.reward)
    theirs = GymnasiumEnvs(env_maker(EnvConfig(id="CartPole-v1", observe=(0, 2))), 1, 0)
    assert part.spec.observation_space == theirs.spec.observation_space


@pytest.mark.parametrize(
    ("env_id", "observe", "text"),
    [
        (CARTPOLE, (), r"^env\.observe=\[\]: must name entries from 0 to 3$"),
        (CARTPOLE, (0, 4), r"^env\.observe=\[0, 4\]: must name entries from 0 to 3$"),
        (BREAKOUT, (0,), r"^env\.observe needs a vector observation, but the environment has Box"),
    ],
)
def test_entries_that_are_not_there_are_refused(env_id: str, observe: tuple[int, ...], text: str) -> None:
    with pytest.raises(ValueError, match=text) as caught:
        native_envs(EnvConfig(id=env_id, observe=observe), 1, 0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("autoreset", [True, False])
def test_environments_of_several_seeds_are_those_of_each(open_native: Open, autoreset: bool) -> None:
    seeds = (4, 5, 6)
    together = open_native(2, seeds, autoreset=autoreset)
    assert together.num_envs == 6
    actions = random_actions(together, 40)
    rows = [together.reset(), *(together.step(action) for action in actions)]
    for place, seed in enumerate(seeds):
        envs, own = open_native(2, seed, autoreset=autoreset), slice(2 * place, 2 * place + 2)
        alone = [envs.reset(), *(envs.step(action[own]) for action in actions)]
        assert all(
            torch.equal(part[own], other)
            for row, each in zip(rows, alone, strict=True)
            for part, other in zip(row[:5], each[:5], strict=True)
        )
