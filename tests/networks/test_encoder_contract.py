"""What every encoder promises. A config that joins the union EncoderConfig is tested here without further ado."""

from typing import get_args

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor
from torch.func import functional_call

from graftwork.networks import Encoder, EncoderConfig, GRUConfig, LSTMConfig, MLPConfig, initialise

T, B = 4, 5
SHAPES = [(3,), (3, 36, 36)]  # an encoder that refuses a vector is given an image
UNION = get_args(EncoderConfig)[0]
CONFIGS = {
    **{config.__name__.removesuffix("Config"): config() for config in get_args(UNION)},
    "MLP-tanh": MLPConfig(hidden=(7,), activation="tanh"),
    "MLPx3-silu-scaled": MLPConfig(hidden=(9, 8, 7), activation="silu", scale=(0.5, 2.0, 3.0)),
    "LSTMx2-GRU-MLP": LSTMConfig(
        hidden_size=6, num_layers=2, inner=GRUConfig(hidden_size=7, inner=MLPConfig(hidden=(9,), activation="tanh"))
    ),
    "GRUx3-LSTM-MLP": GRUConfig(
        hidden_size=6, num_layers=3, inner=LSTMConfig(hidden_size=7, inner=MLPConfig(hidden=(9,), activation="elu"))
    ),
}


@pytest.fixture(params=CONFIGS.values(), ids=CONFIGS)
def config(request):
    return request.param


def build(config, seed: int = 0) -> tuple[Encoder, tuple[int, ...]]:
    """An encoder in eval mode whose every parameter, biases too, is at random."""
    for shape in SHAPES:
        try:
            encoder = config.build(shape)
        except ValueError:
            continue
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in encoder.parameters():
                parameter.normal_(0, 0.3, generator=generator)
        return encoder.eval(), shape
    raise AssertionError(f"{config} builds on none of {SHAPES}")


@pytest.fixture
def encoder(config):
    return build(config)[0]


@pytest.fixture
def shape(config):
    return build(config)[1]


