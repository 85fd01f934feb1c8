from typing import get_args

import numpy as np
import pytest
import torch
from gymnasium import spaces
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from graftwork.engine import AdagradConfig, AdamConfig, AdamWConfig, OptimizerConfig, RMSpropConfig, SGDConfig
from graftwork.networks import (
    MLP,
    CombinedConfig,
    ConvConfig,
    ConvLayer,
    Encoder,
    Freeze,
    LSTMConfig,
    MLPConfig,
    Network,
    NormalisedConfig,
    QHead,
    ResNetConfig,
    freeze,
    num_frozen_blocks,
    parameter_groups,
)
from graftwork.tasks import (
    Batches,
    HeadConfig,
    PenaltyConfig,
    Supervised,
    SupervisedConfig,
    from_arrays,
    schema_of,
    targets_of,
)
from graftwork.training.schedules import Constant
from graftwork.training.seeding import Seeds


def box(*shape: int) -> spaces.Box:
    return spaces.Box(-np.inf, np.inf, shape, np.float32)


def mlp(**fields) -> Encoder:
    return MLPConfig(**{"hidden": (6, 5, 4), "norm": "batch", "dropout": 0.3, **fields}).build(box(3))


def frozen(encoder: Encoder) -> set[str]:
    return {name for name, parameter in encoder.named_parameters() if not parameter.requires_grad}


# The layers of `mlp`: linear without bias, batch norm, activation and dropout, three times.


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        (0, set()),
        ((), set()),
        (1, {"layers.0.weight", "layers.1.weight", "layers.1.bias"}),
        (("layers.4",), {"layers.4.weight"}),
        (("layers.1.bias", "layers.8"), {"layers.1.bias", "layers.8.weight"}),
        (("layers.1", "layers.1.bias"), {"layers.1.weight", "layers.1.bias"}),
    ],
)
def test_exactly_what_is_named_is_frozen(what, expected):
    encoder = mlp()
    freeze(encoder, what)
    assert frozen(encoder) == expected


@pytest.mark.parametrize("what", ["all", 3, ("layers",)])
def test_everything_can_be_frozen(what):
    encoder = mlp()
    freeze(encoder, what)
    assert frozen(encoder) == {name for name, _ in encoder.named_parameters()}
    freeze(encoder)
    assert len(frozen(encoder)) == 9


def test_what_was_frozen_before_is_set_free():
    encoder = mlp()
    freeze(encoder, "all")
    freeze(encoder, 1)
    assert len(frozen(encoder)) == 3
    freeze(encoder, 0)
    assert frozen(encoder) == set()


def test_a_name_ends_at_a_dot():
    encoder = MLP((3,), (4,) * 7)  # layers 0, 2, ... 12
    freeze(encoder, ("layers.10",))
    assert frozen(encoder) == {"layers.10.weight", "layers.10.bias"}


NAMES = {
    "conv": (ConvConfig(layers=(ConvLayer(channels=4, kernel=3),) * 2, hidden=5), box(2, 7, 8)),
    "resnet": (ResNetConfig(blocks=(1, 1), width=4), box(2, 7, 8)),
    "lstm": (LSTMConfig(hidden_size=4, num_layers=2, inner=MLPConfig(hidden=(5, 6))), box(3)),
    "normalised": (NormalisedConfig(inner=MLPConfig(hidden=(5, 6), norm="layer")), box(3)),
    "combined": (CombinedConfig(hidden=5), spaces.Dict({"a": box(3), "b": box(2)})),
}


@pytest.mark.parametrize("kind", NAMES)
def test_first_blocks_are_those_next_to_the_input(kind):
    config, space = NAMES[kind]
    encoder = config.build(space)
    blocks, before = encoder.blocks(), set[str]()
    for count in range(len(blocks) + 1):
        freeze(encoder, count)
        found = frozen(encoder)
        assert before < found or count == 0
        names = [name for block in blocks[:count] for name in block]
        assert all(any(name == part or name.startswith(f"{part}.") for part in names) for name in found)
        before = found
    assert len(before) == len(list(encoder.parameters()))


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (4, r"^freeze=4: this MLP has 3 blocks$"),
        (-1, r"^freeze=-1: this MLP has 3 blocks$"),
        (("layer.0",), r"^freeze=layer\.0: matches no layer of this MLP that learns; did you mean layers\.0\?$"),
        (("layers.0", "conv"), r"^freeze=conv: matches no layer of this MLP that learns; there are layers, [^\n]*$"),
        (("layers.2",), r"^freeze=layers\.2: matches no layer of this MLP that learns; [^\n]*$"),  # an activation
        (("layers.1.running_mean",), r"^freeze=layers\.1\.running_mean: matches no layer [^\n]*$"),
        (("",), r"^freeze=: matches no layer [^\n]*$"),
        (("layers.",), r"^freeze=layers\.: matches no layer [^\n]*$"),
    ],
)
def test_what_is_not_there_is_named_before_anything_changes(what, message):
    encoder = mlp()
    freeze(encoder, 1)
    before = frozen(encoder)
    with pytest.raises(ValueError, match=message):
        freeze(encoder, what)
    assert frozen(encoder) == before


