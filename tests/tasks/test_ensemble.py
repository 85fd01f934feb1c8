import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from graftwork.engine import AdamConfig, NonFiniteError, SGDConfig
from graftwork.networks import (
    ConvConfig,
    ConvLayer,
    EmbeddingConfig,
    GRUConfig,
    ImpalaConfig,
    InceptionConfig,
    InceptionWidths,
    LSTMConfig,
    MLPConfig,
    ResNetConfig,
)
from graftwork.tasks import (
    Dataset,
    Ensemble,
    HeadConfig,
    Model,
    PenaltyConfig,
    Supervised,
    SupervisedConfig,
    TaskNetwork,
    from_arrays,
)
from graftwork.training.seeding import Seeds

M, N = 3, 11


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def labelled(inputs: Tensor, space: spaces.Space | None = None, lengths: Tensor | None = None) -> Dataset:
    generator = seeded(5)
    targets = {"class": torch.randint(4, (N,), generator=generator), "value": torch.randn(N, 2, generator=generator)}
    if lengths is not None:
        targets["rows"] = torch.randint(3, inputs.shape[:2], generator=generator)
    names = {"class": "abcd"} | ({} if lengths is None else {"rows": "xyz"})
    return from_arrays(inputs, targets, names=names, space=space, lengths=lengths)


LENGTHS = torch.tensor([5, 1, 2, 3, 4, 5, 5, 1, 2, 3, 4])
TABLE = labelled(torch.randn(N, 3, generator=seeded(0)))
IMAGES = labelled(torch.randn(N, 2, 7, 8, generator=seeded(1)))
TOKENS = labelled(torch.randint(9, (N,), generator=seeded(2)), spaces.Discrete(9))
SEQUENCES = labelled(torch.randn(N, 5, 3, generator=seeded(3)), lengths=LENGTHS)

CONV = {"layers": (ConvLayer(channels=4, kernel=3), ConvLayer(channels=6, kernel=3)), "hidden": 7}
WIDTHS = InceptionWidths(one=4, before_three=4, three=4, before_five=4, five=4, pool=4)
ENCODERS = {
    "mlp-layer": (MLPConfig(hidden=(6, 5), norm="layer"), TABLE),
    "mlp-batch": (MLPConfig(hidden=(6, 5), norm="batch"), TABLE),
    "mlp-group": (MLPConfig(hidden=(6, 4), norm="group", activation="tanh"), TABLE),
    "mlp-rms": (MLPConfig(hidden=(6, 4), norm="rms", norm_position="after"), TABLE),
    "conv": (ConvConfig(**CONV), IMAGES),
    "conv-batch": (ConvConfig(**CONV, norm="batch"), IMAGES),
    "conv-rms": (ConvConfig(**CONV, norm="rms"), IMAGES),
    "resnet": (ResNetConfig(blocks=(1, 1), width=4), IMAGES),
    "impala": (ImpalaConfig(stages=(4, 4), residual_blocks=1, hidden=5), IMAGES),
    "inception": (
        InceptionConfig(stem=ConvLayer(channels=4, kernel=3, stride=2), modules=1, widths=WIDTHS, norm="batch"),
        IMAGES,
    ),
    "embedding": (EmbeddingConfig(size=5), TOKENS),
    "lstm": (LSTMConfig(hidden_size=4, num_layers=2, inner=MLPConfig(hidden=(5,))), TABLE),
    "lstm-sequences": (LSTMConfig(hidden_size=4, inner=MLPConfig(hidden=(5,), norm="layer")), SEQUENCES),
    "gru-both-ways": (GRUConfig(hidden_size=4, bidirectional=True, inner=MLPConfig(hidden=(5,))), SEQUENCES),
}


def config(encoder, **fields) -> SupervisedConfig:
    heads = {"class": HeadConfig(), "value": HeadConfig(loss="huber", weight=0.5)}
    fields = {"heads": heads, "batch_size": 4, "learning_rate": 0.05, "optimizer": SGDConfig(momentum=0.9), **fields}
    return SupervisedConfig(encoder=encoder, **fields)


