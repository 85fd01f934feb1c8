from collections.abc import Callable

import pytest
import torch

from graftwork.networks import Categorical, CategoricalHead, Head, PolicyValueHead, ValueHead, initialise
from graftwork.networks.blocks import InitialisesItself
from graftwork.networks.distributions import Bernoulli, Gaussian, MultiCategorical, SquashedGaussian
from graftwork.networks.heads import (
    AuxiliaryHead,
    ClassHead,
    EmbeddingHead,
    Heads,
    RegressionHead,
)
from graftwork.networks.policy_heads import (
    BernoulliHead,
    GaussianHead,
    MultiCategoricalHead,
    SquashedGaussianHead,
)

T, B, A, F, C, K, D = 3, 5, 7, 4, 6, 2, 9
LEADING = [(), (B,), (1,), (T, B), (T, 1)]
LOW, HIGH = [-1.0, 0.5], [1.0, 3.0]


@pytest.fixture(autouse=True)
def _same_numbers_every_time():
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        yield


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


@pytest.mark.parametrize("leading", LEADING)
def test_discrete_choices_read_their_own_logits(leading):
    head, features = MultiCategoricalHead(F, (2, 5)), torch.randn(*leading, F)
    policy, logits = head(features), head.linear(features)
    assert isinstance(policy, MultiCategorical)
    torch.testing.assert_close(policy.factors[0].log_probs, logits[..., :2].log_softmax(-1))
    torch.testing.assert_close(policy.factors[1].log_probs, logits[..., 2:].log_softmax(-1))


@pytest.mark.parametrize("leading", LEADING)
def test_bits_have_linear_logits(leading):
    head, features = BernoulliHead(F, K), torch.randn(*leading, F)
    policy = head(features)
    assert isinstance(policy, Bernoulli)
    torch.testing.assert_close(policy.logits, head.linear(features))


@pytest.mark.parametrize("leading", LEADING)
def test_a_gaussian_has_one_deviation_in_every_state(leading):
    head, features = GaussianHead(F, K, log_std=-0.5), torch.randn(*leading, F)
    policy = head(features)
    assert isinstance(policy, Gaussian)
    torch.testing.assert_close(policy.mean, head.linear(features))
    torch.testing.assert_close(policy.log_std, torch.full((*leading, K), -0.5))
    assert policy.log_prob(policy.mode()).shape == leading


def test_a_deviation_out_of_range_is_clamped_and_can_return():
    head = GaussianHead(F, 3)
    with torch.no_grad():
        head.log_std.copy_(torch.tensor([-30.0, 1.0, 5.0]))
    log_std = head(torch.randn(B, F)).log_std
    torch.testing.assert_close(log_std, torch.tensor([-20.0, 1.0, 2.0]).expand(B, 3))
    (gradient,) = torch.autograd.grad(log_std.sum(), head.log_std)
    torch.testing.assert_close(gradient, torch.full((3,), float(B)))


def test_a_gaussian_head_initialises_its_deviation_without_drawing():
    head = GaussianHead(F, K, log_std=-0.5)
    assert isinstance(head, InitialisesItself)
    with torch.no_grad():
        head.log_std.fill_(1.0)
    initialise(head, "orthogonal", torch.Generator().manual_seed(0))
    torch.testing.assert_close(head.log_std.detach(), torch.full((K,), -0.5))
    linear = torch.nn.Linear(F, K)
    initialise(linear, "orthogonal", torch.Generator().manual_seed(0))
    assert torch.equal(head.linear.weight, linear.weight)


@pytest.mark.parametrize("leading", LEADING)
def test_a_squashed_gaussian_stays_within_the_bounds_and_reads_both_parts_off_the_features(leading):
    head, features = SquashedGaussianHead(F, LOW, HIGH), torch.randn(*leading, F)
    policy = head(features)
    assert isinstance(policy, SquashedGaussian)
    torch.testing.assert_close(policy.mean, head.mean(features))
    torch.testing.assert_close(policy.log_std, head.log_std(features).clamp(-20, 2))
    action = policy.sample(torch.Generator())
    assert action.shape == (*leading, K)
    assert ((action >= torch.tensor(LOW)) & (action <= torch.tensor(HIGH))).all()


def test_a_squashed_gaussians_deviation_is_clamped():
    head = SquashedGaussianHead(1, LOW, HIGH)
    log_std = head(torch.tensor([[1e6], [-1e6]])).log_std
    assert set(log_std.flatten().tolist()) == {-20.0, 2.0}


