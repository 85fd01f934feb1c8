"""What every encoder promises. A config that joins the union EncoderConfig is tested here without further ado."""

from dataclasses import dataclass
from itertools import product
from typing import Any, get_args

import numpy as np
import pytest
import torch
from gymnasium import spaces
from pydantic import TypeAdapter
from torch import Tensor, nn
from torch.func import functional_call

from graftwork.networks import (
    AutoConfig,
    CombinedConfig,
    ConvConfig,
    ConvLayer,
    EmbeddingConfig,
    Encoder,
    EncoderConfig,
    GRUConfig,
    ImpalaConfig,
    InceptionConfig,
    InceptionWidths,
    LSTMConfig,
    MLPConfig,
    Normalised,
    NormalisedConfig,
    ResNetConfig,
    initialise,
)
from graftwork.spaces import Observation, leaves, map_leaves, observation_of, tensors_of

T, B = 4, 5


def box(*shape: int) -> spaces.Box:
    return spaces.Box(-np.inf, np.inf, shape, np.float32)


VECTOR, IMAGE = box(3), box(3, 8, 8)
BYTES = spaces.Box(0, 255, (8, 8, 3), np.uint8)
TOKENS = spaces.MultiDiscrete([7] * 4)
DICT = spaces.Dict({"keys": VECTOR, "nested": spaces.Dict({"a": spaces.Discrete(6), "b": VECTOR})})
EVERYTHING = spaces.Tuple(
    [
        IMAGE,
        spaces.Box(0, 255, (2, 3), np.uint8),
        spaces.Discrete(100),
        spaces.MultiBinary(5),
        spaces.Text(4, charset="abc"),
        DICT,
        box(),
        box(2, 2),
    ]
)
SPACES: list[spaces.Space[Any]] = [VECTOR, IMAGE, box(3, 36, 36), TOKENS, DICT]  # one that is refused: the next

UNION = get_args(EncoderConfig)[0]
DEFAULTS = {config.__name__.removesuffix("Config"): (config(), None) for config in get_args(UNION)}

