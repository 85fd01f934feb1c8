import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graftwork.losses import double_q_learning, huber, q_learning, squared

T, B, A = 3, 5, 7

# Two transitions of two actions; the second one terminates.
Q = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
ACTION = torch.tensor([1, 0])
REWARD = torch.tensor([0.5, -1.0])
DISCOUNT = torch.tensor([0.9, 0.0])
NEXT_Q = torch.tensor([[10.0, 20.0], [30.0, 40.0]])


def random_batch(seed: int, *shape: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64)

    return {
        "q": normal(*shape, A),
        "action": torch.randint(A, shape, generator=generator),
        "reward": normal(*shape),
        "discount": torch.rand(shape, generator=generator, dtype=torch.float64),
        "next_q": normal(*shape, A),
    }


def test_q_learning_error_is_target_of_the_best_next_action_minus_value_of_the_action_taken():
    # 0.5 + 0.9 * 20 - 2 = 16.5;  -1 + 0 * 40 - 3 = -4
    torch.testing.assert_close(q_learning(Q, ACTION, REWARD, DISCOUNT, NEXT_Q), torch.tensor([16.5, -4.0]))


def test_double_q_learning_takes_the_selectors_action_and_the_others_value():
    selector = torch.tensor([[5.0, 1.0], [0.0, 9.0]])
    # 0.5 + 0.9 * 10 - 2 = 7.5: action 0 although next_q prefers action 1
    error = double_q_learning(Q, ACTION, REWARD, DISCOUNT, NEXT_Q, selector)
    torch.testing.assert_close(error, torch.tensor([7.5, -4.0]))


def test_double_q_learning_breaks_ties_by_the_first_action():
    next_q = torch.arange(1.0, A + 1).expand(B, A)
    selector = torch.zeros(B, A)
    selector[:, 2] = selector[:, 5] = 1.0
    zeros = torch.zeros(B)
    action = torch.zeros(B, dtype=torch.int64)
    error = double_q_learning(torch.zeros(B, A), action, zeros, torch.ones(B), next_q, selector)
    torch.testing.assert_close(error, torch.full((B,), 3.0))


def test_double_q_learning_with_the_target_as_its_own_selector_is_q_learning():
    batch = random_batch(0, T, B)
    torch.testing.assert_close(
        double_q_learning(**batch, next_q_selector=batch["next_q"]), q_learning(**batch), rtol=0, atol=0
    )


def test_forbidden_next_actions_are_neither_valued_nor_selected():
    allowed = torch.tensor([[True, False], [True, True]])
    masked = NEXT_Q.masked_fill(~allowed, -torch.inf)
    # 0.5 + 0.9 * 10 - 2 = 7.5
    expected = torch.tensor([7.5, -4.0])
    torch.testing.assert_close(q_learning(Q, ACTION, REWARD, DISCOUNT, masked), expected)
    torch.testing.assert_close(double_q_learning(Q, ACTION, REWARD, DISCOUNT, NEXT_Q, masked), expected)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), time=st.integers(1, 4), batch_size=st.integers(1, 4))
def test_td_errors_equal_a_python_loop(seed: int, time: int, batch_size: int):
    batch = random_batch(seed, time, batch_size)
    selector = random_batch(seed + 1, time, batch_size)["q"]
    plain = torch.empty(time, batch_size, dtype=torch.float64)
    double = torch.empty_like(plain)
    for t in range(time):
        for b in range(batch_size):
            q, next_q, select = (x[t, b].tolist() for x in (batch["q"], batch["next_q"], selector))
            reward, discount = batch["reward"][t, b].item(), batch["discount"][t, b].item()
            taken = q[batch["action"][t, b].item()]
            plain[t, b] = reward + discount * max(next_q) - taken
            double[t, b] = reward + discount * next_q[select.index(max(select))] - taken
    torch.testing.assert_close(q_learning(**batch), plain, rtol=0, atol=0)
    torch.testing.assert_close(double_q_learning(**batch, next_q_selector=selector), double, rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(), (B,), (T, B), (2, T, B)])