def test_the_bounds_of_actions_move_and_are_saved_with_the_head():
    head = SquashedGaussianHead(F, LOW, HIGH)
    other = SquashedGaussianHead(F, [0.0, 0.0], [1.0, 1.0])
    other.load_state_dict(head.state_dict())
    assert other.low.tolist() == LOW
    assert other.high.tolist() == HIGH
    assert head.double()(torch.randn(B, F).double()).sample(torch.Generator()).dtype == torch.float64


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [
        ([-1.0, 0.0], [1.0], "low and high must be of one length, got 2 and 1 numbers"),
        ([-1.0, 2.0], [1.0, 2.0], "entry 1 of low and high must be finite with low < high, got 2.0 and 2.0; "),
        ([float("-inf")], [1.0], "entry 0 of low and high must be finite with low < high, got -inf and 1.0; "),
        ([0.0], [float("nan")], "entry 0 of low and high must be finite with low < high, got 0.0 and nan; "),
    ],
)
def test_bounds_that_bound_nothing_are_refused_in_one_line(low, high, message):
    with pytest.raises(ValueError, match=f"^{message}") as error:
        SquashedGaussianHead(F, low, high)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("leading", LEADING)
def test_class_logits_are_linear_in_the_features(leading):
    head, features = ClassHead(F, C), torch.randn(*leading, F)
    torch.testing.assert_close(head(features), features @ head.linear.weight.t() + head.linear.bias)


@pytest.mark.parametrize("shape", [(), (1,), (2, 3)])
@pytest.mark.parametrize("leading", LEADING)
def test_a_regression_has_the_shape_asked_for(leading, shape):
    head, features = RegressionHead(F, shape), torch.randn(*leading, F)
    prediction = head(features)
    assert prediction.shape == (*leading, *shape)
    torch.testing.assert_close(prediction.flatten(), head.linear(features).flatten())


@pytest.mark.parametrize("shape", [(), (1,), (2, 3)])
@pytest.mark.parametrize("leading", LEADING)
def test_the_prediction_for_the_action_taken_is_picked(leading, shape):
    head, features = AuxiliaryHead(F, A, shape), torch.randn(*leading, F)
    action = torch.randint(A, leading)
    prediction = head(features)
    taken = head.taken(prediction, action)
    assert prediction.shape == (*leading, A, *shape)
    assert taken.shape == (*leading, *shape)
    for each, of_all, one in zip(
        action.flatten(), prediction.reshape(-1, A, *shape), taken.reshape(-1, *shape), strict=True
    ):
        assert torch.equal(one, of_all[each])


def test_strided_features_are_predicted_from_rightly():
    features = torch.randn(T, B, F).transpose(0, 1)
    for head in (RegressionHead(F, (2, 3)), AuxiliaryHead(F, A, (2,)), RegressionHead(F)):
        torch.testing.assert_close(head(features), head(features.contiguous()))


@pytest.mark.parametrize("leading", LEADING)
def test_embeddings_have_unit_length_and_keep_their_direction(leading):
    head, features = EmbeddingHead(F, D), torch.randn(*leading, F)
    embedding = head(features)
    assert embedding.shape == (*leading, D)
    torch.testing.assert_close(embedding.norm(dim=-1), torch.ones(leading))
    torch.testing.assert_close(embedding, torch.nn.functional.normalize(head.linear(features), dim=-1))


def test_an_embedding_of_nothing_is_zero_with_a_zero_gradient():
    head = EmbeddingHead(F, D)
    torch.nn.init.zeros_(head.linear.bias)
    features = torch.randn(B, F)
    features[2] = 0
    features.requires_grad_()
    embedding = head(features)
    gradient, of_weight = torch.autograd.grad(embedding[:, 0].sum(), (features, head.linear.weight))
    assert embedding[2].eq(0).all()
    assert gradient[2].eq(0).all()
    assert gradient[[0, 1, 3, 4]].ne(0).all()
    assert of_weight.isfinite().all()


def test_several_heads_answer_by_name():
    heads = Heads({"digit": ClassHead(F, C), "ink": RegressionHead(F), "two words": EmbeddingHead(F, D)})
    features = torch.randn(T, B, F)
    output = heads(features)
    assert list(output) == ["digit", "ink", "two words"]
    for name, part in output.items():
        assert torch.equal(part, heads[name](features))


