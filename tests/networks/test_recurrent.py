import pytest
import torch
from torch import Tensor, nn

from graftwork.networks import GRU, LSTM, MLP, Encoder, LSTMConfig, initialise
from graftwork.networks.recurrent import Recurrent

T, B, F, H = 6, 5, 3, 7


class Flat(Encoder):
    """The observation as it is."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.out_features = width

    def encode(self, observation: Tensor) -> Tensor:
        return observation.flatten(1)


def pair(kind: str, num_layers: int) -> tuple[Recurrent, nn.RNNBase]:
    """Ours and torch's, with the same weights by name."""
    torch.manual_seed(0)
    ours = (LSTM if kind == "lstm" else GRU)(Flat(F), H, num_layers)
    theirs = (nn.LSTM if kind == "lstm" else nn.GRU)(F, H, num_layers)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, 0, 0.4)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


@pytest.mark.parametrize("is_first", [None, torch.zeros(T, B, dtype=torch.bool)], ids=["fused", "stepwise"])
@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("kind", ["lstm", "gru"])
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
    weight = torch.randn_like(expected)
    wanted = torch.autograd.grad((expected * weight).sum(), list(theirs.parameters()))
    got = torch.autograd.grad((features * weight).sum(), [ours.get_parameter(n) for n, _ in theirs.named_parameters()])
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


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
    lstm = LSTMConfig(hidden_size=H, num_layers=2, forget_gate_bias=0.5).build((F,))
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