def test_td_errors_take_any_leading_dimensions(shape: tuple[int, ...]):
    batch = random_batch(1, *shape)
    assert q_learning(**batch).shape == shape
    assert double_q_learning(**batch, next_q_selector=batch["q"]).shape == shape


@pytest.mark.parametrize("name", ["action", "reward", "discount"])
def test_a_column_is_refused_by_name(name: str):
    batch = random_batch(2, B)
    batch[name] = batch[name].unsqueeze(-1)
    with pytest.raises(ValueError, match=rf"^{name} must have shape \[5\], got \[5, 1\]$"):
        q_learning(**batch)
    with pytest.raises(ValueError, match=rf"^{name} must have shape \[5\], got \[5, 1\]$"):
        double_q_learning(**batch, next_q_selector=batch["q"])


def test_action_values_of_another_batch_are_refused():
    batch = random_batch(3, B)
    with pytest.raises(ValueError, match="next_q must have shape"):
        q_learning(**(batch | {"next_q": batch["next_q"][:3]}))
    with pytest.raises(ValueError, match="next_q_selector must have shape"):
        double_q_learning(**batch, next_q_selector=batch["q"][:3])
    with pytest.raises(ValueError, match="action must have shape"):
        q_learning(**(batch | {"q": torch.zeros(9, A), "next_q": torch.zeros(9, A)}))


@pytest.mark.parametrize("double", [False, True])
def test_gradient_stops_at_the_target_and_reaches_only_the_action_taken(double: bool):
    batch = random_batch(4, T, B)
    inputs = {name: x.requires_grad_() for name, x in batch.items() if name != "action"}
    if double:
        selector = random_batch(5, T, B)["q"].requires_grad_()
        inputs["selector"] = selector
        error = double_q_learning(**batch, next_q_selector=selector)
    else:
        error = q_learning(**batch)
    gradients = dict(zip(inputs, torch.autograd.grad(error.sum(), inputs.values(), allow_unused=True), strict=True))
    taken = torch.nn.functional.one_hot(batch["action"], A).double()
    torch.testing.assert_close(gradients.pop("q"), -taken, rtol=0, atol=0)
    assert set(gradients.values()) == {None}


def test_huber_is_squared_inside_delta_and_linear_outside():
    error = torch.tensor([-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0])
    # 0.5**2 / 2 = 0.125, 1 / 2 = 0.5, 3 - 1 / 2 = 2.5
    torch.testing.assert_close(huber(error), torch.tensor([2.5, 0.5, 0.125, 0.0, 0.125, 0.5, 2.5]))
    # 1 / 2 = 0.5, 2 * (3 - 2 / 2) = 4
    torch.testing.assert_close(huber(error, delta=2.0), torch.tensor([4.0, 0.5, 0.125, 0.0, 0.125, 0.5, 4.0]))


def test_huber_gradient_is_the_error_clipped_at_delta():
    error = torch.tensor([-3.0, -0.5, 0.0, 0.5, 3.0], requires_grad=True)
    for delta, expected in ((1.0, [-1.0, -0.5, 0.0, 0.5, 1.0]), (2.0, [-2.0, -0.5, 0.0, 0.5, 2.0])):
        (gradient,) = torch.autograd.grad(huber(error, delta).sum(), error)
        torch.testing.assert_close(gradient, torch.tensor(expected))


def test_squared_is_half_the_square_and_its_gradient_the_error():
    error = torch.tensor([-3.0, 0.0, 0.5], requires_grad=True)
    loss = squared(error)
    torch.testing.assert_close(loss, torch.tensor([4.5, 0.0, 0.125]))
    (gradient,) = torch.autograd.grad(loss.sum(), error)
    torch.testing.assert_close(gradient, error.detach())


@pytest.mark.parametrize("function", [huber, squared])
def test_losses_of_errors_keep_the_shape_and_the_nan(function):
    error = torch.zeros(T, B)
    error[1, 2] = torch.nan
    loss = function(error)
    assert loss.shape == (T, B)
    assert loss.isnan().nonzero().tolist() == [[1, 2]]
