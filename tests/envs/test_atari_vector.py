from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from graftwork.envs import AtariVectorEnvs, EnvConfig, EnvStep, GymnasiumEnvs, atari, env_maker
from graftwork.spaces import first_leaf

pytest.importorskip("ale_py", reason="needs the extra atari")
pytest.importorskip("cv2", reason="needs the extra atari")

MACHADO, NOFRAMESKIP = "atari-machado", "atari-noframeskip"
B = 2


def config(game: str, protocol: str, **fields: Any) -> EnvConfig:
    return EnvConfig.model_validate({"id": f"ALE/{game}-v5", "protocol": protocol, **fields})


def random_actions(num_rows: int, num_actions: int | None, num_envs: int = B) -> Tensor:
    assert num_actions is not None
    return torch.randint(num_actions, (num_rows, num_envs), generator=torch.Generator().manual_seed(1))


def assert_same(row: EnvStep, other: EnvStep) -> None:
    for name, tensor, expected in zip(EnvStep._fields, row, other, strict=True):
        if isinstance(tensor, Tensor):
            assert tensor.dtype == expected.dtype, name
            assert torch.equal(tensor, expected), name
        else:
            assert tensor is expected is None


@pytest.fixture
def without_no_ops(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their number comes from a stream of ale-py's own."""
    protocol = replace(atari.PROTOCOLS["atari-noframeskip"], no_ops=0)
    monkeypatch.setitem(atari.PROTOCOLS, "atari-noframeskip", protocol)


@pytest.fixture
def open_vector() -> Iterator[Callable[..., AtariVectorEnvs]]:
    opened = []

    def open_(config: EnvConfig, num_envs: int = B, seed: int = 0, **options: Any) -> AtariVectorEnvs:
        opened.append(AtariVectorEnvs(config, num_envs, seed, **options))
        return opened[-1]

    yield open_
    for envs in opened:
        envs.close()


@pytest.mark.parametrize(
    ("game", "protocol", "training", "rows", "fields"),
    [
        ("Breakout", MACHADO, True, 200, {}),
        ("Breakout", MACHADO, False, 200, {"frame_stack": 1}),
        ("MsPacman", MACHADO, True, 100, {"max_episode_steps": 80, "frame_stack": 3}),
        ("MsPacman", NOFRAMESKIP, True, 250, {}),  # has no FIRE, which ale-py holds for another number of frames
        ("MsPacman", NOFRAMESKIP, False, 220, {"max_episode_steps": 210}),
    ],
)
@pytest.mark.usefixtures("without_no_ops")
def test_rows_are_those_of_gymnasiums_environments(
    game: str,
    protocol: str,
    training: bool,
    rows: int,
    fields: dict[str, Any],
    open_vector: Callable[..., AtariVectorEnvs],
) -> None:
    made = config(game, protocol, **fields)
    ours = open_vector(made, training=training, autoreset=training)
    theirs = GymnasiumEnvs(env_maker(made, training=training), B, 0, autoreset=training)
    assert ours.spec == theirs.spec
    assert_same(ours.reset(), theirs.reset())
    ends = 0
    for action in random_actions(rows, ours.spec.num_actions):
        row = ours.step(action)
        ends += int((row.terminated | row.truncated).sum())
        assert_same(row, theirs.step(action))
    assert ends
    assert ours.finished() == theirs.finished()


def test_an_episode_can_be_begun_alone(open_vector: Callable[..., AtariVectorEnvs]) -> None:
    made = config("Breakout", MACHADO, max_episode_steps=8)
    envs, alone, other = open_vector(made), open_vector(made), open_vector(made, seed=1)
    actions = random_actions(16, envs.spec.num_actions)
    envs.reset()
    rows = [envs.step(action) for action in actions]
    assert rows[8].is_first.all()  # of episode 1
    assert_same(alone.reset(1), rows[8])
    other.reset(1)
    differs = False
    for action, row in zip(actions[9:], rows[9:], strict=True):
        assert_same(alone.step(action), row)
        differs |= not torch.equal(first_leaf(other.step(action).observation), first_leaf(row.observation))
    assert differs


@pytest.mark.parametrize(("protocol", "num_rows"), [(MACHADO, 170), (NOFRAMESKIP, 150)])
def test_state_restored_at_any_row_goes_on_exactly(
    protocol: str, num_rows: int, open_vector: Callable[..., AtariVectorEnvs]
) -> None:
    made = config("Breakout", protocol)
    envs = open_vector(made)
    actions = random_actions(num_rows, envs.spec.num_actions)
    envs.reset()
    rows, states, cuts = [], {}, {140}
    for number, action in enumerate(actions):
        row = envs.step(action)
        rows.append(row)
        if (row.terminated | row.truncated)[0] and len(cuts) == 1:
            cuts |= {number, number + 1}  # between its end and the next one's beginning, and thereafter
        if number in cuts:
            states[number] = envs.state_dict()
    finished = envs.finished()
    assert len(states) == 3
    for number, state in states.items():
        again = open_vector(made)
        again.load_state_dict(state)
        for action, row in zip(actions[number + 1 :], rows[number + 1 :], strict=True):
            assert_same(again.step(action), row)
        late = again.finished()
        assert late == finished[len(finished) - len(late) :]


def test_what_is_restored_is_only_what_runs(open_vector: Callable[..., AtariVectorEnvs]) -> None:
    made = config("MsPacman", MACHADO, max_episode_steps=9)
    envs = open_vector(made)
    assert open_vector(made).load_state_dict(envs.state_dict()) is None  # of nothing begun
    envs.reset()
    for action in random_actions(25, envs.spec.num_actions):
        envs.step(action)
    state = envs.state_dict()
    assert max(map(len, state["actions"])) <= 9
    with pytest.raises(ValueError, match=r"^env\.num_envs=3: the checkpoint holds 2 environments$"):
        open_vector(made, 3).load_state_dict(state)


def test_a_replay_that_leads_elsewhere_is_told(open_vector: Callable[..., AtariVectorEnvs]) -> None:
    made = config("Pong", MACHADO)
    envs = open_vector(made, 1)
    envs.reset()
    envs.step(torch.tensor([2]))
    state = envs.state_dict()
    state["observation"] = state["observation"] + 1
    with pytest.warns(UserWarning, match=r"^ALE/Pong-v5: replaying an episode's actions from its seed led elsewhere"):
        open_vector(made, 1).load_state_dict(state)


def test_without_autoreset_an_environment_rests_on_its_final_observation(
    open_vector: Callable[..., AtariVectorEnvs],
) -> None:
    envs = open_vector(config("Breakout", MACHADO), training=False, autoreset=False)
    envs.reset(0)
    final: dict[int, Tensor] = {}
    for action in random_actions(400, envs.spec.num_actions):
        row = envs.step(action)
        assert isinstance(row.observation, Tensor)
        for i in range(B):
            if i in final:
                assert row.is_first[i]
                assert row.reward[i] == 0
                assert not row.terminated[i]
                assert row.observation[i].equal(final[i])
            elif row.terminated[i]:
                final[i] = row.observation[i]
    assert len(final) == B
    assert len(envs.finished()) == B
    assert not envs.reset(1).terminated.any()


def test_evaluation_presses_fire_after_a_lost_life(open_vector: Callable[..., AtariVectorEnvs]) -> None:
    envs = open_vector(config("Breakout", NOFRAMESKIP), 2, training=False, autoreset=False)
    envs.reset()
    rows = 0
    while len(envs.finished()) == 0:
        envs.step(torch.zeros(2, dtype=torch.int64))  # no-ops alone
        rows += 1
        assert rows < 400


def test_every_row_is_new_memory(open_vector: Callable[..., AtariVectorEnvs]) -> None:
    envs = open_vector(config("Pong", MACHADO), 2)
    first = envs.reset().observation
    assert isinstance(first, Tensor)
    before = first.clone()
    for action in random_actions(20, envs.spec.num_actions, 2):
        second = envs.step(action).observation
    assert first.equal(before)
    assert not first.equal(second)  # type: ignore[arg-type]


def test_lives_are_no_episodes_of_an_agent_that_waits_for_whole_ones() -> None:
    with pytest.raises(ValueError, match=r"^env\.backend=ale: by env\.protocol=atari-noframeskip .*env\.backend=gymn"):
        AtariVectorEnvs(config("Pong", NOFRAMESKIP), 1, 0, autoreset=False)


def test_an_unknown_game_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"^env\.id=ALE/Pongg-v5: .*did you mean ALE/Pong-v5\?$"):
        AtariVectorEnvs(config("Pongg", MACHADO, backend="ale"), 1, 0)
