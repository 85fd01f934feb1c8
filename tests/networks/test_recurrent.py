import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from graftwork.configs.check import validate
from graftwork.networks import GRU, LSTM, MLP, Encoder, GRUConfig, LSTMConfig, MLPConfig, initialise
from graftwork.networks.recurrent import Recurrent

T, B, F, H = 6, 5, 3, 7
SPACE = spaces.Box(-1, 1, (F,), np.float32)
BOTH = pytest.mark.parametrize("kind", ["lstm", "gru"])
NO_RESETS = pytest.mark.parametrize("is_first", [None, torch.zeros(T, B, dtype=torch.bool)], ids=["fused", "stepwise"])


class Flat(Encoder):
    """The observation as it is."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.out_features = width

    def encode(self, observation: Tensor) -> Tensor:
        return observation.flatten(1)


def pair(
    kind: str, num_layers: int, *, bidirectional: bool = False, dropout: float = 0.0
) -> tuple[Recurrent, nn.RNNBase]:
    """Ours and torch's, with the same weights by name."""
    torch.manual_seed(0)
    ours = (LSTM if kind == "lstm" else GRU)(Flat(F), H, num_layers, bidirectional=bidirectional, dropout=dropout)
    theirs = (nn.LSTM if kind == "lstm" else nn.GRU)(F, H, num_layers, bidirectional=bidirectional, dropout=dropout)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, 0, 0.4)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def same_gradients(ours: Recurrent, theirs: nn.RNNBase, features: Tensor, expected: Tensor) -> None:
    weight = torch.randn_like(expected)
    wanted = torch.autograd.grad((expected * weight).sum(), list(theirs.parameters()))
    got = torch.autograd.grad((features * weight).sum(), [ours.get_parameter(n) for n, _ in theirs.named_parameters()])
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


@NO_RESETS
@pytest.mark.parametrize("num_layers", [1, 2])
@BOTH
def test_agrees_with_torch_in_outputs_states_and_gradients(kind, num_layers, is_first):
    ours, theirs = pair(kind, num_layers)
    observation = torch.randn(T, B, F)
    state = tuple(torch.randn(B, num_layers, H) for _ in range(ours.num_states))
    layers_first = tuple(part.transpose(0, 1).contiguous() for part in state)
    expected, after = theirs(observation, layers_first if kind == "lstm" else layers_first[0])
    features, own_after = ours(observation, state, is_first)
    torch.testing.assert_close(features, expected)
    after = after if kind == "lstm" else (after,)
    torch.testing.assert_close(own_after, tuple(part.transpose(0, 1) for part in after))
    same_gradients(ours, theirs, features, expected)


@NO_RESETS
@pytest.mark.parametrize("num_layers", [1, 3])
@BOTH
def test_agrees_with_torch_in_both_directions(kind, num_layers, is_first):
    ours, theirs = pair(kind, num_layers, bidirectional=True)
    observation = torch.randn(T, B, F)
    features, state = ours(observation, (), is_first)
    expected, _ = theirs(observation)
    assert features.shape == (T, B, 2 * H) == (T, B, ours.out_features)
    assert state == () == ours.initial_state(B)
    torch.testing.assert_close(features, expected)
    same_gradients(ours, theirs, features, expected)


@pytest.mark.parametrize("bidirectional", [False, True])
@BOTH
def test_parameters_bear_torchs_names_in_torchs_order(kind, bidirectional):
    ours, theirs = pair(kind, 2, bidirectional=bidirectional)
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in theirs.named_parameters()]


@pytest.mark.parametrize("num_layers", [1, 2])
@BOTH
def test_a_reset_parts_sequences_in_both_directions(kind, num_layers):
    ours, _ = pair(kind, num_layers, bidirectional=True)
    observation = torch.randn(T, B, F)
    is_first = torch.zeros(T, B, dtype=torch.bool)
    starts = [(0,), (0, 2), (0, 1, 5), (0, 3, 4), (0, 5)]  # of the episodes in each column
    for column, firsts in enumerate(starts):
        is_first[list(firsts[1:]), column] = True
    is_first[0, 3] = True  # said or not, row 0 comes after nothing
    features, _ = ours(observation, (), is_first)
    for column, firsts in enumerate(starts):
        for start, end in zip(firsts, (*firsts[1:], T), strict=True):
            alone, _ = ours(observation[start:end, column : column + 1])
            torch.testing.assert_close(features[start:end, column], alone[:, 0])


