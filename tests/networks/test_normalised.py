import numpy as np
import pytest
import torch
from gymnasium import spaces
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from graftwork.networks import GRUConfig, MLPConfig, Normalised, NormalisedConfig, ResNetConfig
from graftwork.networks.encoder import Encoder


class Same(Encoder):
    """The observation as it is, flat."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.out_features = width

    def encode(self, observation: Tensor) -> Tensor:
        self.seen = observation.dtype
        return observation.flatten(1)


def encoded(encoder: Normalised, inputs: Tensor) -> Tensor:
    return encoder(inputs.unsqueeze(0))[0][0]


def test_nothing_changes_before_the_first_fit():
    inputs = torch.randn(5, 3)
    assert torch.equal(encoded(Normalised(Same(3), (3,)), inputs), inputs)


def test_each_entry_gets_mean_0_and_std_1_and_a_constant_one_only_its_mean():
    encoder = Normalised(Same(3), (3,))
    # Entry 0: mean 2, deviations -2, 0, 0, 2, variance 8 / 4. Entry 1: 5 always. Entry 2: mean 0, variance 1.
    inputs = torch.tensor([[0.0, 5, 1], [2, 5, -1], [2, 5, 1], [4, 5, -1]])
    encoder.fit(inputs)
    assert encoder.mean.tolist() == [2, 5, 0]
    assert encoder.std.tolist() == [pytest.approx(2**0.5), 1, 1]
    torch.testing.assert_close(encoded(encoder, torch.tensor([[2 + 2**0.5, 6, 3]])), torch.tensor([[1.0, 1, 3]]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_constant_whose_mean_is_rounded_is_still_one(dtype):
    encoder = Normalised(Same(2), (2,))
    inputs = torch.tensor([0.1, 1e8 / 3], dtype=dtype).repeat(7, 1)
    encoder.fit(inputs)
    assert encoder.std.tolist() == [1, 1]
    assert not encoded(encoder, inputs).any()


def test_shared_takes_one_mean_and_std_over_all_entries():
    encoder = NormalisedConfig(inner=MLPConfig(), shared=True).build(spaces.Box(0, 9, (2, 2), np.uint8))
    encoder.fit(torch.tensor([[[1, 1], [1, 1]], [[3, 3], [3, 3]], [[1, 3], [3, 1]]], dtype=torch.uint8))
    assert encoder.mean.tolist() == [[2, 2], [2, 2]]
    assert encoder.std.tolist() == [[1, 1], [1, 1]]
    encoder.fit(torch.full((3, 2, 2), 7))
    assert (encoder.mean.unique().tolist(), encoder.std.unique().tolist()) == ([7], [1])


@pytest.mark.parametrize("num", [1, 4096, 10_000])
def test_agrees_with_scikit_learn_on_data_of_any_number(num):
    inputs = 1e5 + torch.randn(num, 5, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.1, 1, 2, 3, 4])
    encoder, scaler = Normalised(Same(5), (5,)), StandardScaler().fit(inputs.double().numpy())
    encoder.fit(inputs)
    tolerance = {"rtol": 1e-6, "atol": 0.0}
    torch.testing.assert_close(encoder.mean, torch.tensor(scaler.mean_, dtype=torch.float32), **tolerance)
    torch.testing.assert_close(encoder.std, torch.tensor(scaler.scale_, dtype=torch.float32), **tolerance)


def test_bytes_reach_the_inner_encoder_as_floats_and_are_not_divided_twice():
    encoder = NormalisedConfig(inner=ResNetConfig()).build(spaces.Box(0, 255, (3, 8, 8), np.uint8)).eval()
    inputs = torch.randint(256, (6, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    encoder.fit(inputs)
    floats = (inputs.float() - encoder.mean) / encoder.std
    torch.testing.assert_close(encoded(encoder, inputs), encoder.inner.encode(floats))
    seen = Normalised(Same(1), (1,))
    encoded(seen, torch.tensor([[3]], dtype=torch.uint8))
    assert seen.inner.seen == torch.float32


def test_bools_are_0_and_1():
    encoder = NormalisedConfig().build(spaces.Box(0, 1, (2,), np.bool_)).eval()
    inputs = torch.tensor([[True, False], [True, True], [True, False], [True, False]])
    encoder.fit(inputs)
    assert encoder.mean.tolist() == [1.0, 0.25]
    torch.testing.assert_close(encoder.std, torch.tensor([1.0, 0.1875**0.5]))
    torch.testing.assert_close(encoded(encoder, inputs), encoded(encoder, inputs.float()), rtol=0, atol=0)


def test_statistics_travel_with_the_weights_and_stand_still_while_learning():
    encoder = NormalisedConfig(inner=GRUConfig()).build(spaces.Box(-1, 1, (3,)))
    encoder.fit(torch.randn(50, 3) + 4)
    before = {name: encoder.get_buffer(name).clone() for name in ("mean", "std")}
    encoder.train()(torch.randn(4, 5, 3))
    other = NormalisedConfig(inner=GRUConfig()).build(spaces.Box(-1, 1, (3,)))
    other.load_state_dict(encoder.state_dict())
    for name, value in before.items():
        assert torch.equal(encoder.get_buffer(name), value)
        assert torch.equal(other.get_buffer(name), value)
    assert not any(buffer.requires_grad for buffer in encoder.buffers())


def test_blocks_state_and_causality_are_the_inner_encoders():
    space = spaces.Box(-1, 1, (3,))
    encoder = NormalisedConfig(inner=GRUConfig(inner=MLPConfig(hidden=(4,)), hidden_size=7)).build(space)
    assert encoder.blocks()[0] == ["inner.inner.layers.0", "inner.inner.layers.1"]
    assert [tuple(part.shape) for part in encoder.initial_state(5)] == [(5, 1, 7)]
    assert encoder.is_causal
    assert not NormalisedConfig(inner=GRUConfig(bidirectional=True)).build(space).is_causal


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (torch.zeros(4, 2), r"inputs have shape \[4, 2\], expected \[N, 3\], N >= 1"),
        (torch.zeros(0, 3), r"inputs have shape \[0, 3\], expected \[N, 3\], N >= 1"),
        (torch.tensor([[0.0, 1, 2], [0, torch.nan, 2], [torch.inf, 0, 0]]), r"inputs\[1\] is not finite; leave such"),
    ],
)
def test_inputs_that_have_no_statistics_are_one_line(inputs, message):
    encoder = Normalised(Same(3), (3,))
    with pytest.raises(ValueError, match=f"^{message}") as caught:
        encoder.fit(inputs)
    assert "\n" not in str(caught.value)
    assert (encoder.mean.tolist(), encoder.std.tolist()) == ([0, 0, 0], [1, 1, 1])


def test_a_space_without_numbers_is_refused():
    with pytest.raises(ValueError, match=r"^encoder\.kind=normalised can't take Discrete\(7\): it takes a Box$"):
        NormalisedConfig().build(spaces.Discrete(7))
