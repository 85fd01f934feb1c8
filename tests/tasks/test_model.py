import numpy as np
import pytest
import torch
from gymnasium import spaces

from graftwork.networks import ConvConfig, ConvLayer, EmbeddingConfig, GRUConfig, LSTMConfig, MLPConfig
from graftwork.tasks import Dataset, HeadConfig, Model, SupervisedConfig, from_arrays
from graftwork.tasks import model as module

N, T = 11, 5
LENGTHS = np.array([5, 1, 2, 3, 4, 5, 5, 1, 2, 3, 4])


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


TARGETS = {"class": rng(9).integers(4, size=N), "value": rng(8).normal(size=(N, 2)), "number": rng(7).normal(size=N)}
NAMES = {"class": "abcd"}
NUMBERS = from_arrays(rng().normal(size=(N, 3)), TARGETS, names=NAMES)
BYTES = from_arrays(rng().integers(256, size=(N, 6, 7), dtype=np.uint8), TARGETS, names=NAMES)
TOKENS = from_arrays(rng().integers(9, size=N), TARGETS, names=NAMES, space=spaces.Discrete(9))
CHOICES = from_arrays(
    rng().integers(2, size=(N, 2)), TARGETS, names=NAMES, space=spaces.MultiDiscrete(np.array([2, 5]))
)
ROWS = {**TARGETS, "rows": rng(6).integers(3, size=(N, T))}
SEQUENCES = from_arrays(rng().normal(size=(N, T, 3)), ROWS, names={**NAMES, "rows": "xyz"}, lengths=LENGTHS)
SENTENCES = from_arrays(rng().integers(9, size=(N, T)), ROWS, names={**NAMES, "rows": "xyz"}, lengths=LENGTHS)

CONV = ConvConfig(layers=(ConvLayer(channels=4, kernel=3),))
CASES = {
    "numbers": (NUMBERS, MLPConfig(hidden=(6,), norm="batch", dropout=0.3)),
    "bytes": (BYTES, CONV),
    "tokens": (TOKENS, EmbeddingConfig(size=4)),
    "choices": (CHOICES, MLPConfig(hidden=(6,))),
    "lstm": (NUMBERS, LSTMConfig(hidden_size=4, inner=MLPConfig(hidden=(6,)))),
    "sequences": (SEQUENCES, LSTMConfig(hidden_size=4, inner=MLPConfig(hidden=(6,)))),
    "sentences": (SENTENCES, GRUConfig(hidden_size=4, bidirectional=True, inner=EmbeddingConfig(size=4))),
}


@pytest.fixture
def model_of(make_task):
    def make(data: Dataset, encoder, heads=("class",), **fields) -> Model:
        heads = {name: HeadConfig() for name in heads}
        task = make_task(SupervisedConfig(encoder=encoder, heads=heads, batch_size=4, **fields), data)
        for _ in range(3):
            task.learner.learn(task.batches.next())
        return Model(task.network)

    return make


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("members", [1, 3])
def test_answers_have_the_shapes_of_the_heads(model_of, case, members):
    data, encoder = case
    heads = tuple(data.targets)
    model = model_of(data, encoder, heads, members=members)
    inputs, lengths = data.inputs.numpy(), None if data.lengths is None else LENGTHS
    answers, chances = model.predict(inputs, lengths), model.probabilities(inputs, lengths)
    shapes = {"class": (N,), "value": (N, 2), "number": (N,), "rows": (N, T)}
    assert {name: answer.shape for name, answer in answers.items()} == {name: shapes[name] for name in heads}
    for name, size in (("class", 4), ("rows", 3)):
        if name in heads:
            assert answers[name].dtype == np.int64
            assert chances[name].shape == (*shapes[name], size)
            close(chances[name].sum(-1), 1.0)
            assert (chances[name].argmax(-1) == answers[name]).all()
    for name in ("value", "number"):
        assert answers[name].dtype == np.float32
        close(chances[name], answers[name])


@pytest.mark.parametrize("members", [1, 3])
def test_lone_samples_are_told_as_in_company(model_of, case, members):
    data, encoder = case
    heads = tuple(data.targets)
    model = model_of(data, encoder, heads, members=members)
    together = model.probabilities(data.inputs, data.lengths)
    for n in range(N):
        length = None if data.lengths is None else LENGTHS[n]
        alone = model.probabilities(data.inputs[n], length)
        for name in heads:
            own = slice(LENGTHS[n]) if name == "rows" else ...
            close(alone[name][own], together[name][n][own])