@pytest.mark.parametrize("name", ["type", "keys", "forward", "training", "names", "head_", "_modules", "0", "a/b", "é"])
def test_a_head_may_be_called_what_modules_call_their_own(name):
    heads = Heads({name: ClassHead(F, C), "other": ClassHead(F, K)})
    assert heads(torch.randn(B, F))[name].shape == (B, C)
    parameters = dict(heads.named_parameters())
    assert len(parameters) == 4
    zeros = {key: torch.zeros_like(parameter) for key, parameter in parameters.items()}
    assert torch.func.functional_call(heads, zeros, torch.randn(B, F))[name].eq(0).all()
    copy = Heads({"other": ClassHead(F, K), name: ClassHead(F, C)})  # names matter, not the order
    copy.load_state_dict(heads.state_dict())
    assert torch.equal(copy[name].linear.weight, heads[name].linear.weight)


@pytest.mark.parametrize("name", ["", "a.b", "."])
def test_a_name_that_no_state_dict_can_hold_is_refused(name):
    with pytest.raises(ValueError, match=f"^a head's name must be text without a dot, got '{name}'$"):
        Heads({name: ClassHead(F, C)})


def test_no_heads_and_unknown_heads_are_refused():
    with pytest.raises(ValueError, match=r"^heads must hold at least one head, got none$"):
        Heads({})
    heads = Heads({"digit": ClassHead(F, C), "ink": ClassHead(F, K)})
    with pytest.raises(ValueError, match=r"^no head is called 'digits'; there are digit, ink; did you mean digit"):
        heads["digits"]


EVERY: dict[str, Callable[[], Head]] = {
    "value": lambda: ValueHead(F),
    "categorical": lambda: CategoricalHead(F, A),
    "multi-categorical": lambda: MultiCategoricalHead(F, (2, 5)),
    "Bernoulli": lambda: BernoulliHead(F, K),
    "Gaussian": lambda: GaussianHead(F, K),
    "squashed Gaussian": lambda: SquashedGaussianHead(F, LOW, HIGH),
    "class": lambda: ClassHead(F, C),
    "regression": lambda: RegressionHead(F, (2, 3)),
    "auxiliary": lambda: AuxiliaryHead(F, A, (2,)),
    "embedding": lambda: EmbeddingHead(F, D),
    "several": lambda: Heads({"a": ClassHead(F, C), "b": ValueHead(F)}),
    "policy and value": lambda: PolicyValueHead(CategoricalHead(F, A), ValueHead(F)),
}


@pytest.mark.parametrize("name", EVERY)
def test_every_head_is_initialised_from_the_generator_alone(name):
    one, other = EVERY[name](), EVERY[name]()
    for head in (one, other):
        initialise(head, "orthogonal", torch.Generator().manual_seed(1), gain=0.01)
    assert all(map(torch.equal, one.state_dict().values(), other.state_dict().values()))


def tensors(output) -> list[torch.Tensor]:
    if isinstance(output, torch.Tensor):
        return [output]
    parts = (
        output.values() if isinstance(output, dict) else output if isinstance(output, tuple) else vars(output).values()
    )
    return [tensor for part in parts for tensor in tensors(part)]


@pytest.mark.parametrize("name", EVERY)
def test_gradients_reach_each_parameter_of_every_head(name):
    head, features = EVERY[name](), torch.randn(T, B, F)
    generator = torch.Generator().manual_seed(0)
    loss = sum(
        (part * torch.randn(part.shape, generator=generator)).sum()
        for part in tensors(head(features))
        if part.requires_grad
    )
    gradients = torch.autograd.grad(loss, list(head.parameters()), allow_unused=True)
    for (parameter, _), gradient in zip(head.named_parameters(), gradients, strict=True):
        assert gradient is not None, parameter
        assert gradient.ne(0).any(), parameter


@pytest.mark.parametrize("name", EVERY)
def test_every_heads_rows_are_independent(name):
    head, features = EVERY[name]().double(), torch.randn(T, B, F).double()
    per_row = [tensors(head(features[t, b])) for t in range(T) for b in range(B)]
    for part, *rows in zip(tensors(head(features)), *per_row, strict=True):
        if part.shape[:2] == (T, B):  # all but the bounds
            torch.testing.assert_close(part.flatten(0, 1), torch.stack(rows))