@BOTH
def test_padding_whose_first_row_is_marked_changes_nothing_before_it(kind):
    ours, _ = pair(kind, 2, bidirectional=True)
    observation, is_first = torch.randn(T, B, F), torch.zeros(T, B, dtype=torch.bool)
    lengths = [6, 4, 1, 3, 5]
    padded = observation.clone()
    for column, length in enumerate(lengths):
        padded[length:, column] = 1e6
        is_first[length : length + 1, column] = True
    features, other = ours(observation, (), is_first)[0], ours(padded, (), is_first)[0]
    unmarked = ours(padded, (), torch.zeros_like(is_first))[0]
    for column, length in enumerate(lengths):
        assert torch.equal(other[:length, column], features[:length, column])
        assert torch.equal(unmarked[:length, column], features[:length, column]) == (length == T)


def test_what_reads_the_future_says_so_and_takes_no_step():
    future = GRU(Flat(F), H, bidirectional=True)
    assert LSTM(Flat(F), H).is_causal
    assert not future.is_causal
    over = LSTM(future, H)
    assert not over.is_causal
    for encoder in (future, over):
        with pytest.raises(
            ValueError, match=r"^encoder\.bidirectional=true reads the future, .*; set it to false to act$"
        ):
            encoder.step(torch.randn(B, F), encoder.initial_state(B), torch.zeros(B, dtype=torch.bool))


@NO_RESETS
@pytest.mark.parametrize("bidirectional", [False, True])
@BOTH
def test_dropout_is_between_the_layers_and_nowhere_else(kind, bidirectional, is_first):
    ours, theirs = pair(kind, 3, bidirectional=bidirectional, dropout=0.4)
    layers = [single(theirs, layer) for layer in range(3)]
    observation = torch.randn(T, B, F)
    torch.manual_seed(1)
    features, state = ours.train()(observation, (), is_first)
    torch.manual_seed(1)
    expected = observation
    for place, layer in enumerate(layers):
        expected, last = layer(nn.functional.dropout(expected, 0.4) if place else expected)
        if not bidirectional:
            torch.testing.assert_close(state[0][:, place], (last[0] if kind == "lstm" else last)[0])
    torch.testing.assert_close(features, expected)


def single(stack: nn.RNNBase, layer: int) -> nn.RNNBase:
    """One layer of it, as a stack of its own."""
    of_layer = {name: value for name, value in stack.state_dict().items() if f"_l{layer}" in name}
    fan_in = of_layer[f"weight_ih_l{layer}"].shape[1]
    one = type(stack)(fan_in, stack.hidden_size, bidirectional=stack.bidirectional)
    one.load_state_dict({name.replace(f"_l{layer}", "_l0"): value for name, value in of_layer.items()})
    return one


@NO_RESETS
@BOTH
def test_dropout_does_nothing_in_eval_or_where_all_is_frozen(kind, is_first):
    ours, _ = pair(kind, 2, dropout=0.4)
    plain, _ = pair(kind, 2)
    observation = torch.randn(T, B, F)
    expected = plain(observation, (), is_first)[0]
    torch.testing.assert_close(ours.eval()(observation, (), is_first)[0], expected)
    assert not torch.equal(ours.train()(observation, (), is_first)[0], expected)
    torch.testing.assert_close(ours.requires_grad_(False).train()(observation, (), is_first)[0], expected)


def test_dropout_with_one_layer_is_refused_for_it_would_do_nothing():
    with pytest.raises(
        ValueError, match=r"^dropout=0\.4 is between layers, and num_layers=1: take 2 or more, or set inner"
    ):
        validate(LSTMConfig, {"dropout": 0.4})
    assert GRUConfig(dropout=0.4, num_layers=2).build(SPACE).dropout.p == 0.4


def test_blocks_are_the_inner_encoders_and_then_one_a_layer():
    lstm = LSTMConfig(num_layers=2, bidirectional=True, inner=MLPConfig(hidden=(4, 5))).build(SPACE)
    names = ["weight_ih", "weight_hh", "bias_ih", "bias_hh"]
    assert lstm.blocks() == [
        ["inner.layers.0", "inner.layers.1"],
        ["inner.layers.2", "inner.layers.3"],
        [*(f"{name}_l0" for name in names), *(f"{name}_l0_reverse" for name in names)],
        [*(f"{name}_l1" for name in names), *(f"{name}_l1_reverse" for name in names)],
    ]


