import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from graftwork.networks import (
    MLP,
    AuxiliaryHead,
    ClassHead,
    Encoder,
    GRUConfig,
    LSTMConfig,
    MLPConfig,
    Normalised,
    NormalisedConfig,
    RegressionHead,
    initialise,
)
from graftwork.tasks import Dataset, Schema, Target, TaskNetwork, from_arrays, schema_of
from graftwork.tasks.network import Standardised, make_heads, of_given

T, N, F = 4, 5, 3
LENGTHS = torch.tensor([4, 1, 3, 2, 4])
VALID = torch.arange(T).unsqueeze(1) < LENGTHS  # [T, N]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Same(Encoder):
    """Features that are the observation."""

    def __init__(self, out_features: int) -> None:
        super().__init__()
        self.out_features, self.calls = out_features, 0

    def encode(self, observation: Tensor) -> Tensor:
        self.calls += 1
        return observation


def sequences(seed: int = 0, time: int = T) -> Dataset:
    generator = seeded(seed)
    return from_arrays(
        torch.randn(N, time, F, generator=generator),
        {
            "class": torch.randint(3, (N,), generator=generator),
            "rows": torch.randint(6, (N, time), generator=generator),
            "value": torch.randn(N, 2, generator=generator),
        },
        names={"class": "abc", "rows": "uvwxyz"},
        lengths=LENGTHS,
    )


def schema_for(data: Dataset, *targets: str) -> Schema:
    return schema_of(dict.fromkeys(targets, data), {name: name for name in targets}, dict.fromkeys(targets))


def network_on(encoder: Encoder, schema: Schema) -> TaskNetwork:
    initialise(encoder, "orthogonal", seeded(1))
    heads = make_heads(encoder.out_features, schema)
    initialise(heads, "orthogonal", seeded(2))
    return TaskNetwork(encoder, heads, schema).eval()


def test_standardised_head_takes_its_units_from_the_data():
    head = Standardised(RegressionHead(F, (2,)), (2,))
    head.fit(torch.tensor([[1.0, 7.0], [3.0, 7.0], [8.0, 7.0]]))
    assert head.mean.tolist() == [4.0, 7.0]
    # Deviations -3, -1, 4: a variance of 26 / 3 over the population. A constant has none, and keeps 1.
    assert head.std.tolist() == pytest.approx([(26 / 3) ** 0.5, 1.0])
    features = torch.randn(6, F, generator=seeded(0))
    torch.testing.assert_close(head(features), head.head(features) * head.std + head.mean)


def test_units_are_right_for_numbers_far_from_zero():
    head = Standardised(RegressionHead(F), ())
    head.fit(torch.tensor([1e6, 1e6, 1e6, 1e6 + 1.0] * 2501))
    assert head.mean.item() == 1e6 + 0.25
    assert head.std.item() == pytest.approx((3 / 16) ** 0.5, rel=1e-6)


def test_units_belong_to_the_weights():
    one, other = (Standardised(RegressionHead(F, (2,)), (2,)) for _ in range(2))
    one.fit(torch.randn(7, 2, generator=seeded(0)) * 5 + 3)
    other.load_state_dict(one.state_dict())
    features = torch.randn(4, F, generator=seeded(1))
    assert torch.equal(one(features), other(features))


def test_heads_fit_what_they_tell():
    data = from_arrays(
        torch.randn(N, F),
        {"class": torch.tensor([0, 1, 2, 1, 0]), "value": torch.randn(N, 2), "number": torch.randn(N)},
    )
    names = ("class", "value", "number", "by_class")
    schema = schema_of(
        dict.fromkeys(names, data),
        {**{name: name for name in names}, "by_class": "value"},
        {"class": None, "value": None, "number": None, "by_class": "class"},
    )
    heads = make_heads(F, schema)
    assert isinstance(heads["class"], ClassHead)
    assert isinstance(heads["by_class"].head, AuxiliaryHead)
    shapes = {name: tuple(output.shape) for name, output in heads(torch.randn(N, F)).items()}
    assert shapes == {"class": (N, 3), "value": (N, 2), "number": (N,), "by_class": (N, 3, 2)}


def test_prediction_of_the_given_class_is_picked():
    data = from_arrays(torch.randn(N, F), {"value": torch.randn(N, 2), "action": torch.tensor([2, 0, 1, 2, 2])})
    schema = schema_of({"value": data}, {"value": "value"}, {"value": "action"}).heads["value"]
    output = torch.arange(N * 3 * 2).view(N, 3, 2).float()
    picked = of_given(schema, output, {"action": data.target("action").values})
    # Sample n and class a are numbers 6 n + 2 a and the one after.
    assert picked.tolist() == [[4, 5], [6, 7], [14, 15], [22, 23], [28, 29]]
    alone = schema.model_copy(update={"shape": ()})
    assert of_given(alone, output[..., 0], {"action": data.target("action").values}).tolist() == [4, 6, 14, 22, 28]
    plain = schema.model_copy(update={"given": None})
    assert of_given(plain, output, {}) is output


def test_a_head_of_a_whole_sequence_reads_the_mean_of_its_rows():
    data = sequences()
    network = network_on(Same(F), schema_for(data, "class", "rows"))
    features = network.features(data.inputs.transpose(0, 1), VALID)
    outputs = network.outputs(features, VALID, ("class", "rows"))
    mean = torch.stack([data.inputs[n, : LENGTHS[n]].mean(0) for n in range(N)])
    torch.testing.assert_close(outputs["class"], network.heads["class"](mean))
    torch.testing.assert_close(outputs["rows"], network.heads["rows"](features))
    assert outputs["class"].shape == (N, 3)
    assert outputs["rows"].shape == (T, N, 6)