def test_what_is_frozen_rests_while_the_others_train():
    encoder = mlp().train()
    freeze(encoder, 2)
    modes = {name: module.training for name, module in encoder.named_modules()}
    norms = [modes[f"layers.{place}"] for place in (1, 5, 9)]
    assert norms == [False, False, True]
    freeze(encoder, 0)
    assert all(module.training for module in encoder.modules())
    freeze(encoder, "all")
    assert not any(module.training for module in encoder.modules())
    freeze(encoder, 0)
    assert all(module.training for module in encoder.modules())
    encoder.eval()
    freeze(encoder, 1)
    assert not any(module.training for module in encoder.modules())


def test_part_of_what_is_frozen_wakes_up_by_itself():
    encoder = LSTMConfig(hidden_size=4, inner=MLPConfig(hidden=(5,), norm="batch")).build(box(3)).train()
    freeze(encoder, "all")
    freeze(encoder.inner, 0)
    assert all(module.training for module in encoder.inner.modules())


@pytest.mark.parametrize("value", ["all", 0, 3, ["layers.0", "layers.4"]])
def test_a_config_says_what_to_freeze(value):
    found = TypeAdapter(Freeze).validate_python(value)
    assert found == (tuple(value) if isinstance(value, list) else value)
    freeze(mlp(), found)


@pytest.mark.parametrize("value", [-1, "some", 1.5, [1]])
def test_a_config_says_nothing_else(value):
    with pytest.raises(ValidationError):
        TypeAdapter(Freeze).validate_python(value)


def test_blocks_are_set_free_one_by_one_from_the_head_down():
    encoder = mlp()
    assert [num_frozen_blocks(encoder, "all", step, 10) for step in (0, 9, 10, 19, 20, 29, 30, 1000)] == [
        *(3, 3, 2, 2, 1, 1, 0, 0)
    ]
    assert [num_frozen_blocks(encoder, 2, step, 5) for step in range(0, 20, 3)] == [2, 2, 1, 1, 0, 0, 0]
    assert num_frozen_blocks(encoder, 0, 0, 5) == 0
    with pytest.raises(ValueError, match=r"^freeze=\['layers\.0'\]: names are not set free one by one; [^\n]*$"):
        num_frozen_blocks(encoder, ("layers.0",), 0, 5)


# Groups of parameters.


def network(encoder: Encoder) -> Network[Tensor]:
    return Network(encoder, QHead(encoder.out_features, 7))


@pytest.mark.parametrize("freezing", [0, 1, "all", "a part of each"])
@pytest.mark.parametrize("decay", [1.0, 0.5])
@pytest.mark.parametrize("kind", NAMES)
def test_every_parameter_is_in_one_group(kind, decay, freezing):
    config, space = NAMES[kind]
    whole = network(config.build(space))
    whole.encoder.rate_decay = decay
    names = tuple(name for name, _ in whole.encoder.named_parameters())[::2]
    freeze(whole.encoder, names if freezing == "a part of each" else freezing)
    groups = parameter_groups(whole)
    places = [id(parameter) for group in groups for parameter in group.parameters]
    assert sorted(places) == sorted(map(id, whole.parameters()))
    assert all(group.parameters for group in groups)
    for group in groups:  # an optimizer leaves out whole groups
        assert len({parameter.requires_grad for parameter in group.parameters}) == 1


def test_rates_fall_with_the_distance_from_the_head():
    whole = network(MLP((3,), (6, 5, 4)))
    whole.encoder.rate_decay = 0.5
    rates = {id(parameter): group.rate for group in parameter_groups(whole) for parameter in group.parameters}
    expected = {"layers.0": 0.125, "layers.2": 0.25, "layers.4": 0.5}
    for name, parameter in whole.encoder.named_parameters():
        assert rates[id(parameter)] == expected[name.rpartition(".")[0]]
    assert {rates[id(parameter)] for parameter in whole.head.parameters()} == {1.0}


def test_one_group_where_nothing_tells_parameters_apart():
    for whole in (network(mlp()), nn.Linear(2, 3)):
        (group,) = parameter_groups(whole)
        assert list(map(id, group.parameters)) == list(map(id, whole.parameters()))
        assert group.rate == 1.0


def test_a_parameter_that_no_block_names_learns_at_the_full_rate():
    class Forgetful(MLP):
        def blocks(self):
            return super().blocks()[:1]

    whole = network(Forgetful((3,), (6, 5)))
    whole.encoder.rate_decay = 0.5
    rates = {id(parameter): group.rate for group in parameter_groups(whole) for parameter in group.parameters}
    assert len(rates) == len(list(whole.parameters()))
    assert [rates[id(parameter)] for parameter in whole.encoder.parameters()] == [0.5, 0.5, 1.0, 1.0]


# All together, in the learner that they are for.