def members_alone(each: SupervisedConfig, task, data: Dataset) -> list[tuple[TaskNetwork, Supervised]]:
    """The same networks as the ensemble's, each with a learner of its own."""
    heads = tuple(each.heads)
    found = []
    for i in range(task.network.num_members):
        network = task.network.member(i)
        learner = Supervised(network, each.model_copy(update={"members": 1}), [heads], len(data), Seeds(i))
        found.append((network, learner))
    return found


def same(actual, expected, **tolerance):
    torch.testing.assert_close(actual, expected, **tolerance)


def exactly(actual, expected):
    same(actual, expected, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ENCODERS)
def test_members_learn_as_they_would_alone(make_task, kind):
    encoder, data = ENCODERS[kind]
    each = config(encoder, members=M)
    if data is SEQUENCES:
        each = each.model_copy(update={"heads": {**each.heads, "rows": HeadConfig()}})
    task = make_task(each, data)
    alone = members_alone(each, task, data)
    for _ in range(5):  # batches of 4, 4 and 3
        batch = task.batches.next()
        together = task.learner.learn(batch)
        apart = [learner.learn(batch) for _, learner in alone]
        for name in ("loss", *(f"loss/{head}" for head in each.heads)):
            same(together[name], torch.stack([metrics[name] for metrics in apart]).mean(), rtol=1e-3, atol=1e-4)
    for i, (network, _) in enumerate(alone):
        same(dict(task.network.member(i).state_dict()), dict(network.state_dict()), rtol=1e-3, atol=1e-4)
    same(
        Model(task.network).probabilities(data.inputs, data.lengths)["class"],
        average(alone, data),
        rtol=1e-3,
        atol=1e-4,
    )


def average(alone, data: Dataset):
    each = [Model(network).probabilities(data.inputs, data.lengths)["class"] for network, _ in alone]
    return sum(each) / len(each)


FIELDS = {
    "uncertainty": {"heads": {"class": HeadConfig(), "value": HeadConfig()}, "weighting": "uncertainty"},
    "penalties": {"penalty": PenaltyConfig(l1=1e-3, l2=1e-2, sparsity=0.1)},
    "adam": {"optimizer": AdamConfig(epsilon=1e-3), "learning_rate": 0.01},
    "given": {"heads": {"class": HeadConfig(), "value": HeadConfig(given="class")}},
}


@pytest.mark.parametrize("fields", FIELDS.values(), ids=FIELDS)
def test_members_learn_as_they_would_alone_whatever_the_loss(make_task, fields):
    # Smooth and slow: else float errors grow from update to update.
    slow = {"learning_rate": 0.01, "optimizer": SGDConfig()}
    each = config(MLPConfig(hidden=(6, 5), norm="layer", activation="tanh"), members=M, **{**slow, **fields})
    task = make_task(each, TABLE)
    alone = members_alone(each, task, TABLE)
    for _ in range(120):  # past where an update is recorded
        batch = task.batches.next()
        task.learner.learn(batch)
        for _, learner in alone:
            learner.learn(batch)
    for i, (network, _) in enumerate(alone):
        same(dict(task.network.member(i).state_dict()), dict(network.state_dict()), rtol=1e-3, atol=1e-5)


def test_members_start_apart_and_are_those_of_their_seeds(make_task):
    each = config(MLPConfig(hidden=(6,)), members=M)
    one, other = (make_task(each, TABLE, seed=seed).network for seed in (0, 1))
    weights = [net.member(i).encoder.inner.layers[0].weight for net in (one, other) for i in range(M)]
    assert all(not torch.equal(a, b) for place, a in enumerate(weights) for b in weights[:place])
    exactly(one.member(2).state_dict(), make_task(each, TABLE).network.member(2).state_dict())
    # More members change nothing about the first.
    exactly(
        one.member(1).state_dict(), make_task(config(each.encoder, members=2), TABLE).network.member(1).state_dict()
    )