def test_a_single_head_is_told_without_its_name(model_of):
    model = model_of(NUMBERS, MLPConfig(hidden=(6,)))
    assert model.predict(NUMBERS.inputs).shape == (N,)
    assert model.predict(NUMBERS.inputs[0]).shape == ()


def test_numbers_come_in_any_container_and_precision(model_of):
    model = model_of(NUMBERS, MLPConfig(hidden=(6,)), ("value",))
    inputs = NUMBERS.inputs.numpy()
    expected = model.predict(inputs)
    for other in (
        inputs.tolist(),
        inputs.astype(np.float64),
        inputs.astype(">f4"),
        np.asfortranarray(inputs),
        inputs[::-1][::-1],
        [row for row in inputs],  # noqa: C416 (a list of arrays)
        torch.from_numpy(inputs).requires_grad_(),
        torch.from_numpy(inputs).double(),
    ):
        close(model.predict(other), expected)
    whole = np.arange(6).reshape(2, 3)
    close(model.predict(whole), model.predict(whole.astype(np.float32)))
    close(model.predict(whole > 2), model.predict((whole > 2).astype(np.float32)))
    locked = inputs.copy()
    locked.flags.writeable = False
    close(model.predict(locked), expected)


def test_inputs_are_left_as_they_were(model_of):
    model = model_of(SEQUENCES, GRUConfig(hidden_size=4))
    for inputs in (SEQUENCES.inputs.clone() + 1, (SEQUENCES.inputs + 1).numpy()):
        before = inputs.copy() if isinstance(inputs, np.ndarray) else inputs.clone()
        model.predict(inputs, LENGTHS)
        assert (inputs == before).all()


def test_bytes_come_as_any_whole_numbers(model_of):
    model = model_of(BYTES, CONV, ("value",))
    inputs = BYTES.inputs.numpy()
    expected = model.predict(inputs)
    close(model.predict(inputs.astype(np.int64)), expected)
    close(model.predict(inputs.tolist()), expected)


def test_a_sequences_padding_may_hold_anything(model_of):
    for data, encoder, junk in (
        (SEQUENCES, LSTMConfig(hidden_size=4, bidirectional=True), (np.nan, np.inf, 1e30)),
        (SENTENCES, GRUConfig(hidden_size=4, inner=EmbeddingConfig(size=4)), (-1, 99)),
    ):
        model = model_of(data, encoder, ("class", "value"))
        expected = model.probabilities(data.inputs, LENGTHS)
        for value in junk:
            inputs = data.inputs.numpy().copy()
            inputs[np.arange(T) >= LENGTHS[:, None]] = value
            answers = model.probabilities(inputs, LENGTHS)
            close(answers["class"], expected["class"])
            close(answers["value"], expected["value"])


def test_sequences_without_lengths_are_whole_and_may_be_longer_than_those_learnt_from(model_of):
    model = model_of(SEQUENCES, GRUConfig(hidden_size=4), ("rows",))
    inputs = rng(3).normal(size=(4, 9, 3))
    assert model.predict(inputs).shape == (4, 9)
    close(model.probabilities(inputs), model.probabilities(inputs, [9, 9, 9, 9]))


def test_many_samples_are_told_in_parts(model_of, monkeypatch):
    for data, encoder in ((NUMBERS, MLPConfig(hidden=(6,))), (SEQUENCES, GRUConfig(hidden_size=4))):
        model = model_of(data, encoder, ("class", "value"), members=2)
        whole = model.probabilities(data.inputs, data.lengths)
        with monkeypatch.context() as patch:
            patch.setattr(module, "BATCH", 4)
            parts = model.probabilities(data.inputs, data.lengths)
        for name, answer in whole.items():
            close(parts[name], answer)


def test_given_predictions_come_all(make_task):
    heads = {"value": HeadConfig(given="class")}
    task = make_task(SupervisedConfig(encoder=MLPConfig(hidden=(6,)), heads=heads), NUMBERS)
    model = Model(task.network)
    assert model.predict(NUMBERS.inputs).shape == (N, 4, 2)
    assert model.predict(NUMBERS.inputs[0]).shape == (4, 2)


def test_predicting_is_at_rest_and_leaves_no_trace(model_of):
    model = model_of(NUMBERS, MLPConfig(hidden=(6,), norm="batch", dropout=0.5))
    model.network.train()
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    random = torch.get_rng_state()
    assert (model.probabilities(NUMBERS.inputs) == model.probabilities(NUMBERS.inputs)).all()
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[name]) for name, value in model.network.state_dict().items())
    assert model.network.training


