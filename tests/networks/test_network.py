import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from graftwork.networks import GRU, LSTM, MLP, CategoricalHead, Encoder, MLPConfig, Network, QHead, mode

T, B, A, F = 3, 5, 7, 4


def test_output_is_the_heads_over_the_encoders_features():
    encoder, head = LSTM(MLP((F,), (9,)), 11), QHead(11, A)
    network = Network(encoder, head)
    observation, state = torch.randn(T, B, F), tuple(torch.randn(B, 1, 11) for _ in range(2))
    is_first = torch.zeros(T, B, dtype=torch.bool)
    is_first[1, 2] = True
    features, after = encoder(observation, state, is_first)
    q, network_after = network(observation, state, is_first)
    assert q.shape == (T, B, A)
    assert torch.equal(q, head(features))
    torch.testing.assert_close(network_after, after, rtol=0, atol=0)


def test_step_is_forward_of_one_row():
    network = Network(LSTM(MLP((F,), (9,)), 11), QHead(11, A))
    observation, state = torch.randn(B, F), tuple(torch.randn(B, 1, 11) for _ in range(2))
    is_first = torch.tensor([False, True, False, True, False])
    q, after = network.step(observation, state, is_first)
    expected, expected_after = network(observation.unsqueeze(0), state, is_first.unsqueeze(0))
    assert torch.equal(q, expected[0])
    torch.testing.assert_close(after, expected_after, rtol=0, atol=0)


def test_initial_state_is_the_encoders():
    assert Network(MLP((F,)), QHead(64, A)).initial_state(B) == ()
    assert [part.shape for part in Network(GRU(MLP((F,)), 11), QHead(11, A)).initial_state(B)] == [(B, 1, 11)]


def test_probe_is_the_output_for_one_observation_and_leaves_mode_and_streams_alone():
    network = Network(MLP((2, 3), (9,)), CategoricalHead(9, A))
    before = torch.get_rng_state()
    policy = network.probe(spaces.Box(0, 255, (2, 3), np.uint8))
    assert policy.log_probs.shape == (1, 1, A)
    assert not policy.log_probs.requires_grad
    assert network.training
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("space", "text"),
    [
        (
            spaces.Box(0, 1, (3,)),
            r"^the network takes no observation of Box\(0\.0, 1\.0, \(3,\), float32\): .*shapes.*$",
        ),
        (
            spaces.Dict({"a": spaces.Box(0, 1, (F,))}),
            r"^the network takes no observation of Dict\('a': Box\(.*\)\): .+$",
        ),
        (spaces.Sequence(spaces.Discrete(3)), r"^observation space Sequence\(.*\) is not supported"),
    ],
    ids=["shape", "dict", "no fixed shape"],
)
def test_probe_says_in_one_line_what_does_not_fit(space, text):
    with pytest.raises(ValueError, match=text) as caught:
        Network(MLP((F,)), QHead(64, A)).probe(space)
    assert "\n" not in str(caught.value)


def test_an_encoder_of_the_users_own_that_knows_no_dict_is_said_in_one_line():
    class Own(Encoder):
        out_features = 9

        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(F, 9)

        def encode(self, observation):
            return self.layer(observation)

    space = spaces.Dict({"a": spaces.Box(0, 1, (F,))})
    with pytest.raises(ValueError, match=r"^the network takes no observation of Dict\(.*\): TypeError: .+$"):
        Network(Own(), QHead(9, A)).probe(space)


def test_a_network_takes_dicts_where_its_encoder_does():
    space = spaces.Dict({"a": spaces.Box(0, 1, (3,)), "b": spaces.Discrete(2)})
    network = Network(MLPConfig(hidden=(9,)).build(space), QHead(9, A))
    observation = {"a": torch.randn(T, B, 3), "b": torch.randint(2, (T, B))}
    q, _ = network(observation)
    assert q.shape == (T, B, A)
    row = {name: leaf[1] for name, leaf in observation.items()}
    torch.testing.assert_close(network.step(row, (), torch.zeros(B, dtype=torch.bool))[0], q[1])
    assert network.probe(space).shape == (1, 1, A)


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("before", [True, False])
def test_mode_is_set_inside_and_restored_afterwards(before, inside):
    module = nn.Sequential(nn.Dropout(), nn.Sequential(nn.BatchNorm1d(3))).train(before)
    with mode(module, training=inside):
        assert {each.training for each in module.modules()} == {inside}
    assert {each.training for each in module.modules()} == {before}


@pytest.mark.parametrize("before", [True, False])
def test_mode_is_restored_after_an_error(before):
    module = nn.Sequential(nn.Dropout()).train(before)
    with pytest.raises(RuntimeError, match="inside"), mode(module, training=not before):
        raise RuntimeError("inside")
    assert {each.training for each in module.modules()} == {before}


def test_modes_nest():
    module = nn.Dropout().eval()
    with mode(module, training=True):
        with mode(module, training=False):
            assert not module.training
        assert module.training
    assert not module.training


def test_a_part_that_pins_its_own_mode_keeps_it():
    class Frozen(nn.BatchNorm1d):
        def train(self, mode: bool = True) -> "Frozen":
            return super().train(False)

    module = nn.Sequential(Frozen(3), nn.Dropout()).eval()
    with mode(module, training=True):
        assert [part.training for part in module] == [False, True]
    assert [part.training for part in module] == [False, False]