def test_forget_gates_start_open_and_stay_so_when_initialised():
    lstm = LSTM(MLP((F,), (9,)), H, num_layers=2)
    for scheme in (None, "uniform", "orthogonal", "he", "xavier"):
        if scheme is not None:
            initialise(lstm, scheme, torch.Generator().manual_seed(1), gain=2**0.5)
        for layer in range(2):
            # torch's order of gates: input, forget, candidate, output. Both biases add up.
            bias = lstm.get_parameter(f"bias_ih_l{layer}") + lstm.get_parameter(f"bias_hh_l{layer}")
            assert bias.view(4, H).tolist() == [[0.0] * H, [2.0] * H, [0.0] * H, [0.0] * H]


def test_a_config_may_open_the_forget_gate_otherwise():
    lstm = LSTMConfig(hidden_size=H, num_layers=2, forget_gate_bias=0.5).build(SPACE)
    initialise(lstm, "uniform", torch.Generator().manual_seed(1))
    for layer in range(2):
        assert lstm.get_parameter(f"bias_ih_l{layer}").view(4, H)[1].tolist() == [0.5] * H


def test_a_gru_starts_without_biases():
    gru = GRU(Flat(F), H, num_layers=2)
    assert not any(value.any() for name, value in gru.named_parameters() if "bias" in name)


@pytest.mark.parametrize("kind", [LSTM, GRU])
def test_gates_start_one_by_one_recurrent_orthogonal_and_input_xavier(kind):
    network = kind(Flat(40), 50)
    for gate in network.weight_hh_l0.detach().split(50):
        torch.testing.assert_close(gate @ gate.t(), torch.eye(50), rtol=0, atol=1e-5)
    bound = (6 / (40 + 50)) ** 0.5
    for gate in network.weight_ih_l0.detach().split(50):
        assert 0.98 * bound < gate.abs().max() <= bound


def test_the_state_is_the_inner_encoders_and_then_ones_own():
    network = LSTM(GRU(Flat(F), 11, num_layers=3), H, num_layers=2)
    assert [tuple(part.shape) for part in network.initial_state(B)] == [(B, 3, 11), (B, 2, H), (B, 2, H)]
    _, (inner, _, _) = network(torch.randn(T, B, F))
    observation = torch.randn(T, B, F)
    _, (expected,) = network.inner(observation, (inner,))
    torch.testing.assert_close(network(observation, (inner, *network.initial_state(B)[1:]))[1][0], expected)


SYMBOLS, LENGTH = 5, 10


def recall(encoder: Encoder) -> float:
    """Accuracy of naming the first of ten symbols after the last, when trained to."""
    generator = torch.Generator().manual_seed(0)
    head = nn.Linear(encoder.out_features, SYMBOLS)
    initialise(encoder, "xavier", generator)
    initialise(head, "xavier", generator)
    parameters = [*encoder.parameters(), *head.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=5e-3, fused=True)

    def answer(batch_size: int) -> tuple[Tensor, Tensor]:
        symbols = torch.randint(SYMBOLS, (LENGTH, batch_size), generator=generator)
        features, _ = encoder(nn.functional.one_hot(symbols, SYMBOLS).float())
        return head(features[-1]), symbols[0]

    for _ in range(200):
        logits, first = answer(64)
        optimizer.zero_grad()
        nn.functional.cross_entropy(logits, first).backward()
        optimizer.step()
    with torch.no_grad():
        logits, first = answer(2000)
    return (logits.argmax(-1) == first).float().mean().item()


# 1.0 on 10 seeds of 10 for both.
@pytest.mark.parametrize("kind", [LSTM, GRU])
def test_a_memory_recalls_the_first_of_ten_symbols(kind):
    assert recall(kind(MLP((SYMBOLS,), (16,)), 32)) > 0.95


def test_without_a_memory_recall_stays_at_chance():
    # Chance is 0.2, with a standard deviation of 0.009 over 2000 answers.
    assert recall(MLP((SYMBOLS,), (16, 32))) < 0.25