def test_a_single_network_has_no_spread(model_of):
    model = model_of(NUMBERS, MLPConfig(hidden=(6,)))
    with pytest.raises(
        ValueError, match=r"^this model is no ensemble, so there is no spread; train with task\.members=5$"
    ):
        model.spread(NUMBERS.inputs)


NAN = np.where(np.arange(6).reshape(2, 3) == 4, np.nan, 0.0)


@pytest.mark.parametrize(
    ("name", "inputs", "message"),
    [
        ("numbers", np.zeros((2, 4)), r"inputs have the shape \[2, 4\], expected \[N, 3\], or one such sample"),
        ("numbers", np.zeros(4), r"inputs have the shape \[4\], expected \[N, 3\], or one such sample"),
        ("numbers", np.zeros((2, 2, 3)), r"inputs have the shape \[2, 2, 3\], expected \[N, 3\], or one such sample"),
        ("numbers", np.zeros((0, 3)), r"inputs have the shape \[0, 3\], expected \[N, 3\], or one such sample"),
        ("numbers", 1.0, r"inputs have the shape \[\], expected \[N, 3\], or one such sample"),
        ("numbers", [], r"inputs have the shape \[0\], expected \[N, 3\], or one such sample"),
        ("sequences", np.zeros((2, 4)), r"inputs have the shape \[2, 4\], expected \[N, T, 3\], or one such sample"),
        (
            "sequences",
            np.zeros((2, 0, 3)),
            r"inputs have the shape \[2, 0, 3\], expected \[N, T, 3\], or one such sample",
        ),
        ("tokens", [[1, 2]], r"inputs have the shape \[1, 2\], expected \[N\], or one such sample"),
        ("numbers", NAN, r"inputs: sample 1 is not finite \(in float32\)"),
        ("numbers", NAN[1], r"inputs: sample 0 is not finite \(in float32\)"),
        ("numbers", np.full((2, 3), 1e300), r"inputs: sample 0 is not finite \(in float32\)"),
        ("numbers", [["a", "b", "c"]], r"inputs: must be numbers, got <U1 \(text and objects are refused\)"),
        ("numbers", None, r"inputs: must be numbers, got object \(text and objects are refused\)"),
        ("numbers", [[1, 2, 3], [1, 2]], r"inputs are no array of numbers: [^\n]*"),
        ("numbers", np.zeros((2, 3), complex), r"inputs: must be numbers, got complex128 [^\n]*"),
        ("numbers", torch.zeros(2, 3, dtype=torch.complex64), r"inputs: must be real numbers, got complex ones"),
        ("bytes", np.zeros((2, 6, 7)), r"inputs are float64, the model takes uint8"),
        ("bytes", np.full((2, 6, 7), 256), r"inputs: sample 0 has 256; allowed: 0 to 255"),
        ("bytes", np.full((2, 6, 7), -1, np.int8), r"inputs: sample 0 has -1; allowed: 0 to 255"),
        ("tokens", [3, 9], r"inputs: sample 1 has 9; allowed: 0 to 8"),
        ("tokens", [3.0, 4.0], r"inputs are float64, the model takes int64"),
        ("choices", [[1, 4], [2, 0]], r"inputs: sample 1 has 2; allowed: 0 to 1"),
    ],
)
def test_inputs_that_cannot_be_are_named_in_one_line(model_of, name, inputs, message):
    data, encoder = CASES[name]
    model = model_of(data, encoder)
    with pytest.raises(ValueError, match=f"^{message}$"):
        model.predict(inputs)


@pytest.mark.parametrize("lengths", [[1, 6], [0, 3], [-1, 3], [1], [[1, 2]], [1.0, 2.0], 2])
def test_lengths_must_be_right(model_of, lengths):
    model = model_of(SEQUENCES, GRUConfig(hidden_size=4))
    message = r"^lengths must be one whole number for each of the 2 samples, 1 to 5$"
    with pytest.raises(ValueError, match=message):
        model.predict(np.zeros((2, T, 3)), lengths)


def test_lengths_must_be_numbers_and_of_sequences(model_of):
    model = model_of(SEQUENCES, GRUConfig(hidden_size=4))
    with pytest.raises(ValueError, match=r"^lengths: must be numbers, got <U3 [^\n]*$"):
        model.predict(np.zeros((2, T, 3)), ["one", "two"])
    flat = model_of(NUMBERS, MLPConfig(hidden=(6,)))
    with pytest.raises(ValueError, match=r"^lengths: this model's samples are no sequences; leave them out$"):
        flat.predict(np.zeros((2, 3)), [1, 1])
