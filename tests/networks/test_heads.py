import pytest
import torch

from graftwork.networks import Categorical, CategoricalHead, PolicyValueHead, QHead, ValueHead

T, B, A, F = 3, 5, 7, 4
LEADING = [(), (B,), (1,), (T, B), (T, 1)]


@pytest.mark.parametrize("leading", LEADING)
def test_action_values_are_linear_in_the_features(leading):
    head, features = QHead(F, A), torch.randn(*leading, F)
    q = head(features)
    assert q.shape == (*leading, A)
    torch.testing.assert_close(q, features @ head.linear.weight.t() + head.linear.bias)


@pytest.mark.parametrize("leading", LEADING)
def test_a_value_has_no_column_of_its_own(leading):
    head, features = ValueHead(F), torch.randn(*leading, F)
    value = head(features)
    assert value.shape == leading
    torch.testing.assert_close(value, features @ head.linear.weight[0] + head.linear.bias[0])


@pytest.mark.parametrize("leading", LEADING)
def test_a_policy_is_the_softmax_of_linear_logits(leading):
    head, features = CategoricalHead(F, A), torch.randn(*leading, F)
    policy = head(features)
    assert isinstance(policy, Categorical)
    torch.testing.assert_close(policy.log_probs.exp(), head.linear(features).softmax(-1))


def test_policy_and_value_read_the_same_features():
    head, features = PolicyValueHead(CategoricalHead(F, A), ValueHead(F)), torch.randn(T, B, F)
    output = head(features)
    assert torch.equal(output.policy.log_probs, head.policy(features).log_probs)
    assert torch.equal(output.value, head.value(features))


def test_without_a_value_head_there_is_no_value():
    head = PolicyValueHead(CategoricalHead(F, A))
    assert head(torch.randn(T, B, F)).value is None
    assert {name.split(".")[0] for name in head.state_dict()} == {"policy"}