SMALL = {
    "mlp": (MLPConfig(hidden=(16, 12)), VECTOR),
    "conv": (ConvConfig(layers=(ConvLayer(channels=8, kernel=3),) * 2, hidden=16), box(2, 5, 6)),
    "impala": (ImpalaConfig(stages=(8, 8), residual_blocks=1, hidden=16), box(2, 8, 7)),
    "resnet": (ResNetConfig(blocks=(1, 1), width=8), box(2, 5, 6)),
    "inception": (
        InceptionConfig(
            stem=ConvLayer(channels=8, kernel=3, stride=2),
            modules=1,
            widths=InceptionWidths(one=8, before_three=8, three=8, before_five=8, five=8, pool=8),
        ),
        box(2, 7, 8),
    ),
}
LAYERED = {
    f"{kind}-{norm}-{dropout}": (
        config.model_copy(update={"norm": norm, "norm_groups": 2, "dropout": dropout}),
        space,
    )
    for (kind, (config, space)), norm, dropout in product(
        SMALL.items(), ("none", "batch", "layer", "group", "rms"), (0.0, 0.3)
    )
}
STACKED = {
    f"{kind.__name__.removesuffix('Config')}x2{'-both' if both else ''}-{dropout}": (
        kind(hidden_size=6, num_layers=2, dropout=dropout, bidirectional=both, inner=MLPConfig(hidden=(9,))),
        VECTOR,
    )
    for kind, dropout, both in product((LSTMConfig, GRUConfig), (0.0, 0.3), (False, True))
}
OTHERS = {
    "MLP-tanh": (MLPConfig(hidden=(7,), activation="tanh"), VECTOR),
    "MLPx3-silu-scaled": (MLPConfig(hidden=(9, 8, 7), activation="silu", scale=(0.5, 2.0, 3.0)), VECTOR),
    "MLP-batch-after": (MLPConfig(norm="batch", norm_position="after"), VECTOR),
    "MLP-bytes": (MLPConfig(hidden=(7,)), BYTES),
    "MLP-everything": (MLPConfig(hidden=(7,)), EVERYTHING),
    "ResNet-bytes": (ResNetConfig(), BYTES),
    "Embedding-Discrete": (EmbeddingConfig(size=7), spaces.Discrete(9)),
    "Embedding-Text": (EmbeddingConfig(size=7), spaces.Text(6, charset="xyz")),
    "Embedding-padded": (EmbeddingConfig(size=7, padding=2), TOKENS),
    "LSTMx2-GRU-MLP": (
        LSTMConfig(
            hidden_size=6, num_layers=2, inner=GRUConfig(hidden_size=7, inner=MLPConfig(hidden=(9,), activation="tanh"))
        ),
        VECTOR,
    ),
    "GRUx3-LSTM-MLP": (
        GRUConfig(
            hidden_size=6, num_layers=3, inner=LSTMConfig(hidden_size=7, inner=MLPConfig(hidden=(9,), activation="elu"))
        ),
        VECTOR,
    ),
    "GRU-both-over-LSTM": (
        GRUConfig(hidden_size=6, bidirectional=True, inner=LSTMConfig(hidden_size=7)),
        VECTOR,
    ),
    "LSTM-Combined-GRU": (
        LSTMConfig(hidden_size=6, inner=CombinedConfig(encoders={"keys": GRUConfig(hidden_size=5)}, hidden=7)),
        DICT,
    ),
    "Combined-LSTM-GRU": (
        CombinedConfig(encoders={"nested": LSTMConfig(hidden_size=6), "keys": GRUConfig(hidden_size=5)}),
        DICT,
    ),
    "Normalised-GRU": (NormalisedConfig(inner=GRUConfig(hidden_size=6)), VECTOR),
    "Normalised-ResNet-bytes": (NormalisedConfig(inner=ResNetConfig(), shared=True), BYTES),
    "Auto-everything": (AutoConfig(), EVERYTHING),
}
CASES = DEFAULTS | LAYERED | STACKED | OTHERS


@dataclass
class Case:
    config: Any
    space: spaces.Space[Any]
    encoder: Encoder

    def inputs(self, *lead: int, seed: int = 1) -> Observation:
        """Observations [*lead, *obs], at random."""
        generator = torch.Generator().manual_seed(seed)
        found = {}
        for name, leaf in leaves(self.space).items():
            size = (*lead, *leaf.shape)
            if isinstance(leaf.space, spaces.Discrete):
                found[name] = torch.randint(int(leaf.space.n), size, generator=generator)
            elif isinstance(leaf.space, spaces.MultiDiscrete):
                found[name] = torch.randint(int(leaf.space.nvec.min()), size, generator=generator)
            elif isinstance(leaf.space, spaces.Text):
                found[name] = torch.randint(len(leaf.space.character_set) + 1, size, generator=generator)
            elif isinstance(leaf.space, spaces.MultiBinary):
                found[name] = torch.randint(2, size, generator=generator).to(torch.uint8)
            elif leaf.dtype == torch.uint8:
                found[name] = torch.randint(256, size, generator=generator).to(torch.uint8)
            else:
                found[name] = torch.randn(size, generator=generator)
        return observation_of(found)


def build(name: str, seed: int = 0) -> Case:
    """In eval mode, every parameter, biases too, and every statistic at random."""
    config, space = CASES[name]
    for each in SPACES if space is None else [space]:
        try:
            encoder = config.build(each)
        except ValueError:
            if each is space or each is SPACES[-1]:
                raise
            continue
        return Case(config, each, shaken(encoder, seed).eval())
    raise AssertionError(name)


