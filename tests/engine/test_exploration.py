import pytest
import torch

from graftwork.engine.exploration import EpsilonGreedy

A, B = 7, 5


def explore(epsilon=lambda step: 1.0, num_rows: int = 4, generator=None) -> EpsilonGreedy:
    return EpsilonGreedy(A, epsilon, num_rows, generator or torch.Generator().manual_seed(0))


def test_random_actions_are_uniform_over_all_actions_greedy_one_included():
    actions = explore()(torch.full((70_000,), 2))
    # A count of 10,000 has a standard deviation of 93.
    assert actions.bincount(minlength=A).sub(10_000).abs().max() < 500


def test_epsilon_is_that_of_each_rows_environment_step():
    steps = []
    rule = explore(lambda step: steps.append(step) or float(step in (110, 120, 135)))
    rule.begin(100)
    greedy = torch.full((B,), A)  # no random action is this one
    explored = [(rule(greedy) < A).all().item() for _ in range(9)]
    assert explored == [False, False, True, False, True, False, False, True, False]
    assert steps == list(range(100, 100 + 3 * 4 * B, B))


def test_rows_that_were_drawn_are_forgotten_at_begin_and_where_the_number_of_environments_changes():
    rule = explore(lambda step: float(step >= 1000))
    greedy = torch.full((B,), A)
    assert (rule(greedy) == A).all()
    rule.begin(1000)
    assert (rule(greedy) < A).all()
    assert rule(torch.full((B + 1,), A)).shape == (B + 1,)


@pytest.mark.parametrize("epsilon", [0.0, 0.3])
def test_the_generators_state_right_after_begin_is_all_of_it(epsilon):
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    one, other = (explore(lambda _: epsilon, generator=generator) for generator in generators)
    greedy = torch.full((B,), A)
    for _ in range(6):
        one(greedy)
    generators[1].set_state(generators[0].get_state())
    for rule in (one, other):
        rule.begin(77)
    for _ in range(6):
        assert torch.equal(one(greedy), other(greedy))