DATA = from_arrays(
    torch.randn(24, 3, generator=torch.Generator().manual_seed(0)),
    {"class": torch.arange(24) % 4, "value": torch.randn(24, generator=torch.Generator().manual_seed(1))},
)
HEADS = ("class", "value")


def learner_of(config: SupervisedConfig, encoder: Encoder) -> tuple[Supervised, Batches]:
    schema = schema_of(dict.fromkeys(HEADS, DATA), {name: name for name in HEADS}, dict.fromkeys(HEADS))
    made = config.network(schema, Seeds(0), encoder, dict.fromkeys(HEADS, DATA))
    learner = Supervised(made, config, [HEADS], 24, Seeds(0))
    generators = (Seeds(0).generator(name) for name in ("shuffling", "augmentation"))
    return learner, Batches(DATA, 8, *generators, targets=targets_of(schema, HEADS))


def task(**fields) -> SupervisedConfig:
    return SupervisedConfig(**{"heads": {name: HeadConfig() for name in HEADS}, "learning_rate": 0.01, **fields})


DECAYED = (
    SGDConfig(momentum=0.9, nesterov=True, weight_decay=0.1),
    AdamWConfig(weight_decay=0.1),
    AdamConfig(),
    RMSpropConfig(momentum=0.9),
    AdagradConfig(),
)


def test_every_optimizer_is_tested():
    assert {type(each) for each in DECAYED} == set(get_args(get_args(OptimizerConfig)[0]))


@pytest.mark.parametrize(
    ("optimizer", "what"),
    [(each, 2) for each in DECAYED] + [(DECAYED[1], what) for what in (1, ("layers.4", "layers.5"), "all")],
    ids=lambda each: getattr(each, "kind", str(each)),
)
def test_what_is_frozen_is_bit_identical_after_a_hundred_updates(optimizer, what):
    encoder = mlp()
    encoder.rate_decay = 0.5
    freeze(encoder, what)
    penalty = PenaltyConfig(l1=1e-3, l2=1e-2, sparsity=0.1)
    learner, batches = learner_of(task(optimizer=optimizer, penalty=penalty), encoder)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    for _ in range(105):  # recorded in the end
        learner.learn((batches.next(),))
    still = frozen(encoder)
    modules = {name.rpartition(".")[0] for name in still}
    for name, value in encoder.state_dict().items():
        owner, _, own_name = name.rpartition(".")
        is_frozen = owner in modules if own_name.startswith(("running", "num_batches")) else name in still
        assert torch.equal(value, before[name]) == is_frozen, name
    assert still


def test_what_is_set_free_learns_and_goes_on():
    encoder = mlp(norm="layer", dropout=0.0)
    learner, batches = learner_of(task(), encoder)
    freeze(encoder, 2)
    weights = [encoder.layers[place].weight for place in (0, 3, 6)]

    def moved() -> list[bool]:
        before = [weight.detach().clone() for weight in weights]
        learner.learn((batches.next(),))
        return [not torch.equal(weight, old) for weight, old in zip(weights, before, strict=True)]

    assert moved() == [False, False, True]
    freeze(encoder, 1)
    assert moved() == [False, True, True]
    freeze(encoder, 0)
    assert moved() == [True, True, True]
    freeze(encoder, "all")
    assert moved() == [False, False, False]


def test_updates_go_by_the_rates():
    encoder = mlp(norm="none", dropout=0.0)
    encoder.rate_decay = 0.5
    same = mlp(norm="none", dropout=0.0)
    same.load_state_dict(encoder.state_dict())
    steps = []
    for each in (encoder, same):
        each.requires_grad_(True)
        learner, batches = learner_of(task(optimizer=SGDConfig(), learning_rate=Constant(value=1.0)), each)
        before = [weight.detach().clone() for weight in learner.network.parameters()]
        learner.learn((batches.next(),))
        steps.append([weight.detach() - old for weight, old in zip(learner.network.parameters(), before, strict=True)])
    shares = [0.125, 0.125, 0.25, 0.25, 0.5, 0.5, 1.0, 1.0, 1.0, 1.0]
    for slow, full, share in zip(*steps, shares, strict=True):
        torch.testing.assert_close(slow, share * full, rtol=1e-4, atol=1e-6)


def test_nothing_left_to_learn_is_said():
    encoder = mlp()
    learner, batches = learner_of(task(), encoder)
    learner.network.requires_grad_(False)
    with pytest.raises(ValueError, match=r"^nothing to update: every parameter is frozen \(requires_grad=False\)$"):
        learner.learn((batches.next(),))


def test_dropout_of_frozen_blocks_rests_and_of_the_others_does_not():
    encoder = MLPConfig(hidden=(8, 8), dropout=0.5).build(spaces.Box(-1, 1, (3,)))
    freeze(encoder, 1)
    encoder.train()
    assert [module.training for module in encoder.layers if isinstance(module, nn.Dropout)] == [False, True]
    freeze(encoder, 0)
    assert all(module.training for module in encoder.layers.train())
