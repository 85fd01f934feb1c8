import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from graftwork.networks import MLP, MLPConfig
from graftwork.networks.blocks import BlockConfig

B = 5


def box(*shape: int) -> spaces.Box:
    return spaces.Box(-1, 1, shape)


def test_every_layer_is_followed_by_the_activation():
    mlp = MLP((2, 3), (7, 4), block=BlockConfig(activation="tanh"))
    assert [type(layer) for layer in mlp.layers] == [nn.Linear, nn.Tanh, nn.Linear, nn.Tanh]
    assert [tuple(p.shape) for p in mlp.parameters()] == [(7, 6), (7,), (4, 7), (4,)]
    assert mlp.out_features == 4


@pytest.mark.parametrize(
    ("position", "expected"),
    [
        ("before", [nn.Linear, nn.BatchNorm1d, nn.ELU, nn.Dropout]),
        ("after", [nn.Linear, nn.ELU, nn.BatchNorm1d, nn.Dropout]),
    ],
)
def test_every_layer_is_a_block_of_its_own_with_norm_and_dropout(position, expected):
    config = MLPConfig(hidden=(7, 4), norm="batch", norm_position=position, activation="elu", dropout=0.3)
    mlp = config.build(box(3))
    assert [type(layer) for layer in mlp.layers] == 2 * expected
    assert mlp.blocks() == [[f"layers.{place}" for place in range(4)], [f"layers.{place}" for place in range(4, 8)]]
    assert [layer.bias is None for layer in mlp.layers if isinstance(layer, nn.Linear)] == 2 * [position == "before"]


@pytest.mark.parametrize("shape", [(), (6,), (2, 3), (1, 2, 3, 2)])
def test_observations_of_any_shape_are_flattened(shape):
    mlp = MLPConfig().build(box(*shape))
    observation = torch.randn(B, *shape)
    torch.testing.assert_close(mlp.encode(observation), mlp.layers(observation.reshape(B, -1)))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float64, torch.int64])
def test_numbers_of_other_types_are_taken_as_float32(dtype):
    mlp = MLP((3,))
    observation = torch.tensor([[0, 1, 255]], dtype=dtype)
    torch.testing.assert_close(mlp.encode(observation), mlp.layers(observation.float()))


def test_choices_are_one_hot():
    mlp = MLPConfig(hidden=(7,)).build(spaces.Discrete(4))
    rows = torch.tensor([[0.0, 0, 1, 0], [1, 0, 0, 0]])
    torch.testing.assert_close(mlp.encode(torch.tensor([2, 0])), mlp.layers(rows))


def test_a_dict_is_one_row():
    space = spaces.Dict({"a": spaces.Discrete(2), "b": spaces.Box(0, 255, (2, 2), np.uint8)})
    mlp = MLPConfig(hidden=(7,)).build(space)
    observation = {"a": torch.tensor([1]), "b": torch.tensor([[[5, 6], [7, 8]]], dtype=torch.uint8)}
    torch.testing.assert_close(mlp.encode(observation), mlp.layers(torch.tensor([[0.0, 1, 5, 6, 7, 8]])))


def test_scale_multiplies_the_observation_and_travels_with_the_weights():
    scaled, plain = MLPConfig(hidden=(7,), scale=(2.0, 0.5, 10.0)).build(box(3)), MLP((3,), (7,))
    plain.layers.load_state_dict(scaled.layers.state_dict())
    observation = torch.randn(B, 3)
    torch.testing.assert_close(scaled.encode(observation), plain.encode(observation * torch.tensor([2.0, 0.5, 10.0])))
    assert scaled.state_dict()["scale"].tolist() == [2.0, 0.5, 10.0]
    assert "scale" not in plain.state_dict()


@pytest.mark.parametrize(("space", "entries"), [(box(3), 3), (spaces.Discrete(7), 7)])
def test_scale_of_another_length_is_refused(space, entries):
    with pytest.raises(ValueError, match=rf"^encoder\.scale has 2 entries, but the observation has {entries}"):
        MLPConfig(scale=(1.0, 2.0)).build(space)


@pytest.mark.parametrize("wrong", [(), (7, 0), (-1,)])
def test_a_config_has_at_least_one_layer_and_only_layers_with_units(wrong):
    with pytest.raises(ValueError, match="hidden"):
        MLPConfig(hidden=wrong)