def normal(*size: int, seed: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def some_state(encoder: Encoder, batch_size: int = B):
    return tuple(normal(*part.shape, seed=2).tanh() for part in encoder.initial_state(batch_size))


def some_firsts() -> Tensor:
    """A reset in row 0, two in one column, and a column without any."""
    is_first = torch.zeros(T, B, dtype=torch.bool)
    for row, column in ((0, 1), (1, 2), (3, 2), (2, 4)):
        is_first[row, column] = True
    return is_first


def same(actual, expected, **tolerance):
    torch.testing.assert_close(actual, expected, **tolerance)


def exactly(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


@pytest.mark.parametrize("is_first", [None, some_firsts()], ids=["no-resets", "resets"])
def test_features_and_state_have_the_declared_shapes(encoder, shape, is_first):
    state = encoder.initial_state(B)
    features, after = encoder(normal(T, B, *shape), state, is_first)
    assert features.shape == (T, B, encoder.out_features)
    assert features.dtype == torch.float32
    assert [part.shape for part in after] == [part.shape for part in state]


def test_initial_state_is_one_row_an_environment_and_its_own(encoder):
    state = encoder.initial_state(B)
    assert isinstance(state, tuple)
    assert all(part.shape[0] == B for part in state)
    assert len({part.data_ptr() for part in state}) == len(state)
    for part in state:
        part.fill_(1.0)
    assert not any(part.any() for part in encoder.initial_state(B))


def test_initial_state_is_on_the_parameters_device(encoder):
    encoder.to("meta")
    assert {part.device.type for part in encoder.initial_state(B)} <= {"meta"}


def test_no_state_given_is_the_initial_state(encoder, shape):
    observation = normal(T, B, *shape)
    exactly(encoder(observation), encoder(observation, encoder.initial_state(B)))


@pytest.mark.parametrize("is_first", [None, some_firsts()], ids=["no-resets", "resets"])
def test_a_sequence_equals_single_steps(encoder, shape, is_first):
    observation, state = normal(T, B, *shape), some_state(encoder)
    features, after = encoder(observation, state, is_first)
    for t in range(T):
        row, state = encoder(observation[t : t + 1], state, None if is_first is None else is_first[t : t + 1])
        same(row[0], features[t])
    same(state, after)


def test_step_is_forward_of_one_row(encoder, shape):
    observation, state, is_first = normal(B, *shape), some_state(encoder), some_firsts()[1]
    features, after = encoder.step(observation, state, is_first)
    expected, expected_after = encoder(observation.unsqueeze(0), state, is_first.unsqueeze(0))
    exactly(features, expected[0])
    exactly(after, expected_after)


def test_no_resets_said_or_shown_is_the_same(encoder, shape):
    observation, state = normal(T, B, *shape), some_state(encoder)
    same(encoder(observation, state, torch.zeros(T, B, dtype=torch.bool)), encoder(observation, state, None))


def test_columns_are_independent(encoder, shape):
    observation, state, is_first = normal(T, B, *shape), some_state(encoder), some_firsts()
    features, after = encoder(observation, state, is_first)
    for b in range(B):
        one = slice(b, b + 1)
        alone, alone_after = encoder(observation[:, one], tuple(part[one] for part in state), is_first[:, one])
        same(alone, features[:, one])
        same(alone_after, tuple(part[one] for part in after))


def test_a_reset_inside_equals_a_split(encoder, shape):
    observation, state = normal(T, B, *shape), some_state(encoder)
    is_first = torch.zeros(T, B, dtype=torch.bool)
    is_first[2] = True
    features, after = encoder(observation, state, is_first)
    same(features[:2], encoder(observation[:2], state)[0])
    same((features[2:], after), encoder(observation[2:], encoder.initial_state(B)))


def test_a_reset_forgets_what_was_before_it(encoder, shape):
    observation = normal(T, B, *shape).requires_grad_()
    state = tuple(part.requires_grad_() for part in some_state(encoder))
    is_first = torch.zeros(T, B, dtype=torch.bool)
    is_first[2] = True
    features, after = encoder(observation, state, is_first)
    (gradient, *of_state) = torch.autograd.grad(features[2:].sum(), (observation, *state), allow_unused=True)
    assert gradient[2:].any()
    assert not gradient[:2].any()
    assert not any(part.any() for part in of_state if part is not None)
    other = torch.cat((normal(2, B, *shape, seed=3), observation[2:]))
    exactly(encoder(other, tuple(5 * part for part in state), is_first)[0][2:], features[2:])
    exactly(encoder(other, tuple(5 * part for part in state), is_first)[1], after)


def test_a_memory_remembers_from_the_first_row_to_the_last(encoder, shape):
    observation = normal(T, B, *shape).requires_grad_()
    for is_first in (None, torch.zeros(T, B, dtype=torch.bool)):
        (gradient,) = torch.autograd.grad(encoder(observation, (), is_first)[0][-1].sum(), observation)
        assert bool(gradient[0].any()) == bool(encoder.initial_state(1))


@pytest.mark.parametrize("is_first", [None, some_firsts()], ids=["no-resets", "resets"])
def test_gradients_reach_every_parameter(encoder, shape, is_first):
    features, _ = encoder(normal(T, B, *shape), encoder.initial_state(B), is_first)
    gradients = torch.autograd.grad(features.pow(2).sum(), list(encoder.parameters()))
    for (name, _), gradient in zip(encoder.named_parameters(), gradients, strict=True):
        assert gradient.isfinite().all(), name
        assert gradient.any(), name


def test_both_paths_have_the_same_gradients(encoder, shape):
    observation, parameters = normal(T, B, *shape), list(encoder.parameters())
    fused, stepwise = (
        torch.autograd.grad(encoder(observation, (), is_first)[0].pow(2).sum(), parameters)
        for is_first in (None, torch.zeros(T, B, dtype=torch.bool))
    )
    same(stepwise, fused, rtol=1e-4, atol=1e-5)


def test_state_dict_carries_everything(config, encoder, shape):
    other, _ = build(config, seed=9)
    observation = normal(T, B, *shape)
    assert not torch.equal(other(observation)[0], encoder(observation)[0])
    other.load_state_dict(encoder.state_dict())
    exactly(other(observation), encoder(observation))


def test_eval_is_deterministic_and_changes_nothing(encoder, shape):
    observation, state, is_first = normal(T, B, *shape), some_state(encoder), some_firsts()
    inputs = [observation.clone(), *(part.clone() for part in state), is_first.clone()]
    before, weights = torch.get_rng_state(), {name: value.clone() for name, value in encoder.state_dict().items()}
    exactly(encoder(observation, state, is_first), encoder(observation, state, is_first))
    exactly([observation, *state, is_first], inputs)
    exactly(encoder.state_dict(), weights)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("scheme", ["uniform", "orthogonal"])
def test_initialise_draws_every_parameter_from_the_generator_alone(config, scheme):
    def initialised(seed: int, global_seed: int):
        with torch.random.fork_rng():
            torch.manual_seed(global_seed)
            encoder, _ = build(config, seed=global_seed)
            before = torch.get_rng_state()
            initialise(encoder, scheme, torch.Generator().manual_seed(seed))
            assert torch.equal(torch.get_rng_state(), before)
            return encoder.state_dict()

    exactly(initialised(0, global_seed=1), initialised(0, global_seed=2))
    matrices = [name for name, value in initialised(0, 1).items() if value.ndim > 1]
    assert all(not torch.equal(initialised(0, 1)[name], initialised(3, 1)[name]) for name in matrices)


def test_weights_can_be_lent_from_outside(config, encoder, shape):
    other, _ = build(config, seed=9)
    observation, is_first = normal(T, B, *shape), some_firsts()
    lent = functional_call(other, dict(encoder.named_parameters()), (observation, (), is_first))
    same(lent, encoder(observation, (), is_first))


@pytest.mark.parametrize("is_first", [None, some_firsts()], ids=["no-resets", "resets"])
def test_export(encoder, shape, is_first):
    arguments = (normal(T, B, *shape), encoder.initial_state(B), is_first)
    exported = torch.export.export(encoder, arguments).module()
    again = (normal(T, B, *shape, seed=7), some_state(encoder), is_first)
    same(exported(*again), encoder(*again))


def test_float64_and_strided_observations_are_taken(encoder, shape):
    observation = normal(T, B, *shape)
    expected = encoder(observation, some_state(encoder))
    same(encoder(observation.double(), some_state(encoder)), expected)
    transposed = observation.transpose(0, 1).contiguous().transpose(0, 1)
    interleaved = torch.stack((observation, -observation), -1)[..., 0]
    for strided in (transposed, interleaved):
        assert not strided.is_contiguous()
        same(encoder(strided, some_state(encoder)), expected)
        same(encoder(strided, some_state(encoder), torch.zeros(B, T, dtype=torch.bool).t()), expected)


def test_state_may_be_strided(encoder, shape):
    state = some_state(encoder)
    strided = tuple(torch.stack((part, -part), -1)[..., 0] for part in state)
    for is_first in (None, some_firsts()):
        same(encoder(normal(T, B, *shape), strided, is_first), encoder(normal(T, B, *shape), state, is_first))


def test_config_survives_a_round_trip(config, encoder, shape):
    adapter = TypeAdapter(EncoderConfig)
    for dumped in (config.model_dump(), config.model_dump(mode="json")):
        again = adapter.validate_python(dumped)
        assert again == config
        assert type(again) is type(config)
    assert adapter.validate_json(config.model_dump_json()) == config
    again.build(shape).load_state_dict(encoder.state_dict())


def test_every_kind_has_its_own_name():
    kinds = [member().kind for member in get_args(UNION)]
    assert len(set(kinds)) == len(kinds)
    for kind in kinds:
        assert TypeAdapter(EncoderConfig).validate_python({"kind": kind}).kind == kind