@torch.no_grad()
def shaken(encoder: Encoder, seed: int) -> Encoder:
    generator = torch.Generator().manual_seed(seed)
    for parameter in encoder.parameters():
        parameter.normal_(0, 0.3, generator=generator)
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
        elif isinstance(module, Normalised):
            module.mean.normal_(0, 0.3, generator=generator)
            module.std.uniform_(0.5, 2, generator=generator)
    return encoder


@pytest.fixture(params=CASES)
def case(request) -> Case:
    return build(request.param)


@pytest.fixture(params=[name for name in CASES if name not in LAYERED])
def form(request) -> Case:
    """For promises about states, paths and inputs, which no norm can break."""
    return build(request.param)


# An encoder with dropout is all that the one without it is: where a test takes its time, that will do.
WITH_DROPOUT = [name for name in CASES if not name.endswith("-0.0")]


def is_matched(name: str, prefix: str) -> bool:
    """As a block's names are meant: of a parameter or buffer, or of a module around it."""
    return name == prefix or name.startswith(f"{prefix}.")


def normal(*size: int, seed: int = 1) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def some_state(encoder: Encoder, batch_size: int = B):
    return tuple(normal(*part.shape, seed=2).tanh() for part in encoder.initial_state(batch_size))


def some_firsts() -> Tensor:
    """A reset in row 0, two in one column, and a column without any."""
    is_first = torch.zeros(T, B, dtype=torch.bool)
    for row, column in ((0, 1), (1, 2), (3, 2), (2, 4)):
        is_first[row, column] = True
    return is_first


def rows(observation: Observation, *index: Any) -> Observation:
    return map_leaves(lambda leaf: leaf[index], observation)


def same(actual, expected, **tolerance):
    torch.testing.assert_close(actual, expected, **tolerance)


