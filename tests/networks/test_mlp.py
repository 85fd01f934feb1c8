import pytest
import torch
from torch import nn

from graftwork.networks import MLP, MLPConfig

B = 5


def test_every_layer_is_followed_by_the_activation():
    mlp = MLP((2, 3), (7, 4), "tanh")
    assert [type(layer) for layer in mlp.layers] == [nn.Linear, nn.Tanh, nn.Linear, nn.Tanh]
    assert [tuple(p.shape) for p in mlp.parameters()] == [(7, 6), (7,), (4, 7), (4,)]
    assert mlp.out_features == 4


@pytest.mark.parametrize("shape", [(), (6,), (2, 3)])
def test_observations_of_any_shape_are_flattened(shape):
    mlp = MLP(shape)
    observation = torch.randn(B, *shape)
    torch.testing.assert_close(mlp.encode(observation), mlp.layers(observation.reshape(B, -1)))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float64, torch.int64])
def test_numbers_of_other_types_are_taken_as_float32(dtype):
    mlp = MLP((3,))
    observation = torch.tensor([[0, 1, 255]], dtype=dtype)
    torch.testing.assert_close(mlp.encode(observation), mlp.layers(observation.float()))


def test_scale_multiplies_the_observation_and_travels_with_the_weights():
    scaled, plain = MLPConfig(hidden=(7,), scale=(2.0, 0.5, 10.0)).build((3,)), MLP((3,), (7,))
    plain.layers.load_state_dict(scaled.layers.state_dict())
    observation = torch.randn(B, 3)
    torch.testing.assert_close(scaled.encode(observation), plain.encode(observation * torch.tensor([2.0, 0.5, 10.0])))
    assert scaled.state_dict()["scale"].tolist() == [2.0, 0.5, 10.0]
    assert "scale" not in plain.state_dict()


def test_scale_of_another_length_is_refused():
    with pytest.raises(ValueError, match=r"^encoder\.scale has 2 entries, but the observation has 3"):
        MLP((3,), scale=(1.0, 2.0))


@pytest.mark.parametrize("wrong", [(), (7, 0), (-1,)])
def test_a_config_has_at_least_one_layer_and_only_layers_with_units(wrong):
    with pytest.raises(ValueError, match="hidden"):
        MLPConfig(hidden=wrong)
