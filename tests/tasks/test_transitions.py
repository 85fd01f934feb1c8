import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from graftwork.envs.address import episode_seed
from graftwork.tasks.transitions import transitions


class Counter(gymnasium.Env):
    """Counts up by the action, in one piece of memory that every observation shares; over after four steps."""

    observation_space = spaces.Box(-np.inf, np.inf, (1, 2), np.float64)
    action_space = spaces.Discrete(3, start=-1)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._counts = np.array([[0.0, float(self.np_random.integers(100))]])
        self._steps = 0
        return self._counts, {}

    def step(self, action):
        assert self.action_space.contains(action)
        self._steps += 1
        self._counts += [[action, 10 * action]]
        return self._counts, 0.5 * action, self._steps == 4, False, {}


class Endless(Counter):
    """Cut off after two steps."""

    def step(self, action):
        counts, reward, _, _, info = super().step(action)
        return counts, reward, False, self._steps == 2, info


class Blind(Counter):
    observation_space = spaces.Discrete(5)


class Continuous(Counter):
    action_space = spaces.Box(-1, 1, (1,), np.float32)


class Seeing(Counter):
    observation_space = spaces.Box(0, 255, (1, 2), np.uint8)


@pytest.fixture(autouse=True)
def registered():
    kinds = {f"{kind.__name__}-v0": kind for kind in (Counter, Endless, Blind, Continuous, Seeing)}
    for name, kind in kinds.items():
        gymnasium.register(name, kind, disable_env_checker=True)
    yield
    for name in kinds:
        gymnasium.registry.pop(name)


def test_each_sample_is_what_was_seen_done_and_led_to():
    data = transitions("Counter-v0", 10)
    action = data.target("action")
    assert (action.num_classes, len(data)) == (3, 10)
    by = action.values.float() - 1
    change = torch.stack((by, 10 * by), 1)
    torch.testing.assert_close(data.target("change").values, change)
    torch.testing.assert_close(data.target("reward").values, 0.5 * by)
    for row in (0, 1, 2, 4, 5, 6, 8):  # the next sample of the same episode was seen right after
        torch.testing.assert_close(data.inputs[row + 1].flatten(), data.inputs[row].flatten() + change[row])
    assert data.inputs[[0, 4, 8], 0, 0].tolist() == [0.0, 0.0, 0.0]
    assert data.inputs.shape == (10, 1, 2)
    assert data.inputs.dtype == torch.float32


def test_episodes_are_told_by_their_address():
    starts = transitions("Counter-v0", 9).inputs[[0, 4, 8], 0, 1].tolist()
    for episode, start in enumerate(starts):
        expected, _ = Counter().reset(seed=episode_seed(0, 3, 0, episode))
        assert start == expected[0, 1]
    assert len(set(starts)) > 1


def test_an_end_is_a_class_and_being_cut_off_is_none():
    ended = transitions("Counter-v0", 9).target("terminated")
    assert ended.values.tolist() == [0, 0, 0, 1, 0, 0, 0, 1, 0]
    assert ended.names == ("no", "yes")
    cut = transitions("Endless-v0", 5)
    assert not cut.target("terminated").values.any()
    assert cut.inputs[[0, 2, 4], 0, 0].tolist() == [0.0, 0.0, 0.0]


def test_samples_are_always_the_same_and_the_first_of_more():
    one, again, more = transitions("CartPole-v1", 50), transitions("CartPole-v1", 50), transitions("CartPole-v1", 70)
    for name, target in one.targets.items():
        assert torch.equal(target.values, again.target(name).values)
        assert torch.equal(target.values, more.target(name).values[:50])
    assert torch.equal(one.inputs, again.inputs)
    assert torch.equal(one.inputs, more.inputs[:50])
    assert set(one.target("action").values.tolist()) == {0, 1}
    assert list(one.targets) == ["change", "reward", "action", "terminated"]


@pytest.mark.parametrize(
    ("env_id", "told"),
    [("Blind-v0", "Discrete"), ("Continuous-v0", "Box"), ("Seeing-v0", "uint8")],
)
def test_other_spaces_are_refused(env_id, told):
    with pytest.raises(ValueError, match=rf"^observes [^\n]*{told}[^\n]*; allowed: a Box of floats, and Discrete$"):
        transitions(env_id, 5)
