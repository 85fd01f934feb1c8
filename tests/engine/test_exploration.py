import pytest
import torch

from graftwork.engine.exploration import EpsilonGreedy

A, B = 7, 5


def explore(epsilon=lambda step: 1.0, num_rows: int = 4, generator=None) -> EpsilonGreedy:
    return EpsilonGreedy(A, epsilon, num_rows, generator or torch.Generator().manual_seed(0))


def act(rule: EpsilonGreedy, greedy: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    return rule.explored(greedy, rule.draw(greedy.shape, is_free=mask is None), mask)


def test_without_chance_the_action_is_the_greedy_one():
    greedy = torch.arange(B)
    assert explore().explored(greedy, (), None) is greedy


def test_random_actions_are_uniform_over_all_actions_greedy_one_included():
    actions = act(explore(), torch.full((70_000,), 2))
    # A count of 10,000 has a standard deviation of 93.
    assert actions.bincount(minlength=A).sub(10_000).abs().max() < 500


def test_epsilon_is_that_of_each_rows_environment_step():
    steps = []
    rule = explore(lambda step: steps.append(step) or float(step in (110, 120, 135)))
    rule.begin(100)
    greedy = torch.full((B,), A)  # no random action is this one
    explored = [(act(rule, greedy) < A).all().item() for _ in range(9)]
    assert explored == [False, False, True, False, True, False, False, True, False]
    assert steps == list(range(100, 100 + 3 * 4 * B, B))


def test_rows_that_were_drawn_are_forgotten_at_begin_and_where_the_number_of_environments_changes():
    rule = explore(lambda step: float(step >= 1000))
    greedy = torch.full((B,), A)
    assert (act(rule, greedy) == A).all()
    rule.begin(1000)
    assert (act(rule, greedy) < A).all()
    assert act(rule, torch.full((B + 1,), A)).shape == (B + 1,)


@pytest.mark.parametrize("epsilon", [0.0, 0.3])
def test_the_generators_state_right_after_begin_is_all_of_it(epsilon):
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    one, other = (explore(lambda _: epsilon, generator=generator) for generator in generators)
    greedy = torch.full((B,), A)
    for _ in range(6):
        act(one, greedy)
    generators[1].set_state(generators[0].get_state())
    for rule in (one, other):
        rule.begin(77)
    for _ in range(6):
        assert torch.equal(act(one, greedy), act(other, greedy))


def rows_of(*legal: list[int], num_rows: int) -> torch.Tensor:
    """[B, A] with each set of legal actions so many times."""
    mask = torch.zeros(len(legal), A, dtype=torch.bool)
    for row, actions in enumerate(legal):
        mask[row, actions] = True
    return mask.repeat_interleave(num_rows, 0)


def test_random_actions_are_uniform_over_the_legal_ones():
    mask = rows_of([1, 4, 6], [0], [0, 1, 2, 3, 4, 5, 6], num_rows=21_000)
    actions = act(explore(), torch.zeros(len(mask), dtype=torch.int64), mask).view(3, -1)
    counts = torch.stack([row.bincount(minlength=A) for row in actions])
    assert counts[0, [1, 4, 6]].sub(7_000).abs().max() < 350  # standard deviation 68
    assert counts[0, [0, 2, 3, 5]].sum() == 0
    assert counts[1].tolist() == [21_000, 0, 0, 0, 0, 0, 0]
    assert counts[2].sub(3_000).abs().max() < 260  # standard deviation 51


@pytest.mark.parametrize("masked", [False, True])
def test_branches_explore_together_each_among_its_own_actions(masked):
    sizes = torch.tensor([2, 5, 1])
    legal = torch.arange(5) < sizes.unsqueeze(1)
    rule = EpsilonGreedy(5, lambda step: 0.5, 4, torch.Generator().manual_seed(0), legal=legal)
    greedy = torch.full((60_000, 3), 9)  # no random action is this one
    mask = legal.repeat(60_000, 1, 1)
    mask[:, 1, 3] = False
    actions = act(rule, greedy, mask if masked else None)
    explored = actions != 9
    assert (explored.all(1) | ~explored.any(1)).all()  # one coin for all
    assert explored[:, 0].float().mean().item() == pytest.approx(0.5, abs=0.01)  # standard deviation 0.002
    for branch, choices in enumerate(([0, 1], [0, 1, 2, 4] if masked else [0, 1, 2, 3, 4], [0])):
        found = actions[explored[:, 0], branch].bincount(minlength=5)
        assert found.nonzero().flatten().tolist() == choices
        share = found[choices] / found.sum()
        torch.testing.assert_close(share, torch.full_like(share, 1 / len(choices)), rtol=0, atol=0.015)
    # The branches' draws are not each other's.
    both = actions[explored[:, 0]][:, :2]
    assert len(both.unique(dim=0)) == 2 * (4 if masked else 5)


def test_what_was_drawn_for_free_actions_is_not_used_for_masked_ones():
    rule = explore()
    act(rule, torch.zeros(B, dtype=torch.int64))
    mask = rows_of([3], num_rows=B)
    for _ in range(3):
        assert (act(rule, torch.zeros(B, dtype=torch.int64), mask) == 3).all()