def exactly(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def objective(features: Tensor) -> Tensor:
    """Not a sum of squares, which a norm may hold constant."""
    return (features * normal(*features.shape, seed=5)).sum()


def with_gradients(observation: Observation) -> tuple[Observation, list[Tensor]]:
    """The same, and its leaves that can have a gradient."""
    found = map_leaves(lambda leaf: leaf.requires_grad_(leaf.is_floating_point()), observation)
    return found, [leaf for leaf in tensors_of(found).values() if leaf.requires_grad]


RESETS = pytest.mark.parametrize("is_first", [None, some_firsts()], ids=["no-resets", "resets"])


@RESETS
def test_features_and_state_have_the_declared_shapes(case, is_first):
    state = case.encoder.initial_state(B)
    features, after = case.encoder(case.inputs(T, B), state, is_first)
    assert features.shape == (T, B, case.encoder.out_features)
    assert features.dtype == torch.float32
    assert [part.shape for part in after] == [part.shape for part in state]


def test_initial_state_is_one_row_an_environment_and_its_own(form):
    state = form.encoder.initial_state(B)
    assert isinstance(state, tuple)
    assert all(part.shape[0] == B for part in state)
    assert len({part.data_ptr() for part in state}) == len(state)
    for part in state:
        part.fill_(1.0)
    assert not any(part.any() for part in form.encoder.initial_state(B))


def test_initial_state_is_on_the_parameters_device(form):
    form.encoder.to("meta")
    assert {part.device.type for part in form.encoder.initial_state(B)} <= {"meta"}


def test_no_state_given_is_the_initial_state(form):
    observation = form.inputs(T, B)
    exactly(form.encoder(observation), form.encoder(observation, form.encoder.initial_state(B)))


@RESETS
def test_a_sequence_equals_single_steps(case, is_first):
    if not case.encoder.is_causal:
        return
    observation, state = case.inputs(T, B), some_state(case.encoder)
    features, after = case.encoder(observation, state, is_first)
    for t in range(T):
        one = slice(t, t + 1)
        row, state = case.encoder(rows(observation, one), state, None if is_first is None else is_first[one])
        same(row[0], features[t])
    same(state, after)


def test_step_is_forward_of_one_row_or_refused(form):
    encoder = form.encoder
    observation, state, is_first = form.inputs(B), some_state(encoder), some_firsts()[1]
    if not encoder.is_causal:
        with pytest.raises(ValueError, match=r"^encoder\.bidirectional=true [^\n]*$"):
            encoder.step(observation, state, is_first)
        return
    features, after = encoder.step(observation, state, is_first)
    expected, expected_after = encoder(rows(observation, None), state, is_first.unsqueeze(0))
    exactly(features, expected[0])
    exactly(after, expected_after)


def test_no_resets_said_or_shown_is_the_same(form):
    observation, state = form.inputs(T, B), some_state(form.encoder)
    same(form.encoder(observation, state, torch.zeros(T, B, dtype=torch.bool)), form.encoder(observation, state, None))


def test_columns_are_independent(case):
    encoder = case.encoder
    observation, state, is_first = case.inputs(T, B), some_state(encoder), some_firsts()
    features, after = encoder(observation, state, is_first)
    for b in range(B):
        one = slice(b, b + 1)
        part = tuple(part[one] for part in state)
        alone, alone_after = encoder(rows(observation, slice(None), one), part, is_first[:, one])
        same(alone, features[:, one])
        same(alone_after, tuple(part[one] for part in after))


def test_a_reset_inside_equals_a_split(case):
    encoder = case.encoder
    observation, state = case.inputs(T, B), some_state(encoder)
    is_first = torch.zeros(T, B, dtype=torch.bool)
    is_first[2] = True
    features, after = encoder(observation, state, is_first)
    same(features[:2], encoder(rows(observation, slice(2)), state)[0])
    same((features[2:], after), encoder(rows(observation, slice(2, None)), encoder.initial_state(B)))


def test_a_reset_forgets_what_was_before_it(form):
    encoder = form.encoder
    observation, inputs = with_gradients(form.inputs(T, B))
    state = tuple(part.requires_grad_() for part in some_state(encoder))
    is_first = torch.zeros(T, B, dtype=torch.bool)
    is_first[2] = True
    features, after = encoder(observation, state, is_first)
    if inputs:
        gradients = torch.autograd.grad(objective(features[2:]), (*inputs, *state), allow_unused=True)
        for gradient in gradients[: len(inputs)]:
            assert gradient[2:].any()
            assert not gradient[:2].any()
        assert not any(part.any() for part in gradients[len(inputs) :] if part is not None)
    other = map_leaves(lambda one, two: torch.cat((one[:2], two[2:])), form.inputs(T, B, seed=3), observation)
    exactly(encoder(other, tuple(5 * part for part in state), is_first)[0][2:], features[2:])
    exactly(encoder(other, tuple(5 * part for part in state), is_first)[1], after)


def test_a_memory_remembers_from_the_first_row_to_the_last(form):
    encoder = form.encoder
    observation, inputs = with_gradients(form.inputs(T, B))
    for is_first in (None, torch.zeros(T, B, dtype=torch.bool)) if inputs else ():
        gradients = torch.autograd.grad(objective(encoder(observation, (), is_first)[0][-1]), inputs)
        has_memory = bool(encoder.initial_state(1)) or not encoder.is_causal
        assert any(gradient[0].any() for gradient in gradients) == has_memory


@RESETS
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_gradients_reach_every_parameter(case, is_first, training):
    encoder = case.encoder.train(training)
    with torch.random.fork_rng():
        torch.manual_seed(0)  # dropout
        features, _ = encoder(case.inputs(T, B), encoder.initial_state(B), is_first)
    gradients = torch.autograd.grad(objective(features), list(encoder.parameters()))
    for (name, _), gradient in zip(encoder.named_parameters(), gradients, strict=True):
        assert gradient.isfinite().all(), name
        assert gradient.any(), name


def test_both_paths_have_the_same_gradients(form):
    observation, parameters = form.inputs(T, B), list(form.encoder.parameters())
    fused, stepwise = (
        torch.autograd.grad(objective(form.encoder(observation, (), is_first)[0]), parameters)
        for is_first in (None, torch.zeros(T, B, dtype=torch.bool))
    )
    same(stepwise, fused, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_state_dict_carries_everything(name):
    one, other = build(name), build(name, seed=9)
    observation = one.inputs(T, B)
    assert not torch.equal(other.encoder(observation)[0], one.encoder(observation)[0])
    other.encoder.load_state_dict(one.encoder.state_dict())
    exactly(other.encoder(observation), one.encoder(observation))


def test_eval_is_deterministic_and_changes_nothing(case):
    encoder = case.encoder
    observation, state, is_first = case.inputs(T, B), some_state(encoder), some_firsts()
    inputs = [map_leaves(Tensor.clone, observation), *(part.clone() for part in state), is_first.clone()]
    before, weights = torch.get_rng_state(), {name: value.clone() for name, value in encoder.state_dict().items()}
    exactly(encoder(observation, state, is_first), encoder(observation, state, is_first))
    exactly([observation, *state, is_first], inputs)
    exactly(dict(encoder.state_dict()), weights)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", [name for name in CASES if name.endswith("-0.3")])
def test_dropout_draws_from_torchs_stream_alone(name):
    case = build(name)
    encoder, observation = case.encoder.train(), case.inputs(T, B)
    with torch.random.fork_rng():
        once, again, other = ((torch.manual_seed(seed), encoder(observation)[0])[1] for seed in (0, 0, 1))
    exactly(once, again)
    assert not torch.equal(once, other)


@pytest.mark.parametrize("scheme", ["uniform", "orthogonal"])
@pytest.mark.parametrize("name", WITH_DROPOUT)
def test_initialise_draws_every_parameter_from_the_generator_alone(name, scheme):
    def initialised(seed: int, global_seed: int):
        with torch.random.fork_rng():
            torch.manual_seed(global_seed)
            encoder = build(name, seed=global_seed).encoder
            before = torch.get_rng_state()
            initialise(encoder, scheme, torch.Generator().manual_seed(seed))
            assert torch.equal(torch.get_rng_state(), before)
            return dict(encoder.named_parameters())

    one, again, other = initialised(0, global_seed=1), initialised(0, global_seed=2), initialised(3, global_seed=1)
    exactly(one, again)
    assert all(not torch.equal(value, other[name]) for name, value in one.items() if value.ndim > 1)


@pytest.mark.parametrize("name", WITH_DROPOUT)
def test_weights_can_be_lent_from_outside(name):
    one, other = build(name), build(name, seed=9)
    observation, is_first = one.inputs(T, B), some_firsts()
    weights = {**dict(one.encoder.named_parameters()), **dict(one.encoder.named_buffers())}
    same(functional_call(other.encoder, weights, (observation, (), is_first)), one.encoder(observation, (), is_first))


@pytest.mark.parametrize("name", WITH_DROPOUT)
def test_export(name):
    case = build(name)
    has_memory = bool(case.encoder.initial_state(1)) or not case.encoder.is_causal
    for is_first in (None, some_firsts()[1:3]) if has_memory else (None,):
        arguments = (case.inputs(2, B), case.encoder.initial_state(B), is_first)
        exported = torch.export.export(case.encoder, arguments).module()
        again = (case.inputs(2, B, seed=7), some_state(case.encoder), is_first)
        same(exported(*again), case.encoder(*again))


def test_float64_and_strided_observations_are_taken(form):
    encoder, observation = form.encoder, form.inputs(T, B)
    expected = encoder(observation, some_state(encoder))
    double = map_leaves(lambda leaf: leaf.double() if leaf.is_floating_point() else leaf, observation)
    same(encoder(double, some_state(encoder)), expected)
    transposed = map_leaves(lambda leaf: leaf.transpose(0, 1).contiguous().transpose(0, 1), observation)
    interleaved = map_leaves(lambda leaf: torch.stack((leaf, leaf + 1), -1)[..., 0], observation)
    for strided in (transposed, interleaved):
        assert not any(leaf.is_contiguous() for leaf in tensors_of(strided).values())
        same(encoder(strided, some_state(encoder)), expected)
        same(encoder(strided, some_state(encoder), torch.zeros(B, T, dtype=torch.bool).t()), expected)


def test_state_may_be_strided(form):
    state = some_state(form.encoder)
    strided = tuple(torch.stack((part, -part), -1)[..., 0] for part in state)
    for is_first in (None, some_firsts()):
        expected = form.encoder(form.inputs(T, B), state, is_first)
        same(form.encoder(form.inputs(T, B), strided, is_first), expected)


@pytest.mark.parametrize("share", [0.5, 1.0], ids=["half", "all"])
@pytest.mark.parametrize("name", WITH_DROPOUT)
def test_what_is_frozen_is_bit_identical_after_a_hundred_updates(name, share):
    case = build(name)
    encoder, blocks = case.encoder, case.encoder.blocks()
    frozen = [name for block in blocks[: int(share * len(blocks))] for name in block]
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_(not any(is_matched(name, prefix) for prefix in frozen))
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    head = nn.Linear(encoder.out_features, 1)
    # Decay moves whatever has a gradient, be it 0.
    optimizer = torch.optim.SGD([*encoder.parameters(), *head.parameters()], lr=1e-3, weight_decay=0.1, fused=True)
    encoder.train()
    observation = case.inputs(1, 2)
    with torch.random.fork_rng():
        for _ in range(100):
            optimizer.zero_grad()
            head(encoder(observation)[0]).square().mean().backward()
            optimizer.step()
    for name, value in encoder.state_dict().items():
        if any(is_matched(name, prefix) for prefix in frozen):
            exactly(value, before[name])
        elif value.requires_grad:
            assert not torch.equal(value, before[name]), name


def test_every_parameter_is_in_one_block_and_every_name_is_of_something(case):
    blocks = case.encoder.blocks()
    state = [*dict(case.encoder.named_parameters()), *dict(case.encoder.named_modules())]
    for prefix in (prefix for block in blocks for prefix in block):
        assert prefix in state
    for name, _ in case.encoder.named_parameters():
        assert sum(any(is_matched(name, prefix) for prefix in block) for block in blocks) == 1, name
    for block in blocks:
        assert any(is_matched(name, prefix) for name, _ in case.encoder.named_parameters() for prefix in block)


def test_no_bias_stands_right_before_batch_norm(case):
    made: dict[int, tuple[Tensor, nn.Module]] = {}

    def after(module, inputs, output):
        made[id(output)] = (output, module)  # with the output, lest another takes its id

    def before(module, inputs):
        producer = made.get(id(inputs[0]))
        assert producer is None or producer[1].bias is None

    for module in case.encoder.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.register_forward_hook(after)
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.register_forward_pre_hook(before)
    case.encoder(case.inputs(T, B))


@pytest.mark.parametrize("name", WITH_DROPOUT)
def test_config_survives_a_round_trip(name):
    case = build(name)
    adapter = TypeAdapter(EncoderConfig)
    for dumped in (case.config.model_dump(), case.config.model_dump(mode="json")):
        again = adapter.validate_python(dumped)
        assert again == case.config
        assert type(again) is type(case.config)
    assert adapter.validate_json(case.config.model_dump_json()) == case.config
    again.build(case.space).load_state_dict(case.encoder.state_dict())


def test_every_kind_has_its_own_name():
    kinds = [member().kind for member in get_args(UNION)]
    assert len(set(kinds)) == len(kinds)
    for kind in kinds:
        assert TypeAdapter(EncoderConfig).validate_python({"kind": kind}).kind == kind