def test_dropout_differs_between_members_and_comes_from_the_learners_stream(make_task):
    task = make_task(config(MLPConfig(hidden=(40,), dropout=0.5), members=M), TABLE)
    network = task.network
    with torch.no_grad():  # of equal members, features differ by what is dropped alone
        for value in network.state_dict().values():
            value.copy_(value[:1].expand_as(value))
    observation, valid = TABLE.inputs.unsqueeze(0), torch.ones(1, N, dtype=torch.bool)
    at_rest = network.map(lambda member: member.features(observation, valid))
    exactly(at_rest[0], at_rest[1])
    with torch.random.fork_rng():
        features = network.train().map(lambda member: member.features(observation, valid)) != 0
    network.eval()
    lives = at_rest[0] != 0
    for i in range(M):
        assert 0.3 < (features[i] & lives).sum() / lives.sum() < 0.7
        assert not torch.equal(features[i], features[i - 1])
    before = torch.get_rng_state()
    task.learner.learn(task.batches.next())
    assert torch.equal(torch.get_rng_state(), before)


def test_state_dict_round_trip(make_task):
    each = config(MLPConfig(hidden=(6,), norm="batch"), members=M)
    one, other = (make_task(each, TABLE, seed=seed) for seed in (0, 1))
    for _ in range(4):
        one.learner.learn(one.batches.next())
    other.learner.load_state_dict(one.learner.state_dict())
    exactly(dict(other.network.state_dict()), dict(one.network.state_dict()))
    exactly(Model(other.network).probabilities(TABLE.inputs), Model(one.network).probabilities(TABLE.inputs))
    fewer = make_task(config(each.encoder, members=2), TABLE)
    with pytest.raises(ValueError, match=r"^state of network: encoder__[^\n]* is \[3, 6, 3\], this one \[2, 6, 3\]$"):
        fewer.learner.load_state_dict(one.learner.state_dict())


def test_a_member_is_a_copy_at_rest(make_task):
    network = make_task(config(MLPConfig(hidden=(6,), norm="batch"), members=M), TABLE).network
    before = {name: value.clone() for name, value in network.state_dict().items()}
    member = network.train().member(1)
    assert not any(module.training for module in member.modules())
    assert member.schema == network.schema
    assert all(parameter.requires_grad for parameter in member.parameters())
    with torch.no_grad():
        for value in member.state_dict().values():
            value.zero_()
    exactly(dict(network.state_dict()), before)


def test_members_see_the_units_of_the_data(make_task):
    network = make_task(config(MLPConfig(hidden=(6,)), members=M), TABLE).network
    for i in range(M):
        same(network.member(i).encoder.mean, TABLE.inputs.mean(0))
        same(network.member(i).heads["value"].mean, TABLE.target("value").values.mean(0))


def test_spread_is_where_members_disagree(make_task):
    network = make_task(config(MLPConfig(hidden=(6,)), members=M), TABLE).network
    model = Model(network)
    spread = model.spread(TABLE.inputs)
    assert spread["class"].shape == (N, 4)
    assert (spread["class"] > 0).all()
    assert (spread["value"] > 0).all()
    each = torch.stack([torch.from_numpy(Model(network.member(i)).predict(TABLE.inputs)["value"]) for i in range(M)])
    same(torch.from_numpy(spread["value"]), each.std(0, correction=0), rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        for value in network.state_dict().values():
            value.copy_(value[:1].expand_as(value))
    assert not model.spread(TABLE.inputs)["class"].any()


def test_one_members_trouble_is_everyones(make_task):
    task = make_task(config(MLPConfig(hidden=(6,)), members=M), TABLE)
    with torch.no_grad():
        next(task.network.parameters())[1] = torch.nan
    before = {name: value.clone() for name, value in task.network.state_dict().items()}
    with pytest.raises(NonFiniteError, match=r"^loss is nan[^\n]*$"):
        task.learner.learn(task.batches.next())
    for name, value in task.network.state_dict().items():
        assert torch.equal(value.nan_to_num(7), before[name].nan_to_num(7)), name


def test_layers_can_be_examined(make_task):
    task = make_task(config(MLPConfig(hidden=(6,), dropout=0.2), members=M), TABLE)
    task.learner.examine(True)
    metrics = task.learner.learn(task.batches.next())
    norms = torch.stack([value for name, value in metrics.items() if name.startswith("gradient_norm/")])
    same(norms.norm(), metrics["gradient_norm"])


def test_its_encoder_is_the_first_members(make_task):
    network = make_task(config(MLPConfig(hidden=(6,)), members=M), TABLE).network
    assert isinstance(network, Ensemble)
    exactly(dict(network.encoder.state_dict()), dict(network.member(0).encoder.state_dict()))