def test_several_heads_share_one_pass_of_the_trunk():
    data = from_arrays(torch.randn(N, F), {"class": torch.tensor([0, 1, 2, 1, 0]), "value": torch.randn(N)})
    network = network_on(Same(F), schema_for(data, "class", "value"))
    features = network.features(data.inputs.unsqueeze(0), torch.ones(1, N, dtype=torch.bool))
    network.outputs(features, torch.ones(1, N, dtype=torch.bool), ("class", "value"))
    assert network.encoder.calls == 1


ENCODERS = {
    "mlp": MLPConfig(hidden=(7,)),
    "lstm": LSTMConfig(hidden_size=6, num_layers=2, inner=MLPConfig(hidden=(7,))),
    "lstm-both": LSTMConfig(hidden_size=6, num_layers=2, bidirectional=True, inner=MLPConfig(hidden=(7,))),
    "gru-both": GRUConfig(hidden_size=6, bidirectional=True, inner=MLPConfig(hidden=(7,), norm="layer")),
    "gru-both-over-lstm": GRUConfig(hidden_size=6, bidirectional=True, inner=LSTMConfig(hidden_size=5)),
    "normalised-lstm": NormalisedConfig(inner=LSTMConfig(hidden_size=6)),
}


@pytest.mark.parametrize("is_mapped", [False, True], ids=["fused", "stepwise"])
@pytest.mark.parametrize("kind", ENCODERS)
def test_what_is_behind_a_sequences_end_changes_nothing(kind, is_mapped):
    data = sequences()
    encoder = ENCODERS[kind].build(spaces.Box(-np.inf, np.inf, (F,), np.float32))
    network = network_on(encoder, schema_for(data, "class", "rows"))
    network.is_mapped = is_mapped

    def told(observation: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        outputs = network.outputs(network.features(observation, valid), valid, ("class", "rows"))
        rows = outputs["rows"][valid]
        objective = outputs["class"].square().sum() + rows.square().sum()
        return outputs["class"], rows, torch.autograd.grad(objective, list(network.parameters()))

    clean = data.inputs.transpose(0, 1)
    expected = told(clean, VALID)
    dirty = torch.where(VALID.unsqueeze(-1), clean, 1e4 * torch.randn(T, N, F, generator=seeded(3)))
    longer = torch.cat((dirty, torch.randn(3, N, F, generator=seeded(4))))
    for observation in (dirty, longer):
        valid = torch.cat((VALID, torch.zeros(len(observation) - T, N, dtype=torch.bool)))
        torch.testing.assert_close(told(observation, valid), expected, rtol=1e-4, atol=1e-5)
    for n in range(N):  # each sequence alone, without any padding
        one = slice(0, LENGTHS[n]), slice(n, n + 1)
        class_, rows, _ = told(clean[one], VALID[one])
        torch.testing.assert_close(class_[0], expected[0][n], rtol=1e-4, atol=1e-5)
        of_n = torch.zeros_like(VALID)
        of_n[:, n] = True
        torch.testing.assert_close(rows, expected[1][of_n[VALID]], rtol=1e-4, atol=1e-5)


def test_inputs_units_come_from_every_row_that_is_no_padding():
    data = sequences()
    network = network_on(Normalised(MLP((F,), (7,)), (F,)), schema_for(data, "class"))
    network.fit({"class": data}, inputs=True)
    rows = torch.cat([data.inputs[n, : LENGTHS[n]] for n in range(N)])
    torch.testing.assert_close(network.encoder.mean, rows.mean(0))
    torch.testing.assert_close(network.encoder.std, rows.std(0, correction=0))


def test_inputs_units_come_from_all_sources_each_counted_once():
    one, other = (from_arrays(torch.randn(num, F, generator=seeded(num)), {"a": torch.arange(num)}) for num in (4, 9))
    schema = schema_of({"a": one, "b": one, "c": other}, dict.fromkeys("abc", "a"), dict.fromkeys("abc"))
    network = network_on(Normalised(MLP((F,), (7,)), (F,)), schema)
    network.fit({"a": one, "b": one, "c": other}, inputs=True)
    rows = torch.cat((one.inputs, other.inputs))
    torch.testing.assert_close(network.encoder.mean, rows.mean(0))
    torch.testing.assert_close(network.encoder.std, rows.std(0, correction=0))


def test_the_outermost_of_two_normalisers_is_fitted():
    data = sequences()
    network = network_on(Normalised(Normalised(MLP((F,), (7,)), (F,)), (F,)), schema_for(data, "class"))
    network.fit({"class": data}, inputs=True)
    assert network.encoder.mean.any()
    assert not network.encoder.inner.mean.any()


def test_an_encoder_from_elsewhere_keeps_its_units():
    data = Dataset(torch.randn(N, F) + 9, {"value": Target(torch.randn(N) - 5)}, spaces.Box(-99, 99, (F,), np.float32))
    network = network_on(Normalised(MLP((F,), (7,)), (F,)), schema_for(data, "value"))
    network.fit({"value": data}, inputs=False)
    assert not network.encoder.mean.any()
    torch.testing.assert_close(network.heads["value"].mean, data.target("value").values.mean())
